"""Accuracy of translating sub-networks, measured on sentences with their references.

BLEU is sacrebleu's with its default tokenisation, over all sentences, divided by 100; exact match is the
share of outputs that equal their reference. A line of a file is a sentence, a tab, and what should come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynofa_ros.library.genomes import Batch
from dynofa_ros.library.library import LibraryError
from dynofa_ros.supernet.decoding import generate
from dynofa_ros.supernet.registry import load_engine
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.text import load_tokenizer

Pair = tuple[str, str]


def bleu(outputs: Sequence[str], references: Sequence[str]) -> float:
    """0..1. Raises LibraryError where sacrebleu is not installed."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise LibraryError("BLEU needs sacrebleu: pip install 'dynofa_ros[bleu]'") from None
    return float(BLEU().corpus_score(list(outputs), [list(references)]).score) / 100


def exact(outputs: Sequence[str], references: Sequence[str]) -> float:
    """0..1."""
    return float(np.mean([o == r for o, r in zip(outputs, references, strict=True)]))


METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {"bleu": bleu, "exact": exact}


def read_pairs(file: Path, count: int, seed: int) -> list[Pair]:
    """At most ``count`` pairs of a file, drawn by the seed. Raises LibraryError naming the file and line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise LibraryError(f"{file} cannot be read: {reason}") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        source, tab, reference = line.partition("\t")
        if not (source.strip() and tab and reference.strip()) or "\t" in reference:
            raise LibraryError(f"{file}:{number}: expected a sentence, a tab and its reference")
        pairs.append((source, reference))
    if len(pairs) < 2:
        raise LibraryError(f"{file} has {len(pairs)} pairs: at least 2 are needed, 300 are usual")
    return [pairs[i] for i in np.sort(np.random.default_rng(seed).permutation(len(pairs))[:count])]


class MeasuredSentences:
    """Accuracy (0..1) of sub-networks on sentences, as the objective of a search."""

    def __init__(
        self,
        supernet: Supernet,
        pairs: Sequence[Pair],
        target: str,
        metric: str,
        engine: str = "onnxruntime",
        on_subnet: Callable[[], object] = lambda: None,
    ) -> None:
        """Raises ValueError in one line for a target that the weights do not have, or sentences too long."""
        self._supernet, self._engine = supernet, load_engine(engine)
        self._tokenizer = load_tokenizer(supernet.weights)
        targets = self._tokenizer.targets
        if target not in targets:
            raise LibraryError(
                f"target {target!r} is unknown to these weights: they have {', '.join(targets)}"
            )
        self._first, self._metric, self._on_subnet = targets[target], METRICS[metric], on_subnet
        self._sources = [self._tokenizer.encode(source) for source, _ in pairs]
        self._references = [reference for _, reference in pairs]

    def __call__(self, batch: Batch) -> np.ndarray:
        """One value per sub-network, (N,)."""
        values = []
        for config in batch.configs:
            values.append(self.score(config))
            self._on_subnet()
        return np.array(values)

    def score(self, config: Any) -> float:
        """Its accuracy on all sentences."""
        return self._metric(self.outputs(config), self._references)

    def outputs(self, config: Any) -> list[str]:
        """What it makes of every sentence."""
        run = self._engine.prepare(self._supernet.materialise(config), 1, "cpu")
        last = [list(generate(run, source, self._first))[-1] for source in self._sources]
        return [self._tokenizer.decode(found.tokens) for found in last]
