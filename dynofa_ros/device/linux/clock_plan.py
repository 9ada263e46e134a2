"""What a requested band means for a clock: refused, or rounded to its table and cut to the power mode."""

from __future__ import annotations

from dataclasses import dataclass

from dynofa_ros.device.board import FREQUENCY_TOLERANCE_HZ, ceil_frequency, floor_frequency
from dynofa_ros.device.linux.clock_limits import LimitFiles
from dynofa_ros.device.linux.inventory import ClockDomain, PowerMode
from dynofa_ros.messages import FrequencyBand


class BandRefusedError(ValueError):
    """A band that cannot be met; one line: the domain, what is wrong, what would be right."""


@dataclass(frozen=True)
class Plan:
    """``band`` in clocks that the domain has; ``limits`` as its files can hold it, 0 = no limit.

    ``capped``: the power mode keeps the clock below what was asked for. ``remark``: how the band differs
    from what was asked for, if it does.
    """

    band: FrequencyBand
    limits: FrequencyBand
    capped: bool = False
    remark: str = ""


def limit_files(domain: ClockDomain) -> LimitFiles:
    """The files that set the domain's limits. Raises ValueError if they are none that may be written."""
    if domain.lock_path is not None and domain.rate_path is not None:
        return LimitFiles(domain.name, "lock", domain.lock_path, domain.rate_path, domain.unit_hz)
    return LimitFiles(domain.name, "band", domain.min_path, domain.max_path, domain.unit_hz)


def plan_band(asked: FrequencyBand, domain: ClockDomain, mode: PowerMode | None = None) -> Plan:
    """What to write for a band.

    The minimum is rounded up to the table, the maximum down, as the kernel does; a band between two clocks
    of the table takes the nearer one. A clock that can only be locked is locked to the top of the band.
    Raises BandRefusedError for an edge outside the domain's range, which more often is a mistake in the
    unit than a wish, and for min above max.
    """
    name, table = domain.name, domain.frequencies_hz
    lowest, highest = _range(domain)
    # Written so that NaN is refused too.
    for key, value in (("min_hz", asked.min_hz), ("max_hz", asked.max_hz)):
        if not lowest - FREQUENCY_TOLERANCE_HZ <= value <= highest + FREQUENCY_TOLERANCE_HZ:
            raise BandRefusedError(f"{name}: {key} {value} is outside its range {lowest}..{highest}")
    if asked.min_hz > asked.max_hz:
        raise BandRefusedError(f"{name}: min_hz {asked.min_hz} is above max_hz {asked.max_hz}")
    band, remark = asked, ""
    if table:
        band, remark = _round(asked, table)
    cap_hz = mode.cap(name).max_hz if mode is not None else 0
    capped = False
    if cap_hz and band.max_hz > cap_hz + FREQUENCY_TOLERANCE_HZ:
        top_hz = floor_frequency(table, cap_hz) if table else cap_hz
        capped = asked.min_hz > top_hz + FREQUENCY_TOLERANCE_HZ
        band = FrequencyBand(name, min(band.min_hz, top_hz), top_hz)
        remark = f"{name}: cut to {top_hz} by {mode}"
    if domain.lock_path is not None:
        limits = _lock(band, lowest, highest)
        return Plan(limits if limits.max_hz else band, limits, capped, remark)
    low_hz, high_hz = (hz - hz % domain.unit_hz for hz in (band.min_hz, band.max_hz))
    return Plan(band, FrequencyBand(name, low_hz, high_hz), capped, remark)


def _range(domain: ClockDomain) -> tuple[int, int]:
    """Lowest and highest clock that may be asked for."""
    ends = (*domain.frequencies_hz, domain.hardware_min_hz, domain.hardware_max_hz)
    known = [hz for hz in ends if hz]
    if not known:
        raise BandRefusedError(f"{domain.name}: its range is not known, so no band is set")
    return min(known), max(known)


def _round(asked: FrequencyBand, table: tuple[int, ...]) -> tuple[FrequencyBand, str]:
    low, high = ceil_frequency(table, asked.min_hz), floor_frequency(table, asked.max_hz)
    if low <= high:
        return FrequencyBand(asked.domain, low, high), ""
    # Between two neighbours: `high` is the one below the band and `low` the one above.
    nearest = high if asked.min_hz - high <= low - asked.max_hz else low
    remark = f"{asked.domain}: no clock between {asked.min_hz} and {asked.max_hz}, {nearest} is the nearest"
    return FrequencyBand(asked.domain, nearest, nearest), remark


def _lock(band: FrequencyBand, lowest: int, highest: int) -> FrequencyBand:
    """The rate to lock a clock to, none for its whole range."""
    if band.min_hz - lowest <= FREQUENCY_TOLERANCE_HZ and highest - band.max_hz <= FREQUENCY_TOLERANCE_HZ:
        return FrequencyBand(band.domain, 0, 0)
    return FrequencyBand(band.domain, band.max_hz, band.max_hz)
