"""`dynofa demo`: the nodes as real processes with requests and a simulated device, through phases."""

from __future__ import annotations

import argparse
from pathlib import Path

from dynofa_ros.cli.arguments import Commands, Results, add_run, names, number, whole
from dynofa_ros.cli.common import FAILED, OK
from dynofa_ros.errors import UsageError

DEFAULT_OUT = Path("out")
MAX_APPS = 6
TASKS = ("classification", "detection", "translation")
LIVE_SCENARIOS = ("S1", "S3", "S4", "S6")


def add_parser(commands: Commands) -> None:
    """Add `demo`."""
    parser = commands.add_parser(
        "demo",
        help="run applications, manager and simulated device through a timeline of five phases",
        description="Runs applications, one manager and a simulated device as real processes over DDS, "
        "through five phases: steady, background load, power cap, tighter target, release. Without --task a "
        "camera's detector and a translator run together. Writes summary.json, timeline.png, report.html, "
        "bag/ and logs/ to --out, and detections.png where there is a detector. Power and clocks are "
        "simulated. With --scenario a scenario of the evaluation is played instead.",
        epilog="example: dynofa demo --seconds 30 --headless --out /tmp/demo",
    )
    parser.add_argument(
        "--task",
        type=names,
        metavar="TASKS",
        help="classification: a camera that shows signs; detection: one that shows scenes of several signs; "
        "translation: sentences for a translator and commands for a parser; or several with commas between "
        "them, under one manager (default detection,translation, but classification with --apps, "
        "--images, --bag or --scenario)",
    )
    parser.add_argument(
        "--seconds",
        type=number(5, 86400, "s"),
        help="length of the timeline (default 60; of a scenario its own: --seconds scales all its times)",
    )
    parser.add_argument("--headless", action="store_true", help="one line per phase instead of a live table")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"default {DEFAULT_OUT}")
    parser.add_argument(
        "--apps", type=whole(1, MAX_APPS), metavar="N", help=f"cameras, 1 to {MAX_APPS} (default 1)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", type=Path, metavar="DIR", help="show these images; sub-folder = class")
    source.add_argument(
        "--bag", type=Path, metavar="BAG", help="play this rosbag2 once as the camera, no timeline"
    )
    parser.add_argument("--topic", default="", help="camera topic of the bag, if it has several")
    parser.add_argument(
        "--rate-hz",
        type=number(0.5, 120, "Hz"),
        help="requests per second to each application of the first task (default: classification 15, "
        "detection 5, translation 2)",
    )
    parser.add_argument(
        "--seed", type=whole(0, 10**6), default=0, help="another seed, other pictures (default 0)"
    )
    parser.add_argument(
        "--scenario",
        choices=LIVE_SCENARIOS,
        help="play this scenario of `dynofa evaluate` instead of the five phases, and compare the run with "
        "its simulation. Its deadlines are scaled by the demo's largest sub-network / the scenario's, its "
        "accuracies by their place between least and most accurate; --seconds scales its times. The "
        "demo's sub-networks stand for the GPU of the simulated board. Details in docs/demo_scenarios.md",
    )
    parser.add_argument(
        "--virtual-board",
        metavar="TREE",
        help="run the device node's real backend on a virtual board, by its name in config/virtual_boards or "
        "by a file (docs/virtual_board.md)",
    )
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    if options.topic and options.bag is None:
        raise UsageError("--topic needs --bag")
    if options.scenario:
        for name in ("task", "apps", "rate_hz", "bag", "virtual_board"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} and --scenario exclude each other")
    if options.task is not None:
        _check_tasks(options)
    from dynofa_ros.demo import demo, setup

    chosen = {k: v for k, v in vars(options).items() if k not in ("run", "command", "json")}
    summary = demo.run(setup.DemoOptions(**chosen))
    return FAILED if summary["errors"] else OK, summary


def _check_tasks(options: argparse.Namespace) -> None:
    tasks = ",".join(options.task)
    if not tasks or not set(options.task) <= set(TASKS):
        raise UsageError(f"--task must be of {', '.join(TASKS)}, with commas between them, got {tasks!r}")
    cameras = [task for task in options.task if task != "translation"]
    for name, possible in (("apps", tasks in cameras), ("bag", tasks in cameras), ("images", bool(cameras))):
        if getattr(options, name) is not None and not possible:
            raise UsageError(f"--{name} is about a camera: it does not go with --task {tasks}")
