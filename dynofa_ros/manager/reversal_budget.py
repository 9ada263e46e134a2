"""Bounded switching: how many knobs may go back to where they came from, as a token bucket.

A knob is the sub-network or the place of an application, or the clocks of a processor. It is reversed when it
returns to its last value within `WINDOW_S`. Two rules bound how often:

- A plan that moves knobs freely must not reverse any (`reverses`).
- A plan that only takes something away, `hysteresis.concede`, is never held back. It makes sub-networks
  smaller and clocks higher: all it can reverse is a sub-network that has grown and a clock that has fallen.
  These are paid in advance, one token each, and cost nothing if they have held for the window.

- What a power limit has forced is not paid. Taking it back costs a token there and then, and waits for one.

So reversals are at most the tokens that were granted: `CAPACITY` at once and at each wish of the user,
`PER_S` in the long run, and what the last plan costs beyond that. A broken power limit waits for no token;
it leaves a debt, which the next wish of the user ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import Plan

WINDOW_S = 2.5
CAPACITY = 3.0
PER_S = 3.0 / 60.0

Value = str | tuple[float, ...]


@dataclass
class ReversalBudget:
    """Tokens that are left, and the last change of each knob: when, the value before, whether it is paid."""

    tokens: float = CAPACITY
    _now_ns: int = 0
    _changes: dict[str, tuple[int, Value, bool]] = field(default_factory=dict)

    @property
    def left(self) -> bool:
        """Whether something that may be reversed can be paid."""
        return self.tokens >= 1.0

    def elapse(self, now_ns: int) -> None:
        """Lets time go by: tokens come, and those come back that were paid for changes that have held."""
        passed_ns, self._now_ns = now_ns - self._now_ns, now_ns
        if passed_ns > 0:
            self.tokens += PER_S * passed_ns * 1e-9
        for knob, (changed_ns, _, paid) in list(self._changes.items()):
            if not 0 <= now_ns - changed_ns <= WINDOW_S * 1e9:
                del self._changes[knob]
                self.tokens += paid
        self.tokens = min(CAPACITY, self.tokens)

    def renew(self) -> None:
        """A user has wished for something else: what was before counts no more."""
        self.tokens = CAPACITY
        self._changes.clear()

    def reverses(self, current: Plan, plan: Plan, *, unpaid: bool = False) -> bool:
        """Whether a plan takes back a change that was made just now; ``unpaid``: one that was not paid."""
        knobs = [knob for knob, _, after, _ in _changes(current, plan) if self._reversed(knob, after)]
        return any(not (unpaid and self._changes[knob][2]) for knob in knobs)

    def change(self, current: Plan, plan: Plan, *, forced: bool) -> None:
        """Takes a new plan; ``forced``: by a power limit, which nothing may take back for a while."""
        for knob, before, after, risky in _changes(current, plan):
            risky = risky and not forced
            paid = knob in self._changes and self._changes[knob][2]
            # Paid and not reversed: the token comes back. Reversed and not paid: it is due now.
            self.tokens += float(paid) - float(self._reversed(knob, after)) - float(risky)
            self._changes[knob] = self._now_ns, before, risky

    def _reversed(self, knob: str, after: Value) -> bool:
        return knob in self._changes and self._changes[knob][1] == after


def _changes(current: Plan, plan: Plan) -> Iterator[tuple[str, Value, Value, bool]]:
    """Knobs that two plans set otherwise: their values, and whether taking something away can reverse it."""
    then = {choice.app: choice.entry for choice in current.choices}
    for choice in plan.choices:
        new, old = choice.entry, then.get(choice.app)
        if old is not None and old.id != new.id:
            yield f"subnet of {choice.app}", old.id, new.id, new.accuracy > old.accuracy
        if old is not None and place_of(old) != place_of(new):
            yield f"place of {choice.app}", place_of(old), place_of(new), False
    clocks = dict(current.clocks)
    for name, hz in plan.clocks:
        if name in clocks and clocks[name] != hz:
            yield f"clocks of {name}", clocks[name], hz, hz < clocks[name]
