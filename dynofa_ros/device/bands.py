"""Checks of requested clock bands against a board's tables, and the way a kernel rounds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dynofa_ros.device.board import FREQUENCY_TOLERANCE_HZ, ceil_frequency, floor_frequency
from dynofa_ros.messages import FrequencyBand


def round_band(band: FrequencyBand, table: tuple[int, ...]) -> FrequencyBand:
    """Band of table entries that the kernel uses: minimum up, maximum down. The band must be accepted."""
    return FrequencyBand(band.domain, ceil_frequency(table, band.min_hz), floor_frequency(table, band.max_hz))


def refusal(band: FrequencyBand, tables: Mapping[str, tuple[int, ...]]) -> str:
    """Why a band cannot be applied, in one line; empty if it can."""
    name = band.domain
    table = tables.get(name)
    if table is None:
        return f"unknown clock domain '{name}' (known: {', '.join(tables)})"
    if band.min_hz > band.max_hz:
        return f"{name}: min_hz {band.min_hz} is above max_hz {band.max_hz}"
    for key, value in (("min_hz", band.min_hz), ("max_hz", band.max_hz)):
        if not table[0] - FREQUENCY_TOLERANCE_HZ <= value <= table[-1] + FREQUENCY_TOLERANCE_HZ:
            return f"{name}: {key} {value} is outside the table {table[0]}..{table[-1]}"
    rounded = round_band(band, table)
    if rounded.min_hz > rounded.max_hz:
        return (
            f"{name}: no clock between {band.min_hz} and {band.max_hz}; "
            f"the nearest are {rounded.max_hz} and {rounded.min_hz}"
        )
    return ""


def refusals(bands: Sequence[FrequencyBand], tables: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """`refusal` of each band; a domain that is named more than once is refused every time."""
    times = Counter(band.domain for band in bands)
    return tuple(
        refusal(band, tables)
        or (f"{band.domain}: named {times[band.domain]} times" if times[band.domain] > 1 else "")
        for band in bands
    )
