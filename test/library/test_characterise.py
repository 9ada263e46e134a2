"""Characterisation: the fits, the sweep through the Device interface, its journal, `dynofa characterise`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from command import dynofa
from hypothesis import given
from hypothesis import strategies as st
from power_law import predict_power

from dynofa_ros.application.networks import DEMO_LIBRARY
from dynofa_ros.cli import characterise as command
from dynofa_ros.device.board import Board, load_board, power_model
from dynofa_ros.device.open import open_device
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.errors import CliError, UsageError
from dynofa_ros.library.characterised import characterised
from dynofa_ros.library.files import save_with_statistics
from dynofa_ros.library.fit import fit_power
from dynofa_ros.library.library import Library, check_library, load_library
from dynofa_ros.library.sweep import (
    Journal,
    Observation,
    Settings,
    choose_clocks,
    observe,
    plan_points,
    sweep,
)
from dynofa_ros.library.testbench import Point, RealRig, SimulatedRig, SweepError, references_hz, thread_share
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Input, Monitors
from dynofa_ros.messages import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainCapability,
    DomainStatus,
    DomainTelemetry,
    FrequencyBand,
    PowerModel,
)
from dynofa_ros.paths import share_file

BOARD = load_board("xavier_nx")
DEMO = share_file(*DEMO_LIBRARY)
CPU = load_library(DEMO)
GPU = msgspec.structs.replace(CPU, processor="gpu", reference_frequencies_hz={"gpu": 1_109_250_000})
CAPABILITIES = SimulatedDevice(BOARD).capabilities()
TABLES = {d.domain: d.frequencies_hz for d in CAPABILITIES.domains}


def simulated(libraries: dict[str, Library], board: Board = BOARD) -> SimulatedRig:
    references = {p: min(references_hz(library, TABLES).values()) for p, library in libraries.items()}
    return SimulatedRig(board, libraries, references)


def swept(tmp_path: Path, libraries: dict[str, Library], settings: Settings) -> list[Observation]:
    points = plan_points(CAPABILITIES, libraries, settings)
    journal = Journal(tmp_path / "j.jsonl", "d", resume=False)
    try:
        return sweep(simulated(libraries), points, settings, journal, f"{settings.seed}")
    finally:
        journal.close()


# --- the sweep ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_simulators_own_parameters_are_recovered_within_5_percent(tmp_path, seed):
    libraries = {"cpu": CPU, "gpu": GPU}
    observations = swept(tmp_path, libraries, Settings(seed=seed))
    for library in libraries.values():
        references = references_hz(library, TABLES)
        fits = characterised(library, observations, references, "b", "VDD_IN", simulated=True).fits
        for entry in library:
            assert fits[entry.id].alpha_ms == pytest.approx(entry.alpha_ms, rel=0.05), entry.id
            assert fits[entry.id].beta_ms == pytest.approx(entry.beta_ms, rel=0.05), entry.id
    coefficients = fit_power(power_model(BOARD), "VDD_IN", observations)
    fitted = {f"{c.section}.{c.name}": c for c in coefficients if not c.held}
    for name, c in fitted.items():
        if c.board_value:
            assert c.value == pytest.approx(c.board_value, rel=0.05), name
        else:
            assert c.value <= 4 * c.error, name
    assert {name for name, c in fitted.items() if c.board_value} == {
        "rails.VDD_CPU_GPU_CV.leakage_w",
        "rails.VDD_SOC.static_w",
        "domains.cpu0.dynamic_w_per_ghz_v2",
        "domains.gpu.dynamic_w_per_ghz_v2",
        "domains.gpu.idle_w",
        "domains.emc.clock_w_per_ghz",
        "power.base_w",
        "power.conversion_loss",
    }


def test_clocks_that_lie_close_together_are_measured_more_often(tmp_path):
    """The npu of the board has two clocks, 1 : 1.23: with the same number of inferences alpha is 15 % off."""
    library = load_library(share_file("config", "libraries", "xavier_nx", "npu_ofa_mbv3_w1.2.yaml"))
    few = msgspec.structs.replace(library, entries=library.entries[::10])
    settings = Settings(repeats=400, longest_s=1000.0)
    observations = swept(tmp_path, {"npu": few}, settings)
    fits = characterised(few, observations, references_hz(few, TABLES), "b", "VDD_IN", simulated=True).fits
    for entry in few:
        assert fits[entry.id].alpha_ms == pytest.approx(entry.alpha_ms, rel=0.05), entry.id
        assert fits[entry.id].beta_ms == pytest.approx(entry.beta_ms, rel=0.05), entry.id


def test_the_result_is_a_library_with_energies(tmp_path):
    observations = swept(tmp_path, {"gpu": GPU}, Settings(frequencies=3, window_s=1.0))
    result = characterised(GPU, observations, references_hz(GPU, TABLES), "nx", "VDD_IN", simulated=True)
    for entry in result.library:
        truth = GPU.find(entry.id)
        assert entry.latency_ms.median == pytest.approx(truth.alpha_ms + truth.beta_ms, rel=0.02)
        assert entry.latency_ms.p95 > entry.latency_ms.median
        assert 10 < entry.energy_j / entry.latency_ms.median * 1e3 < 18, "W of the whole module"
        assert entry.latency_source == "predicted", "simulated is not measured"
    assert result.library.board == "nx" and result.unmeasured == ()
    some = [o for o in observations if o.point.subnet_id != GPU.entries[0].id]
    partial = characterised(GPU, some, references_hz(GPU, TABLES), "nx", "VDD_IN", simulated=True)
    assert partial.unmeasured == (GPU.entries[0].id,)


@given(st.integers(2, 40), st.integers(1, 25))
def test_chosen_clocks_span_the_table_and_have_the_reference(number, size):
    table = tuple(range(100, 100 + size))
    chosen = choose_clocks(table, number, 107.2)
    assert set(chosen) <= set(table) and list(chosen) == sorted(set(chosen))
    assert chosen[0] == table[0] and chosen[-1] == table[-1]
    assert min(table, key=lambda hz: abs(hz - 107.2)) in chosen
    assert choose_clocks(table, None, 0) == table


def test_points_cover_clocks_subnets_and_idle():
    points = plan_points(CAPABILITIES, {"gpu": GPU}, Settings(frequencies=4))
    assert len({p.key for p in points}) == len(points)
    busy = [p for p in points if p.share == 1.0]
    gpu_clocks = {dict(p.clocks)["gpu"] for p in busy}
    assert {(p.subnet_id, dict(p.clocks)["gpu"]) for p in busy} == {
        (e.id, hz) for e in GPU for hz in gpu_clocks
    }
    assert gpu_clocks >= {114_750_000, 1_109_250_000}
    idle = [dict(p.clocks) for p in points if p.share == 0.0]
    assert {c["emc"] for c in idle} == set(TABLES["emc"]) and len({c["cpu0"] for c in idle}) >= 4
    assert all(c["cpu0"] == c["cpu2"] == c["cpu4"] for c in idle), "alike domains change together"
    assert points != plan_points(CAPABILITIES, {"gpu": GPU}, Settings(frequencies=4, seed=1))
    with pytest.raises(SweepError, match="no processor 'gpu'"):
        plan_points(replace(CAPABILITIES, processors=("cpu",)), {"gpu": GPU}, Settings())


def test_points_of_a_cluster_change_its_clock_alone():
    points = plan_points(CAPABILITIES, {"cpu": CPU}, Settings(frequencies=3), ("cpu0", "cpu4"), (1, 2))
    busy = [p for p in points if p.share == 1.0]
    assert {(p.subnet_id, p.cluster, p.threads) for p in busy} == {
        (e.id, c, n) for e in CPU for c in ("cpu0", "cpu4") for n in (1, 2)
    }
    for cluster, others in (("cpu0", ("cpu2", "cpu4")), ("cpu4", ("cpu0", "cpu2"))):
        clocks = [dict(p.clocks) for p in busy if p.cluster == cluster]
        assert len({c[cluster] for c in clocks}) == 3 and all(
            len({c[o] for c in clocks}) == 1 for o in others
        )
    assert len({p.key for p in points}) == len(points)
    with pytest.raises(SweepError, match="has no CPU cluster 'cpu7' \\(it has cpu0, cpu2, cpu4\\)"):
        plan_points(CAPABILITIES, {"cpu": CPU}, Settings(), ("cpu7",))


def test_a_sweep_of_clusters_gives_one_entry_per_cluster_and_number_of_threads(tmp_path):
    few = msgspec.structs.replace(CPU, entries=CPU.entries[::5])
    settings = Settings(frequencies=4, window_s=0.5)
    points = plan_points(CAPABILITIES, {"cpu": few}, settings, ("cpu0", "cpu2"), (1, 2))
    journal = Journal(tmp_path / "j.jsonl", "d", resume=False)
    observations = sweep(simulated({"cpu": few}), points, settings, journal, "0")
    result = characterised(few, observations, references_hz(few, TABLES), "nx", "VDD_IN", simulated=True)
    assert result.library.placements == (("cpu0", 1), ("cpu0", 2), ("cpu2", 1), ("cpu2", 2))
    assert result.unmeasured == () and set(result.fits) == {
        f"{e.id} on {c} x{n}" for e in few for c in ("cpu0", "cpu2") for n in (1, 2)
    }
    for e in few:
        one, two = (result.library.find(e.id, "cpu0", n) for n in (1, 2))
        ratio = two.latency_ms.median / one.latency_ms.median
        assert ratio == pytest.approx(thread_share(2) / thread_share(1), rel=0.05)
        whole = one.latency_ms.median / (e.alpha_ms + e.beta_ms)
        assert whole == pytest.approx(1 / thread_share(6), rel=0.05), (
            "a library without threads has all cores"
        )
        assert two.energy_j < one.energy_j, "the rest of the module waits for less long"
    check_library(result.library)


def test_a_point_is_the_same_whatever_was_measured_before():
    rig, settings = simulated({"cpu": CPU}), Settings(window_s=0.5)
    first, second = plan_points(CAPABILITIES, {"cpu": CPU}, settings)[:2]
    alone = observe(rig, second, settings, seed=7)
    observe(rig, first, settings, seed=6)
    assert observe(rig, second, settings, seed=7) == alone


class Stuck(SimulatedDevice):
    """Its GPU refuses every band, its CPU never gets there."""

    def apply(self, bands):
        return super().apply([b if b.domain != "gpu" else FrequencyBand("gpu", 1, 1) for b in bands])


def real_rig(device, events: list[str] | None = None) -> RealRig:
    """A rig whose time is the device's own: waiting lets it pass."""

    class Rig(RealRig):
        def now_s(self) -> float:
            return device.now_s

        def wait(self, seconds: float) -> None:
            device.advance(seconds)

        def run(self, point: Point, seconds: float) -> list[float]:
            device.advance(0.05)
            return super().run(point, 0.0)

    def prepare(processor: str, subnet_id: str, threads: int):
        if events is not None:
            events.append(f"prepare {processor} {subnet_id}")
        return lambda: None

    return Rig(device, prepare)


def test_clocks_that_cannot_be_set_skip_the_point_with_the_reason():
    refused = Point((("gpu", 510_000_000),), "gpu", "s02_r64", 1.0)
    seen = observe(real_rig(Stuck(BOARD)), refused, Settings(), 0)
    assert "gpu: min_hz 1 is outside" in seen.skipped and seen.latency_ms is None and seen.rails_w == {}
    hot = SimulatedDevice(BOARD, temperature_c=120.0)
    hot.ambient_c = 120.0
    hot.advance(30.0)
    throttled = observe(real_rig(hot), Point((("gpu", 1_109_250_000),)), Settings(), 0)
    assert "gpu is THROTTLED" in throttled.skipped and "instead of 1109.25" in throttled.skipped


def test_real_inference_is_timed_and_prepared_once_per_point():
    events: list[str] = []
    rig = real_rig(SimulatedDevice(BOARD), events)
    point = Point((("cpu0", 1_190_400_000),), "cpu", "s02_r64", 1.0)
    seen = observe(rig, point, Settings(repeats=8, window_s=0.3), 0)
    assert events == ["prepare cpu s02_r64"]
    assert seen.latency_ms.number >= 8 and 0 < seen.latency_ms.median < 50
    assert seen.frequencies_hz["cpu0"] == 1_190_400_000 and set(seen.rails_w) == {"VDD_IN", *BOARD.rails}


class Restored(SimulatedDevice):
    restored = 0

    def restore(self):
        self.restored += 1
        super().restore()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_clocks_are_given_back_however_the_sweep_ends(tmp_path, error):
    device = Restored(BOARD)
    points = [
        Point((("gpu", 510_000_000),), "gpu", "a", 1.0),
        Point((("gpu", 306_000_000),), "gpu", "a", 1.0),
    ]
    settings = Settings(repeats=5, window_s=0.2)

    def fail() -> None:
        raise error

    journal = Journal(tmp_path / "j", "d", resume=False)
    with pytest.raises(error):
        sweep(real_rig(device), points, settings, journal, "d", fail)
    assert device.restored == 1
    assert all(d.status is DomainStatus.DISABLED for d in device.applied()), "no request is left"
    assert list(journal.observations) == [points[0].key], "what was finished is kept"
    assert len(sweep(real_rig(device), points, settings, journal, "d")) == 2 and device.restored == 2


# --- the journal --------------------------------------------------------------------------------


def test_a_journal_keeps_whole_points_only(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path, "mine", resume=False)
    for hz in (1, 2):
        journal.add(Observation(Point((("gpu", hz),)), skipped="x"))
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"point": {"clo')  # cut by a power failure
    again = Journal(path, "mine", resume=True)
    assert [o.point.clocks for o in again.observations.values()] == [(("gpu", 1),), (("gpu", 2),)]
    again.add(Observation(Point((("gpu", 3),))))
    again.close()
    assert len(Journal(path, "mine", resume=True).observations) == 3
    with pytest.raises(SweepError, match="another sweep"):
        Journal(path, "other", resume=True)
    with pytest.raises(SweepError, match="--resume"):
        Journal(path, "mine", resume=False)
    path.write_bytes(b'{"sweep":"mine"}\nnonsense\n')
    with pytest.raises(SweepError, match="delete it"):
        Journal(path, "mine", resume=True)


# --- the command --------------------------------------------------------------------------------


def run_characterise(*arguments: object) -> int:
    return dynofa("characterise", "--library", DEMO, *arguments)


def test_characterise_writes_library_and_coefficients(tmp_path, capsys):
    out = tmp_path / "nx.yaml"
    assert (
        run_characterise("--frequencies", 4, "--window-s", 0.5, "--out", out, "--json", tmp_path / "j") == 0
    )
    library = load_library(out)
    assert library.board == "xavier_nx" and "simulated" in library.notes[-1]
    results = json.loads((tmp_path / "j").read_text())
    power = results["power"]
    dynamic = power["coefficients"]["domains"]["cpu0"]["dynamic_w_per_ghz_v2"]
    low, high = dynamic["interval_95"]
    assert low < dynamic["value"] < high and dynamic["shared_by"] == ["cpu0", "cpu2", "cpu4"]
    assert "held" in power["coefficients"]["domains"]["npu"]["dynamic_w_per_ghz_v2"]
    assert power["source"] == "simulated"
    assert len(results["points"]) == power["points"] and results["skipped"] == []
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.name != "j") == [".safetensors", ".yaml", ".yaml"]
    shown = capsys.readouterr().out
    assert shown.startswith("simulated: ") and "+-" in shown and "held: " in shown
    assert all(e.id in shown for e in CPU)


def manager_with(model: PowerModel) -> RuntimeManager:
    """A manager on the board that has heard this power model."""
    domains = tuple(DomainCapability(name, table) for name, table in TABLES.items())
    known = DeviceCapabilities("b", domains, BOARD.processors)
    manager = RuntimeManager()
    manager.step(1_000_000_000, Monitors((Input("c", 1, known), Input("p", 1, model))))
    return manager


def test_what_was_measured_is_what_the_manager_uses(tmp_path):
    """A board that differs from its description: characterised, then opened with the power file."""
    raw = yaml.safe_load(share_file("config", "boards", "xavier_nx.yaml").read_text())
    raw["power"] |= {"base_w": 2.2, "conversion_loss": 0.25}
    raw["domains"]["gpu"]["dynamic_w_per_ghz_v2"] = 9.0
    raw["rails"]["VDD_CPU_GPU_CV"]["leakage_w"] = 0.15
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(raw))
    gpu = tmp_path / "gpu.yaml"
    save_with_statistics(gpu, GPU, {})
    arguments = ("--library", gpu, "--board", tmp_path / "real.yaml", "--out", tmp_path / "nx.yaml")
    assert run_characterise(*arguments, "--json", tmp_path / "j", "--window-s", 1) == 0

    file = tmp_path / "nx_power.yaml"
    model = open_device("simulated", "xavier_nx", power_file=file).power_model
    power = json.loads((tmp_path / "j").read_text())["power"]["coefficients"]
    assert model.base_w == power["power"]["base_w"]["value"] == pytest.approx(2.2, rel=0.03)
    domains = {d.domain: d for d in model.domains}
    dynamic = power["domains"]["gpu"]["dynamic_w_per_ghz_v2"]["value"]
    assert domains["gpu"].dynamic_w_per_ghz_v2 == dynamic == pytest.approx(9.0, rel=0.03)
    shared = power["domains"]["cpu0"]["dynamic_w_per_ghz_v2"]["value"]
    assert {domains[name].dynamic_w_per_ghz_v2 for name in ("cpu0", "cpu2", "cpu4")} == {shared}
    leaking = model.rails[0].leakage_w + sum(
        d.leakage_w for d in model.domains if d.rail == model.rails[0].name
    )
    assert leaking == pytest.approx(power["rails"]["VDD_CPU_GPU_CV"]["leakage_w"]["value"], rel=1e-5)
    assert model.resistance_c_per_w == BOARD.thermal.resistance_c_per_w
    assert "# +-" in file.read_text() and "of the board description: " in file.read_text()

    tables = manager_with(model).state.power_model
    truth = power_model(load_board(tmp_path / "real.yaml"))
    for share in (0.0, 0.5, 1.0):
        clocks = {d.domain: 0.9 * d.top_hz for d in model.domains}
        readings = tuple(DomainTelemetry(name, hz, 100.0 * share) for name, hz in clocks.items())
        predicted = tables.total_w(DeviceTelemetry(0.0, (), readings), 46.0)
        same = predict_power(model, clocks, dict.fromkeys(clocks, share), 46.0).total_w
        assert predicted == pytest.approx(same, rel=1e-12)
        real = predict_power(truth, clocks, dict.fromkeys(clocks, share), 46.0).total_w
        assert predicted == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--board", "mars"), CliError, "board 'mars' is unknown"),
        (("--processors", "gpu"), CliError, "no library for gpu"),
        (("--library", DEMO), CliError, "second library for cpu"),
        (("--device", "auto"), UsageError, "needs --weights"),
        (("--library", "missing.yaml"), CliError, "missing.yaml: cannot be read"),
        (("--out", "x.txt"), UsageError, "must end in .yaml"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, arguments, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words) as raised:
        run_characterise("--out", "x.yaml", *arguments)
    assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []


SCRIPT = "import sys; from dynofa_ros.cli.main import main; sys.exit(main(sys.argv[1:]))"


def started(out: Path, *arguments: str) -> subprocess.Popen[str]:
    options = ["characterise", "--library", str(DEMO), "--frequencies", "all", "--out", str(out), *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(command.__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *options], env=environment, stderr=subprocess.PIPE, text=True
    )


def stop_when_it_has(journal: Path, points: int, process: subprocess.Popen[str], number: int) -> None:
    while not journal.exists() or journal.read_bytes().count(b"\n") <= points:
        assert process.poll() is None, "the sweep must still be running"
        time.sleep(0.002)
    process.send_signal(number)


def test_a_killed_sweep_continues_to_the_same_result(tmp_path):
    whole, cut = tmp_path / "whole" / "nx.yaml", tmp_path / "cut" / "nx.yaml"
    assert started(whole).wait(60) == 0
    journal = cut.with_name("nx.journal.jsonl")
    first = started(cut)
    stop_when_it_has(journal, 40, first, signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL
    kept = journal.read_bytes()
    assert 40 <= kept.count(b"\n") - 1 < 240 and not cut.exists()
    unasked = started(cut)
    assert "--resume" in unasked.communicate(timeout=60)[1] and unasked.returncode == 1
    other = started(cut, "--resume", "--seed", "1")
    assert "another sweep" in other.communicate(timeout=60)[1] and other.returncode == 1
    assert journal.read_bytes() == kept
    second = started(cut, "--resume")
    stop_when_it_has(journal, 80, second, signal.SIGTERM)
    message = second.communicate(timeout=60)[1]
    assert second.returncode == 1 and "continue with --resume" in message and message.count("\n") == 1
    assert started(cut, "--resume").wait(60) == 0
    for name in ("nx.yaml", "nx_power.yaml"):
        assert cut.with_name(name).read_bytes() == whole.with_name(name).read_bytes()
    assert {p.name for p in cut.parent.iterdir()} == {p.name for p in whole.parent.iterdir()}
