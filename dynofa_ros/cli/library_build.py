"""`dynofa library build`: search a space for the Pareto front of accuracy and latency."""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from dynofa_ros.cli.arguments import Commands, Results, add_run, number, whole
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.library_profile import HERE, add_engine, add_rounds, runs_of
from dynofa_ros.cli.tables import print_entries
from dynofa_ros.cli.work import stages
from dynofa_ros.errors import UsageError

if TYPE_CHECKING:
    from dynofa_ros.library.accuracy_source import Request
    from dynofa_ros.library.library import Library

EVALUATIONS, EVALUATIONS_MEASURED = 300_000, 200
IMAGES, PAIRS = 2000, 300


def add_parser(commands: Commands) -> None:
    """Add `build`."""
    parser = commands.add_parser(
        "build",
        help="search a space for the best sub-networks for this machine",
        description="Searches every sub-network and resolution of a space for the Pareto front of accuracy "
        "and latency. Accuracy is predicted (ofa_mbv3_w1.2) or measured on --images; latency is measured on "
        "this machine, or read from a table of another one.",
        epilog="example: dynofa library build --space ofa_mbv3_w1.2 --weights w1.2.pth --out cpu.yaml",
    )
    add_measured(parser)
    parser.add_argument("--points", type=whole(1, 1000), default=32, help="sub-networks (default 32)")
    parser.add_argument(
        "--evaluations",
        type=whole(1, 10**8),
        metavar="N",
        help=f"default {EVALUATIONS}, with images or pairs {EVALUATIONS_MEASURED}",
    )
    parser.add_argument("--min-accuracy", type=number(0, 1), default=0.0, help="0 to 1 (default 0)")
    parser.add_argument(
        "--max-latency", type=number(1e-3, 1e6, "ms"), metavar="MS", help="slower ones are not searched"
    )
    add_run(parser, run, configs=())


def add_measured(parser: argparse.ArgumentParser) -> None:
    """Options of commands that measure sub-networks and write a library."""
    parser.add_argument("--space", required=True, metavar="NAME", help="e.g. ofa_mbv3_w1.2, ofa_resnet50")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint; without it accuracy is predicted and the library is bound to no weights",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="labelled images, one folder per class: measure accuracy"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="images with boxes, for a detector: measure mAP50:95"
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="sentences, a tab, what should come out, for a translator"
    )
    parser.add_argument("--target", default="", help="with --pairs: which output of the weights, e.g. de")
    parser.add_argument(
        "--metric", choices=("bleu", "exact"), default="bleu", help="of --pairs: BLEU / 100 or exact match"
    )
    parser.add_argument(
        "--count",
        type=whole(3, 10**7),
        help=f"images ({IMAGES}, a quarter for BN) or pairs ({PAIRS}) to use",
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave broken images and boxes out")
    parser.add_argument(
        "--latency-table",
        type=Path,
        metavar="PATH",
        help="table of another machine (default: measure this one)",
    )
    add_engine(parser)
    parser.add_argument(
        "--processor", choices=("cpu", "gpu", "npu"), help="default: that of the latency table, else cpu"
    )
    parser.add_argument(
        "--board", metavar="NAME", help=f"of the library (default: that of the latency table, else {HERE})"
    )
    add_rounds(parser, 20)
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="default 0")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="library to write (YAML)")


def run(options: argparse.Namespace) -> Results:
    """Build the library that the options ask for."""
    given = [name for name in ("images", "data", "pairs") if getattr(options, name) is not None]
    if options.weights is None and given:
        raise UsageError(f"--{given[0]} needs --weights: accuracy is measured with them")
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} do not go together")
    if options.pairs is not None and not options.target:
        raise UsageError("--pairs needs --target, the output that is measured")
    start = time.perf_counter()
    with stages() as step:
        from dynofa_ros.library.files import require_writable, save_with_statistics

        require_writable(options.out)
        from dynofa_ros.library.build import build

        built = build(_request(options), step)
        library = save_with_statistics(options.out, built.library, built.statistics)
    seconds = time.perf_counter() - start
    show(library, options.out, seconds)
    import msgspec

    document = {"library": str(options.out), "seconds": round(seconds, 2), "points": len(library.entries)}
    return OK, {**document, **msgspec.to_builtins(library)}


def _request(options: argparse.Namespace) -> Request:
    from dynofa_ros.library.accuracy_source import Request

    measured = options.images or options.data or options.pairs
    evaluations = EVALUATIONS_MEASURED if measured else EVALUATIONS
    asked = {f.name: getattr(options, f.name) for f in fields(Request) if hasattr(options, f.name)}
    asked |= {
        "evaluations": options.evaluations or evaluations,
        "count": options.count or (IMAGES if options.pairs is None else PAIRS),
        "runs": runs_of(options),
        "max_latency_ms": inf if options.max_latency is None else options.max_latency,
    }
    return Request(**asked)


def show(library: Library, out: Path, seconds: float) -> None:
    """Print a library that was built."""
    print_entries(library)
    for note in library.notes:
        print(note)
    print(f"{len(library.entries)} sub-networks in {seconds:.1f} s, written: {out}")
