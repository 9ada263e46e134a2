#!/usr/bin/env python3
"""Measure what two applications of one backbone cost: memory against one of them, and a switch between texts.

    python tools/measure_texts.py --weights FILE --library de=FILE --library intent=FILE

Each process prepares every sub-network of its libraries; its proportional set size is that after 20 texts per
application. A switch is what an application does to answer the next text with another sub-network that it
holds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from typing import Any

import numpy as np
import psutil

from dynofa_ros.application.application import Application, Settings, loaded
from dynofa_ros.application.task import TEXT, Text, tasks
from dynofa_ros.messages import AppTargets, Header, SubnetCommand
from dynofa_ros.topics import MONITOR

TEXTS, WAIT_S, COMMAND_ID = 20, 60.0, 1
SENTENCES = (
    "No.",
    "I am tired.",
    "Where did you put the keys of the car?",
    "Could you open the door for me?",
)


class Started:
    """One application with everything of its library prepared."""

    def __init__(self, target: str, weights: str, library: str) -> None:
        self.monitors: list[Any] = []
        settings, options = Settings(weights, library, cache_mb=512.0), {"target": target}
        self.application = Application(
            target,
            *loaded(tasks(TEXT)["translation"], settings, options),
            settings,
            AppTargets(target, 10_000.0, rate_hz=5.0),
            "",
            options=options,
            decode=lambda text: (Header(), text),
            publish=lambda topic, message: self.monitors.append(message) if topic == MONITOR else None,
            clock_ns=time.time_ns,
            warn=print,
        )
        self.application.start()
        self.ids = [entry.id for entry in self.application.networks.libraries["cpu"]]
        command = SubnetCommand(COMMAND_ID, self.ids[0], "cpu", prefetch_subnet_ids=tuple(self.ids))
        self.application.command.take(command)
        self._until(lambda: len(self.application.resident) == len(self.ids))

    def answer(self, count: int) -> None:
        """Answer so many texts one after the other."""
        for n in range(count):
            before = len(self.monitors)
            self.application.accept(Text(SENTENCES[n % len(SENTENCES)]))
            self._until(lambda before=before: len(self.monitors) > before)

    def switches_ms(self, count: int) -> list[float]:
        """Times from the command of another sub-network that is held to its being the current one."""
        times = []
        for n in range(count):
            subnet_id = self.ids[n % len(self.ids)]
            start_ns = time.perf_counter_ns()
            self.application.command.take(SubnetCommand(COMMAND_ID + 1 + n, subnet_id, "cpu"))
            times.append((time.perf_counter_ns() - start_ns) / 1e6)
            current = self.application.current
            assert current is not None and current.key.subnet_id == subnet_id
        return times

    def _until(self, condition: Any) -> None:
        end_s = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > end_s:
                raise TimeoutError("an application did not answer")
            time.sleep(0.001)


def measure(targets: list[tuple[str, str]], weights: str, found: Any) -> None:
    """Run in a process of its own: what these applications take together."""
    started = [Started(target, weights, library) for target, library in targets]
    for one in started:
        one.answer(TEXTS)
    found.put((psutil.Process().memory_full_info().pss / 1e6, started[0].switches_ms(500)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", default="", help="default: those of the package")
    parser.add_argument("--library", action="append", default=[], help="TARGET=FILE, twice")
    options = parser.parse_args()
    named = [tuple(pair.split("=", 1)) for pair in options.library] or [("de", ""), ("intent", "")]
    if len(named) != 2:
        parser.error("give --library twice, once per target")
    context = multiprocessing.get_context("spawn")
    figures = {}
    for name, targets in (("one", named[:1]), ("two", named)):
        found = context.Queue()
        process = context.Process(target=measure, args=(targets, options.weights, found))
        process.start()
        pss, times = found.get(timeout=300)
        process.join()
        figures[f"{name}_pss_mb"] = round(pss, 1)
        figures[f"{name}_switch_p50_ms"] = round(float(np.quantile(times, 0.5)), 4)
        figures[f"{name}_switch_p99_ms"] = round(float(np.quantile(times, 0.99)), 4)
    figures["pss_ratio"] = round(figures["two_pss_mb"] / figures["one_pss_mb"], 3)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
