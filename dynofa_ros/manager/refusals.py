"""Messages that the manager refused, by kind and sender, until the sender is accepted again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SHOWN_S = 3.0  # at least, so that diagnostics see it


@dataclass
class Refusal:
    """Why a message was refused. ``over``: a later one of the same sender was accepted."""

    reason: str
    age_s: float = 0.0
    over: bool = False


@dataclass
class Refusals:
    """``counts``: how many of each kind since the start."""

    counts: Counter[str] = field(default_factory=Counter)
    _open: dict[tuple[str, str], Refusal] = field(default_factory=dict)  # newest last

    @property
    def last(self) -> str:
        """Why the newest message of a sender was refused; empty soon after all are accepted again."""
        return next((refusal.reason for refusal in reversed(self._open.values())), "")

    def refuse(self, kind: str, sender: str, reason: str) -> set[str]:
        """Notes a refused message; no trigger comes of it."""
        self.counts[kind] += 1
        self._open.pop((kind, sender), None)
        self._open[kind, sender] = Refusal(reason)
        return set()

    def accept(self, kind: str, sender: str) -> None:
        """A message of the sender was sound."""
        if (kind, sender) in self._open:
            self._open[kind, sender].over = True

    def elapse(self, seconds: float) -> None:
        """Lets time go by."""
        for key, refusal in list(self._open.items()):
            refusal.age_s += seconds
            if refusal.over and refusal.age_s > SHOWN_S:
                del self._open[key]

    def forget(self, sender: str) -> None:
        """The sender has gone."""
        self._open = {key: refusal for key, refusal in self._open.items() if key[1] != sender}
