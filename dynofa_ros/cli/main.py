"""The `dynofa` command: arguments here, work in one module per subcommand, imported only when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dynofa_ros import __version__
from dynofa_ros.cli import bench, characterise, device, evaluate, library, probe, replay, weights
from dynofa_ros.cli.arguments import add_json, number, whole
from dynofa_ros.cli.common import BAD_USAGE, FAILED, CliError, UsageError

DEFAULT_OUT = Path("out")
MAX_APPS = 6
LIVE_SCENARIOS = ("S1", "S3", "S4", "S6")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns 0 = done, 1 = failed, 2 = bad usage (argparse exits with 2 by itself)."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except UsageError as error:
        return _fail(options, error, BAD_USAGE)
    except CliError as error:
        return _fail(options, error, FAILED)
    except KeyboardInterrupt:
        return FAILED


def _fail(options: argparse.Namespace, error: CliError, code: int) -> int:
    command = " ".join(filter(None, (options.command, getattr(options, "subcommand", None))))
    print(f"dynofa {command}: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dynofa", description="Dynamic neural networks for ROS 2 robots.")
    parser.add_argument("--version", action="version", version=f"dynofa {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_report(commands)
    for module in (replay, probe, device, library, characterise, weights, bench, evaluate):
        module.add_parser(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="run perception, manager, simulated device and a camera through a timeline of five phases",
        description="Runs perception, manager and simulated device as real processes over DDS with a camera "
        "that shows signs, through five phases: steady, background load, power cap, tighter target, release. "
        "Writes summary.json, timeline.png, bag/ and logs/ to --out. Power and clocks are simulated. "
        "With --scenario a scenario of the evaluation is played instead.",
        epilog="example: dynofa demo --seconds 30 --headless --out /tmp/demo",
    )
    parser.add_argument(
        "--seconds",
        type=number(5, 86400, "s"),
        help="length of the timeline (default 60; of a scenario its own: --seconds scales all its times)",
    )
    parser.add_argument("--headless", action="store_true", help="one line per phase instead of a live table")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help=f"default {DEFAULT_OUT}")
    parser.add_argument(
        "--apps", type=whole(1, MAX_APPS), metavar="N", help=f"applications, 1 to {MAX_APPS} (default 1)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", type=Path, metavar="DIR", help="show these images; sub-folder = class")
    source.add_argument(
        "--bag", type=Path, metavar="BAG", help="play this rosbag2 once as the camera, no timeline"
    )
    parser.add_argument("--topic", default="", help="camera topic of the bag, if it has several")
    parser.add_argument("--rate-hz", type=number(0.5, 120, "Hz"), help="images per second (default 15)")
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
    add_json(parser)
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    if options.topic and options.bag is None:
        raise UsageError("--topic needs --bag")
    if options.scenario:
        for name in ("apps", "rate_hz", "bag"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} and --scenario exclude each other")
    from dynofa_ros.cli import demo
    from dynofa_ros.demo import setup as demo_setup

    chosen = {key: value for key, value in vars(options).items() if key not in ("run", "command")}
    return demo.run(demo_setup.DemoOptions(**chosen))


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="recompute the figures of a recorded run from its bag",
        description="Recomputes the figures of a run from its bag: of `dynofa demo`, or recorded on a robot "
        "with `ros2 bag record`.",
        epilog="example: dynofa report out --json figures.json",
    )
    parser.add_argument(
        "path", type=Path, metavar="BAG|DIR", help="a rosbag2, or a folder that `dynofa demo` wrote"
    )
    parser.add_argument("--namespace", metavar="NS", help="of the robot, if the bag holds several")
    add_json(parser)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the timeline here")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from dynofa_ros.cli import report

    return report.run(options.path, options.namespace, options.json, options.plot)


if __name__ == "__main__":
    raise SystemExit(main())
