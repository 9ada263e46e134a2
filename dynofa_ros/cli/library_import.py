"""`dynofa library import`: sub-networks that other programs chose, measured here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dynofa_ros.cli.arguments import Commands, Results, add_run
from dynofa_ros.cli.library_build import add_measured, run


def add_parser(commands: Commands) -> None:
    """Add `import`."""
    parser = commands.add_parser(
        "import",
        help="make a library of sub-networks that another program chose",
        description="Measures sub-networks that are described as the official code does it: the net.config "
        "of a network that it extracted, or what its search found (a JSON object, or a list of them, with "
        "ks, e, d, w and r or image_size), and writes a library of those that are worth running.",
        epilog="example: dynofa library import net.config --resolution 176 --space ofa_mbv3_w1.2 "
        "--weights w1.2.pth --images val --out cpu.yaml",
    )
    parser.add_argument("networks", type=Path, nargs="+", metavar="FILE", help="JSON")
    parser.add_argument("--resolution", type=int, metavar="PX", help="of the input, where a file has none")
    add_measured(parser)
    add_run(parser, _run, points=1000, min_accuracy=0.0, max_latency=None)


def _run(options: argparse.Namespace) -> Results:
    options.configs = tuple(
        found for path in options.networks for found in _read(path, options.space, options.resolution)
    )
    options.evaluations = len(options.configs)
    return run(options)


def _read(path: Path, space_name: str, resolution: int | None) -> list[dict[str, Any]]:
    """The descriptions of a file. Raises ValueError naming it."""
    import json

    from dynofa_ros.supernet.registry import load_space

    space = load_space(space_name)
    try:
        content = json.loads(path.read_bytes())  # finds out which UTF it is
        found = content if isinstance(content, list) else [content]
        if not found or not all(isinstance(item, dict) for item in found):
            raise ValueError("expected a JSON object, or a list of them")
        sized = {space.size_entry, "r", "image_size"}
        size = {} if resolution is None else {space.size_entry: resolution}
        described = [item if sized & item.keys() else {**item, **size} for item in found]
        for item in described:
            if not sized & item.keys():
                raise ValueError("it does not say the size of its input: give --resolution PX")
            space.imported(item)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    return described
