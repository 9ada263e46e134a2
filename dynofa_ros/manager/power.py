"""Power of the module by domain, clock and utilisation, where the device has published a power model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, isnan, nan

from dynofa_ros.device.power_model import DomainPower, constant_power_w, differences, domain_power
from dynofa_ros.latency import processor_of
from dynofa_ros.manager.power_guard import MOST_W
from dynofa_ros.manager.thermal_guard import LEAST_C, MOST_C
from dynofa_ros.messages import DeviceCapabilities, DeviceTelemetry, PowerModel

TEMPERATURE_GRAIN_C = 2.0  # leakage is taken at steps of this, so that tables can be kept
# Outside of these a power model is damaged:
MOST_LOSS, MOST_LEAKAGE_PER_C = 10.0, 1.0
MOST_HZ = 1e11
LEAST_V, MOST_V = 0.01, 100.0
NO_POWER = DomainPower(0.0, 0.0, 0.0)


@dataclass
class PowerTables:
    """A power model with its tables kept. ``counted``: its domains that the device shows.

    The others, and those whose clock could never be read, count as switched off: what they take ends up in
    the measured bias, as does what is taken by domains that the model lacks.
    """

    model: PowerModel
    counted: frozenset[str]
    _read: set[str] = field(default_factory=set)
    _tables: dict[tuple[str, float, float], DomainPower] = field(default_factory=dict)
    _constants_w: dict[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known = tuple(d.domain for d in self.model.domains)
        # Share of a network's alpha_ms on a processor that scales with the clock of the CPU.
        self.launch_shares = {processor_of(d.domain): d.launch_share for d in reversed(self.model.domains)}

    def domain(self, domain: str, hz: float, grain_c: float) -> DomainPower:
        """Share of one domain in the total at a clock; ``grain_c``: a result of `grain`."""
        key = (domain, hz, grain_c)
        share = self._tables.get(key)
        if share is None:
            if len(self._tables) > 10_000:  # an uncontrolled clock can take any value
                self._tables.clear()
            share = self._tables[key] = domain_power(self.model, *key) if domain in self._known else NO_POWER
        return share

    def constant_w(self, grain_c: float) -> float:
        """Power that no clock domain causes; ``grain_c``: a result of `grain`."""
        constant_w = self._constants_w.get(grain_c)
        if constant_w is None:
            constant_w = self._constants_w[grain_c] = constant_power_w(self.model, grain_c)
        return constant_w

    def total_w(self, telemetry: DeviceTelemetry, temperature_c: float) -> float:
        """Model at the clocks and utilisation of one sample, NaN if a clock of earlier ones is missing."""
        readings = {r.domain: r for r in telemetry.domains}
        grain_c = self.grain(temperature_c)
        total = self.constant_w(grain_c)
        for domain in self._known:
            if domain not in self.counted:
                continue
            reading = readings.get(domain)
            if reading is not None and isfinite(reading.frequency_hz) and reading.frequency_hz >= 0.0:
                self._read.add(domain)
                utilization = reading.utilization
                share = self.domain(domain, reading.frequency_hz, grain_c)
                total += share.at(0.0 if isnan(utilization) else utilization)
            elif domain in self._read:
                return nan
        return total

    def grain(self, temperature_c: float) -> float:
        """Temperature at which leakage is taken; the model's reference where none is known."""
        known = self.model.leakage_reference_c if isnan(temperature_c) else temperature_c
        return round(known / TEMPERATURE_GRAIN_C) * TEMPERATURE_GRAIN_C


def power_tables(model: PowerModel, capabilities: DeviceCapabilities) -> tuple[PowerTables | None, str]:
    """Tables of a model for a device, and a remark: how its clocks differ from the device's.

    None if the model has no term for a clock of a processor: with it, work there would seem to cost nothing.
    """
    shown = [d.domain for d in capabilities.domains]
    lacks, excess = differences(model, shown)
    unusable = [name for name in lacks if processor_of(name)]
    if unusable:
        return None, f"power model {model.board} has no term for {', '.join(unusable)}: not used"
    remarks = [f"no term for {', '.join(lacks)}"] if lacks else []
    if excess:
        remarks.append(f"{', '.join(excess)} count as switched off, as the device does not show them")
    counted = frozenset(shown) - set(lacks)
    remark = f"power model {model.board}: {'; '.join(remarks)}" if remarks else ""
    return PowerTables(model, counted), remark


def check_power_model(model: PowerModel) -> str | None:
    """Why a power model is refused. With a number that is none, no plan would have a price."""
    for name, value, least, most in _numbers(model):
        if not least <= value <= most:
            return f"{name} must be a number from {least:g} to {most:g}, not {value}"
    rails = {rail.name for rail in model.rails}
    for domain in model.domains:
        if domain.rail not in rails:
            return f"{domain.domain}: its rail '{domain.rail}' is none of {', '.join(sorted(rails))}"
        points_hz = domain.voltage_hz
        if len(points_hz) != len(domain.voltage_v):
            return f"{domain.domain}: voltage_hz and voltage_v must be of the same length"
        if any(not low < high for low, high in pairwise(points_hz)):
            return f"{domain.domain}: voltage_hz must be ascending"
    return None


def _numbers(model: PowerModel) -> Iterator[tuple[str, float, float, float]]:
    """Numbers that must be known, by name, and their least and most."""
    for name, least, most in (
        ("base_w", 0.0, MOST_W),
        ("conversion_loss", 0.0, MOST_LOSS),
        ("leakage_per_c", 0.0, MOST_LEAKAGE_PER_C),
        ("leakage_reference_c", LEAST_C, MOST_C),
    ):
        yield name, getattr(model, name), least, most
    for rail in model.rails:
        yield f"{rail.name}.static_w", rail.static_w, 0.0, MOST_W
        yield f"{rail.name}.leakage_w", rail.leakage_w, 0.0, MOST_W
    for domain in model.domains:
        for name in ("dynamic_w_per_ghz_v2", "busy_w", "idle_w", "clock_w_per_ghz", "leakage_w"):
            yield f"{domain.domain}.{name}", getattr(domain, name), 0.0, MOST_W
        yield f"{domain.domain}.launch_share", domain.launch_share, 0.0, 1.0
        yield f"{domain.domain}.top_hz", domain.top_hz, 1.0, MOST_HZ
        for hz in domain.voltage_hz:
            yield f"{domain.domain}.voltage_hz", hz, 1.0, MOST_HZ
        for volts in domain.voltage_v:
            yield f"{domain.domain}.voltage_v", volts, LEAST_V, MOST_V
