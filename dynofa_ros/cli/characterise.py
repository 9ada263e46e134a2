"""`dynofa characterise`: sub-networks x clocks x processors, fitted to latency law and power model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_run, number, whole
from dynofa_ros.cli.common import OK, write_json
from dynofa_ros.cli.library_profile import HERE, add_engine
from dynofa_ros.cli.work import progress
from dynofa_ros.errors import CliError, UsageError

if TYPE_CHECKING:
    from dynofa_ros.device.board import Board
    from dynofa_ros.library.characterised import Characterised
    from dynofa_ros.library.fit import Coefficient
    from dynofa_ros.library.library import Library
    from dynofa_ros.library.sweep import Observation
    from dynofa_ros.library.testbench import Rig
    from dynofa_ros.messages import DeviceCapabilities

DEVICES = ("simulated", "auto")


LONGEST_S = 1000.0  # of a point, in simulated time, which passes quickly
LONGEST_OWN_S = 20.0  # of a point on hardware
BOARD = "xavier_nx"
ALL = "all"


def add_parser(commands: Commands) -> None:
    """Add `characterise`."""
    parser = commands.add_parser(
        "characterise",
        help="fit latency and power of a board over its clocks",
        description="Pins clocks, runs sub-networks, samples power, fits latency = alpha + beta * f_ref / "
        "f per sub-network and the coefficients of the board's power model, with their standard errors. "
        "Writes the library to --out and the power file beside it (FILE_power.yaml), which the parameter "
        "power_file of the device node names: the manager then uses what was measured. With libraries of "
        "several processors, FILE_cpu.yaml, FILE_gpu.yaml, ... With --clusters and --threads a sub-network "
        "has one entry per cluster and number of threads, among which the manager chooses. energy_j of an "
        "entry is the module's energy per inference at the reference clocks, for the reader: the manager "
        "uses the power model. A sweep that was cut goes on with --resume. "
        "Clocks are restored at the end, on errors and on signals.",
        epilog="example: dynofa characterise --device auto --library cpu.yaml --weights W.safetensors "
        "--out nx.yaml",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="simulated", help="auto = this computer (default simulated)"
    )
    parser.add_argument(
        "--board",
        help=f"name or path of a board file (default {BOARD}; --device auto: the one that matches this "
        "computer, without one no power model is fitted)",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="needed with --device auto")
    add_engine(parser, several=True)
    parser.add_argument(
        "--clusters",
        type=_clusters,
        default=(),
        metavar="cpu0,cpu4",
        help="measure every sub-network on each of these CPU clusters (clock domains); all = each of them",
    )
    parser.add_argument("--sysfs-root", type=Path, default=Path("/sys"), metavar="DIR", help="default /sys")
    parser.add_argument(
        "--override-jetson-clocks", action="store_true", help="take over clocks that jetson_clocks has pinned"
    )
    parser.add_argument(
        "--library", type=Path, action="append", required=True, metavar="FILE", help="repeat it per processor"
    )
    parser.add_argument(
        "--processors", type=_names, metavar="cpu,gpu", help="default: the processors of the libraries"
    )
    parser.add_argument(
        "--frequencies",
        type=lambda n: None if n == ALL else whole(2, 1000)(n),
        default=8,
        metavar="all|N",
        help="per clock domain (default 8)",
    )
    parser.add_argument(
        "--repeats", type=whole(5, 10_000), default=400, help="inferences at least (default 400)"
    )
    parser.add_argument(
        "--window-s",
        type=number(0.2, 60, "s"),
        default=3.0,
        help="power sampling at least (default 3)",
    )
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="order of the points, noise")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.yaml", help="library to write")
    parser.add_argument("--resume", action="store_true", help="continue a sweep that was cut")
    add_run(parser, _run)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",")))
    unknown = [n for n in names if n not in ("cpu", "gpu", "npu")]
    if unknown:
        raise argparse.ArgumentTypeError(f"must be cpu, gpu, npu or several with commas, got {text!r}")
    return names


def _clusters(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",")))
    if names != (ALL,) and not all(n.startswith("cpu") and n[3:].isdecimal() for n in names):
        raise argparse.ArgumentTypeError(f"must be all or CPU clock domains such as cpu0,cpu4, got {text!r}")
    return names


def _run(options: argparse.Namespace) -> Results:
    if options.out.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--out {options.out} must end in .yaml")
    if options.device == "auto" and options.weights is None:
        raise UsageError("--device auto runs the networks: it needs --weights")
    from dynofa_ros.library.files import require_writable

    require_writable(options.out)
    sources = _libraries(options.library, options.processors)
    return _simulated(options, sources) if options.device == "simulated" else _own(options, sources)


def _simulated(options: argparse.Namespace, sources: Mapping[str, tuple[Path, Library]]) -> Results:
    from dynofa_ros.device.board import load_board
    from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
    from dynofa_ros.library.testbench import SimulatedRig, references_hz

    board = load_board(options.board or BOARD)
    libraries = {p: library for p, (_, library) in sources.items()}
    capabilities = SimulatedDevice(board).capabilities()
    tables = {d.domain: d.frequencies_hz for d in capabilities.domains}
    references = {p: references_hz(library, tables) for p, library in libraries.items()}
    rig = SimulatedRig(board, libraries, {p: min(own.values()) for p, own in references.items()})
    facts = {"device": "simulated", "board": board}
    observations = _swept(options, rig, capabilities, libraries, LONGEST_S, facts)
    rail = board.power.total_rail
    return _finish(options, board, board.name, rail, sources, references, observations)


def _own(options: argparse.Namespace, sources: Mapping[str, tuple[Path, Library]]) -> Results:
    from dynofa_ros.device.board import load_board
    from dynofa_ros.library.files import open_library
    from dynofa_ros.library.profiling import running_on
    from dynofa_ros.library.testbench import open_own, references_hz, rig_of, total_rail

    opened = {p: open_library(path, options.weights) for p, (path, _) in sources.items()}
    libraries = {p: o.library for p, o in opened.items()}
    device = open_own(options.sysfs_root, options.override_jetson_clocks)
    try:
        rig, capabilities = rig_of(device, opened, options.engine), device.capabilities()
        tables = {d.domain: d.frequencies_hz for d in capabilities.domains if d.frequencies_hz}
        references = {p: references_hz(library, tables) for p, library in libraries.items()}
        board = load_board(options.board) if options.board else device.description
        name, rail = capabilities.board or HERE, total_rail(device)
        facts = {"device": "sysfs", "board": capabilities.board}
        with running_on(options.affinity):  # with the threads that engines start in it
            observations = _swept(options, rig, capabilities, libraries, LONGEST_OWN_S, facts)
    finally:
        device.close()
    return _finish(options, board, name, rail, sources, references, observations)


def _libraries(paths: Sequence[Path], processors: Sequence[str] | None) -> dict[str, tuple[Path, Library]]:
    """Path and library by processor."""
    from dynofa_ros.library.library import load_library

    found: dict[str, tuple[Path, Library]] = {}
    for path in paths:
        library = load_library(path)
        if library.processor in found:
            raise CliError(f"{path} is a second library for {library.processor}: one per processor")
        found[library.processor] = (path, library)
    missing = [p for p in processors or () if p not in found]
    if missing:
        raise CliError(
            f"no library for {', '.join(missing)} (there is one for {', '.join(found)}): the simulated board "
            "takes its latencies from the library of each processor"
        )
    return {p: found[p] for p in processors or found}


def _placements(
    options: argparse.Namespace, capabilities: DeviceCapabilities, libraries: Mapping[str, Library]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """CPU clusters and numbers of threads to measure: those asked for, else those of the CPU's library."""
    from dynofa_ros.latency import processor_of

    known = libraries["cpu"].placements if "cpu" in libraries else ()
    clusters: tuple[str, ...] = options.clusters
    if clusters == (ALL,):
        clusters = tuple(d.domain for d in capabilities.domains if processor_of(d.domain) == "cpu")
    threads: tuple[int, ...] = options.threads
    return (
        clusters or tuple(sorted({cluster for cluster, _ in known if cluster})),
        threads or tuple(sorted({number for _, number in known if number})),
    )


def _swept(
    options: argparse.Namespace,
    rig: Rig,
    capabilities: DeviceCapabilities,
    libraries: Mapping[str, Library],
    longest_s: float,
    facts: Mapping[str, object],
) -> list[Observation]:
    """``facts``: what the sweep is of, besides its libraries."""
    from dynofa_ros.library.sweep import Journal, Settings, plan_digest, plan_points, sweep

    settings = Settings(options.frequencies, options.repeats, options.window_s, longest_s, options.seed)
    points = plan_points(capabilities, libraries, settings, *_placements(options, capabilities, libraries))
    digest = plan_digest(points, settings, {**facts, "libraries": list(libraries.values())})
    journal = Journal(_journal_path(options.out), digest, options.resume)
    try:
        with progress("characterising") as step:
            return sweep(rig, points, settings, journal, digest, lambda: step(len(points)))
    except KeyboardInterrupt:
        done = f"{len(journal.observations)} of {len(points)} points"
        raise CliError(f"stopped after {done}: clocks are restored; continue with --resume") from None
    finally:
        journal.close()


def _journal_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.journal.jsonl")


def _finish(
    options: argparse.Namespace,
    board: Board | None,
    name: str,
    rail: str,
    sources: Mapping[str, tuple[Path, Library]],
    references: Mapping[str, Mapping[str, int]],
    observations: Sequence[Observation],
) -> Results:
    """board: whose power model is fitted, None = no model is known. name: of where the sweep ran. rail: the
    sensor of the whole module's power, "" = none."""
    from dynofa_ros.device.board import power_model
    from dynofa_ros.files import write_atomically
    from dynofa_ros.library.characterised import characterised, power_document, power_file
    from dynofa_ros.library.files import save_with_statistics
    from dynofa_ros.library.fit import fit_power
    from dynofa_ros.library.library import load_statistics

    simulated = options.device == "simulated"
    results = {
        p: characterised(library, observations, references[p], name, rail, simulated=simulated)
        for p, (_, library) in sources.items()
    }
    coefficients: Sequence[Coefficient] = []
    document: dict[str, object] = {}
    if board is not None:
        coefficients = fit_power(power_model(board), board.power.total_rail, observations)
        document = power_document(board, coefficients, simulated=simulated, points=len(observations))
    out = options.out
    files = {p: out if len(results) == 1 else out.with_name(f"{out.stem}_{p}{out.suffix}") for p in results}
    for p, result in results.items():
        save_with_statistics(files[p], result.library, load_statistics(*sources[p]))
    written = [*files.values()]
    if board is not None:
        written.append(out.with_name(f"{out.stem}_power.yaml"))
        text = power_file(board, coefficients, simulated=simulated, points=len(observations))
        write_atomically(written[-1], text.encode())
    skipped = [f"{o.point.key}: {o.skipped}" for o in observations if o.skipped]
    _print(results, coefficients, skipped, simulated)
    print(f"written: {', '.join(map(str, written))}")
    if board is None:
        print("no power file: no board description matches this computer, and --board names none")
    else:
        print(f"the device node takes its power model from it with power_file:={written[-1]}")
    # before the journal goes
    write_json(options.json, _json(results, files, document, observations, skipped, simulated))
    _journal_path(options.out).unlink()
    return OK, None


def _print(
    results: Mapping[str, Characterised],
    coefficients: Sequence[Coefficient],
    skipped: Sequence[str],
    simulated: bool,
) -> None:
    if simulated:
        print("simulated: latency, power and temperature come from the simulated board, not from hardware")
    for processor, result in results.items():
        print(f"\n{processor:24} {'alpha ms':>20} {'beta ms':>22} {'misfit':>7}   (+- standard error)")
        for name, fit in result.fits.items():
            if fit is None:
                print(f"{name:24} one clock only: alpha and beta cannot be separated")
            else:
                alpha = f"{fit.alpha_ms:.4f} +- {fit.alpha_error_ms:.4f}"
                beta = f"{fit.beta_ms:.4f} +- {fit.beta_error_ms:.4f}"
                print(f"{name:24} {alpha:>20} {beta:>22} {fit.misfit:7.1%}")
        for names, what in ((result.dropped, "no longer on the front"), (result.unmeasured, "not measured")):
            if names:
                print(f"{what}, so left out: {', '.join(names)}")
    if coefficients:
        print(f"\n{'power coefficient':56} {'value':>8}    standard error")
    for c in coefficients:
        with_ = [name for name in c.shared if not c.section.endswith(f".{name}")]
        name = f"{c.section}.{c.name}" + (f" (with {', '.join(with_)})" if with_ else "")
        print(f"{name:56} {c.value:8.4f} {f'   held: {c.held}' if c.held else f'+- {c.error:.4f}'}")
    for line in skipped:
        print(f"skipped {line}")


def _json(
    results: Mapping[str, Characterised],
    files: Mapping[str, Path],
    document: dict[str, object],
    observations: Sequence[Observation],
    skipped: Sequence[str],
    simulated: bool,
) -> dict[str, Any]:
    import msgspec

    return {
        "source": "simulated" if simulated else "sysfs",
        "libraries": [
            {
                "processor": p,
                "file": str(files[p]),
                "dropped": result.dropped,
                "unmeasured": result.unmeasured,
                "fits": {k: vars(f) if f else None for k, f in result.fits.items()},
            }
            for p, result in results.items()
        ],
        "power": document,
        "skipped": skipped,
        "points": msgspec.to_builtins(observations),
    }
