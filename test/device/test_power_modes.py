"""nvpmodel modes as data, and a simulated board that switches between them."""

from __future__ import annotations

import msgspec
import pytest
from factories import pin
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.device.board import load_board, processor_domains
from dynofa_ros.device.simulated.power_modes import find_mode, mode_limits
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.messages import DomainCapability, DomainStatus, FrequencyBand, ThrottleFlag

NX, ORIN = load_board("xavier_nx"), load_board("orin_nano")
FULL = {"cpu0": 1.0, "cpu2": 1.0, "cpu4": 1.0, "gpu": 1.0, "emc": 1.0}


def clocks(simulated) -> dict[str, float]:
    return {domain.domain: domain.actual_hz for domain in simulated.applied()}


def left(limit: DomainCapability) -> tuple[int, int]:
    """CPUs that are online, and the highest clock."""
    return len(limit.cpus), limit.frequencies_hz[-1]


def test_modes_of_a_xavier_nx_by_name_and_by_id():
    assert find_mode(NX, 2) == find_mode(NX, "MODE_15W_6CORE") == "MODE_15W_6CORE"
    assert list(NX.modes) == [find_mode(NX, number) for number in range(9)]
    limits = mode_limits(NX, "MODE_10W_4CORE")
    assert left(limits["cpu0"]) == left(limits["cpu2"]) == (2, 1_190_400_000)
    assert limits["cpu4"].cpus == () and not limits["cpu4"].can_write
    assert (left(limits["gpu"])[1], left(limits["emc"])[1]) == (803_250_000, 1_600_000_000)
    assert left(mode_limits(NX, 6)["emc"])[1] == 1_866_000_000


def test_modes_of_an_orin_nano_round_down_to_the_table():
    limits = mode_limits(ORIN, "15W")  # 1510.4 and 624.75 MHz are no clocks of the Super table
    assert (left(limits["cpu0"]), left(limits["cpu4"])) == ((4, 1_497_600_000), (2, 1_497_600_000))
    assert limits["gpu"].frequencies_hz[-1] == 612_000_000
    assert [mode_limits(ORIN, "7W")[name].cpus for name in ("cpu0", "cpu4")] == [(0, 1, 2, 3), ()]


def test_a_mode_may_leave_a_part_of_a_cluster_online():
    mode = msgspec.structs.replace(ORIN.modes["7W"], cores=5)
    limits = mode_limits(msgspec.structs.replace(ORIN, modes={"7W": mode}), "7W")
    assert [limits[name].cpus for name in ("cpu0", "cpu4")] == [(0, 1, 2, 3), (4,)]


def test_an_unknown_mode_is_named_with_those_there_are():
    for board, mode in ((NX, "MAXN"), (NX, 99), (msgspec.structs.replace(NX, modes={}), 0)):
        with pytest.raises(ValueError, match="has no mode .*(0 MODE_15W_2CORE|none)"):
            mode_limits(board, mode)


@given(st.sampled_from([(b, m) for b in (NX, ORIN) for m in (None, *b.modes)]))
def test_a_mode_never_allows_more_than_the_board_has(chosen):
    board, mode = chosen
    limits = mode_limits(board, mode)
    assert list(limits) == list(board.domains)
    for name, limit in limits.items():
        domain = board.domains[name]
        assert len(limit.cpus) <= domain.cores
        assert limit.frequencies_hz == domain.frequencies_hz[: len(limit.frequencies_hz)] != ()
    cores = sum(len(limits[name].cpus) for name in processor_domains(board, "cpu"))
    assert cores == (board.modes[mode].cores if mode else None) or cores == 6


# --- in the simulator --------------------------------------------------------------------------


def test_a_mode_caps_the_clocks_and_switches_clusters_off():
    simulated = SimulatedDevice(NX, mode="MODE_10W_4CORE")
    simulated.advance(2.0, {name: 1.0 for name in FULL if name != "cpu4"})
    assert clocks(simulated) == {
        "cpu0": 1_190_400_000.0, "cpu2": 1_190_400_000.0, "cpu4": 0.0,
        "gpu": 803_250_000.0, "npu": 896_000_000.0, "emc": 1_600_000_000.0,
    }  # fmt: skip
    left = {d.domain: d.frequencies_hz for d in simulated.capabilities().domains}
    assert left["gpu"] == tuple(hz for hz in NX.domains["gpu"].frequencies_hz if hz <= 803_250_000)
    offline = simulated.capabilities().domains[2]
    assert (offline.can_write, offline.reason) == (False, "cpu4: offline in mode MODE_10W_4CORE")
    assert simulated.read().throttle_flags == ThrottleFlag.NONE


def test_capabilities_name_the_cpus_that_are_online():
    def cpus(mode: str | None) -> dict[str, tuple[int, ...]]:
        return {d.domain: d.cpus for d in SimulatedDevice(NX, mode=mode).capabilities().domains}

    assert cpus(None) == {"cpu0": (0, 1), "cpu2": (2, 3), "cpu4": (4, 5), "gpu": (), "npu": (), "emc": ()}
    assert cpus("MODE_10W_4CORE") == {**cpus(None), "cpu4": ()}


def test_a_cap_in_mid_run_holds_a_band_down_and_lets_it_go_again():
    simulated = SimulatedDevice(NX)
    gpu = FrequencyBand("gpu", 1_109_250_000, 1_109_250_000)
    simulated.apply([gpu, FrequencyBand("cpu4", 1_420_800_000, 1_420_800_000)])
    simulated.advance(0.1)
    simulated.set_mode(4)
    assert simulated.mode == "MODE_10W_4CORE"
    simulated.advance(0.1, {"gpu": 1.0})
    states = {domain.domain: domain for domain in simulated.applied()}
    assert states["gpu"].status is DomainStatus.THROTTLED and states["gpu"].actual_hz == 803_250_000
    assert states["cpu4"].status is DomainStatus.DISABLED and states["cpu4"].actual_hz == 0
    (refused,) = [d for d in simulated.apply([FrequencyBand("cpu4", 115_200_000, 115_200_000)]) if d.reason]
    assert refused.status is DomainStatus.REJECTED and "cpu4: offline in mode" in refused.reason
    simulated.set_mode(None)
    simulated.advance(0.1)
    assert clocks(simulated)["gpu"] == 1_109_250_000
    assert clocks(simulated)["cpu4"] == 1_420_800_000


def test_cpus_go_off_and_come_back_with_the_band_of_their_cluster():
    simulated = SimulatedDevice(NX)
    simulated.apply([pin("cpu4", 1_420_800_000)])
    simulated.advance(0.1, {"cpu4": 1.0})
    full_w = simulated.truth().total_w
    simulated.hotplug(4, on=False)
    simulated.advance(0.1, {"cpu4": 1.0})
    assert simulated.capabilities().domains[2].cpus == (5,) and simulated.truth().total_w < full_w
    simulated.hotplug(5, on=False)
    assert clocks(simulated)["cpu4"] == 0.0
    assert simulated.capabilities().domains[2].reason == "cpu4: its CPUs are off"
    for cpu in (4, 5):
        simulated.hotplug(cpu, on=True)
    simulated.advance(0.1, {"cpu4": 1.0})
    assert clocks(simulated)["cpu4"] == 1_420_800_000
    assert simulated.truth().total_w == pytest.approx(full_w, rel=0.01)
    simulated.hotplug(3, on=False)
    simulated.set_mode("MODE_15W_6CORE")
    assert simulated.capabilities().domains[1].cpus == (2, 3), "a mode says which CPUs are on"
    for cpu, on in ((0, False), (6, True)):
        with pytest.raises(ValueError, match=f"cannot switch cpu{cpu}"):
            simulated.hotplug(cpu, on=on)


def test_what_another_program_takes_stays_taken_until_another_band_is_asked_for():
    simulated = SimulatedDevice(NX)

    def state() -> tuple[float, DomainStatus, str]:
        simulated.advance(0.1)
        gpu = next(d for d in simulated.applied() if d.domain == "gpu")
        return gpu.actual_hz, gpu.status, gpu.reason

    top, middle = pin("gpu", 1_109_250_000), pin("gpu", 803_250_000)
    simulated.apply([top])
    simulated.set_by_others("gpu", 520_000_000)
    taken = "gpu: another program has set its limits to 510000000..510000000"
    assert state() == (510e6, DomainStatus.DISABLED, taken)
    simulated.apply([top])
    assert state() == (510e6, DomainStatus.DISABLED, taken), "asked for again"
    simulated.apply([middle])
    assert state() == (803.25e6, DomainStatus.APPLIED, "")
    simulated.set_by_others("gpu", 510_000_000)
    simulated.set_mode("MODE_15W_6CORE")
    assert state() == (803.25e6, DomainStatus.APPLIED, ""), "a mode writes all limits"
    simulated.set_by_others("gpu", 510_000_000)
    simulated.restore()
    assert simulated.limits_hz("gpu") == (510_000_000, 510_000_000), "another program's: not restored"


def test_modes_order_the_power_at_full_load():
    def watts(mode: str) -> float:
        simulated = SimulatedDevice(NX, mode=mode, temperature_c=45.0)
        simulated.advance(2.0, FULL)
        return simulated.truth().total_w

    # The published totals of the model are 9.7, 14.8 and 16.5 W at half the memory load.
    for mode, expected_w in (("MODE_10W_4CORE", 9.7), ("MODE_15W_2CORE", 14.8), ("MODE_15W_6CORE", 16.5)):
        assert watts(mode) == pytest.approx(expected_w, abs=0.5)


def test_load_on_cores_that_are_off_counts_nothing():
    mode = msgspec.structs.replace(ORIN.modes["7W"], cores=2)
    board = msgspec.structs.replace(ORIN, modes={"2CORE": mode})
    simulated = SimulatedDevice(board, mode="2CORE")
    simulated.advance(0.5, {"cpu0": 1.0, "cpu4": 1.0})
    assert simulated.truth().utilization["cpu0"] == 0.5  # two of four cores
    assert simulated.truth().utilization["cpu4"] == 0.0
