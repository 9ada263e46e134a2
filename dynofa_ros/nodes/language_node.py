"""Language node: applications that answer texts, each a ROS node, in one process.

    language_node translator parser --ros-args --params-file FILE

Each has its own targets, library and monitor; sub-networks of the same weights are held once for all of them.
A text comes as a String on the topic `text`, or as a goal of the action `translate`; both wait in one queue,
in order. Every text gets a Translation, with the answer or the reason why there is none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future
from rclpy.utilities import remove_ros_args

from dynofa_ros import topics
from dynofa_ros.application.application import Application
from dynofa_ros.application.task import TEXT, Text
from dynofa_ros.application.worker import Outcome
from dynofa_ros.convert import from_ros, ros_types
from dynofa_ros.messages import Header, Translation
from dynofa_ros.nodes.managed_application import NetworkNode
from dynofa_ros.nodes.perception_parameters import TEXT_PARAMETERS as PARAMETERS
from dynofa_ros.ros.run import run
from dynofa_ros.supernet.switching import SWITCH_INTERVAL_S
from dynofa_ros.topics import Topic, absolute

DEFAULT_NAME = "translator"


@dataclass(frozen=True, eq=False)
class Received:
    """A text. goal: that it came by; ended: gets (outcome, Translation, latency in ms) then."""

    header: Header
    text: str
    goal: Any = None
    ended: Any = None


class LanguageNode(NetworkNode):
    """One application that answers texts, on `language/<node name>/...`; managed on `perception/...`."""

    request = TEXT
    malformed = "text refused"

    def __init__(self, name: str = DEFAULT_NAME, **arguments: Any) -> None:
        self._server: Any = None
        self._working: Received  # these two are of the inference thread
        self._translation: Translation
        super().__init__(name, specs=PARAMETERS, **arguments)

    def configure(self) -> None:
        super().configure()
        self._action = ros_types("dynofa_ros/action/Translate")
        # An ActionServer ends with its node and not before: a client must get the result of what it asked.
        self._server = ActionServer(
            self,
            self._action,
            absolute(self.get_namespace(), topics.TRANSLATE.format(app=self.app)),
            self._execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT if self.active else GoalResponse.REJECT,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def cleanup(self) -> None:
        if self._server is not None:
            self._server.destroy()
        self._server = None
        super().cleanup()

    # --- requests, in the executor -----------------------------------------------------------

    def listen(self, application: Application) -> None:
        self.subscribe(topics.TEXT, partial(self._on_text, application), self.app, foreign=True)

    def _on_text(self, application: Application, message: Any) -> None:
        application.accept(Received(Header(self.get_clock().now().nanoseconds), message.data))

    async def _execute(self, goal: Any) -> Any:
        """Result of a goal, once the inference thread is done with it."""
        asked = goal.request
        ended: Any = Future(executor=self.executor)
        received = Received(from_ros(asked.header), asked.text, goal, ended)
        if self._application is not None and self.active:
            self._application.accept(received, float(asked.latency_target_ms))
        else:
            self.unanswered(received, Outcome.REFUSED, "the node is inactive")
        outcome, translation, latency_ms = await ended
        {Outcome.COMPLETE: goal.succeed, Outcome.CANCELED: goal.canceled}.get(outcome, goal.abort)()
        return self._action.Result(
            outcome=int(outcome),
            text=translation.text,
            reason=translation.reason,
            score=translation.score,
            latency_ms=latency_ms,
            output_size=translation.output_size,
        )

    # --- answers, in the inference thread ----------------------------------------------------

    def decode(self, message: Received) -> tuple[Header, Text]:
        self._working, goal = message, message.goal
        if goal is None:
            return message.header, Text(message.text)
        return message.header, Text(message.text, goal.request.stream, lambda: goal.is_cancel_requested)

    def stream(self, topic: Topic, message: Translation) -> None:
        feedback = self._action.Feedback(text=message.text, output_size=message.output_size)
        self._working.goal.publish_feedback(feedback)

    def send(self, topic: Topic, message: Any) -> None:
        super().send(topic, message)
        if topic == topics.TRANSLATION:
            self._translation = message
        elif topic == topics.MONITOR and self._working.ended is not None:  # the last that is sent
            self._working.ended.set_result((Outcome.COMPLETE, self._translation, message.latency_ms))

    def unanswered(self, message: Received, outcome: Outcome, reason: str) -> None:
        translation = Translation(message.text, "", reason, header=message.header)
        super().send(topics.TRANSLATION, translation)
        if message.ended is not None:
            message.ended.set_result((outcome, translation, nan))


def main() -> int:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    names = remove_ros_args(sys.argv)[1:]
    nodes = [partial(LanguageNode, name) for name in names or [DEFAULT_NAME]]
    return run(*nodes, executor=SingleThreadedExecutor)  # goals are coroutines


if __name__ == "__main__":
    raise SystemExit(main())
