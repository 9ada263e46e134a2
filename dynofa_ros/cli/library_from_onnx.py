"""`dynofa library from-onnx`: a library of ONNX files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dynofa_ros.cli.arguments import Commands, Results, add_run, whole
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.library_profile import HERE, add_engine, add_rounds, runs_of
from dynofa_ros.cli.tables import print_entries
from dynofa_ros.cli.work import stages
from dynofa_ros.errors import UsageError

if TYPE_CHECKING:
    from dynofa_ros.library.own_networks import Measured


def add_parser(commands: Commands) -> None:
    """Add `from-onnx`."""
    parser = commands.add_parser(
        "from-onnx",
        help="make a library of your own networks, given as ONNX files",
        description="Measures accuracy and latency of ONNX files on this machine and writes a library of "
        "those that are worth running, and beside it LIBRARY_networks.yaml, which stands for the weights. "
        "Classifiers, and detectors of the kinds of YOLO and DETR, are recognised by their outputs; "
        "docs/own_networks.md says how to describe others. Nothing is trained, and the files stay where they "
        "are.",
        epilog="example: dynofa library from-onnx n.onnx s.onnx m.onnx --data signs --out cpu.yaml",
    )
    parser.add_argument("networks", type=Path, nargs="+", metavar="FILE", help="ONNX files, batch 1")
    parser.add_argument("--images", type=Path, metavar="DIR", help="classifiers: images, a folder per class")
    parser.add_argument("--data", type=Path, metavar="DIR", help="detectors: images with boxes")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="names of the classes, one per line, in the order of the outputs (default: those in the files)",
    )
    parser.add_argument(
        "--output-description",
        type=Path,
        metavar="FILE",
        help="YAML that says what inputs and outputs mean, where that is not recognised",
    )
    parser.add_argument("--count", type=whole(1, 10**7), default=2000, help="images to use (default 2000)")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken images and boxes out")
    add_engine(parser)
    parser.add_argument("--processor", choices=("cpu", "gpu", "npu"), default="cpu", help="default cpu")
    parser.add_argument("--board", metavar="NAME", default=HERE, help=f"of the library (default {HERE})")
    add_rounds(parser, 20)
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="which images (default 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="library to write (YAML)")
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    if (options.images is None) == (options.data is None):
        raise UsageError("give --images DIR for classifiers, or --data DIR for detectors")
    with stages("reading networks") as step:
        from dynofa_ros.datasets.reader import read_names
        from dynofa_ros.library.files import require_writable
        from dynofa_ros.library.own_networks import Description, OwnNetworks, measure, read_description

        described = options.output_description
        request = OwnNetworks(
            files=tuple(dict.fromkeys(options.networks)),
            out=options.out,
            images=options.images,
            data=options.data,
            labels=() if options.labels is None else read_names(options.labels),
            description=Description() if described is None else read_description(described),
            count=options.count,
            seed=options.seed,
            skip_broken=options.skip_broken,
            board=options.board,
            runs=runs_of(options),
        )
        for path in (options.out, request.listed_at):
            require_writable(path)
        found = measure(request, step)
        _save(found, options.out, request.listed_at)
    _print(found, options.out, request.listed_at)
    import msgspec

    document = {"library": str(options.out), "networks": str(request.listed_at), "slower": found.slower}
    return OK, {**document, **msgspec.to_builtins(found.library)}


def _save(found: Measured, out: Path, listed_at: Path) -> None:
    import msgspec
    import yaml

    from dynofa_ros.files import write_atomically
    from dynofa_ros.library.library import save_library

    listed = msgspec.to_builtins(found.networks)
    write_atomically(listed_at, yaml.safe_dump(listed, sort_keys=False, allow_unicode=True).encode())
    save_library(out, found.library)


def _print(found: Measured, out: Path, listed_at: Path) -> None:
    print_entries(found.library)
    for name in found.slower:
        print(f"left out: {name}: another one is not slower and as accurate")
    print(f"written: {out}, and {listed_at} for the parameter weights")
