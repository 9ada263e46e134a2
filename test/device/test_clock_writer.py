"""Bands on a fake kernel that keeps the rules of 4.9 and 5.10, through the real code."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import fake_kernel
import pytest
from clock_bench import Bench
from factories import pin
from fake_kernel import CPU_TABLE, GPU, GPU_TABLE, FakeKernel, limits_on_disk, make_board, policy
from hypothesis import given, settings
from hypothesis import strategies as st

from dynofa_ros.device.linux.clock_backup import ClockBackup
from dynofa_ros.device.linux.clock_domain import HOLD_S
from dynofa_ros.device.linux.clock_limits import LimitFiles, read_limits, write_limits
from dynofa_ros.device.linux.clock_plan import BandRefusedError, plan_band
from dynofa_ros.device.linux.clock_writer import ClockWriter
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.messages import DomainStatus, FrequencyBand

OLD, NEW = (4, 9), (5, 10)
LOW, MIDDLE, HIGH = 499_200_000, 1_113_600_000, 1_907_200_000


@pytest.fixture(params=[OLD, NEW], ids=["4.9", "5.10"])
def bench(request, tmp_path: Path) -> Bench:
    return Bench(tmp_path, request.param)


# --- the order of writing -------------------------------------------------------------------------

steps = st.lists(st.tuples(st.sampled_from(CPU_TABLE), st.sampled_from(CPU_TABLE)), min_size=1, max_size=8)


@pytest.fixture(scope="module", params=[OLD, NEW], ids=["4.9", "5.10"])
def kernel(request, tmp_path_factory) -> FakeKernel:
    return FakeKernel(make_board(tmp_path_factory.mktemp("root"), policies=1), request.param)


CPU0 = LimitFiles("cpu0", "band", f"{policy(0)}/scaling_min_freq", f"{policy(0)}/scaling_max_freq", 1000)


@given(steps=steps)
@settings(max_examples=40, deadline=None)
def test_any_band_follows_any_other_without_a_refusal(kernel: FakeKernel, steps) -> None:
    for pair in steps:
        wanted = CPU0.band(min(pair), max(pair))
        write_limits(kernel, CPU0, wanted)
        assert read_limits(kernel, CPU0) == wanted
        assert kernel.limits(policy(0)) == (min(pair), max(pair))


def test_the_old_kernel_does_refuse_the_other_order(tmp_path: Path) -> None:
    kernel = FakeKernel(make_board(tmp_path), OLD)
    with pytest.raises(OSError) as error:
        kernel.write(f"{policy(0)}/scaling_min_freq", "1907200")
    assert error.value.errno == errno.EINVAL


def test_a_writer_in_between_costs_one_new_attempt(tmp_path: Path) -> None:
    class Racing(FakeKernel):
        raced = False

        def write(self, path: str, text: str) -> None:
            if not self.raced:  # nvpmodel raises both limits after they were read and before they are written
                self.raced = True
                self.other_program(policy(0), 1_804_800, 1_907_200)
            super().write(path, text)

    kernel = Racing(make_board(tmp_path), OLD)
    write_limits(kernel, CPU0, CPU0.band(1_190_400, 1_420_800))
    assert kernel.limits(policy(0)) == (1_190_400, 1_420_800)


def test_no_limit_of_an_old_devfreq_is_written_back_as_such(tmp_path: Path) -> None:
    kernel = FakeKernel(make_board(tmp_path), OLD)
    kernel.other_program(GPU, 0, 0)
    paths = LimitFiles("gpu", "band", f"{GPU}/min_freq", f"{GPU}/max_freq", 1)
    write_limits(kernel, paths, paths.band(GPU_TABLE[3], GPU_TABLE[4]))
    write_limits(kernel, paths, paths.band(0, 0))
    assert kernel.limits(GPU) == (0, 0)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/sys/../etc/min_freq", "/sys/class/x/scaling_governor", "/tmp/sys/min_freq"]
)
def test_only_limits_of_clocks_can_be_written(path: str) -> None:
    with pytest.raises(ValueError, match="not a file that limits a clock"):
        LimitFiles("cpu0", "band", path, f"{policy(0)}/scaling_max_freq", 1000)


# --- bands --------------------------------------------------------------------------------------------


def test_bands_are_written_in_the_files_units_and_take_effect_after_the_delay(bench: Bench) -> None:
    states = bench.apply(FrequencyBand("cpu0", LOW, MIDDLE), pin("gpu", GPU_TABLE[4]))
    assert bench.limits("cpu0") == (LOW // 1000, MIDDLE // 1000)
    assert bench.limits("gpu") == (GPU_TABLE[4], GPU_TABLE[4])
    assert states["gpu"].status is states["cpu0"].status is DomainStatus.PENDING
    assert states["cpu2"].status is DomainStatus.DISABLED
    states = bench.follow(0.02)
    assert states["cpu0"].status is DomainStatus.APPLIED and states["cpu0"].actual_hz == LOW
    assert states["gpu"].status is DomainStatus.PENDING
    states = bench.follow(0.05)
    assert states["gpu"].status is DomainStatus.APPLIED and states["gpu"].actual_hz == GPU_TABLE[4]
    assert states["gpu"].reason == ""


def test_edges_are_rounded_to_the_table_and_a_band_between_clocks_takes_the_nearest(bench: Bench) -> None:
    bench.apply(FrequencyBand("cpu0", 500_000_000, 1_000_000_000))
    assert bench.limits("cpu0") == (576_000, 960_000)
    state = bench.apply(FrequencyBand("cpu0", 970_000_000, 980_000_000))["cpu0"]
    assert bench.limits("cpu0") == (960_000, 960_000)
    assert "no clock between" in state.reason and "960000000" in state.reason
    assert bench.follow()["cpu0"].status is DomainStatus.APPLIED


@pytest.mark.parametrize(
    ("band", "said"),
    [
        (FrequencyBand("npu", LOW, HIGH), "unknown clock domain 'npu' (known: cpu0, cpu2, cpu4, gpu)"),
        (FrequencyBand("cpu0", HIGH, LOW), "min_hz 1907200000 is above max_hz 499200000"),
        (FrequencyBand("cpu0", -1, LOW), "min_hz -1 is outside its range 115200000..1907200000"),
        (FrequencyBand("cpu0", LOW // 1000, HIGH // 1000), "outside its range"),  # kHz where Hz belong
        (FrequencyBand("cpu0", LOW, 2**64 - 1), "max_hz 18446744073709551615 is outside"),
        (FrequencyBand("cpu0", math.nan, HIGH), "min_hz nan is outside"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_met_is_refused_and_nothing_is_written(
    bench: Bench, band: FrequencyBand, said: str
) -> None:
    refused = bench.apply(band)[band.domain]
    assert refused.status is DomainStatus.REJECTED and said in refused.reason
    assert not bench.kernel.writes and not bench.backup.left_over()


def test_a_domain_named_twice_is_refused_and_the_others_are_set(bench: Bench) -> None:
    states = bench.writer.apply([pin("cpu0", LOW), pin("cpu0", HIGH), pin("cpu2", LOW)])
    assert [s.reason for s in states if s.status is DomainStatus.REJECTED] == ["cpu0: named 2 times"] * 2
    assert bench.limits("cpu0") == (1_190_400, 1_420_800) and bench.limits("cpu2") == (499_200, 499_200)


def test_a_refused_band_leaves_the_one_before(bench: Bench) -> None:
    bench.apply(FrequencyBand("cpu0", LOW, MIDDLE))
    bench.apply(FrequencyBand("cpu0", HIGH, LOW))
    state = bench.follow()["cpu0"]
    assert (state.requested_min_hz, state.requested_max_hz) == (LOW, MIDDLE)
    assert state.status is DomainStatus.APPLIED


def test_a_domain_without_a_table_takes_what_is_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.root / policy(0)[1:] / "scaling_available_frequencies").unlink()
    domain = discover(bench.kernel).domains[0]
    asked = FrequencyBand("cpu0", 500_000_000, 600_000_000)
    assert plan_band(asked, domain).limits == asked
    between = FrequencyBand("cpu0", 500_000_999, 600_000_999)  # the files count in kHz
    assert plan_band(between, domain).limits == asked
    with pytest.raises(BandRefusedError, match="outside its range"):
        plan_band(FrequencyBand("cpu0", 0, 600_000_000), domain)


@pytest.mark.parametrize(
    ("governor", "said"),
    [("performance", "top of the band"), ("powersave", "bottom of the band"), ("userspace", "program sets")],
)
def test_a_governor_that_ignores_the_load_is_named_and_left_alone(tmp_path: Path, governor, said) -> None:
    bench = Bench(tmp_path)
    fake_kernel.put(bench.root, f"{policy(0)}/scaling_governor", governor)
    assert said in bench.apply(pin("cpu0", LOW))["cpu0"].reason
    assert bench.kernel.read(f"{policy(0)}/scaling_governor") == governor


# --- errors of the kernel -------------------------------------------------------------------------------


def test_busy_is_tried_again_three_times_without_waiting(bench: Bench) -> None:
    bench.kernel.busy = 3
    assert bench.apply(pin("cpu0", LOW))["cpu0"].status is DomainStatus.PENDING
    assert bench.kernel.now_s == 0.0  # nothing slept
    assert bench.follow()["cpu0"].status is DomainStatus.APPLIED


def test_busy_for_longer_is_reported_and_tried_again_later(bench: Bench) -> None:
    bench.kernel.busy = 4
    bench.apply(pin("cpu0", LOW))
    state = bench.follow()["cpu0"]
    assert state.status is DomainStatus.REJECTED and "busy" in state.reason
    assert bench.follow(HOLD_S)["cpu0"].status is DomainStatus.APPLIED


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINVAL, errno.EACCES])
def test_limits_that_cannot_be_read_for_a_while_are_no_rejected_band(bench: Bench, number: int) -> None:
    bench.apply(pin("cpu0", LOW))
    assert bench.follow()["cpu0"].status is DomainStatus.APPLIED
    bench.kernel.errors[f"{policy(0)}/scaling_max_freq"] = number
    state = bench.follow(2.0)["cpu0"]
    assert state.status is DomainStatus.PENDING and "scaling_max_freq: " in state.reason
    bench.kernel.errors.clear()
    assert bench.follow(2.0)["cpu0"].status is DomainStatus.APPLIED


@pytest.mark.parametrize("which", ["scaling_min_freq", "scaling_max_freq"])
def test_without_permission_the_cure_is_named_and_nothing_is_half_written(bench: Bench, which: str) -> None:
    bench.kernel.closed.add(f"{policy(0)}/{which}")
    refused = bench.apply(pin("cpu0", LOW), pin("cpu2", LOW))["cpu0"]
    assert refused.status is DomainStatus.REJECTED
    assert "dynofa device permissions --install" in refused.reason and "\n" not in refused.reason
    assert bench.limits("cpu0") == (1_190_400, 1_420_800) and bench.limits("cpu2") == (499_200, 499_200)


def test_permission_lost_between_the_two_files_is_rolled_back(bench: Bench) -> None:
    bench.apply(FrequencyBand("cpu0", LOW, MIDDLE))
    allowed = bench.kernel.can_write
    bench.kernel.can_write = lambda path: (True, "")  # the check came before it was lost
    bench.kernel.closed.add(f"{policy(0)}/scaling_min_freq")
    refused = bench.apply(pin("cpu0", HIGH))["cpu0"]
    bench.kernel.can_write = allowed
    assert refused.status is DomainStatus.REJECTED and bench.limits("cpu0") == (LOW // 1000, MIDDLE // 1000)


def test_a_read_only_file_system_is_refused_with_its_cure(bench: Bench) -> None:
    bench.kernel.read_only = True
    refused = bench.apply(pin("gpu", GPU_TABLE[0]))["gpu"]
    assert refused.status is DomainStatus.REJECTED and refused.reason.endswith("--privileged -v /sys:/sys")
    bench.kernel.read_only = False
    assert bench.apply(pin("gpu", GPU_TABLE[0]))["gpu"].status is DomainStatus.PENDING


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, errno.EAGAIN])
def test_a_gated_gpu_is_offline_and_comes_back_by_itself(bench: Bench, number: int) -> None:
    gated = {f"{GPU}/{name}": number for name in ("min_freq", "max_freq", "cur_freq")}
    bench.kernel.errors = gated
    state = bench.apply(pin("gpu", GPU_TABLE[4]))["gpu"]
    assert state.status is DomainStatus.PENDING and math.isnan(state.actual_hz)
    bench.kernel.errors = {}
    assert bench.follow(2.0)["gpu"].status is DomainStatus.APPLIED
    bench.kernel.errors = gated
    assert bench.follow(2.0)["gpu"].status is DomainStatus.PENDING
    bench.kernel.errors = {}
    assert bench.follow(2.0)["gpu"].status is DomainStatus.APPLIED


def test_a_policy_that_is_unplugged_gets_its_band_when_it_is_back(bench: Bench) -> None:
    bench.apply(pin("cpu4", LOW))
    bench.follow()
    bench.kernel.unplug(policy(4))
    state = bench.follow(2.0)["cpu4"]
    assert state.status is DomainStatus.PENDING and "when it is back" in state.reason
    bench.kernel.plug(policy(4))
    bench.kernel.other_program(policy(4), 115_200, 1_907_200)  # as a fresh policy has it
    assert bench.follow(2.0)["cpu4"].status is DomainStatus.APPLIED
    assert bench.limits("cpu4") == (499_200, 499_200)


# --- others who set clocks ---------------------------------------------------------------------------


def test_an_overwritten_band_stays_so_until_another_is_asked_for(bench: Bench) -> None:
    for band in (pin("cpu0", LOW), pin("cpu0", MIDDLE), pin("cpu0", LOW)):
        bench.apply(band)
        assert bench.follow(1.5)["cpu0"].status is DomainStatus.APPLIED
        assert bench.limits("cpu0") == (band.min_hz // 1000, band.max_hz // 1000)
        bench.kernel.other_program(policy(0), 115_200, 1_420_800)
        written = len(bench.kernel.writes)
        bench.follow(1.5)
        bench.apply(band)
        state = bench.follow(2 * HOLD_S)["cpu0"]
        assert state.status is DomainStatus.DISABLED and "to 115200000..1420800000" in state.reason
        assert len(bench.kernel.writes) == written
    assert "taken over from another program" in bench.apply(pin("cpu0", HIGH))["cpu0"].reason


def test_limits_that_another_program_gives_back_are_in_force_again(bench: Bench) -> None:
    bench.apply(pin("cpu0", LOW))
    bench.follow(1.5)
    for limits, status in (
        ((115_200, 1_420_800), DomainStatus.DISABLED),
        ((499_200, 499_200), DomainStatus.APPLIED),
    ):
        bench.kernel.other_program(policy(0), *limits)
        assert bench.follow(1.5)["cpu0"].status is status


def test_a_clock_that_ignores_its_limits_is_not_under_control(bench: Bench) -> None:
    bench.kernel.stuck(policy(0), 1_420_800)
    bench.apply(pin("cpu0", LOW))
    assert bench.follow(0.04)["cpu0"].status is DomainStatus.PENDING
    state = bench.follow()["cpu0"]
    assert state.status is DomainStatus.DISABLED and "runs at 1420800000 Hz, above" in state.reason
    bench.apply(FrequencyBand("cpu0", MIDDLE, HIGH))  # the limits are still ours
    assert bench.limits("cpu0") == (MIDDLE // 1000, HIGH // 1000)
    assert bench.follow()["cpu0"].status is DomainStatus.APPLIED


def test_a_clock_below_its_band_is_throttled(bench: Bench) -> None:
    bench.kernel.stuck(policy(0), 499_200)
    bench.apply(pin("cpu0", HIGH))
    state = bench.follow()["cpu0"]
    assert state.status is DomainStatus.THROTTLED and "runs at 499200000" in state.reason


@pytest.mark.parametrize("reading", ["0", "3"])
def test_an_impossible_reading_near_idle_says_nothing(bench: Bench, reading: str) -> None:
    bench.kernel.stuck(policy(0), int(reading))
    bench.apply(pin("cpu0", HIGH))
    assert bench.follow()["cpu0"].status is DomainStatus.APPLIED


def test_heat_holds_the_clock_down_and_lets_it_go(bench: Bench) -> None:
    bench.apply(pin("cpu0", HIGH))
    bench.follow()
    bench.kernel.heat(policy(0), 806_400)
    state = bench.follow(10.0)["cpu0"]
    assert state.status is DomainStatus.THROTTLED and "806400000 at most" in state.reason
    bench.kernel.heat(policy(0), 0)
    assert bench.follow(2.0)["cpu0"].status is DomainStatus.APPLIED
    assert bench.limits("cpu0") == (HIGH // 1000, HIGH // 1000)


def test_limits_found_under_heat_are_not_taken_for_the_owners(bench: Bench) -> None:
    bench.kernel.heat(policy(0), 806_400)
    state = bench.apply(pin("cpu0", LOW))["cpu0"]
    assert state.status is DomainStatus.PENDING and "heat or power" in state.reason
    assert not bench.backup.left_over()
    bench.kernel.heat(policy(0), 0)
    assert bench.follow(2.0)["cpu0"].status is DomainStatus.APPLIED
    bench.writer.restore()
    assert bench.limits("cpu0") == (1_190_400, 1_420_800)


def test_jetson_clocks_is_not_fought_unless_told(tmp_path: Path) -> None:
    root = make_board(tmp_path / "a" / "root")
    kernel = FakeKernel(root)
    for folder in (policy(0), policy(2), policy(4)):
        kernel.other_program(folder, 1_907_200, 1_907_200)
    kernel.other_program(GPU, GPU_TABLE[-1], GPU_TABLE[-1])
    inventory = discover(kernel)
    assert inventory.clocks_pinned

    def writer(override: bool) -> ClockWriter:
        backup = ClockBackup(kernel, tmp_path / "state")
        return ClockWriter(kernel, inventory.domains, backup, pinned=True, override_pinned=override)

    refused = writer(False).apply([pin("cpu0", LOW)])[-1]
    assert refused.status is DomainStatus.REJECTED and "jetson_clocks --restore" in refused.reason
    told = writer(True)
    assert told.apply([pin("cpu0", LOW)])[0].status is DomainStatus.PENDING
    told.restore()
    assert kernel.limits(policy(0)) == (1_907_200, 1_907_200)


def test_jetson_clocks_started_meanwhile_takes_over(bench: Bench) -> None:
    bench.apply(pin("cpu0", LOW))
    bench.follow()
    bench.kernel.other_program(policy(0), 1_907_200, 1_907_200)
    state = bench.follow(1.5)["cpu0"]
    assert state.status is DomainStatus.DISABLED and "jetson_clocks" in state.reason
    assert bench.limits("cpu0") == (1_907_200, 1_907_200)


def test_nvpmodels_cap_cuts_a_band(tmp_path: Path) -> None:
    bench = Bench(tmp_path, conf=fake_kernel.NVPMODEL_CONF)
    state = bench.apply(FrequencyBand("cpu0", LOW, HIGH))["cpu0"]
    assert bench.limits("cpu0") == (LOW // 1000, 1_420_800) and "nvpmodel mode MODE_15W" in state.reason
    assert bench.follow()["cpu0"].status is DomainStatus.APPLIED
    bench.apply(pin("cpu0", HIGH))
    state = bench.follow()["cpu0"]
    assert bench.limits("cpu0") == (1_420_800, 1_420_800) and state.status is DomainStatus.THROTTLED


def test_a_new_power_mode_is_followed_and_its_limits_are_given_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, conf=fake_kernel.NVPMODEL_CONF)
    bench.apply(pin("cpu0", 1_420_800_000), pin("gpu", GPU_TABLE[5]))
    bench.follow()
    fake_kernel.put(bench.root, "/var/lib/nvpmodel/status", "pmode:0001")
    bench.kernel.other_program(policy(0), 1_190_400, 1_190_400)
    bench.kernel.other_program(GPU, GPU_TABLE[0], 520_000_000)
    states = bench.follow(3.0)
    assert bench.limits("cpu0") == (1_190_400, 1_190_400) and states["cpu0"].status is DomainStatus.THROTTLED
    assert bench.limits("gpu") == (510_000_000, 510_000_000)
    bench.writer.restore()
    assert bench.limits("cpu0") == (1_190_400, 1_190_400)
    assert bench.limits("gpu")[1] == 520_000_000


# --- giving back ---------------------------------------------------------------------------------------


def test_restore_gives_back_what_was_found(bench: Bench) -> None:
    bench.apply(pin("cpu0", LOW), pin("cpu2", HIGH), pin("cpu4", MIDDLE), pin("gpu", GPU_TABLE[-1]))
    bench.follow()
    assert limits_on_disk(bench.root) != bench.at_start and bench.backup.left_over()
    returned = bench.writer.restore()
    assert all(result.done for result in returned) and len(returned) == 4
    assert limits_on_disk(bench.root) == bench.at_start
    assert not bench.backup.left_over() and not bench.backup.held
    assert {s.status for s in bench.state().values()} == {DomainStatus.DISABLED}


def test_what_cannot_be_given_back_now_is_given_back_later(bench: Bench) -> None:
    bench.apply(pin("cpu0", LOW), pin("gpu", GPU_TABLE[-1]))
    bench.kernel.unplug(GPU)
    assert [(r.domain, r.done) for r in bench.writer.restore()] == [("cpu0", True), ("gpu", False)]
    assert bench.backup.left_over() and "not restored yet" in bench.state()["gpu"].reason
    bench.kernel.plug(GPU)
    bench.follow(1.5)
    assert limits_on_disk(bench.root) == bench.at_start
    assert not bench.backup.left_over() and bench.state()["gpu"].reason == ""


def test_a_full_disk_means_that_nothing_is_changed(bench: Bench, monkeypatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("dynofa_ros.device.linux.clock_backup._write_durably", full)
    refused = bench.apply(pin("cpu0", LOW))["cpu0"]
    assert refused.status is DomainStatus.REJECTED and "No space left" in refused.reason
    assert not bench.kernel.writes
