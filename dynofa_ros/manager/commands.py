"""Which commands have to be sent, under which decision_id.

Receivers ignore ids that are not newer than the last they took, so an id must grow with every command, also
with one that only renews the dead-man time, and across restarts of the manager. An id is therefore the time
of the step in milliseconds, or one more than the last if that is larger: a new manager starts above every
id of the old one unless the clock was set back, and then the states of the receivers say which id to start
above.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dynofa_ros.manager.placement import subnet_key
from dynofa_ros.messages import DvfsCommand, FrequencyBand, Header, SubnetCommand

VALID_FOR_S = 5.0  # a manager may pause for two seconds without losing its knobs
VALID_PERIODS = 3.0
GRANT_GRAIN = 0.05  # of an expected time: less is not worth a command before the next renewal
RENEW_S = 1.0  # devices may lapse sooner than the command says (command_timeout_s)


@dataclass(frozen=True)
class AppCommand(SubnetCommand):
    """Knob of one application; the message leaves it to its topic to say of which."""

    app: str = ""


@dataclass
class CommandBook:
    """What was sent last, and when."""

    decision_id: int = 0
    _sent: dict[str, AppCommand] = field(default_factory=dict)
    previous: dict[str, AppCommand] = field(default_factory=dict)  # sent before the last issue
    _bands: tuple[FrequencyBand, ...] = ()
    _sent_ns: int = 0

    def issue(
        self,
        now_ns: int,
        wanted: tuple[AppCommand, ...],
        bands: tuple[FrequencyBand, ...],
        period_s: float,
        newest_foreign_id: int,
    ) -> tuple[tuple[AppCommand, ...], DvfsCommand | None]:
        """Commands to send now. ``newest_foreign_id``: the highest id that a receiver has taken."""
        valid_s = max(VALID_FOR_S, VALID_PERIODS * period_s)
        overruled = newest_foreign_id > self.decision_id
        age_ns = now_ns - self._sent_ns
        renew = overruled or age_ns < 0 or age_ns >= RENEW_S * 1e9
        due = [c for c in wanted if renew or not _same(c, self._sent.get(c.app))]
        bands_due = bool(bands) and (renew or bands != self._bands)
        self.previous = self._sent
        apps = {command.app for command in wanted}
        self._sent = {app: c for app, c in self._sent.items() if app in apps}
        if not due and not bands_due:
            return (), None
        self.decision_id = max(self.decision_id + 1, newest_foreign_id + 1, now_ns // 1_000_000)
        header, new_id = Header(now_ns), self.decision_id
        commands = tuple(replace(c, header=header, decision_id=new_id, valid_for_s=valid_s) for c in due)
        self._sent.update({c.app: c for c in commands})
        if renew:
            self._sent_ns = now_ns
        if not bands_due:
            return commands, None
        self._bands = bands
        return commands, DvfsCommand(new_id, bands, valid_s, header=header)

    def sent(self, app: str, decision_id: int) -> AppCommand | None:
        """The last command to an application, if it is the one with this id."""
        command = self._sent.get(app)
        return command if command is not None and command.decision_id == decision_id else None

    def granted(self, app: str) -> tuple[str, ...]:
        """What an application may choose from by the last command."""
        command = self._sent.get(app)
        return command.granted_subnet_ids if command else ()

    @property
    def commanded_domains(self) -> frozenset[str]:
        """Clock domains that are held by a command."""
        return frozenset(band.domain for band in self._bands)


def _same(new: AppCommand, old: AppCommand | None) -> bool:
    if old is None:
        return False
    same_rate = new.rate_hz == old.rate_hz or (new.rate_hz != new.rate_hz and old.rate_hz != old.rate_hz)
    same_cpus = new.cpu_affinity == old.cpu_affinity
    same_grant = new.granted_subnet_ids == old.granted_subnet_ids and all(
        abs(ms - before) <= GRANT_GRAIN * before
        for ms, before in zip(new.granted_ms, old.granted_ms, strict=True)
    )
    return subnet_key(new) == subnet_key(old) and same_cpus and same_rate and same_grant
