"""When to act on a better plan: at once if the one in force fails, patiently if it only could be better.

A plan that breaks a limit or a deadline is replaced in the same step. A plan that holds is replaced only by
one that holds with headroom, that has been better for the whole dwell time, and not sooner than the dwell
time after the last change; an upgrade that had to be taken back doubles the dwell. A change asked for by a
user waits for nothing. With the gap between ``HEADROOM`` and 1 this is a Schmitt trigger: noise inside the
gap moves no knob.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynofa_ros.manager.ladder import allocate
from dynofa_ros.manager.plan import Forecast, Plan, forecast, make_plan
from dynofa_ros.manager.problem import Problem

HEADROOM = 0.97  # share of the latency target that a new plan may fill
GAIN_SHARE = 0.02  # of the power: less is not worth a change
GAIN_W = 0.1
BACKOFF_MAX = 16.0
DWELL_MAX_S = 8.0
FAILED_WITHIN_S = 4.0  # an upgrade taken back sooner than this has failed
FORGIVEN_AFTER_S = 30.0


@dataclass
class Hysteresis:
    """Memory of the last changes. All times are step times in nanoseconds."""

    changed_ns: int | None = None
    upgraded_ns: int | None = None
    failed_ns: int | None = None
    better_since_ns: int | None = None
    backoff: float = 1.0

    def choose(
        self,
        now_ns: int,
        problem: Problem,
        current: Plan | None,
        *,
        at_once: bool,
        alarm: bool,
        upgrades: bool,
        min_dwell_s: float,
        release_limit_w: float,
    ) -> Plan:
        """The plan to be in force from now on.

        ``at_once``: something changed that no hysteresis must delay. ``alarm``: the load has changed, so that
        a plan that fails now was no mistake. ``upgrades``: the monitors can be
        trusted enough to do more than hold on. ``release_limit_w``: power above which a plan in force is
        given up.
        """
        patient = make_plan(problem, allocate(problem, HEADROOM))
        present = forecast(problem, current, release_limit_w) if current else Forecast(False)
        if current is None or at_once or not present.applicable:
            self._forgive()
            return self._change(now_ns, current, _boldest(problem, patient))
        if not present.sound:
            bold = _boldest(problem, patient)
            if forecast(problem, bold, release_limit_w).violations < present.violations:
                self._note_failure(now_ns, alarm)
                return self._change(now_ns, current, bold)
        elif present.thinned and _better(problem, forecast(problem, patient), present):
            return self._change(now_ns, current, patient)  # every frame left out is a frame missed
        if upgrades and _better(problem, forecast(problem, patient), present):
            self.better_since_ns = now_ns if self.better_since_ns is None else self.better_since_ns
            if self._dwelt(now_ns, min_dwell_s):
                self.upgraded_ns = now_ns
                return self._change(now_ns, current, patient)
        else:
            self.better_since_ns = None
        return current

    def rebase(self, now_ns: int) -> None:
        """Starts all waiting times anew: the clock was set back."""
        self.changed_ns = now_ns
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


def _boldest(problem: Problem, patient: Plan) -> Plan:
    """The plan without headroom where that gives more; the one with headroom where it costs only power."""
    if patient.ladder_step == 0:
        return patient
    bold = make_plan(problem, allocate(problem))
    return bold if forecast(problem, bold).quality < forecast(problem, patient).quality else patient


def _better(problem: Problem, new: Forecast, present: Forecast) -> bool:
    if not new.applicable or new.violations > present.violations:
        return False
    if new.quality != present.quality:
        return new.quality < present.quality
    least = max(GAIN_SHARE * abs(present.power_w), GAIN_W if problem.power_known else 0.0)
    return present.power_w - new.power_w > least
