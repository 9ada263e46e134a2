"""Power of the module by domain, clock and utilisation, where the device has published a power model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite, isnan, nan

from dynofa_ros.device.power_model import DomainPower, constant_power_w, differences, domain_power
from dynofa_ros.latency import processor_of
from dynofa_ros.messages import DeviceCapabilities, DeviceTelemetry, PowerModel

TEMPERATURE_GRAIN_C = 2.0  # leakage is taken at steps of this, so that tables can be kept
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

    def __post_init__(self) -> None:
        self._known = frozenset(domain.domain for domain in self.model.domains)

    def domain(self, domain: str, hz: float, temperature_c: float) -> DomainPower:
        """Share of one domain in the total at a clock."""
        if domain not in self._known:
            return NO_POWER
        key = (domain, hz, self.grain(temperature_c))
        if key not in self._tables:
            if len(self._tables) > 10_000:  # an uncontrolled clock can take any value
                self._tables.clear()
            self._tables[key] = domain_power(self.model, *key)
        return self._tables[key]

    def constant_w(self, temperature_c: float) -> float:
        """Power that no clock domain causes."""
        return constant_power_w(self.model, self.grain(temperature_c))

    def total_w(self, telemetry: DeviceTelemetry, temperature_c: float) -> float:
        """Model at the clocks and utilisation of one sample, NaN if a clock of earlier ones is missing."""
        readings = {r.domain: r for r in telemetry.domains}
        total = self.constant_w(temperature_c)
        for domain in self.model.domains:
            if domain.domain not in self.counted:
                continue
            reading = readings.get(domain.domain)
            if reading is not None and isfinite(reading.frequency_hz) and reading.frequency_hz >= 0.0:
                self._read.add(domain.domain)
                utilization = 0.0 if isnan(reading.utilization) else reading.utilization
                total += self.domain(domain.domain, reading.frequency_hz, temperature_c).at(utilization)
            elif domain.domain in self._read:
                return nan
        return total

    def launch_share(self, processor: str) -> float:
        """Share of a network's alpha_ms on a processor that scales with the clock of the CPU."""
        own = (d.launch_share for d in self.model.domains if processor_of(d.domain) == processor)
        return next(own, 0.0)

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
    """Why a power model is refused."""
    for name, value in _numbers(model):
        if not (isfinite(value) and value >= 0.0):
            return f"{name} must be a number >= 0, not {value}"
    rails = {rail.name for rail in model.rails}
    for domain in model.domains:
        if domain.rail not in rails:
            return f"{domain.domain}: its rail '{domain.rail}' is none of {', '.join(sorted(rails))}"
        if domain.top_hz <= 0.0 or len(domain.voltage_hz) != len(domain.voltage_v):
            return f"{domain.domain}: top_hz must be above 0, voltage_hz and voltage_v of the same length"
    return None


def _numbers(model: PowerModel) -> Iterator[tuple[str, float]]:
    """Numbers that must be known and not negative, by name."""
    for name in ("base_w", "conversion_loss", "leakage_per_c"):
        yield name, getattr(model, name)
    for rail in model.rails:
        yield f"{rail.name}.static_w", rail.static_w
        yield f"{rail.name}.leakage_w", rail.leakage_w
    for domain in model.domains:
        for name in ("dynamic_w_per_ghz_v2", "busy_w", "idle_w", "clock_w_per_ghz", "leakage_w"):
            yield f"{domain.domain}.{name}", getattr(domain, name)
