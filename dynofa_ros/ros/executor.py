"""The executor of the nodes: single-threaded, keeps its wait set, takes less processor time than rclpy's.

For every callback those of rclpy look at everything that a node has, make a wait set of it and a task, in
Python. This one keeps what it waits for until something is created or destroyed, and calls timers and
subscriptions itself. All that comes rarely - services, clients, events of the middleware - is left to
rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.subscription import Subscription
from rclpy.utilities import timeout_sec_to_nsec

# What NodeExecutor uses of rclpy beside its interface; Humble to Kilted have all of it.
INTERNALS = ((Executor, "can_execute"), (Subscription, "CallbackType"), (_rclpy, "WaitSet"))
KINDS = ("subscription", "guard_condition", "timer", "client", "service")  # as a wait set names them
make_wait_set: Any = getattr(_rclpy, "WaitSet", None)  # its types lack the arguments


def make_executor(context: Context | None = None) -> SingleThreadedExecutor:
    """A NodeExecutor, or that of rclpy where this version of it lacks what a NodeExecutor uses."""
    fits = all(hasattr(owner, name) for owner, name in INTERNALS)
    return (NodeExecutor if fits else SingleThreadedExecutor)(context=context)


class NodeExecutor(SingleThreadedExecutor):
    """As SingleThreadedExecutor, for callbacks that are no coroutines, and without tasks of its own.

    A `spin_once` calls every timer and subscription that is ready, each once.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._held = ExitStack()  # nothing is destroyed while it is waited for
        self._wait_set: Any = None  # None = what there is has changed
        self._entities: dict[str, dict[int, Any]] = {}  # by kind and pointer
        self._adding: list[tuple[Callable[[Any], int], Any]] = []  # methods of the wait set, what they take
        self._waitables: list[Any] = []

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Raises ExternalShutdownException, and what a callback raises."""
        if self._wait_set is None:
            self._check_context()
            self._collect()
        wait_set = self._wait_set
        try:
            wait_set.clear_entities()
            for add, handle in self._adding:
                add(handle)
            for waitable in self._waitables:
                waitable.add_to_wait_set(wait_set)
        except InvalidHandle:  # something was destroyed by the last callback: look again
            self._release()
            return
        wait_set.wait(timeout_sec_to_nsec(timeout_sec))
        self._check_context()
        subscriptions, guards, timers, *others = (
            [entities[pointer] for pointer in wait_set.get_ready_entities(kind)]
            for kind, entities in self._entities.items()
        )
        if guards or any(others) or any(w.is_ready(wait_set) for w in self._waitables):
            for guard in guards:
                guard._executor_triggered = True  # a wait set takes the trigger away
            if self._guard in guards:
                self._release()
            self._cb_iter = None  # what rclpy found the last time; what is still ready it finds again
            super().spin_once(0.0)
        for timer in timers:
            self._call_timer(timer)
        for subscription in subscriptions:
            self._call_subscription(subscription)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """As that of rclpy."""
        self._release()
        return bool(super().shutdown(timeout_sec))

    def _check_context(self) -> None:
        if not self._context.ok():
            raise ExternalShutdownException

    def _collect(self) -> None:
        """Hold what is waited for now. Every creation and destruction triggers the guard of the executor."""
        self._entities = {kind: {} for kind in KINDS}
        self._waitables = []
        for node in self.get_nodes():
            found: Any = (node.subscriptions, node.guards, node.timers, node.clients, node.services)
            for kind, entities in zip(KINDS, found, strict=True):
                for entity in entities:
                    if self.can_execute(entity):
                        self._hold(kind, entity)
            for waitable in filter(self.can_execute, node.waitables):
                with suppress(InvalidHandle):
                    self._held.enter_context(waitable)
                    self._waitables.append(waitable)
        self._hold("guard_condition", self._guard)
        events = sum(waitable.get_num_entities().num_events for waitable in self._waitables)
        sizes = (len(self._entities[kind]) for kind in KINDS)
        context: Any = self._context.handle
        self._held.enter_context(context)
        self._wait_set = wait_set = make_wait_set(*sizes, events, context)
        self._adding = [
            (getattr(wait_set, f"add_{kind}"), entity.handle)
            for kind, entities in self._entities.items()
            for entity in entities.values()
        ]

    def _hold(self, kind: str, entity: Any) -> None:
        with suppress(InvalidHandle):
            self._held.enter_context(entity.handle)
            self._entities[kind][entity.handle.pointer] = entity

    def _release(self) -> None:
        self._wait_set, self._adding = None, []
        self._held.close()

    def _call_timer(self, timer: Any) -> None:
        try:
            with timer.handle:
                if not timer.handle.is_timer_ready():  # cancelled, or reset, meanwhile
                    return
                timer.handle.call_timer()
        except InvalidHandle:
            return
        timer.callback()

    def _call_subscription(self, subscription: Any) -> None:
        try:
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        except InvalidHandle:
            return
        if taken is None:
            return
        alone = subscription._callback_type is Subscription.CallbackType.MessageOnly
        subscription.callback(*(taken[:1] if alone else taken))
