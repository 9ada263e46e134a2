"""The device node as a real process over DDS, on the files of a real device: a made-up Jetson AGX Xavier."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sysfs_tree
from device_client import NEVER_S, Client, parameters, start
from dynofa_ros.msg import DomainState
from fake_kernel import limits_on_disk
from lifecycle_msgs.msg import Transition
from ros_client import TIMEOUT_S, end
from sensor_msgs.msg import BatteryState

pytestmark = pytest.mark.live

BATTERY = "/sys/class/power_supply/BAT0"
CPU_VOLTAGE = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon7/in2_input"
CPU2_MAX = "/sys/devices/system/cpu/cpufreq/policy2/scaling_max_freq"
LOWER = ("cpu2", 115_200_000, 1_190_400_000)  # the clock that the tree shows lies in this band
RESET_IDS = itertools.count(2**40)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNOFA_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        root = make_tree(tmp_path_factory.mktemp("root"))
        (root / BATTERY[1:]).rename(root / "late")
        yield root


def make_tree(folder: Path) -> Path:
    root = sysfs_tree.build(sysfs_tree.TREES / "agx_xavier_jetpack5.yaml", folder)
    battery = {
        "type": "Battery",
        "status": "Discharging",
        "present": 1,
        "capacity": 80,
        "voltage_now": 14_800_000,
        "current_now": 1_500_000,
        "charge_now": 4_000_000,
        "charge_full": 5_000_000,
        "technology": "Li-ion",
        "serial_number": "A1",
    }
    mouse = {"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": 5}
    for name, values in ((BATTERY, battery), ("/sys/class/power_supply/hid0", mouse)):
        for key, value in values.items():
            sysfs_tree.put(root, f"{name}/{key}", str(value))
    sysfs_tree.put(root, "/sys/class/power_supply/AC/type", "Mains")
    return root


@pytest.fixture(scope="module")
def at_start(root: Path) -> dict[str, str]:
    return limits_on_disk(root)


@pytest.fixture(scope="module")
def process(root: Path, at_start: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    given = {"backend": "auto", "sysfs_root": root / "sys", "allow_writes": True}
    node = start(*parameters(**given, command_timeout_s=NEVER_S))
    yield node
    end(node)


@pytest.fixture(scope="module")
def client(process: subprocess.Popen[str]) -> Iterator[Client]:
    with closing(Client(process=process)) as client:
        client.connect()
        yield client


@pytest.fixture(autouse=True)
def fresh_ids(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test any decision_id is taken again."""
    yield
    if "client" not in request.fixturenames or request.getfixturevalue("process").poll() is not None:
        return
    client, last_id = request.getfixturevalue("client"), next(RESET_IDS)
    client.bands(last_id, [LOWER], valid_for_s=0.05)
    client.wait(lambda: client.states[-1].decision_id == last_id, "the reset command")
    client.wait(lambda: client.state("cpu2").status == DomainState.FALLBACK, "fallback")


# --- monitors ------------------------------------------------------------------------------------------


def test_auto_takes_the_real_device(client: Client) -> None:
    (capabilities,) = client.capabilities
    assert (capabilities.board, capabilities.source) == ("Jetson-AGX", "sysfs")
    assert capabilities.processors == ["cpu", "gpu", "npu"]
    assert client.telemetry[-1].source == client.states[-1].source == "sysfs"
    domains = {domain.domain: domain for domain in capabilities.domains}
    assert list(domains) == ["cpu0", "cpu2", "cpu4", "gpu"]
    assert domains["gpu"].can_write and domains["gpu"].frequencies_hz[-1] == 828_750_000
    assert domains["gpu"].reason == "cut to 828750000 by nvpmodel mode MODE_30W_6CORE"
    assert not domains["cpu0"].can_write and "mode 0444" in domains["cpu0"].reason
    assert client.diagnostics["backend"] == (0, "sysfs Jetson-AGX: 4 clocks, 6 power sensors")
    assert "emc: no memory devfreq" in client.facts["backend"]["unsupported"]


def test_telemetry_has_every_sensor_and_nan_for_what_is_off(client: Client) -> None:
    client.wait(lambda: client.telemetry[-1].energy_j > 0.0, "energy, which needs two samples")
    last = client.telemetry[-1]
    assert [rail.name for rail in last.rails] == ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]
    assert last.total_power_w == pytest.approx(4.428, abs=1e-3)  # these six add up to the module
    domains = {domain.domain: domain for domain in last.domains}
    assert domains["cpu2"].frequency_hz == 1_190_400_000 and math.isnan(domains["cpu4"].frequency_hz)
    assert domains["gpu"].utilization_percent == pytest.approx(76.5)
    temperatures = {reading.name: reading.temperature_c for reading in last.temperatures}
    assert temperatures["CPU-therm"] == 36.5 and math.isnan(temperatures["GPU-therm"])
    assert last.throttle_flags in (0, 128)
    assert "clock of cpu4" in client.facts["sensors"] and "offline" in str(client.facts["sensors"])
    assert client.diagnostics["sensors"] == (0, "4.4 W, 36.5 C")


def test_a_sensor_that_stops_is_nan_and_named_and_comes_back(client: Client, root: Path) -> None:
    before = (root / CPU_VOLTAGE[1:]).read_text()
    sysfs_tree.put(root, CPU_VOLTAGE, "garbage")
    client.wait(lambda: math.isnan(client.telemetry[-1].total_power_w), "the missing power")
    assert math.isnan(client.telemetry[-1].rails[1].power_w)
    assert client.telemetry[-1].rails[0].power_w > 1.0
    client.wait(lambda: "garbage" in client.diagnostics["sensors"][1], "the diagnostic")
    level, message = client.diagnostics["sensors"]
    assert level == 1 and "stopped" in message and "power of CPU" in message and "in2_input" in message
    (root / CPU_VOLTAGE[1:]).write_text(before)
    client.wait(lambda: client.telemetry[-1].total_power_w > 4.0, "the power is back")
    client.wait(lambda: client.diagnostics["sensors"][0] == 0, "the diagnostic is gone")


def test_temperature_and_battery_as_standard_messages(client: Client, root: Path) -> None:
    client.wait(lambda: client.temperatures, "the temperature")
    (root / "late").rename(root / BATTERY[1:])  # its driver is loaded
    client.wait(lambda: client.batteries, "the battery")
    last = client.temperatures[-1]
    assert (last.header.frame_id, last.temperature) == ("CPU-therm", 36.5)
    battery = client.batteries[-1]
    assert (battery.location, battery.serial_number, battery.present) == ("BAT0", "A1", True)
    assert battery.voltage == pytest.approx(14.8) and battery.current == pytest.approx(-1.5)
    assert battery.charge == pytest.approx(4.0) and battery.percentage == pytest.approx(0.8)
    assert math.isnan(battery.design_capacity) and math.isnan(battery.temperature)
    assert battery.power_supply_status == BatteryState.POWER_SUPPLY_STATUS_DISCHARGING
    assert battery.power_supply_technology == BatteryState.POWER_SUPPLY_TECHNOLOGY_LION
    assert {message.location for message in client.batteries} == {"BAT0"}  # not the mouse
    (root / BATTERY[1:] / "status").write_text("Charging\n")
    client.wait(lambda: client.batteries[-1].current > 0.0, "the charger")


def test_diagnostics_of_the_clocks(client: Client) -> None:
    level, message = client.diagnostics["clocks"]
    assert level == 1 and message.startswith("cannot be set: cpu0: cannot write /sys/")
    facts = client.facts["clocks"]
    assert facts["cpu2"].startswith("115.2 MHz to 1420.8 MHz, now 1190.4 MHz")
    assert facts["nvpmodel"].startswith("mode 3 MODE_30W_6CORE; caps: cpu0 1450 MHz")
    assert "jetson_clocks" not in facts


# --- knobs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("band", "reason"),
    [
        (("dsp", 1, 1), "unknown clock domain 'dsp' (known: cpu0, cpu2, cpu4, gpu)"),
        (("gpu", 1, 2**63), "gpu: min_hz 1 is outside"),
        (("cpu2", 1_190_400_000, 115_200_000), "cpu2: min_hz 1190400000 is above max_hz 115200000"),
        (("cpu0", 115_200_000, 1_190_400_000), "cpu0: cannot write /sys/devices/system/cpu/cpufreq/policy0"),
    ],
)
def test_a_wrong_band_is_refused_by_name_and_the_rest_is_set(
    client: Client, root: Path, at_start: dict[str, str], band: tuple[str, int, int], reason: str
) -> None:
    client.bands(1, [band, ("gpu" if band[0] != "gpu" else "cpu4", 318_750_000, 318_750_000)])
    client.wait(lambda: reason in client.states[-1].message, "the refusal")
    assert client.state(band[0]).status == DomainState.REJECTED
    client.wait(lambda: reason in client.facts["commands"]["last_refusal"], "the refusal in diagnostics")
    assert client.diagnostics["commands"][0] == 1 and "refused: " in client.diagnostics["commands"][1]
    assert int(client.facts["commands"]["refused"]) > 0
    changed = {path for path, text in limits_on_disk(root).items() if text != at_start[path]}
    assert not any("policy0" in path or "policy2" in path for path in changed)


@pytest.mark.parametrize("valid_for_s", [-1.0, math.nan, math.inf, 1e9])
def test_an_absurd_validity_is_refused_as_a_whole(
    client: Client, root: Path, at_start: dict[str, str], valid_for_s: float
) -> None:
    client.bands(1, [LOWER], valid_for_s)
    client.wait(lambda: "valid_for_s must be from 0" in client.states[-1].message, "the refusal")
    assert limits_on_disk(root) == at_start


def test_a_stale_command_is_ignored_counted_and_named(client: Client, root: Path) -> None:
    client.bands(7, [LOWER])
    client.wait(lambda: client.state("cpu2").status == DomainState.APPLIED, "the command")
    client.bands(6, [("cpu2", 1_190_400_000, 1_344_000_000)])
    client.wait(lambda: client.facts["commands"]["last_stale"] == "decision_id 6 after 7: ignored", "stale")
    assert int(client.facts["commands"]["stale"]) == 1
    assert (root / CPU2_MAX[1:]).read_text() == "1190400\n"


def test_the_dead_man_gives_back(client: Client, root: Path, at_start: dict[str, str]) -> None:
    client.bands(1, [LOWER, ("gpu", 114_750_000, 318_750_000)], valid_for_s=3.0)
    client.wait(lambda: limits_on_disk(root) != at_start, "the command")
    client.wait(lambda: client.state("gpu").status == DomainState.FALLBACK, "fallback")
    assert limits_on_disk(root) == at_start


def test_a_lost_manager_gives_back_after_command_timeout(
    client: Client, root: Path, at_start: dict[str, str]
) -> None:
    assert client.set_parameter("command_timeout_s", 2.0) == ""
    client.bands(1, [LOWER])
    client.wait(lambda: "command_timeout_s" in client.states[-1].message, "fallback")
    assert limits_on_disk(root) == at_start
    assert client.set_parameter("command_timeout_s", NEVER_S) == ""


def test_a_clock_that_others_set_too_is_reported(client: Client, root: Path) -> None:
    client.bands(1, [LOWER])
    client.wait(lambda: client.state("cpu2").status == DomainState.APPLIED, "the command")

    sysfs_tree.put(root, CPU2_MAX, "1344000")
    client.wait(lambda: client.state("cpu2").status == DomainState.DISABLED, "the domain is given up")
    client.bands(2, [LOWER])  # a renewal
    reason = "cpu2: not under control: another program has set its limits to 115200000..1344000000"
    client.wait(lambda: client.states[-1].decision_id == 2, "the renewal")
    assert reason in client.states[-1].message and (root / CPU2_MAX[1:]).read_text() == "1344000\n"
    client.wait(lambda: "not under control" in client.diagnostics["clocks"][1], "the diagnostic")
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)  # a new start of control
    assert (root / CPU2_MAX[1:]).read_text() == "1344000\n", "only what is ours is given back"
    sysfs_tree.put(root, CPU2_MAX, "1450000")
    sysfs_tree.put(root, CPU2_MAX.replace("max", "min"), "1190400")
    client.bands(3, [])
    del client.states[:-1]
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    client.wait(lambda: client.states[-1].decision_id == 3, "the latched command")
    client.wait(lambda: client.state("cpu2").status == DomainState.DISABLED, "no request")


def test_deactivation_gives_back_and_cleanup_lets_another_node_in(
    client: Client, root: Path, at_start: dict[str, str]
) -> None:
    client.bands(1, [LOWER])
    client.wait(lambda: client.state("cpu2").status == DomainState.APPLIED, "the command")
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    assert limits_on_disk(root) == at_start
    assert client.change_state(Transition.TRANSITION_CLEANUP)
    assert client.change_state(Transition.TRANSITION_CONFIGURE)
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    client.wait(lambda: client.state("cpu2").status == DomainState.APPLIED, "the latched command")


# --- nodes of their own --------------------------------------------------------------------------------


@dataclass
class Running:
    """A node on a tree of its own, and what it can see there."""

    node: subprocess.Popen[str]
    client: Client
    root: Path
    at_start: dict[str, str]


@contextmanager
def running(
    folder: Path, prepare: Callable[[Path], None] = lambda root: None, **given: object
) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNOFA_STATE_DIR", str(folder / "state"))
        root = make_tree(folder / "root")
        prepare(root)
        at_start = limits_on_disk(root)
        given = {"backend": "sysfs", "sysfs_root": root, "command_timeout_s": NEVER_S, **given}
        node = start(*parameters(**given), namespace="/own/dynofa")
        try:
            with closing(Client("/own/dynofa", node)) as client:
                client.connect()
                yield Running(node, client, root, at_start)
        finally:
            end(node)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_asks_to_end_gives_back(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, allow_writes=True) as own:
        own.client.bands(1, [LOWER])
        own.client.wait(lambda: limits_on_disk(own.root) != own.at_start, "the command")
        own.node.send_signal(number)
        assert own.node.wait(TIMEOUT_S) == 0
        assert limits_on_disk(own.root) == own.at_start and not list(tmp_path.glob("state/*.json"))


def test_without_allow_writes_nothing_is_written(tmp_path: Path) -> None:
    with running(tmp_path) as own:
        client = own.client
        assert client.diagnostics["clocks"] == (0, "read only: writes are off (parameter allow_writes)")
        assert not any(domain.can_write for domain in client.capabilities[-1].domains)
        client.bands(1, [LOWER])
        said = "cpu2: writes are off (parameter allow_writes)"
        client.wait(lambda: said in client.states[-1].message, "the refusal")
        assert limits_on_disk(own.root) == own.at_start and not (tmp_path / "state").exists()


def test_a_new_power_mode_is_published_and_followed(tmp_path: Path) -> None:
    with running(tmp_path, allow_writes=True) as own:
        client, limit = own.client, own.root / CPU2_MAX[1:]

        def top_hz() -> int:
            return next(d.frequencies_hz[-1] for d in client.capabilities[-1].domains if d.domain == "cpu2")

        assert top_hz() == 1_420_800_000
        client.bands(1, [("cpu2", 115_200_000, 2_265_600_000)])
        client.wait(lambda: limit.read_text() == "1420800\n", "the band, cut to the mode")
        reason = "cut to 1420800000 by nvpmodel mode MODE_30W_6CORE"
        client.wait(lambda: reason in client.states[-1].message, "the reason")
        sysfs_tree.put(own.root, "/var/lib/nvpmodel/status", "pmode:0000")
        client.wait(lambda: limit.read_text() == "2265600\n", "the band in the new mode")
        client.wait(lambda: top_hz() == 2_265_600_000, "the new table")
        client.wait(lambda: "mode 0 MAXN" in client.facts["clocks"]["nvpmodel"], "the diagnostic")
        sysfs_tree.put(own.root, "/var/lib/nvpmodel/status", "pmode:0003")
        client.wait(lambda: limit.read_text() == "1420800\n", "back again")


@pytest.mark.parametrize("told", [False, True])
def test_clocks_pinned_by_jetson_clocks_are_left_alone_unless_told(tmp_path: Path, told: bool) -> None:
    with running(tmp_path, pin_all, allow_writes=True, override_jetson_clocks=told) as own:
        client = own.client
        assert client.facts["clocks"]["jetson_clocks"] == "every clock was found pinned (min = max)"
        client.bands(1, [LOWER])
        if told:
            client.wait(lambda: limits_on_disk(own.root) != own.at_start, "the command")
        else:
            named = "jetson_clocks --restore"
            client.wait(lambda: any(named in state.message for state in client.states), "the refusal")
            assert limits_on_disk(own.root) == own.at_start


def pin_all(root: Path) -> None:
    for path in limits_on_disk(root):
        if path.endswith("scaling_max_freq"):
            pin(root / path, (root / path.replace("scaling_max", "cpuinfo_max")).read_text())
        elif path.endswith("17000000.gpu/max_freq"):
            pin(root / path, "1377000000\n")


def pin(highest: Path, text: str) -> None:
    for file in (highest, highest.with_name(highest.name.replace("max", "min"))):
        mode = file.stat().st_mode
        file.chmod(0o644)
        file.write_text(text)
        file.chmod(mode)
