"""`dynofa report`: the figures of a recorded run, recomputed from its bag, and a page that shows it."""

from __future__ import annotations

import argparse
from pathlib import Path

from dynofa_ros.cli.arguments import Commands, Results, add_recording, add_run
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.tables import terminal
from dynofa_ros.errors import writing


def add_parser(commands: Commands) -> None:
    """Add `report`."""
    parser = commands.add_parser(
        "report",
        help="recompute the figures of a recorded run from its bag",
        description="Recomputes the figures of a run from its bag: of `dynofa demo`, or recorded on a robot "
        "with `ros2 bag record`.",
        epilog="example: dynofa report out --html report.html",
    )
    add_recording(parser)
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page for a browser: plots to zoom, every decision with its reason and alternatives; "
        "one file, no network needed",
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the timeline here")
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    from dynofa_ros.recording import metrics
    from dynofa_ros.recording.page import write_page
    from dynofa_ros.recording.run import read_run
    from dynofa_ros.recording.tables import print_errors, print_summary

    recorded = read_run(options.path, options.namespace)
    summary, console = metrics.summary(recorded), terminal()
    print_summary(summary, console)
    print_errors(summary, console)
    if options.html is not None:
        with writing(options.html):
            write_page(recorded, options.html)
    if options.plot is not None:
        from dynofa_ros.recording.timeline_plot import plot_timeline  # matplotlib takes a second to load

        with writing(options.plot):
            plot_timeline(recorded, options.plot)
    return OK, summary
