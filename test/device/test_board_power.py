"""Board files and the power model."""

from __future__ import annotations

import re

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from power_law import predict_power

from dynofa_ros.device.board import (
    Board,
    BoardError,
    ceil_frequency,
    floor_frequency,
    guessed_keys,
    load_board,
    power_model,
    processor_domains,
)
from dynofa_ros.device.power_model import constant_power_w, domain_power, voltage_v
from dynofa_ros.latency import processor_of
from dynofa_ros.paths import share_file

BOARD, ORIN = load_board("xavier_nx"), load_board("orin_nano")
MODEL = power_model(BOARD)
FIT_TEMPERATURE_C = 45.0  # leakage factor 1: the fit was made without the factor
MHZ = 1_000_000


def changed(**sections: object) -> dict:
    raw = yaml.safe_load(share_file("config", "boards", "xavier_nx.yaml").read_text())
    raw.update(sections)
    return raw


def load(tmp_path, raw: object) -> Board:
    path = tmp_path / "board.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False))
    return load_board(path)


# --- board files -------------------------------------------------------------------------------


def test_xavier_nx_has_the_published_tables():
    assert BOARD.processors == ("cpu", "gpu", "npu")
    assert processor_domains(BOARD, "cpu") == ("cpu0", "cpu2", "cpu4")
    table = BOARD.domains["cpu2"].frequencies_hz
    assert table == (*(115_200_000 + k * 76_800_000 for k in range(24)), 1_907_200_000)
    assert len(BOARD.domains["gpu"].frequencies_hz) == 15
    assert BOARD.thermal.trip_c == 90.5


def test_orin_nano_has_the_published_tables():
    assert ORIN.processors == ("cpu", "gpu")
    assert [ORIN.domains[name].cores for name in processor_domains(ORIN, "cpu")] == [4, 2]
    table = ORIN.domains["cpu4"].frequencies_hz
    assert table == ORIN.domains["cpu0"].frequencies_hz
    assert table == tuple(115_200_000 + k * 76_800_000 for k in range(22)) and table[-1] == 1_728_000_000
    assert ORIN.domains["gpu"].frequencies_hz == tuple(range(306 * MHZ, 1021 * MHZ, 102 * MHZ))


# Keys whose value is a name or a number that the line's neighbours explain.
PLAIN = {"name", "description", "rail", "cores", "id", "static_w"}


@pytest.mark.parametrize("board", ["xavier_nx", "orin_nano"])
def test_every_value_of_a_board_file_says_where_it_comes_from(board):
    lines = share_file("config", "boards", f"{board}.yaml").read_text().split("\nmodes:")[0].splitlines()
    offsets = next(n for n, line in enumerate(lines) if "sensor_offsets_c" in line)
    bare = [
        line
        for number, line in enumerate(lines)
        if (key := re.match(r" *(\w+): +[^#&*]", line)) and "#" not in line and key[1] not in PLAIN
        if not offsets < number <= offsets + 6
    ]
    assert not bare, bare


def test_guesses_are_those_that_the_comments_name(tmp_path):
    assert {"thermal.ambient_c", "domains.cpu4.voltages", "domains.npu.cores"} <= set(BOARD.guesses)
    assert "thermal.trip_c" not in BOARD.guesses and "domains.cpu0.frequencies_hz" not in BOARD.guesses
    assert "domains.cpu4.throttled" in ORIN.guesses and "modes.7W.caps_hz.cpu" in ORIN.guesses
    text = "a: {b: 1}  # guess\nc: &c\n  d: 1  # table\n  e: 2 # from memory\n  f: 3  # guess, 2-3\n"
    text += "g:\n  <<: *c\n  e: 3\nh: *c\n"
    assert guessed_keys(text) == ("a.b", "c.e", "c.f", "g.f", "h.e", "h.f")
    assert guessed_keys("") == ()


def test_processor_of_a_domain():
    assert [processor_of(name) for name in ("cpu0", "cpu12", "gpu", "npu", "emc")] == [
        "cpu", "cpu", "gpu", "npu", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("cores", "two", ["domains.cpu2.cores", "int"]),
        ("colour", 3, ["domains.cpu2", "colour"]),
        ("frequencies_hz", [3, 2], ["domains.cpu2", "frequencies_hz", "2 follows 3"]),
        ("frequencies_hz", [], ["domains.cpu2", "frequencies_hz is empty"]),
        ("voltages", [[2, 0.7], [1, 0.8]], ["domains.cpu2", "voltages must be ascending"]),
        ("voltages", [], ["domains.cpu2", "voltages is missing"]),
        ("dynamic_w_per_ghz_v2", -1, ["domains.cpu2", "dynamic_w_per_ghz_v2", ">= 0"]),
        ("dynamic_w_per_ghz_v2", float("nan"), ["domains.cpu2", "dynamic_w_per_ghz_v2", "nan"]),
        ("governor", "warp", ["domains.cpu2.governor", "warp"]),
        ("start_max_hz", 5, ["domains.cpu2", "start_max_hz 5"]),
        ("railgate_delay_s", -1, ["domains.cpu2", "railgate_delay_s"]),
        ("rail", "VDD_X", ["domains.cpu2.rail", "VDD_X", "VDD_SOC"]),
    ],
)
def test_a_wrong_domain_is_refused_in_one_line(tmp_path, key, value, named):
    domains = changed()["domains"]
    domains["cpu2"] = {**domains["cpu2"], key: value}
    with pytest.raises(BoardError) as error:
        load(tmp_path, changed(domains=domains))
    text = str(error.value)
    assert "\n" not in text and "board.yaml" in text
    assert all(word in text for word in named), text


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("a: [", "not YAML"),
        ("- 1", "expected a table"),
        ("", "expected a table"),
        (changed(extra=1), "extra"),
        (changed(domains=None), "domains: expected"),
        (changed(domains={"fpga": changed()["domains"]["emc"]}), "domains.fpga"),
        (changed(thermal={**changed()["thermal"], "time_constant_s": 0}), "time_constant_s"),
        (changed(sensors={**changed()["sensors"], "supply_v": "5 V"}), "sensors.supply_v"),
        (changed(power={**changed()["power"], "total_rail": "VDD_SOC"}), "power.total_rail"),
        (changed(sensors={**changed()["sensors"], "conversion_s": 0}), "conversion_s"),
        (changed(guesses=["name"]), "guesses: not a key"),
        (changed(modes=3), "modes: expected a table"),
        (changed(modes={"A": {"cores": 2}}), "modes.A: Object missing required field `id`"),
        (changed(modes={"A": {"id": 0, "watts": 2}}), "modes.A"),
        (changed(modes={"A": {"id": -1}}), "id must be >= 0"),
        (changed(modes={"A": {"id": 0, "cores": 7}}), "modes.A.cores: 7 are more than the 6"),
        (changed(modes={"A": {"id": 0, "cores": 0}}), "cores must be at least 1"),
        (changed(modes={"A": {"id": 0, "caps_hz": {"dla": 5}}}), "modes.A.caps_hz.dla: neither a domain"),
        (changed(modes={"A": {"id": 0, "caps_hz": {"gpu": 5}}}), "5 is below the lowest clock 114750000"),
        (changed(modes={"A": {"id": 1}, "B": {"id": 1}}), "same id"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, raw, named):
    with pytest.raises(BoardError) as error:
        load(tmp_path, raw)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_unknown_board_and_missing_file_are_named(tmp_path):
    with pytest.raises(BoardError, match="'nano' is unknown; known: orin_nano, xavier_nx"):
        load_board("nano")
    with pytest.raises(BoardError, match="absent.yaml: No such file"):
        load_board(tmp_path / "absent.yaml")


def test_voltage_is_linear_between_points_and_flat_outside():
    cpu = MODEL.domains[0]
    assert voltage_v(cpu, 115.2e6) == voltage_v(cpu, 1190e6) == 0.70
    assert voltage_v(cpu, 1305e6) == pytest.approx(0.735)
    assert voltage_v(cpu, 3e9) == 0.95


@given(st.floats(0, 3e9))
def test_rounding_goes_to_the_nearest_entry_on_the_right_side(hz):
    table = BOARD.domains["gpu"].frequencies_hz
    up, down = ceil_frequency(table, hz), floor_frequency(table, hz)
    assert up in table and down in table
    assert up == min((f for f in table if f >= hz - 1000), default=table[-1])
    assert down == max((f for f in table if f <= hz + 1000), default=table[0])


# --- power -------------------------------------------------------------------------------------


def state(cpu_mhz: float, clusters: int, gpu_mhz: float, emc_mhz: float) -> dict[str, float]:
    cpus = {f"cpu{2 * k}": cpu_mhz * MHZ if k < clusters else 0.0 for k in range(3)}
    return {**cpus, "gpu": gpu_mhz * MHZ, "npu": 896.0 * MHZ, "emc": emc_mhz * MHZ}


# Readings of tegrastats on four boards, and what the published fit gives for them:
# clocks, busy cores, EMC utilisation, railgating, then the model's (total, VDD_CPU_GPU_CV, VDD_SOC) in W.
ROWS = {
    "D1": (state(1190, 3, 114.75, 1600), 0.30, 0.01, True, (3.36, 0.37, 1.09)),
    "D2": (state(1190, 3, 114.75, 204), 1.02, 0.02, True, (3.18, 0.67, 0.66)),
    "D3": (state(1420, 3, 1109.25, 1600), 2.51, 0.02, False, (6.42, 2.65, 1.10)),
    "D4": (state(1190, 1, 114.75, 1600), 0.06, 0.01, True, (3.05, 0.14, 1.09)),
}


@pytest.mark.parametrize("row", ROWS)
def test_model_gives_the_published_fit(row):
    frequencies, busy_cores, emc, railgated, (total, cgc, soc) = ROWS[row]
    clusters = [name for name in ("cpu0", "cpu2", "cpu4") if frequencies[name]]
    utilization = {name: busy_cores / (2 * len(clusters)) for name in clusters} | {"emc": emc}
    gpu = msgspec.structs.replace(BOARD.domains["gpu"], railgated=railgated)
    board = msgspec.structs.replace(BOARD, domains={**BOARD.domains, "gpu": gpu})
    power = predict_power(power_model(board), frequencies, utilization, FIT_TEMPERATURE_C)
    # The sheet rounds to 0.01 W; (1 + k) carries two roundings into the total.
    assert power.rails["VDD_CPU_GPU_CV"] == pytest.approx(cgc, abs=0.006)
    assert power.rails["VDD_SOC"] == pytest.approx(soc, abs=0.012)
    assert power.total_w == pytest.approx(total, abs=0.03)


# The same for the Orin Nano: (CPU0-3, CPU4-5, GPU, EMC in MHz), utilisation, the fit's (total, CGC, SOC).
# The decoder of O4 loads the GPU with 0.53 of a matrix product, the board file is for 0.70.
ORIN_ROWS = {
    "O1": ((729.6, 729.6, 306, 665.6), (0.0025, 0.0025, 0.0, 0.03), (3.47, 0.41, 1.17)),
    "O3": ((1510.4, 729.6, 306, 2133), (0.69 / 4, 0.33 / 2, 0.0, 0.01), (4.94, 1.22, 1.45)),
    "O4": ((729.6, 729.6, 911, 3199), (0.01, 0.01, 0.99 * 0.53 / 0.70, 0.99), (10.41, 3.69, 3.06)),
}


@pytest.mark.parametrize("row", ORIN_ROWS)
def test_orin_nano_gives_the_published_fit(row):
    clocks, shares, (total, cgc, soc) = ORIN_ROWS[row]
    frequencies = dict(zip(ORIN.domains, (mhz * MHZ for mhz in clocks), strict=True))
    utilization = dict(zip(ORIN.domains, shares, strict=True))
    power = predict_power(power_model(ORIN), frequencies, utilization, FIT_TEMPERATURE_C)
    assert power.rails["VDD_CPU_GPU_CV"] == pytest.approx(cgc, abs=0.06)
    assert power.rails["VDD_SOC"] == pytest.approx(soc, abs=0.015)
    assert power.total_w == pytest.approx(total, abs=0.06)


@pytest.mark.parametrize(
    ("frequencies", "total_w"),
    [
        (state(1420.8, 3, 1109.25, 1600), 16.5),
        (state(1190.4, 2, 803.25, 1600), 9.7),
        (state(1497.6, 1, 803.25, 1600), 9.3),
    ],
)
def test_full_load_of_the_nvpmodel_modes(frequencies, total_w):
    # The sheet does not say which memory utilisation these totals assume; half is the middle.
    utilization = {"cpu0": 1.0, "cpu2": 1.0, "cpu4": 1.0, "gpu": 1.0, "emc": 0.5}
    power = predict_power(MODEL, frequencies, utilization, FIT_TEMPERATURE_C)
    assert power.total_w == pytest.approx(total_w, abs=0.45)


fractions = st.floats(0, 1)
any_state = st.fixed_dictionaries(
    {name: st.sampled_from((0, *domain.frequencies_hz)) for name, domain in BOARD.domains.items()}
)
any_utilization = st.fixed_dictionaries(dict.fromkeys(BOARD.domains, fractions))


@given(any_state, any_utilization, st.floats(-20, 110))
def test_total_is_a_constant_plus_one_term_per_domain(frequencies, utilization, temperature_c):
    total_w = predict_power(MODEL, frequencies, utilization, temperature_c).total_w
    terms = constant_power_w(MODEL, temperature_c) + sum(
        domain_power(MODEL, name, frequencies[name], temperature_c).at(utilization[name])
        for name in BOARD.domains
    )
    assert terms == pytest.approx(total_w, rel=1e-12)


@given(st.sampled_from(("cpu0", "gpu", "npu", "emc")), fractions, st.floats(0, 100))
def test_more_work_or_a_higher_clock_never_takes_less(name, utilization, temperature_c):
    table = BOARD.domains[name].frequencies_hz
    powers = [domain_power(MODEL, name, hz, temperature_c) for hz in table]
    busy = [power.at(utilization) for power in powers]
    assert busy == sorted(busy)
    assert all(p.unused_w <= p.idle_w <= p.busy_w for p in powers)
    rounding = 1e-12  # W
    assert all(
        p.idle_w - rounding <= p.at(utilization) <= p.busy_w + rounding for p in powers if utilization > 0
    )


def test_leakage_grows_with_temperature_and_an_idle_gpu_is_gated():
    cold, hot = (predict_power(MODEL, state(1190, 3, 1109, 1600), {}, t).rails for t in (45.0, 85.0))
    assert cold["VDD_CPU_GPU_CV"] == pytest.approx(0.05 + 3 * 0.065)
    assert hot["VDD_CPU_GPU_CV"] / cold["VDD_CPU_GPU_CV"] == pytest.approx(1.822, abs=1e-3)  # exp(0.6)
    assert hot["VDD_SOC"] == cold["VDD_SOC"]
    assert domain_power(MODEL, "gpu", 1109.25e6, 45.0).idle_w == pytest.approx(1.34 * 0.9)


@pytest.mark.parametrize(
    ("domain", "frequency_hz"), [("fpga", 1.0), ("gpu", float("nan")), ("gpu", -1.0), ("gpu", float("inf"))]
)
def test_wrong_arguments_are_named(domain, frequency_hz):
    with pytest.raises(ValueError, match=domain):
        domain_power(MODEL, domain, frequency_hz, 45.0)
