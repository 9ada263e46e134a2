"""The device node as a real process over DDS, with the simulated device."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from device_client import NEVER_S, Client, parameters, start
from dynofa_ros.msg import DomainState, InferenceMonitor, SimulatedLoad
from lifecycle_msgs.msg import Transition
from rclpy.time import Time
from ros_client import TIMEOUT_S, end, stamp_s
from rosgraph_msgs.msg import Clock as ClockMessage

from dynofa_ros.convert import from_ros
from dynofa_ros.device.board import load_board, power_model
from dynofa_ros.paths import share_file

pytestmark = pytest.mark.live

CPU_TABLE = [115_200_000 + k * 76_800_000 for k in range(24)] + [1_907_200_000]
RESET_IDS = itertools.count(2**40)


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen]:
    node = start(*parameters(backend="simulated", command_timeout_s=NEVER_S))
    yield node
    end(node)


@pytest.fixture(scope="module")
def client(process) -> Iterator[Client]:
    client = Client(process=process)
    client.connect()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def fresh_ids(request) -> Iterator[None]:
    """After each test the clocks of the start are back and any decision_id is taken again."""
    yield
    if "client" not in request.fixturenames or request.getfixturevalue("process").poll() is not None:
        return
    client = request.getfixturevalue("client")
    last_id = next(RESET_IDS)
    client.command(last_id, valid_for_s=0.05, npu=1_100_800_000)
    client.wait(lambda: client.states[-1].decision_id == last_id, "the reset command")
    client.wait(lambda: client.state("npu").status == DomainState.FALLBACK, "fallback")


def test_latched_capabilities_and_state_reach_a_late_subscriber(client):
    (capabilities,) = client.capabilities
    assert (capabilities.board, capabilities.source) == ("xavier_nx", "simulated")
    assert capabilities.processors == ["cpu", "gpu", "npu"]
    domains = {domain.domain: domain for domain in capabilities.domains}
    assert list(domains) == ["cpu0", "cpu2", "cpu4", "gpu", "npu", "emc"]
    assert list(domains["cpu4"].frequencies_hz) == CPU_TABLE
    assert all(domain.can_read and domain.can_write for domain in domains.values())
    assert client.state("cpu0").status == DomainState.DISABLED
    assert client.states[-1].source == "simulated"


def test_the_power_model_is_latched_and_the_message_loses_no_bit(client):
    client.wait(lambda: client.power_models, "the power model")
    (message,) = client.power_models
    expected = power_model(load_board("xavier_nx"))
    assert from_ros(message) == expected
    assert client.capabilities[-1].description == "xavier_nx"
    client.wait(lambda: "backend" in client.facts, "diagnostics")
    assert client.facts["backend"]["power_model"] == expected.origin


def test_telemetry_comes_at_its_rate_and_is_plausible(client):
    samples = client.samples(21, time.time())
    assert usual_period_s(samples) == pytest.approx(0.1, rel=0.2)
    first, last = samples[0], samples[-1]
    assert 2.5 < last.total_power_w < 4.0
    assert [rail.name for rail in last.rails] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert all(25.0 < reading.temperature_c < 40.0 for reading in last.temperatures)
    power_w = (last.energy_j - first.energy_j) / (stamp_s(last) - stamp_s(first))
    # Loose: where a machine stands still between reading power and clock, the stamp is late.
    assert power_w == pytest.approx(last.total_power_w, rel=0.25)


def usual_period_s(samples):
    """Between the stamps of samples; a machine that stands still for a moment does not count."""
    return median(later - sooner for sooner, later in pairwise(map(stamp_s, samples)))


def test_the_guesses_of_a_simulated_board_are_named(client):
    client.wait(lambda: "backend" in client.diagnostics, "diagnostics")
    assert client.diagnostics["backend"] == (0, "simulated xavier_nx")
    assert "thermal.ambient_c" in client.facts["backend"]["guesses"]


def test_diagnostics_of_a_simulated_board(client):
    client.wait(lambda: {"clocks", "sensors", "inputs"} <= client.diagnostics.keys(), "diagnostics")
    assert client.diagnostics["clocks"] == (0, "6 clocks can be set")
    assert client.facts["clocks"]["gpu"].startswith("114.75 MHz to 1109.25 MHz, now ")
    assert client.diagnostics["sensors"][0] == 0


def test_the_hottest_sensor_as_a_standard_message(client):
    client.wait(lambda: client.temperatures, "a temperature")
    last = client.temperatures[-1]
    assert last.header.frame_id in [t.name for t in client.telemetry[-1].temperatures]
    assert 25.0 < last.temperature < 40.0
    assert client.batteries == []


def test_load_raises_power_and_a_lower_clock_saves_it(client):
    cpus = ("cpu0", "cpu2", "cpu4")
    for domain in cpus:
        client.load.publish(SimulatedLoad(domain=domain, utilization_percent=80.0, slowdown=0.4))
    client.wait(lambda: client.state("cpu4").external_slowdown > 0.39, "the slowdown in the state")
    client.command(1, **dict.fromkeys(cpus, CPU_TABLE[-1]))
    client.wait(lambda: all(client.state(d).status == DomainState.APPLIED for d in cpus), "clocks at the top")
    assert {client.state(domain).actual_hz for domain in cpus} == {1_907_200_000.0}
    high_w = client.mean_power_w()
    utilization = {d.domain: d.utilization_percent for d in client.telemetry[-1].domains}
    assert utilization["cpu0"] == pytest.approx(80.0, abs=1.0) and utilization["gpu"] == 0.0
    client.command(2, **dict.fromkeys(cpus, CPU_TABLE[5]))
    client.wait(lambda: client.state("cpu0").actual_hz == CPU_TABLE[5], "the lower clock")
    assert client.states[-1].decision_id == 2
    low_w = client.mean_power_w()
    # 0.71 W/(GHz V2) * 0.8 * 6 cores * (1.9072 * 0.949^2 - 0.4992 * 0.70^2) * 1.34 = 6.7 W
    assert high_w - low_w == pytest.approx(6.7, abs=0.4)
    for domain in cpus:
        client.load.publish(SimulatedLoad(domain=domain))
    client.wait(lambda: client.state("cpu4").external_slowdown == 0.0, "the end of the load")


def test_wrong_requests_are_refused_by_name_and_the_rest_is_applied(client):
    client.command(1, dsp=1, gpu=5_000_000_000, cpu2=CPU_TABLE[-1])
    client.wait(lambda: "dsp" in client.states[-1].message, "the refusal")
    client.wait(lambda: client.state("cpu2").status == DomainState.APPLIED, "the good band")
    assert client.state("dsp").status == client.state("gpu").status == DomainState.REJECTED
    assert "unknown clock domain 'dsp'" in client.states[-1].message
    assert "gpu: min_hz 5000000000 is outside the table" in client.states[-1].message
    client.wait(lambda: "refused: " in client.diagnostics["commands"][1], "the refusal in diagnostics")
    assert client.diagnostics["commands"][0] == 1


def test_the_dead_man_gives_the_clocks_back_and_old_ids_are_ignored(client):
    client.command(9, valid_for_s=0.6, gpu=1_109_250_000)
    client.wait(lambda: client.state("gpu").status == DomainState.APPLIED, "the GPU at its top clock")
    client.wait(lambda: client.state("gpu").status == DomainState.FALLBACK, "fallback")
    client.wait(lambda: client.state("gpu").actual_hz == 114_750_000.0, "the clock of the start")
    assert "command 9 was not renewed within 0.6 s (valid_for_s)" in client.states[-1].message
    client.wait(lambda: "not renewed" in client.diagnostics["commands"][1], "fallback in diagnostics")
    client.command(7, gpu=510_000_000)  # a restarted manager
    client.wait(lambda: client.state("gpu").actual_hz == 510_000_000.0, "the new manager's clock")
    del client.states[:-1]
    client.command(6, gpu=1_109_250_000)
    client.wait(lambda: client.facts["commands"]["last_stale"] == "decision_id 6 after 7: ignored", "stale")
    assert {(s.decision_id, client.state("gpu").actual_hz) for s in client.states} == {(7, 510_000_000.0)}


def test_command_timeout_is_a_parameter_that_acts_at_once(client):
    assert client.set_parameter("command_timeout_s", 2) == ""
    client.command(1, gpu=510_000_000)
    client.wait(lambda: client.state("gpu").actual_hz == 510_000_000.0, "the command")
    client.wait(lambda: "command_timeout_s" in client.states[-1].message, "fallback")
    assert client.set_parameter("command_timeout_s", NEVER_S) == ""


def test_an_nvpmodel_mode_of_the_simulated_board_can_be_set(client):
    assert "has no mode 'MAXN' (it has 0 MODE_15W_2CORE" in client.set_parameter("simulated_mode", "MAXN")
    client.command(1, gpu=1_109_250_000)
    client.wait(lambda: client.state("gpu").actual_hz == 1_109_250_000.0, "the command")
    assert client.set_parameter("simulated_mode", "MODE_10W_4CORE") == ""
    client.wait(lambda: client.state("gpu").actual_hz == 803_250_000.0, "the cap of the mode")
    client.wait(lambda: len(client.capabilities) == 2, "what the mode leaves")
    left = {domain.domain: domain for domain in client.capabilities[-1].domains}
    assert left["gpu"].frequencies_hz[-1] == 803_250_000
    assert not left["cpu4"].can_write and left["cpu2"].can_write
    assert client.set_parameter("simulated_mode", "") == ""
    client.wait(lambda: client.state("gpu").actual_hz == 1_109_250_000.0, "the clock that was asked for")
    client.wait(lambda: len(client.capabilities) == 3, "all clocks again")
    assert client.capabilities[-1].domains == client.capabilities[0].domains


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("telemetry_rate_hz", 0.0, "from 1.0 to 50.0 Hz"),
        ("telemetry_rate_hz", float("nan"), "from 1.0 to 50.0 Hz"),
        ("command_timeout_s", -1.0, "from 0.0 to 3600.0 s"),
        ("command_timeout_s", 1.9, "must be 0 or at least 2 s, got 1.9: the manager repeats its commands"),
        ("board", "orin", "only be set at start-up"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_is_allowed(client, name, value, allowed):
    assert allowed in client.set_parameter(name, value)


def test_telemetry_rate_acts_at_once(client):
    assert client.set_parameter("telemetry_rate_hz", 40) == ""
    assert usual_period_s(client.samples(41, time.time())) < 0.07, "0.025 s, and a busy machine is late"
    assert client.set_parameter("telemetry_rate_hz", 10.0) == ""


@pytest.mark.alone
def test_frames_of_an_app_become_utilization(client):
    client.wait(lambda: client.monitor.get_subscription_count(), "the app being discovered")
    loads, start_s = [], time.monotonic()

    def at_its_rate():
        """20 Hz of such frames are 40 % of load; a moment in which this process stood still counts little."""
        client.monitor.publish(InferenceMonitor(app="front", processor="gpu", inference_ms=20.0))
        client.spin(start_s + 0.05 * (len(loads) + 1) - time.monotonic())
        last = {d.domain: d.utilization_percent for d in client.telemetry[-1].domains}
        assert last["cpu0"] == 0.0
        loads.append(last["gpu"])
        return len(loads) > 20 and median(loads[-10:]) == pytest.approx(40.0, abs=8.0)

    client.wait(at_its_rate, "40 % of load")
    client.monitor.publish(InferenceMonitor(app="front", processor="tpu", inference_ms=20.0))
    client.wait(lambda: "no processor 'tpu'" in client.diagnostics["inputs"][1], "diagnostic")


def test_inactive_is_silent_and_gives_the_clocks_back(client):
    client.command(1, gpu=1_109_250_000)
    client.wait(lambda: client.state("gpu").actual_hz == 1_109_250_000.0, "the command")
    assert client.change_state(Transition.TRANSITION_DEACTIVATE)
    client.wait(lambda: client.state("gpu").status == DomainState.DISABLED, "the clocks released")
    inactive_s = time.time()
    client.spin(0.5)
    assert not [m for m in client.telemetry if stamp_s(m) > inactive_s]
    del client.states[:-1]
    assert client.change_state(Transition.TRANSITION_ACTIVATE)
    assert client.samples(1, inactive_s)[0].energy_j == 0.0
    # The command is latched and its sender still there: it is in force again.
    client.wait(lambda: client.state("gpu").actual_hz == 1_109_250_000.0, "the latched command")


def test_sigterm_gives_the_clocks_back_and_ends_cleanly(process, client):
    client.command(1, gpu=1_109_250_000)
    client.wait(lambda: client.state("gpu").actual_hz == 1_109_250_000.0, "the command")
    process.send_signal(signal.SIGTERM)
    client.wait(lambda: client.state("gpu").status == DomainState.DISABLED, "the clocks released")
    assert client.state("gpu").actual_hz < 1_109_250_000.0  # the governor rules again
    assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"backend": "sysfs", "sysfs_root": "/no/such"},
            "sysfs root /no/such: must be a folder named sys or",
        ),
        ({"backend": "fpga"}, "backend must be one of"),
        ({"backend": "auto", "simulated_mode": "MODE_10W_4CORE"}, "not simulated (backend is auto)"),
        ({"backend": "simulated", "board": "nano"}, "board 'nano' is unknown; known: "),
        ({"backend": "simulated", "power_file": "/no/such.yaml"}, "board /no/such.yaml: No such file"),
    ],
)
def test_what_cannot_work_ends_with_one_line(given, reason):
    node = start(*parameters(**given))
    _, error = node.communicate(timeout=TIMEOUT_S)
    assert node.returncode == 1
    assert reason in error and "Traceback" not in error


def test_auto_on_a_computer_that_shows_nothing_never_invents_a_board(tmp_path):
    node = start(*parameters(backend="auto", sysfs_root=tmp_path), namespace="/r3/dynofa")
    client = Client("/r3/dynofa", node)
    try:
        client.connect()
        level, text = client.diagnostics["backend"]
        assert level == 1 and "sub-networks are managed, clocks are not" in text
        assert "backend: simulated" in text
        (capabilities,) = client.capabilities
        assert (capabilities.domains, capabilities.source) == ([], "sysfs")
        sample = client.telemetry[-1]
        assert (sample.source, list(sample.domains), list(sample.rails)) == ("sysfs", [], [])
        assert math.isnan(sample.total_power_w) and client.states[-1].domains == []
    finally:
        client.close()
        end(node)


def test_commands_lapse_by_the_time_of_the_simulation():
    node = start(*parameters(backend="simulated", use_sim_time=True), namespace="/r4/dynofa")
    client = Client("/r4/dynofa", node)
    clock = client.node.create_publisher(ClockMessage, "/clock", 1)

    def simulation_at(time_s: float, condition: Callable[[], Any], what: str) -> None:
        """Again and again: /clock is best effort, a single message may be lost."""
        message = ClockMessage(clock=Time(seconds=time_s).to_msg())
        client.wait(lambda: clock.publish(message) or condition(), what)

    def status() -> int:
        return client.state("gpu").status

    try:
        client.connect(paused=True)
        client.wait(lambda: client.diagnostics.get("time", (0, ""))[0] == 2, "an error without /clock")
        assert "use_sim_time" in client.diagnostics["time"][1] and "/clock" in client.diagnostics["time"][1]
        simulation_at(1000.0, lambda: client.diagnostics["time"][0] == 0, "the clock")
        client.command(1, valid_for_s=0.5, gpu=1_109_250_000)
        client.wait(lambda: status() == DomainState.APPLIED, "the command")
        client.spin(1.5)
        assert status() == DomainState.APPLIED, "paused"
        assert len([m for m in client.telemetry if stamp_s(m) == 1000.0]) <= 1, "paused"
        simulation_at(1000.6, lambda: status() == DomainState.FALLBACK, "fallback")
    finally:
        client.close()
        end(node)


def test_a_power_file_is_published_instead(tmp_path):
    file = tmp_path / "measured.yaml"
    text = share_file("config", "boards", "orin_nano.yaml").read_text()
    file.write_text(text.replace("base_w: 1.36", "base_w: 1.5"))
    node = start(*parameters(backend="simulated", power_file=file), namespace="/r2/dynofa")
    client = Client("/r2/dynofa", node)
    try:
        client.connect()
        (model,) = client.power_models
        assert (model.base_w, model.board, model.origin) == (1.5, "orin_nano", str(file))
        assert client.capabilities[-1].description == "xavier_nx"
    finally:
        client.close()
        end(node)
