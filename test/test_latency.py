"""The latency law, the reference clock and the domains of a processor: one implementation for all rooms."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from dynofa_ros.latency import clock_ratio, domains_of, latency, processor_of, reference_hz, size_factor
from dynofa_ros.messages import DomainFrequency

NAMED = (DomainFrequency("cpu0", 2_000), DomainFrequency("cpu2", 1_500), DomainFrequency("gpu", 1_000))


def test_only_beta_scales_with_the_clock_and_everything_with_the_slowdown() -> None:
    assert latency(10.0, 30.0, 2.0) == 70.0
    assert latency(10.0, 30.0, 2.0, slowdown=1.5) == 105.0
    assert latency(10.0, 30.0, np.array([1.0, 2.0])).tolist() == [40.0, 70.0]


@pytest.mark.parametrize(("reference", "hz", "ratio"), [(2e9, 1e9, 2.0), (nan, 1e9, 1.0), (2e9, nan, 1.0)])
def test_an_unknown_clock_counts_as_the_reference(reference: float, hz: float, ratio: float) -> None:
    assert clock_ratio(reference, hz) == ratio
    assert clock_ratio(inf, hz) == clock_ratio(reference, 0.0) == 1.0


def test_the_slowest_named_domain_is_the_reference() -> None:
    assert reference_hz(NAMED, ("cpu0", "cpu2", "cpu4"), 7.0) == 1_500.0
    assert reference_hz(NAMED, ("cpu0",), 7.0) == 2_000.0
    assert reference_hz(NAMED, ("npu",), 7.0) == 7.0 == reference_hz((), ("gpu",), 7.0)


def test_domains_of_processors_and_clusters() -> None:
    names = ["cpu0", "cpu2", "gpu", "emc", "npu"]
    assert domains_of("cpu", names) == ("cpu0", "cpu2")
    assert domains_of("cpu2", names) == ("cpu2",) and domains_of("gpu", names) == ("gpu",)
    assert [processor_of(name) for name in names] == ["cpu", "cpu", "gpu", None, "npu"]


def test_a_share_of_the_time_grows_with_the_size() -> None:
    assert size_factor(0.25, 10.0, 10.0) == 1.0
    assert size_factor(0.25, 10.0, 20.0) == 1.75
    assert size_factor(1.0, 10.0, 20.0) == 1.0


@pytest.mark.parametrize(
    ("reference", "size"), [(0.0, 5.0), (10.0, nan), (10.0, 0.0), (nan, 5.0), (10.0, inf)]
)
def test_an_unknown_size_counts_as_the_reference(reference: float, size: float) -> None:
    assert size_factor(0.2, reference, size) == 1.0
