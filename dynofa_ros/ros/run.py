"""Nodes as a process: from its arguments to its exit code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.signals import SignalHandlerOptions

from dynofa_ros.entry_point import end_signals
from dynofa_ros.ros.executor import make_executor
from dynofa_ros.ros.node import ManagedNode
from dynofa_ros.ros.one_line import one_line

_STOP_POLL_S = 0.25  # how late a signal is seen by a node that has nothing to do


def run(
    *node_factories: Callable[[], ManagedNode],
    args: Sequence[str] | None = None,
    executor: Callable[[], Executor] = make_executor,
) -> int:
    """Run nodes until SIGINT or SIGTERM, or until one could not start; returns the exit code.

    0 = ended on request, 1 = one could not start (one line on stderr or in the log says why). The signals
    are handled here and not by rclpy, which would close the context before the node could restore what
    it holds, the clocks of the device above all. executor: another one for nodes with an action.
    """
    stop = threading.Event()
    handled = end_signals()
    for number in handled:
        signal.signal(number, lambda *_: stop.set())
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
        nodes = [make() for make in node_factories]
    except Exception as error:  # bad arguments, parameters, names: a line, no traceback
        print(f"{Path(sys.argv[0]).name} cannot start: {one_line(error)}", file=sys.stderr)
        _shutdown()
        return 1
    try:
        _spin(executor(), nodes, stop)
    finally:
        for node in nodes if rclpy.ok() else ():
            node.end()
        _shutdown()
    for number in handled if stop.is_set() else ():
        signal.signal(number, signal.SIG_IGN)  # Python drops our handlers while it ends
    return 0 if all(node.start_error is None for node in nodes) else 1


def _spin(executor: Executor, nodes: Sequence[ManagedNode], stop: threading.Event) -> None:
    for node in nodes:
        executor.add_node(node)
    while not stop.is_set() and all(node.start_error is None for node in nodes) and rclpy.ok():
        try:
            executor.spin_once(timeout_sec=_STOP_POLL_S)
            for node in nodes:
                node.finish_wake_up()
        except ExternalShutdownException:
            break
        except Exception as error:  # e.g. RCLError on Humble, for a transition that the state does not have
            nodes[0].get_logger().error(one_line(error))
            stop.wait(_STOP_POLL_S)
    executor.shutdown()


def _shutdown() -> None:
    if rclpy.ok():
        rclpy.shutdown()
