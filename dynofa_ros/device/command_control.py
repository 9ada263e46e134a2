"""Takes clock commands for a device: their order, the dead-man time, refusals. No ROS, no clock.

Rules for ``decision_id``:
- a greater id than the last one taken is taken;
- the same id with the same bands is a heartbeat: it only renews the dead-man time;
- anything else is stale: ignored and counted.
The last id is forgotten when the dead-man time ran out and when the last sender has gone, so that a
restarted manager may count from 1 again. Until then a late message of the old one cannot do harm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynofa_ros.device.device import Device
from dynofa_ros.messages import DomainState, DomainStatus, DvfsState, FrequencyBand

LONGEST_VALIDITY_S = 86400.0  # a longer time is taken for a mistake; 0 says forever


@dataclass(frozen=True)
class ControlCounts:
    """Since the start. ``refused``: bands and whole commands; ``stale``: ids not newer than the last."""

    taken: int = 0
    repeated: int = 0
    stale: int = 0
    refused: int = 0
    fallbacks: int = 0


class ClockControl:
    """Commands in, clocks of ``device`` out. Times are seconds of any clock that never goes back.

    ``command_timeout_s``: upper limit of every command's own valid_for_s; 0 = no limit.
    """

    def __init__(self, device: Device, command_timeout_s: float) -> None:
        self.command_timeout_s = command_timeout_s
        self.counts = ControlCounts()
        self.last_refusal = ""
        self.last_refusal_s = -math.inf
        self.last_stale = ""
        self._device = device
        self._decision_id = 0
        self._last: tuple[int, tuple[FrequencyBand, ...]] | None = None
        self._renewed_s = 0.0
        self._valid_for_s = 0.0
        self._in_force = False  # whether there is something that the dead-man would restore
        self._requested: set[str] = set()
        self._refused: dict[str, DomainState] = {}
        self._fallen: frozenset[str] = frozenset()
        self._message = ""

    def command(
        self, decision_id: int, bands: Sequence[FrequencyBand], valid_for_s: float, now_s: float
    ) -> None:
        """A command arrived. Refusals are counted and named in ``state().message``, never raised."""
        bands = tuple(bands)
        reason = _malformed(decision_id, valid_for_s)
        if reason:
            self._message = reason
            self._count_refusal(reason, now_s)
        elif self._last is None or decision_id > self._last[0]:
            self._take(decision_id, bands, valid_for_s, now_s)
        elif self._last == (decision_id, bands):
            self.counts = replace(self.counts, repeated=self.counts.repeated + 1)
            self._renewed_s, self._valid_for_s = now_s, valid_for_s
        else:
            self.counts = replace(self.counts, stale=self.counts.stale + 1)
            same = "with other bands" if decision_id == self._last[0] else "after"
            self.last_stale = f"decision_id {decision_id} {same} {self._last[0]}: ignored"

    def check(self, now_s: float) -> bool:
        """Restore the clocks if the dead-man time has run out; whether it did just now."""
        limit_s, name = self._dead_man()
        if not self._in_force or now_s - self._renewed_s <= limit_s:
            return False
        self._device.restore()
        self._fallen = frozenset(self._requested)
        self._requested.clear()
        self._refused.clear()
        self._in_force = False
        self._message = (
            f"command {self._decision_id} was not renewed within {limit_s:g} s ({name}): "
            "the clocks found at start are back"
        )
        self.counts = replace(self.counts, fallbacks=self.counts.fallbacks + 1)
        self.forget()
        return True

    def forget(self) -> None:
        """The last sender has gone: take any id next. Bands in force stay until the dead-man time."""
        self._last = None

    def release(self) -> None:
        """Restore the clocks for good and forget every command."""
        self._device.restore()
        self._in_force = False
        self._requested.clear()
        self._refused.clear()
        self._fallen = frozenset()
        self._message = ""
        self.forget()

    @property
    def fallen_back(self) -> bool:
        """Whether the dead-man time ran out and no command was taken since."""
        return bool(self._fallen)

    def state(self) -> DvfsState:
        """State of all domains now, the refusals of the last command included.

        The message also says what the device remarks about a domain, e.g. that others set its clock too.
        """
        applied = self._device.applied()
        domains = [self._overlay(domain) for domain in applied]
        known = {domain.domain for domain in domains}
        domains += [refused for name, refused in self._refused.items() if name not in known]
        remarks = [
            domain.reason for domain in applied if domain.reason and domain.reason not in self._message
        ]
        message = "; ".join(filter(None, [self._message, *remarks]))
        return DvfsState(self._decision_id, tuple(domains), message)

    def _take(
        self, decision_id: int, bands: tuple[FrequencyBand, ...], valid_for_s: float, now_s: float
    ) -> None:
        applied = self._device.apply(bands)
        refused = [domain for domain in applied if domain.status is DomainStatus.REJECTED]
        self._refused = {domain.domain: domain for domain in refused}
        self._requested |= {band.domain for band in bands} - set(self._refused)
        self._last = (decision_id, bands)
        self._decision_id, self._renewed_s, self._valid_for_s = decision_id, now_s, valid_for_s
        self._in_force = bool(self._requested)
        self._fallen = frozenset()
        self._message = "; ".join(domain.reason for domain in refused)
        self.counts = replace(self.counts, taken=self.counts.taken + 1)
        for domain in refused:
            self._count_refusal(domain.reason, now_s)

    def _overlay(self, domain: DomainState) -> DomainState:
        refused = self._refused.get(domain.domain)
        if refused is not None:
            return replace(
                domain,
                requested_min_hz=refused.requested_min_hz,
                requested_max_hz=refused.requested_max_hz,
                status=DomainStatus.REJECTED,
                reason=refused.reason,
            )
        if domain.domain in self._fallen:
            return replace(domain, status=DomainStatus.FALLBACK)
        return domain

    def _dead_man(self) -> tuple[float, str]:
        """Time after which an unrenewed command lapses, and which of the two limits it is."""
        limits = ((self._valid_for_s, "valid_for_s"), (self.command_timeout_s, "command_timeout_s"))
        return min(((s, name) for s, name in limits if s > 0.0), default=(math.inf, "none"))

    def _count_refusal(self, reason: str, now_s: float) -> None:
        self.counts = replace(self.counts, refused=self.counts.refused + 1)
        self.last_refusal, self.last_refusal_s = reason, now_s


def _malformed(decision_id: int, valid_for_s: float) -> str:
    if decision_id < 1:
        return f"decision_id must be at least 1, not {decision_id}"
    if not 0.0 <= valid_for_s <= LONGEST_VALIDITY_S:
        return f"valid_for_s must be from 0 (forever) to {LONGEST_VALIDITY_S:g}, not {valid_for_s:g}"
    return ""
