"""`dynofa bench`: how fast this machine runs, switches, searches and decides, against the goals."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dynofa_ros.cli.arguments import Commands, Results, add_run, names, whole
from dynofa_ros.cli.common import FAILED, OK, check_outputs, write_json
from dynofa_ros.cli.tables import plain_table, wide_console
from dynofa_ros.cli.work import bars
from dynofa_ros.errors import UsageError, missing_extra, one_line, writing

if TYPE_CHECKING:
    from dynofa_ros.bench.report import Goal
    from dynofa_ros.bench.timing import Progress
    from dynofa_ros.supernet.supernet import Supernet

SECTIONS = ("engines", "switch", "memory", "static_models", "search", "decision", "comparison")
SPACE = "ofa_mbv3_w1.2"  # of the switch and memory sections
# What needs little comes first: a large heap and torch's threads would disturb it.
RUN_ORDER = ("decision", "comparison", "switch", "memory", "static_models", "search", "engines")
SWITCHED = 10  # sub-networks that the switch section goes through


class Effort(NamedTuple):
    """How much is measured. limit_s: of an interleaved run of engines; segments: of a stream, a second each;
    cycled, static: sub-networks that the memory and the static_models section go through."""

    rounds: int
    limit_s: float
    steps: int
    segments: int
    cycled: int
    static: int


FULL, QUICK = Effort(50, 4.0, 300, 120, 30, 10), Effort(5, 1.0, 40, 8, 4, 4)


def add_parser(commands: Commands) -> None:
    """Add `bench`."""
    parser = commands.add_parser(
        "bench",
        help="measure this machine against the goals",
        description="Measures, side by side and interleaved: masked sub-networks next to the same networks "
        "deployed alone and to the official code (engines), switching under a 30 Hz stream (switch), memory, "
        "several static models instead of a supernet (static_models), library search, the manager's "
        "decision, and the published comparison with latencies of this machine (comparison). Weights are "
        "random. Run it on an idle machine.",
        epilog="example: dynofa bench --only engines,comparison --json bench.json --plot bench.png",
    )
    parser.add_argument(
        "--only", type=_sections, default=SECTIONS, metavar="NAMES", help=f"of {', '.join(SECTIONS)}"
    )
    parser.add_argument(
        "--spaces",
        type=names,
        metavar="NAMES",
        help="of the engines section (default: the four official); the "
        "first is that of switch, memory and static_models, too",
    )
    parser.add_argument(
        "--rounds",
        type=whole(2, 100_000),
        metavar="N",
        help="of engines and comparison, at most (default 50)",
    )
    parser.add_argument("--quick", action="store_true", help="a few rounds: whether it works, not how fast")
    parser.add_argument(
        "--on-board",
        action="store_true",
        help="instead: every processor of ONNX Runtime here, compiled, timed, switched and compared with the "
        "CPU (docs/hardware.md)",
    )
    parser.add_argument("--compile", action="store_true", help="also torch.compile one network (slow)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw comparison and engines here")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write bench.json and bench.png here")
    add_run(parser, _run)


def _sections(text: str) -> tuple[str, ...]:
    chosen = names(text)
    if not chosen or not set(chosen) <= set(SECTIONS):
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(SECTIONS)} or several with commas, got {text!r}"
        )
    return chosen


def _run(options: argparse.Namespace) -> Results:
    _check_spaces(options)
    _check_outputs(options)
    from dynofa_ros.bench.report import environment, goals

    results: dict[str, Any] = dict.fromkeys((*SECTIONS, "comparison_summary"))
    seconds: dict[str, float] = {}
    errors: list[str] = []
    surroundings, effort = environment(), QUICK if options.quick else FULL
    effort = effort._replace(rounds=options.rounds or effort.rounds)
    for section in ("on_board",) if options.on_board else (s for s in RUN_ORDER if s in options.only):
        start = time.monotonic()
        try:
            with _bar(section) as progress:
                results |= measure(section, options, effort, progress)
        except Exception as error:  # whatever breaks one section must not cost the others
            reason = missing_extra(error) or one_line(error)
            errors.append(f"{section}: {reason}")
        seconds[section] = round(time.monotonic() - start, 1)
    found = goals(results)
    _print(() if options.on_board else found, errors, surroundings)
    _print_boards(results.get("on_board") or ())
    lines = [asdict(goal) | {"status": goal.status} for goal in found]
    document = {**results, "goals": lines, "environment": surroundings, "seconds": seconds, "errors": errors}
    _write(options, document)
    return FAILED if errors else OK, document


def _check_spaces(options: argparse.Namespace) -> None:
    from dynofa_ros.supernet.registry import load_space

    for name in options.spaces or ():
        try:
            load_space(name)
        except ValueError as error:
            raise UsageError(f"--spaces: {error}") from None


@contextmanager
def _bar(section: str) -> Iterator[Progress]:
    """A bar that takes the share that is done."""
    from rich.progress import TaskProgressColumn, TimeElapsedColumn

    with bars(TaskProgressColumn(), TimeElapsedColumn()) as shown:
        task = shown.add_task(section, total=1.0)
        yield lambda share: shown.update(task, completed=share)


def measure(section: str, options: argparse.Namespace, effort: Effort, progress: Progress) -> dict[str, Any]:
    """The results of one section. Its module is imported only now: it would disturb those before it."""
    module: Any = import_module(f"dynofa_ros.bench.{'switching' if section == 'switch' else section}")
    run, segments = module.run, effort.segments
    if section == "engines":
        from dynofa_ros.supernet.registry import official_spaces

        spaces = (options.spaces or official_spaces())[: 1 if options.quick else None]
        limits = {"rounds": effort.rounds, "limit_s": effort.limit_s}
        found = run(progress, spaces=spaces, **limits, compile_one=options.compile)
    elif section == "switch":
        step = _steps(progress, 2 * segments)
        found = run(*_sampled(SWITCHED, options), segments=segments, on_segment=step)
    elif section == "static_models":
        step = _steps(progress, 4 * segments)
        found = run(*_sampled(effort.static, options), segments=segments, on_segment=step)
    elif section == "memory":
        found = run(*_sampled(effort.cycled, options))
    elif section == "decision":
        found = run(progress, steps=effort.steps)
    elif section == "comparison":
        both = run(progress, rounds=effort.rounds)
        return {"comparison": both["comparison"], "comparison_summary": both["summary"]}
    elif section == "on_board":
        segments = min(segments, module.SEGMENTS)
        found = run(progress, *_sampled(3, options), rounds=effort.rounds, segments=segments)
    else:
        found = run(progress)
    return {section: found}


def _steps(progress: Progress, total: int) -> Callable[[], None]:
    """What is called once per step of so many."""
    done = itertools.count(1)
    return lambda: progress(min(1.0, next(done) / total))


def _sampled(number: int, options: argparse.Namespace) -> tuple[Supernet, dict[str, Any]]:
    """A supernet with random weights, mapped as a node maps them; its largest, smallest and random
    sub-networks."""
    import numpy as np

    from dynofa_ros.supernet.supernet import load_supernet
    from dynofa_ros.supernet.weights import save_weights

    space, rng = options.spaces[0] if options.spaces else SPACE, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.safetensors")
        save_weights(file, load_supernet(space).weights)
        supernet = load_supernet(space, file)
    space = supernet.space
    configs = {"largest": space.largest, "smallest": space.smallest}
    return supernet, configs | {f"random{n}": space.random(rng) for n in range(number - len(configs))}


def _print(found: Sequence[Goal], errors: Sequence[str], surroundings: dict[str, Any]) -> None:
    console = wide_console()
    cores, load = surroundings["usable_cores"], surroundings["load_average"]
    console.print(f"{surroundings['cpu']}, {cores} cores, load {load:.1f} at the start", highlight=False)
    rows = [(g.section, g.name, g.goal, "–" if g.value is None else g.text, g.status) for g in found]
    console.print(plain_table(("section", "what", "goal", "measured", ""), rows))
    for text in errors:
        print(f"dynofa bench: {text}", file=sys.stderr)


def _print_boards(rows: Sequence[dict[str, Any]]) -> None:
    lines = []
    for row in rows:
        if "error" in row:
            lines.append((row["processor"], "–", row["error"], "", "", ""))
        for n in row.get("networks", ()):
            seconds = f"{n['first_s']:.2f} then {n['again_s']:.2f}"
            figures = f"{n['median_ms']:.2f}", f"{n['p95_ms']:.2f}", f"{n['difference']:.1e}"
            lines.append((row["processor"], n["subnet"], seconds, *figures))
        if "switch" in row:
            s = row["switch"]
            text = f"switch {s['cold_p50_ms']:.1f} ms, worst frame {s['worst_frame_ratio']:.1f} medians"
            lines.append((row["processor"], "all", text, "", "", ""))
    if lines:
        head = ("processor", "sub-network", "prepared, s", "median ms", "p95 ms", "off the CPU's")
        wide_console().print(plain_table(head, lines))


def _text(options: argparse.Namespace) -> Path | None:
    return options.out and options.out / "bench.json"


def _pictures(options: argparse.Namespace) -> list[Path]:
    return [p for p in (options.plot, options.out and options.out / "bench.png") if p]


def _check_outputs(options: argparse.Namespace) -> None:
    """Before minutes of work: can the results be written?"""
    if options.plot is not None and options.plot.suffix != ".png":
        raise UsageError(f"--plot {options.plot} must end in .png")
    if options.on_board and (options.plot or options.only != SECTIONS):
        raise UsageError("--on-board is a measurement of its own: leave --only and --plot out")
    if options.plot is not None and not {"engines", "comparison"} & set(options.only):
        raise UsageError("--plot draws engines and comparison: --only must name one of them")
    check_outputs(_text(options), *_pictures(options))


def _write(options: argparse.Namespace, document: dict[str, Any]) -> None:
    from dynofa_ros.bench.plots import drawable, plot

    write_json(_text(options), document)
    for path in _pictures(options) if drawable(document) else ():
        with writing(path):
            plot(document, document["environment"]["cpu"], path)
