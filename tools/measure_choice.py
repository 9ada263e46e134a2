#!/usr/bin/env python3
"""Measure what a choice of the sub-network per request gains over one sub-network for all, on own sentences.

    python tools/measure_choice.py --pairs test.tsv [--library FILE --weights FILE] [--target de] [--json OUT]

Every sub-network of the library answers every sentence; how long an answer is and what it says are therefore
real. Sentences then come at random to one queue, in event time: one takes what the library says of an output
of that length, --slower times as long. The choice (application/request_controller.py) knows the source alone.
Compared with it are the most accurate single sub-network that misses no more than the choice ("equal"), and
the one that misses no more than the tolerance ("allowed"). Accuracy is that of all outputs together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from dynofa_ros.application.request_controller import RequestController, expected_ms
from dynofa_ros.library.library import Library, load_library
from dynofa_ros.library.sentences import METRICS, read_pairs
from dynofa_ros.messages import SubnetEntry
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.decoding import generate
from dynofa_ros.supernet.supernet import load_supernet
from dynofa_ros.supernet.text import load_tokenizer


@dataclass(frozen=True)
class Answers:
    """What the sub-networks make of the sentences: rows are sub-networks, columns sentences."""

    granted: tuple[SubnetEntry, ...]
    sizes: np.ndarray  # tokens of the sources, (sentences,)
    times_ms: np.ndarray
    texts: list[list[str]]


def answers(library: Library, weights: str, sources: Sequence[str], target: str, slower: float) -> Answers:
    net = load_supernet(library.space, weights)
    tokenizer = load_tokenizer(net.weights)
    encoded, first = [tokenizer.encode(source) for source in sources], tokenizer.targets[target]
    granted, times, texts = library.subnet_entries(slower), [], []
    for entry, one in zip(granted, library.entries, strict=True):
        run = net.prepare(library.config(one), threads=1, processor="cpu")
        found = [list(generate(run, source, first))[-1] for source in encoded]
        times.append([expected_ms(entry, answer.length) for answer in found])
        texts.append([tokenizer.decode(answer.tokens) for answer in found])
    return Answers(granted, np.array([len(s) for s in encoded], float), np.array(times), texts)


def queue(
    found: Answers,
    order: np.ndarray,
    arrivals_ms: np.ndarray,
    target_ms: float,
    tolerance: float,
    only: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which sub-network answered each request, and whether late. only: the one for all; None = a choice."""
    controller, free_ms = RequestController(), 0.0
    used, missed = np.zeros(len(order), int), np.zeros(len(order), bool)
    heard = 0
    for n, (sentence, arrived_ms) in enumerate(zip(order, arrivals_ms, strict=True)):
        start_ms = max(arrived_ms, free_ms)
        while heard < len(order) and arrivals_ms[heard] <= start_ms:
            controller.arrive(float(arrivals_ms[heard]))
            heard += 1
        used[n] = only if only is not None else 0
        if only is None:
            waits = n + 1 < len(order) and arrivals_ms[n + 1] <= start_ms
            next_left_ms = target_ms - (start_ms - arrivals_ms[n + 1]) if waits else inf
            left_ms = target_ms - (start_ms - arrived_ms)
            size = float(found.sizes[sentence])
            chosen = controller.choose(found.granted, size, left_ms, next_left_ms, target_ms, tolerance)
            used[n] = found.granted.index(chosen)
            controller.observe(expected_ms(chosen, size), float(found.times_ms[used[n], sentence]))
        free_ms = start_ms + found.times_ms[used[n], sentence]
        missed[n] = free_ms - arrived_ms > target_ms
    return used, missed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=Path, required=True, help="a sentence, a tab, its reference per line")
    parser.add_argument("--library", default="", help="default: the shipped one of the target")
    parser.add_argument("--weights", default="", help="default: those of the package")
    parser.add_argument("--target", default="de")
    parser.add_argument("--metric", choices=tuple(METRICS), default="bleu")
    parser.add_argument("--count", type=int, default=1000, help="sentences")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 1.0, 2.0, 4.0, 6.0], metavar="HZ")
    parser.add_argument("--target-ms", type=float, default=250.0)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--slower", type=float, default=20.0, help="than the computer of the library")
    parser.add_argument("--repeats", type=int, default=5, help="of all sentences, in another order")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shipped = "cpu_seq2seq_demo" + "_intent" * (options.target == "intent")
    library = load_library(options.library or share_file("config", "libraries", "demo", f"{shipped}.yaml"))
    weights = options.weights or str(share_file("config", "weights", "seq2seq_demo.safetensors"))
    pairs = read_pairs(options.pairs, options.count, 0)
    found = answers(library, weights, [source for source, _ in pairs], options.target, options.slower)
    metric, rows = METRICS[options.metric], []
    names = [entry.id for entry in found.granted]
    alone = [metric(texts, [reference for _, reference in pairs]) for texts in found.texts]
    for rate in options.rates:
        rng = np.random.default_rng(1)
        order = np.concatenate([rng.permutation(len(pairs)) for _ in range(options.repeats)])
        arrivals_ms = np.cumsum(rng.exponential(1e3 / rate, len(order)))
        setting = (order, arrivals_ms, options.target_ms, options.tolerance)
        misses = [float(queue(found, *setting, only)[1].mean()) for only in range(len(alone))]
        used, late = queue(found, *setting, None)
        texts = [found.texts[n][sentence] for n, sentence in zip(used, order, strict=True)]
        chosen = metric(texts, [pairs[sentence][1] for sentence in order])

        def best(most: float, misses: list[float] = misses) -> dict[str, object]:
            """The most accurate single sub-network that misses no more, else the one that misses least."""
            fitting = [n for n, missed in enumerate(misses) if missed <= most]
            n = max(fitting, key=lambda n: alone[n]) if fitting else int(np.argmin(misses))
            return {"id": names[n], "missed": round(misses[n], 4), "accuracy": round(alone[n], 4)}

        missed = float(late.mean())
        rows.append(
            {
                "rate_hz": rate,
                "choice": {"missed": round(missed, 4), "accuracy": round(chosen, 4)},
                "equal": best(missed),
                "allowed": best(max(missed, options.tolerance)),
                "used": dict(Counter(names[n] for n in used).most_common()),
            }
        )
        print(json.dumps(rows[-1]))
    if options.json:
        options.json.write_text(json.dumps({"sentences": len(pairs), "rates": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
