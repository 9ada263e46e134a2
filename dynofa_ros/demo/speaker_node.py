"""The demo's speaker: sends sentences to translators and commands to parsers, and what they should answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from std_msgs.msg import String

from dynofa_ros.convert import to_ros
from dynofa_ros.demo.commands import commands
from dynofa_ros.demo.source import SourceNode, names_of
from dynofa_ros.library.sentences import Pair, read_pairs
from dynofa_ros.messages import Header, Translation
from dynofa_ros.ros.parameters import ParameterSpec
from dynofa_ros.ros.run import run
from dynofa_ros.topics import TEXT, TRUE_COMMAND, TRUE_SENTENCE

SPECS = (
    ParameterSpec("apps", "translator", "applications that get texts, separated by commas", dynamic=False),
    ParameterSpec(
        "parsers", "", "those of them that get commands to a robot, and not sentences", dynamic=False
    ),
    ParameterSpec("rate_hz", 1.0, "texts per second to each", "Hz", 0.1, 100.0),
    ParameterSpec("seed", 0, "another seed, another order", minimum=0, maximum=10**6, dynamic=False),
)
SENTENCES = Path(__file__).with_name("sentences.tsv")
SHORTEST, LONGEST = 0.5, 1.5  # pause between two texts, in mean pauses: nobody speaks by a clock


def sentences(seed: int) -> Iterator[Pair]:
    """(sentence, translation) without end; the file again and again, each time in another order."""
    pairs, rng = read_pairs(SENTENCES, 10**6, 0), np.random.default_rng(seed)
    while True:
        yield from (pairs[i] for i in rng.permutation(len(pairs)))


class SpeakerNode(SourceNode):
    """Publishes texts on `language/<app>/text` and their answers on demo/.../ground_truth."""

    def __init__(self) -> None:
        super().__init__("speaker", SPECS)

    def configure(self) -> None:
        super().configure()
        parsers = names_of(self.value("parsers"))
        given = {
            app: TRUE_COMMAND if app in parsers else TRUE_SENTENCE for app in names_of(self.value("apps"))
        }
        if not given:
            raise ValueError("apps must name at least one application")
        truths = {topic: self.advertise(topic) for topic in set(given.values())}
        self._listeners = [
            (app, topic, self.advertise(TEXT, app), truths[topic]) for app, topic in given.items()
        ]

    def work(self) -> None:
        seed = self.value("seed")
        rng = np.random.default_rng(seed)
        said = {
            app: sentences(seed) if topic == TRUE_SENTENCE else commands(seed, test=True)
            for app, topic, *_ in self._listeners
        }
        due_ns = time.monotonic_ns()
        for app, _, texts, truths in cycle(self._listeners):
            pause_s = rng.uniform(SHORTEST, LONGEST) / (self.value("rate_hz") * len(self._listeners))
            due_ns += round(1e9 * pause_s)
            if not self.sleep_until(due_ns):
                return
            text, answer = next(said[app])
            texts.publish(String(data=text))
            header = Header(self.get_clock().now().nanoseconds, app)
            truths.publish(to_ros(Translation(text, answer, header=header)))
            self.sent += 1


def main(args: list[str] | None = None) -> int:
    """Entry point of the process."""
    return run(SpeakerNode, args=args)


if __name__ == "__main__":
    raise SystemExit(main())
