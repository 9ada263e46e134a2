"""`dynofa evaluate`: the manager against baselines and an oracle, in the simulator, scenario by scenario."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynofa_ros.cli.arguments import Commands, Results, add_run, names, whole
from dynofa_ros.cli.common import OK, check_outputs, write_json
from dynofa_ros.cli.tables import plain_table, wide_console
from dynofa_ros.errors import CliError, UsageError, writing

if TYPE_CHECKING:
    from dynofa_ros.device.board import Board
    from dynofa_ros.evaluation.goals import Goal
    from dynofa_ros.evaluation.study import Job, Study

SEEDS, QUICK_SEEDS = 10, 2
DRAWN, QUICK_DRAWN, DRAWN_SEEDS = 20, 2, 3
LEFT_OUT = (  # unless they are asked for
    "ours_subnet", "ours_dvfs", "ours_mapping", "B5_10w", "B6_hold", "O1m", "O1m_rest",
)  # fmt: skip
FIGURES = (  # on the terminal: head, key of the results, factor, format
    ("misses %", "miss_percent", 1.0, ".2f"),
    ("energy J", "energy_j.all_rails", 1.0, ".0f"),
    ("CPU-GPU J", "energy_j.cpu_gpu", 1.0, ".0f"),
    ("accuracy %", "accuracy", 100.0, ".2f"),
    ("p50 ms", "latency_ms.p50", 1.0, ".0f"),
    ("p99 ms", "latency_ms.p99", 1.0, ".0f"),
)


def add_parser(commands: Commands) -> None:
    """Add `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="compare the manager with baselines and an oracle in the simulator",
        description="Simulates scenarios S1 to S14 on the simulated board with the committed libraries: the "
        "manager (ours), baselines B1 to B10 and the oracle O1q, all on the same requests, noise and events. "
        "Then scenes drawn at random, whose true libraries nobody knows, in which every policy is swept over "
        "one knob and compared at equal misses and equal accuracy. Prints the goals; --out writes a report "
        "with timelines, energy against misses, the paper's figures beside ours, a decomposition and a sweep "
        "of the power model. All results are simulated.",
        epilog="example: dynofa evaluate --scenarios S1,S3 --policies ours,B4,O1q --seeds 3 --out evaluation",
    )
    parser.add_argument("--scenarios", type=names, metavar="S1,S2,...", help="default: all")
    parser.add_argument(
        "--policies", type=names, metavar="ours,B1,...", help="default: all that are compared"
    )
    parser.add_argument(
        "--seeds", type=whole(1, 1000), metavar="N", help=f"default {SEEDS}, of drawn scenes {DRAWN_SEEDS}"
    )
    drawn = parser.add_mutually_exclusive_group()
    drawn.add_argument(
        "--held-out",
        type=whole(0, 1000),
        metavar="N",
        help=f"the first N drawn scenes; without --scenarios these alone (default: {DRAWN}, all scenarios)",
    )
    drawn.add_argument(
        "--practice",
        type=whole(1, 1000),
        metavar="N",
        help="the same with other scenes, of the same law: for development",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write report.md, pictures and results.json here"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_SEEDS} seeds, one scene per scenario, {QUICK_DRAWN} drawn ones",
    )
    parser.add_argument(
        "--jobs", type=whole(1, 256), metavar="N", help="processes at once (default: the usable cores)"
    )
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    from dynofa_ros.evaluation.policies import POLICIES
    from dynofa_ros.evaluation.scenarios import SCENARIOS

    asked = (options.held_out, options.practice)
    alone = options.scenarios is None and any(asked)
    scenarios = () if alone else _known("scenario", options.scenarios, SCENARIOS, SCENARIOS)
    compared = [name for name in POLICIES if name not in LEFT_OUT]
    policies = _known("policy", options.policies, list(POLICIES), compared)
    seeds = options.seeds or (QUICK_SEEDS if options.quick else DRAWN_SEEDS if alone else SEEDS)
    check_outputs(_document(options))  # before minutes of work
    return _evaluate(options, scenarios, policies, seeds)


def _known(
    kind: str, given: Sequence[str] | None, known: Sequence[str], default: Sequence[str]
) -> tuple[str, ...]:
    """The given names, checked, in the order that they are known in."""
    if given is None:
        return tuple(default)
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        text = f"unknown {kind} {', '.join(map(repr, unknown))}" if unknown else f"no {kind} given"
        raise UsageError(f"{text} (known: {', '.join(known)})")
    return tuple(name for name in known if name in given)


def _evaluate(
    options: argparse.Namespace, scenarios: Sequence[str], policies: Sequence[str], seeds: int
) -> Results:
    from dynofa_ros.cli.work import progress
    from dynofa_ros.evaluation.goals import goals
    from dynofa_ros.evaluation.report import to_document, write_report
    from dynofa_ros.evaluation.scenarios import evaluation_board, scenes
    from dynofa_ros.evaluation.study import plan, run

    if options.out is not None:
        import jinja2  # noqa: F401 - missing: before minutes of work
    board = evaluation_board()
    jobs = [*_drawn(options, policies), *plan(scenarios, policies, seeds, quick=options.quick)]
    workers = min(options.jobs or len(os.sched_getaffinity(0)), len(jobs))
    try:
        with progress("evaluate") as step:
            study = run(jobs, workers, step)
    except KeyboardInterrupt as error:
        raise CliError("interrupted, nothing was written") from error
    found = goals(study)
    _print(found, study, board, seeds)
    document = to_document(study, found, board, seeds)
    write_json(_document(options), document)
    if options.out is not None:
        with writing(options.out):
            report = write_report(study, found, scenes(scenarios), board, seeds, options.out)
        print(f"report: {report}")
    return OK, document


def _drawn(options: argparse.Namespace, policies: Sequence[str]) -> list[Job]:
    """The drawn scenes: by default only in a whole run, or a quick one of everything."""
    from dynofa_ros.evaluation.study import drawn_jobs

    number = options.practice if options.practice is not None else options.held_out
    if number is None:
        whole_run = options.scenarios is None and options.policies is None
        number = (QUICK_DRAWN if options.quick else DRAWN) if whole_run else 0
    seeds = options.seeds or (QUICK_SEEDS if options.quick else DRAWN_SEEDS)
    return drawn_jobs("held-out" if options.practice is None else "practice", number, policies, seeds)


def _print(found: Sequence[Goal], study: Study, board: Board, seeds: int) -> None:
    from dynofa_ros.evaluation.fair import fair_scenes, summaries
    from dynofa_ros.evaluation.report import SWEEP_OTHERS, figure, footer, sweep_table

    console = wide_console()
    console.print(f"{footer(board)} {seeds} seeds.", highlight=False)
    rows = [
        (
            scene,
            policy,
            *(f"{scale * study.mean(scene, policy, key):{form}}" for _, key, scale, form in FIGURES),
        )
        for scene in study.scenes
        for policy in study.policies
    ]
    if rows:
        heads = ("scene", "policy", *(head for head, *_ in FIGURES))
        console.print(plain_table(heads, rows, range(2, len(heads))))
    if study.drawn:
        console.print(f"Energy of ours at equal misses and accuracy in {len(study.drawn)} drawn scenes:")
        compared = [
            (
                s.other, f"{s.misses:g}", f"{s.median:+.1f}", f"{s.low:+.1f}", f"{s.high:+.1f}",
                str(s.both), str(s.only_ours), str(s.only_other),
            )
            for s in summaries(fair_scenes(study))
        ]  # fmt: skip
        heads = ("against", "misses %", "median %", "p10 %", "p90 %", "both can", "only ours", "only it")
        console.print(plain_table(heads, compared, range(1, len(heads))))
    swept = sweep_table(study)
    others = (f"energy against {other}" for other in SWEEP_OTHERS)
    console.print(plain_table(("scene", "power model (ours)", *others), swept) if swept else "")
    judged = [(g.name, g.goal, figure(g.value), g.status, g.note) for g in found]
    console.print(plain_table(("goal", "wanted", "value", "", ""), judged))


def _document(options: argparse.Namespace) -> Path | None:
    return options.out and options.out / "results.json"
