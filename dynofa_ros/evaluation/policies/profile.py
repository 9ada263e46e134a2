"""What a developer measures and fixes before deployment: the profile that every baseline starts from.

Operating points as arrays: what a processor costs at each clock level, how long an entry takes there. They
come from the same library and board file as the manager's own tables, and share no code with them. Processor
and static sub-network of an application: policies without task mapping use ``App.mapping``; so do
all baselines whose authors gave them no mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.device.board import Board, power_model, processor_domains
from dynofa_ros.device.power_model import constant_power_w, domain_power
from dynofa_ros.device.simulated.power_modes import mode_limits
from dynofa_ros.latency import latency, reference_hz
from dynofa_ros.manager.placement import subnet_key
from dynofa_ros.messages import DeviceCapabilities, FrequencyBand, SubnetCommand, SubnetEntry
from dynofa_ros.simulation.policy import AppView, Command
from dynofa_ros.simulation.scene import App, Scene

PROFILE_C = 45.0  # temperature of the profile; leakage changes little within the range of use
STATIC_QUANTILE = (
    1.1701  # 99th percentile of the noise alone, x median ("whose p99 at the top clock meets D")
)

Array = NDArray[np.float64]
Tables = Mapping[str, tuple[int, ...]]  # clocks on offer, by domain


@dataclass(frozen=True, eq=False)
class Levels:
    """Clock levels of one processor, ascending. Power is the processor's share of the whole module.

    ``clocks_hz``: levels x domains. ``idle_w``, ``busy_w``: at utilisation just above 0 and at 1.
    ``unused_w``: with no work at all, where a railgated domain is off.
    """

    processor: str
    domains: tuple[str, ...]
    clocks_hz: tuple[tuple[int, ...], ...]
    speed_hz: Array
    idle_w: Array
    busy_w: Array
    unused_w: Array

    def __len__(self) -> int:
        return len(self.clocks_hz)

    def bands(self, level: int) -> tuple[FrequencyBand, ...]:
        """Bands that pin the processor to a level."""
        row = self.clocks_hz[level]
        return tuple(FrequencyBand(domain, hz, hz) for domain, hz in zip(self.domains, row, strict=True))

    def nearest(self, clocks_hz: Mapping[str, float]) -> int | None:
        """Level that the clocks read back are closest to, by the slowest domain; None = unknown."""
        known = [clocks_hz[d] for d in self.domains if clocks_hz.get(d, 0.0) > 0.0]
        return int(np.abs(self.speed_hz - min(known)).argmin()) if known else None


def offered(board: Board, mode: str | None) -> dict[str, tuple[int, ...]]:
    """Clocks that a mode leaves of a board; domains that are off are left out."""
    return {name: left.frequencies_hz for name, left in mode_limits(board, mode).items() if left.can_write}


def offered_now(capabilities: DeviceCapabilities) -> dict[str, tuple[int, ...]]:
    """Clocks that a device offers now."""
    return {d.domain: d.frequencies_hz for d in capabilities.domains if d.can_write and d.frequencies_hz}


def make_levels(board: Board, processor: str, tables: Tables, temperature_c: float = PROFILE_C) -> Levels:
    """Levels of a processor. Its domains go up and down together. Raises ValueError if none is on offer."""
    domains = tuple(d for d in processor_domains(board, processor) if tables.get(d))
    if not domains:
        raise ValueError(f"board {board.name} offers no clocks of a processor '{processor}'")
    tables_used = tuple(tables[d] for d in domains)
    steps = sorted({hz for table in tables_used for hz in table})
    rows = dict.fromkeys(
        tuple(next((f for f in table if f >= hz), table[-1]) for table in tables_used) for hz in steps
    )
    clocks = tuple(rows)
    model = power_model(board)
    shares = [
        [domain_power(model, d, hz, temperature_c) for d, hz in zip(domains, row, strict=True)]
        for row in clocks
    ]
    return Levels(
        processor=processor,
        domains=domains,
        clocks_hz=clocks,
        speed_hz=np.array([float(min(row)) for row in clocks]),
        idle_w=np.array([sum(s.idle_w for s in row) for row in shares]),
        busy_w=np.array([sum(s.busy_w for s in row) for row in shares]),
        unused_w=np.array([sum(s.unused_w for s in row) for row in shares]),
    )


def rest_w(board: Board, levels: Levels, temperature_c: float = PROFILE_C) -> float:
    """Power of the module without one processor: the other domains unused at their lowest clocks."""
    model = power_model(board)
    total = constant_power_w(model, temperature_c)
    for name, domain in board.domains.items():
        if name not in levels.domains:
            hz = domain.start_max_hz if name == "emc" else domain.frequencies_hz[0]
            total += domain_power(model, name, hz, temperature_c).unused_w
    return total


def times_ms(entries: Sequence[SubnetEntry], levels: Levels, speed: float = 1.0) -> Array:
    """Time of each entry at each level at slowdown 1; ``speed`` = share of the processor that is there."""
    there_hz, top_hz = speed * levels.speed_hz, float(levels.speed_hz[-1])
    references = [reference_hz(e.reference_frequencies, levels.domains, top_hz) for e in entries]
    return np.array(
        [latency(e.alpha_ms, e.beta_ms, hz / there_hz) for e, hz in zip(entries, references, strict=True)]
    )


# --- what a developer settles ------------------------------------------------------------------------------


def on_processor(entries: Sequence[SubnetEntry], processor: str) -> tuple[SubnetEntry, ...]:
    """The entries of one processor or cluster, in ascending accuracy."""
    own = (e for e in entries if processor in (e.processor, e.cluster))
    return tuple(sorted(own, key=lambda e: (e.accuracy, e.id, e.threads)))


def mapped_levels(scene: Scene, app: App, mode: str | None = None) -> Levels:
    """Levels of the processor that an application is mapped to, in a mode (None = that of the scene)."""
    return make_levels(scene.board, app.mapping, offered(scene.board, mode or scene.mode))


def static_entry(scene: Scene, app: App, mode: str | None = None) -> SubnetEntry:
    """The static sub-network of the baselines B1 to B5 and B8: the one that the scene names, if it does.

    Else, of those that reach the accuracy floor, the most accurate one whose 99th percentile at the top
    clock, measured alone on an idle board, meets the first latency target; the fastest if none does.
    Raises ValueError for a library without an entry for the processor.
    """
    own = on_processor(app.library, app.mapping)
    if not own:
        raise ValueError(f"{app.name}: its library has nothing for '{app.mapping}'")
    named = [e for e in own if e.id == app.start]
    if named:
        return named[0]
    allowed = [e for e in own if e.accuracy >= app.targets.accuracy_floor] or [own[-1]]
    top_ms = times_ms(allowed, mapped_levels(scene, app, mode))[:, -1]
    slowest_ms = top_ms * STATIC_QUANTILE + app.overhead_ms
    fitting = [e for e, ms in zip(allowed, slowest_ms, strict=True) if ms <= app.targets.latency_target_ms]
    return fitting[-1] if fitting else allowed[int(top_ms.argmin())]


def twin(entry: SubnetEntry, entries: Sequence[SubnetEntry]) -> SubnetEntry | None:
    """The entry that stands for another processor's: the same id, else the least at least as accurate,
    else the most accurate; None without entries."""
    same = [e for e in entries if e.id == entry.id]
    ordered = sorted(entries, key=lambda e: (e.accuracy, e.id))
    return next(iter([*same, *[e for e in ordered if e.accuracy >= entry.accuracy], *ordered[-1:]]), None)


def differing(wanted: Mapping[str, SubnetCommand], apps: Mapping[str, AppView]) -> Command | None:
    """Command for the applications that do not run what is wanted; None if all do."""
    knobs = {
        name: knob
        for name, knob in wanted.items()
        if name in apps and subnet_key(apps[name].running) != subnet_key(knob)
    }
    return Command(knobs=knobs) if knobs else None
