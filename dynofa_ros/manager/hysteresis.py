"""When to act on a better plan: at once if the one in force fails, patiently if it only could be better.

A plan that breaks a limit or a deadline is replaced in the same step. A plan that holds is replaced only by
one that holds with headroom, that has been better for the whole dwell time, and not sooner than the dwell
time after the last change; an upgrade that had to be taken back doubles the dwell. A change asked for by a
user waits for nothing. With the gap between ``HEADROOM`` and 1 this is a Schmitt trigger: noise inside the
gap moves no knob.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynofa_ros.manager.ladder import Trace
from dynofa_ros.manager.many import allocate_any
from dynofa_ros.manager.plan import Forecast, Plan, forecast, make_plan, quality
from dynofa_ros.manager.problem import Problem

HEADROOM = 0.97  # share of the latency target that a new plan may fill
GAIN_SHARE = 0.02  # of the power: less is not worth a change
GAIN_W = 0.1
BACKOFF_MAX = 16.0
DWELL_MAX_S = 8.0
FAILED_WITHIN_S = 4.0  # an upgrade taken back sooner than this has failed
FORGIVEN_AFTER_S = 30.0
SOLVE_PERIOD_S = 1.0
MOVED_SHARE = 0.02  # of a latency or a power: alternatives are looked at again before the second is over


@dataclass
class Hysteresis:
    """Memory of the last changes. All times are step times in nanoseconds."""

    changed_ns: int | None = None
    upgraded_ns: int | None = None
    failed_ns: int | None = None
    better_since_ns: int | None = None
    backoff: float = 1.0
    solved: bool = False  # the last choice looked at all alternatives
    solved_ns: int = 0
    trace: Trace = Trace()  # of the last solution
    seen: tuple[float, ...] | None = None  # what the plan was worth when all alternatives were looked at
    present: Forecast | None = None  # of the plan that was in force, as the last choice saw it

    def choose(
        self,
        now_ns: int,
        problem: Problem,
        current: Plan | None,
        *,
        at_once: bool,
        event: bool,
        alarm: bool,
        upgrades: bool,
        min_dwell_s: float,
        release_limit_w: float,
    ) -> Plan:
        """The plan to be in force from now on.

        ``at_once``: something changed that no hysteresis must delay. ``event``: something else that is worth
        another look. ``alarm``: the load has changed, so that a plan that fails now was no mistake.
        ``upgrades``: the monitors can be trusted enough to do more than hold on. ``release_limit_w``: power
        above which a plan in force is given up.
        """
        present = forecast(problem, current, release_limit_w) if current else Forecast(False)
        self.solved = False
        if current is None or at_once or not present.applicable:
            self._forgive()
            self.present = None
            return self._change(now_ns, current, self._solve(now_ns, problem, current, insist=True))
        self.present = present
        if not present.sound:
            bold = self._solve(now_ns, problem, current, insist=True)
            if forecast(problem, bold, release_limit_w).violations < present.violations:
                self._note_failure(now_ns, alarm)
                return self._change(now_ns, current, bold)
            return current
        if not upgrades:
            self.better_since_ns = None
            return current
        if not (event or self._due(now_ns, problem, present)):
            return current
        patient = self._solve(now_ns, problem, current)
        if not _better(problem, forecast(problem, patient), present):
            self.better_since_ns = None
            return current
        if present.thinned:
            return self._change(now_ns, current, patient)  # every frame left out is a frame missed
        self.better_since_ns = now_ns if self.better_since_ns is None else self.better_since_ns
        if self._dwelt(now_ns, min_dwell_s):
            self.upgraded_ns = now_ns
            return self._change(now_ns, current, patient)
        return current

    def _solve(self, now_ns: int, problem: Problem, current: Plan | None, *, insist: bool = False) -> Plan:
        """The best plan with headroom; ``insist``: without it where not everything can be had with it."""
        places = [choice.entry.processor for choice in current.choices] if current else []
        outcome = allocate_any(problem, HEADROOM, self.trace, places, insist=insist)
        self.trace = outcome.trace
        self.solved, self.solved_ns, self.seen = True, now_ns, None
        return make_plan(problem, outcome)

    def _due(self, now_ns: int, problem: Problem, present: Forecast) -> bool:
        """Whether all alternatives are worth a look: once a second, or when the estimates have moved."""
        seen = (problem.power_limit_w, present.power_w, *(app.share for app in present.apps))
        if self.seen is None or len(self.seen) != len(seen):
            self.seen = seen
        moved = any(abs(new - old) > MOVED_SHARE * old for new, old in zip(seen, self.seen, strict=True))
        waiting = self.better_since_ns is not None
        return moved or waiting or now_ns - self.solved_ns >= SOLVE_PERIOD_S * 1e9

    def rebase(self, now_ns: int) -> None:
        """Starts all waiting times anew: the clock was set back."""
        self.changed_ns = self.solved_ns = now_ns
        self.upgraded_ns = self.failed_ns = self.better_since_ns = None

    def _change(self, now_ns: int, current: Plan | None, plan: Plan) -> Plan:
        if not plan.same_knobs(current):
            self.changed_ns = now_ns
            self.better_since_ns = None
        return plan

    def _forgive(self) -> None:
        self.upgraded_ns = self.failed_ns = None
        self.backoff = 1.0

    def _note_failure(self, now_ns: int, alarm: bool) -> None:
        recent = self.upgraded_ns is not None and now_ns - self.upgraded_ns < FAILED_WITHIN_S * 1e9
        if recent and not alarm:
            self.backoff = min(BACKOFF_MAX, 2.0 * self.backoff)
            self.failed_ns = now_ns
        self.upgraded_ns = None

    def _dwelt(self, now_ns: int, min_dwell_s: float) -> bool:
        if self.failed_ns is not None and now_ns - self.failed_ns > FORGIVEN_AFTER_S * 1e9:
            self._forgive()
        dwell_ns = max(min_dwell_s, min(min_dwell_s * self.backoff, DWELL_MAX_S)) * 1e9
        since_change = self.changed_ns is None or now_ns - self.changed_ns >= dwell_ns
        better = self.better_since_ns is not None and now_ns - self.better_since_ns >= dwell_ns
        return since_change and better


def _better(problem: Problem, new: Forecast, present: Forecast) -> bool:
    if not new.applicable or new.violations > present.violations:
        return False
    gained, had = quality(problem, new), quality(problem, present)
    if gained != had:
        return gained < had
    if problem.least_latency and abs(present.share - new.share) > GAIN_SHARE:
        return new.share < present.share
    least = max(GAIN_SHARE * abs(present.power_w), GAIN_W if problem.power_known else 0.0)
    return present.power_w - new.power_w > least
