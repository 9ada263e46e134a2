"""Text from a translating network, token by token: greedy where its beam is one, else beam search.

As in fairseq's SequenceGenerator, of the 2 * beam likeliest continuations the best ``beam`` that go on are
kept, and an end counts among the first ``beam`` of them. Another rule ends a sentence: not that ``beam``
hypotheses have ended, because unlikely ones end early, but that the best of these is better than any that
goes on. NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dynofa_ros.supernet.graphs import Arrays, Runner

LONGEST_OUTPUT = 128


@dataclass(frozen=True)
class Hypothesis:
    """An output so far. tokens: without the first token and the end; score: log-probability, divided by
    ``length`` to the power of the length penalty; length: tokens made, the end included."""

    tokens: tuple[int, ...]
    score: float
    finished: bool

    @property
    def length(self) -> int:
        return len(self.tokens) + self.finished


class Steps:
    """The steps of one sentence, with the keys and values that they need."""

    def __init__(self, network: Runner, source: Sequence[int]) -> None:
        """source: token ids, the end included."""
        inputs = {"source": np.array([source]), "positions": np.arange(len(source))}
        self._memory = network.graphs["encode"](inputs)
        self._step, self._position = network.graphs["step"], 0
        self._past: Arrays = {}  # of one hypothesis without a token
        for value in network.inputs["step"]:
            if value.name.startswith("past"):
                shape = [n if isinstance(n, int) else int(n == "N") for n in value.shape]
                self._past[value.name] = np.zeros(shape, np.float32)

    def __call__(self, tokens: Sequence[int], parents: Sequence[int]) -> Arrays:
        """Continuations of hypotheses: "scores", "tokens" and "end" of each.

        tokens: the newest of each; parents: which hypotheses of the call before these continue.
        """
        past = self._past
        if list(parents) != list(range(len(next(iter(past.values()))))):
            past = {name: array[parents] for name, array in past.items()}
        own = {"token": np.array(tokens), "position": np.array([self._position])}
        found = self._step({**own, **past, **self._memory})
        self._past = {name: found.pop(name.replace("past", "own")) for name in past}
        self._position += 1
        return found


def generate(
    network: Runner,
    source: Sequence[int],
    first: int,
    *,
    end: int | None = None,
    max_length: int | None = None,
    min_length: int = 2,
    length_penalty: float = 1.0,
    early: bool = True,
    until_beam: bool = False,
) -> Iterator[Hypothesis]:
    """The best output so far after every step; the last one is finished.

    network: with graphs ``encode`` and ``step``. source: token ids. first: the token that an output begins
    with. end: the one that ends it; None = the last of the source. max_length, min_length: of the output, the
    end included; max_length None: twice the source and 10, at most LONGEST_OUTPUT. early: a hypothesis that
    goes on is judged as it is, not as it could be if all its other tokens were certain, which takes longer
    and hardly ever changes the output. until_beam: nothing is judged; the search goes on until as many
    hypotheses have ended as the beam has, as fairseq's does. Raises ValueError for a source without tokens.
    """
    if not len(source):
        raise ValueError("there is nothing to translate: the source has no token")
    if max_length is None:
        max_length = min(LONGEST_OUTPUT, 2 * len(source) + 10)
    steps, end = Steps(network, source), source[-1] if end is None else end
    running, ended = [_Running((), 0.0, 0)], list[Hypothesis]()
    for length in range(1, max_length + 1):
        last = [hypothesis.tokens[-1] if hypothesis.tokens else first for hypothesis in running]
        found = steps(last, [hypothesis.parent for hypothesis in running])
        beam, scale = found["tokens"].shape[1] // 2, length**length_penalty
        if length == max_length:
            found = {"scores": found["end"], "tokens": np.full((len(running), 1), end)}
        continuations = _continuations(running, found, end if length < min_length else None)
        running = []
        for rank, hypothesis in enumerate(continuations[: 2 * beam]):
            if hypothesis.tokens[-1] != end:
                running.append(hypothesis)
            elif rank < beam and not (until_beam and len(ended) == beam):
                ended.append(Hypothesis(hypothesis.tokens[:-1], hypothesis.total / scale, True))
        running = running[:beam]
        best = max(ended, key=lambda hypothesis: hypothesis.score, default=None)
        reach = scale if early else max_length**length_penalty
        hope = max((h.total / reach for h in running), default=-np.inf)
        done = not running or len(ended) == beam if until_beam else best and best.score >= hope
        if best and done:
            yield best
            return
        yield Hypothesis(running[0].tokens, running[0].total / scale, False)


@dataclass(frozen=True)
class _Running:
    """tokens: the end included where it has ended; total: log-probability; parent: which one it continues."""

    tokens: tuple[int, ...]
    total: float
    parent: int


def _continuations(running: list[_Running], found: Arrays, never: int | None) -> list[_Running]:
    """The likeliest first, without those by the token ``never``."""
    scores, tokens = found["scores"].tolist(), found["tokens"].tolist()
    found_all = [
        _Running((*before.tokens, token), before.total + score, row)
        for row, before in enumerate(running)
        for score, token in zip(scores[row], tokens[row], strict=True)
        if token != never
    ]
    return sorted(found_all, key=lambda hypothesis: -hypothesis.total)
