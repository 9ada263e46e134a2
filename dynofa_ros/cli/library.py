"""`dynofa library`: make, measure, calibrate, show and export libraries of sub-networks."""

from __future__ import annotations

from dynofa_ros.cli import (
    library_build,
    library_calibrate,
    library_compile,
    library_export,
    library_from_onnx,
    library_import,
    library_profile,
    library_show,
)
from dynofa_ros.cli.arguments import Commands

MODULES = (
    library_build,
    library_import,
    library_from_onnx,
    library_profile,
    library_calibrate,
    library_compile,
    library_show,
    library_export,
)


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "library", help="make, measure, calibrate, show and export libraries of sub-networks"
    )
    subcommands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    for module in MODULES:
        module.add_parser(subcommands)
