"""`dynofa top`: what the robots on this network do now, as a table that follows them."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_run, number
from dynofa_ros.cli.common import OK
from dynofa_ros.errors import CliError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dynofa_ros.ros.watcher import Watcher

PERIOD_S = 1.0
ONCE_S = 4.0  # discovery, what is latched, and some frames


def add_parser(commands: Commands) -> None:
    """Add `top`."""
    parser = commands.add_parser(
        "top",
        help="show what running robots do now: sub-networks, latency, clocks, power, decisions, faults",
        description="Shows what running robots do now, once a second: of each application sub-network, "
        "processor, latency against target, misses and accuracy of the last 10 s; clocks, power and "
        "temperature; the last decision and its reason; diagnostics that are not OK; what is missing. "
        "It subscribes and does nothing else. q or Ctrl-C ends it.",
        epilog="example: dynofa top --namespace /robot1 --once --json now.json",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        metavar="NS",
        help="of a robot, / for the one without; may be given several times (default: all that are found)",
    )
    parser.add_argument(
        "--once",
        nargs="?",
        const=ONCE_S,
        type=number(0.5, 3600, "s"),
        metavar="SECONDS",
        help=f"watch so long (default {ONCE_S:g} s), print the table once and end; 1 = no robot was found",
    )
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    if options.once is None and not sys.stdout.isatty():
        raise UsageError("the output is no terminal: use --once")
    from dynofa_ros.ros.watcher import Watcher

    names = None if options.namespace is None else [_root(name) for name in options.namespace]
    with Watcher(names) as watcher:
        robots = _follow(watcher) if options.once is None else _once(watcher, options.once)
    return OK, {"robots": robots}


def _root(namespace: str) -> str:
    """Prefix of the topics of a robot."""
    name = namespace.strip("/")
    return f"/{name}" if name else ""


def _once(watcher: Watcher, seconds: float) -> dict[str, Any]:
    """The table after so long. Raises CliError if there is no robot."""
    from rich.console import Console

    end_s, robots = time.monotonic() + seconds, watcher.look()
    while (remaining_s := end_s - time.monotonic()) > 0:
        time.sleep(min(remaining_s, PERIOD_S))
        robots = watcher.look()
    if not robots:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        raise CliError(f"no robot was found in ROS domain {domain} within {seconds:g} s")
    Console().print(_view(robots))
    return robots


def _follow(watcher: Watcher) -> dict[str, Any]:
    """The table until q or Ctrl-C; what it showed last."""
    from rich.live import Live

    robots: dict[str, Any] = {}
    try:
        with _keys() as pressed, Live(screen=True, auto_refresh=False) as live:
            while True:
                robots = watcher.look()
                live.update(_view(robots, "q ends"), refresh=True)
                if "q" in pressed(PERIOD_S).lower():
                    return robots
    except KeyboardInterrupt:
        return robots


def _no_keys(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds, or for a key, and returns what was typed."""
    if not sys.stdin.isatty():
        yield _no_keys
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return os.read(terminal, 100).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(terminal)
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _view(robots: dict[str, Any], footer: str = "") -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from dynofa_ros.recording.tables import live_view, plain

    parts = [live_view(now, f"robot {name}") for name, now in robots.items()]
    if not robots:
        parts = [plain("no robot is found yet: no publisher of perception/<app>/monitor or dynofa/...")]
    return Group(*parts, Text(footer, style="dim"))
