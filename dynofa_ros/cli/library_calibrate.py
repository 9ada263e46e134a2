"""`dynofa library calibrate`: BN statistics of a library's sub-networks from images."""

from __future__ import annotations

import argparse
from pathlib import Path

from dynofa_ros.cli.arguments import Commands, Results, add_run, whole
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.work import progress


def add_parser(commands: Commands) -> None:
    """Add `calibrate`."""
    parser = commands.add_parser(
        "calibrate",
        help="take BN statistics of every sub-network from images",
        description="Runs images through every sub-network of a library and stores its own batch-norm "
        "statistics in a safetensors file beside the library, which names it with its digest. Images are "
        "prepared as the perception node prepares a camera's: take some that look like its frames. Without "
        "LIBRARY it is the one that was made for the weights, in this folder or the package.",
        epilog="example: dynofa library calibrate cpu.yaml --weights w1.2.safetensors --images train",
    )
    parser.add_argument("library", type=Path, nargs="?", metavar="LIBRARY", help="a library file (YAML)")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="checkpoint of its space")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="images, sub-folders too; no labels needed",
    )
    parser.add_argument("--count", type=whole(1, 10**7), default=2000, help="images to use (default 2000)")
    parser.add_argument("--batch", type=whole(1, 4096), default=64, help="images at a time (default 64)")
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="which images (default 0)")
    parser.add_argument("--skip-broken", action="store_true", help="leave images out that cannot be decoded")
    parser.add_argument("--out", type=Path, metavar="FILE", help="library to write (default: LIBRARY itself)")
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    import msgspec

    from dynofa_ros.library.accuracy import rough
    from dynofa_ros.library.files import open_library, renewed_notes, require_writable, save_with_statistics

    with progress("calibrating") as step:
        opened = open_library(options.library, options.weights)
        out = options.out or opened.path
        require_writable(out)
        from dynofa_ros.library.calibration import (  # torch takes a second
            choose_images,
            library_statistics,
            use_threads,
        )

        use_threads()
        library, statistics = opened.library, opened.statistics
        files: list[Path] = []
        if opened.supernet.space.batch_normalised:
            files, left_out = choose_images(options.images, options.count, options.seed, options.skip_broken)
            statistics = library_statistics(library, opened.supernet, files, options.batch, step)
            note = (
                f"BN statistics: of {len(files)} images, prepared as the perception node prepares a frame "
                f"(largest centre square, resized by area), batches of {options.batch}, seed {options.seed}"
            )
            library = msgspec.structs.replace(
                library,
                weights_sha256=opened.supernet.weights.digest,
                notes=renewed_notes(library.notes, note, ("BN statistics:",)),
            )
        written = save_with_statistics(out, library, statistics)
    own = written.bn_statistics
    if own is None:
        print(f"{written.space} has no batch normalisation: there is nothing to calibrate")
        print(f"written: {out}")
    else:
        print("\n".join(left_out), end="\n" * bool(left_out))
        print(f"{len(written.entries)} sub-networks calibrated on {len(files)} images{rough(len(files))}")
        print(f"written: {out} and {out.with_name(own.file)}")
    return OK, {
        "library": str(out),
        "statistics": str(out.with_name(own.file)) if own else None,
        "sha256": own.sha256 if own else None,
        "images": len(files),
        "entries": [e.id for e in written],
    }
