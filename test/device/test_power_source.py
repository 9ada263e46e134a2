"""Which power model holds on a computer, matched description or power file, and that the manager has it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import sysfs_tree
import yaml
from fake_kernel import make_board, put
from power_law import predict_power

from dynofa_ros.device.board import (
    BoardError,
    load_board,
    load_power_model,
    matching_board,
    power_model,
)
from dynofa_ros.device.linux.discovery import identities
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.device.open import Opened, open_device
from dynofa_ros.device.power_model import NO_MODEL, differences
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Input, Monitors
from dynofa_ros.messages import (
    DeviceCapabilities,
    DeviceTelemetry,
    DomainCapability,
    DomainTelemetry,
    PowerModel,
)
from dynofa_ros.paths import share_file

NX = "NVIDIA Jetson Xavier NX Developer Kit"
SHIPPED = power_model(load_board("xavier_nx"))
POWER_SECTIONS = ("name", "power", "rails")
POWER_KEYS = {
    *("rail", "frequencies_hz", "cores", "voltages", "dynamic_w_per_ghz_v2", "leakage_w", "clock_w_per_ghz"),
    *("busy_w", "idle_w", "railgated"),
}


pytestmark = pytest.mark.usefixtures("state")


def computer(root: Path, **files: str) -> Path:
    """A small Jetson whose own names are the given ones."""
    make_board(root)
    for name, text in files.items():
        folder = "/proc/device-tree" if name in ("model", "compatible") else "/sys/class/dmi/id"
        put(root, f"{folder}/{name}", text)
    return root


def power_file(folder: Path, **changed: object) -> Path:
    """The power sections of the Xavier NX as a file of their own."""
    raw = yaml.safe_load(share_file("config", "boards", "xavier_nx.yaml").read_text())
    sections = {key: raw[key] for key in POWER_SECTIONS}
    sections["domains"] = {
        name: {key: value for key, value in domain.items() if key in POWER_KEYS}
        for name, domain in raw["domains"].items()
    }
    path = folder / "nx_power.yaml"
    path.write_text(yaml.safe_dump(sections | changed, sort_keys=False))
    return path


def manager_of(opened: Opened) -> RuntimeManager:
    """A manager that has heard what the device publishes."""
    known = opened.device.capabilities()
    domains = tuple(
        DomainCapability(d.domain, d.frequencies_hz, can_write=d.can_write) for d in known.domains
    )
    messages = [DeviceCapabilities(known.board, domains, known.processors)]
    messages += [opened.power_model] if opened.power_model else []
    manager = RuntimeManager()
    inputs = tuple(Input("t", n, message) for n, message in enumerate(messages))
    manager.step(1_000_000_000, Monitors(inputs))
    return manager


# --- what a computer calls itself ------------------------------------------------------------------------


def test_a_computer_is_matched_by_any_of_its_names(tmp_path: Path) -> None:
    assert matching_board([NX]).name == "xavier_nx"  # type: ignore[union-attr]
    assert matching_board(["x", NX.upper(), "nvidia,p3767-0005"]).name == "xavier_nx"  # type: ignore[union-attr]
    assert matching_board(["nvidia,p3767-0005", NX]).name == "orin_nano"  # type: ignore[union-attr]
    assert matching_board(["nvidia,tegra194", "Jetson-AGX"]) is None and matching_board([]) is None


def test_identities_of_a_device_tree_and_of_a_dmi(tmp_path: Path) -> None:
    compatible = "acme,carrier-7+p3668-0000\0nvidia,tegra194"
    files = SysFiles(computer(tmp_path / "a", model=NX, compatible=compatible, product_name="Desktop 7"))
    assert identities(files) == (
        *("acme,carrier-7+p3668-0000", "acme,p3668-0000", "nvidia,tegra194"),
        *(NX, "Desktop 7"),
    )
    assert identities(SysFiles(computer(tmp_path / "b"))) == ()


def test_every_board_has_names_of_its_own() -> None:
    boards = [load_board(name) for name in ("xavier_nx", "orin_nano")]
    names = [name.casefold() for board in boards for name in board.compatible]
    assert all(board.compatible for board in boards) and len(set(names)) == len(names)
    for board in boards:
        assert {matching_board([name]).name for name in board.compatible} == {board.name}  # type: ignore[union-attr]


# --- from the device to the manager ----------------------------------------------------------------------


@pytest.mark.parametrize("names", [{"model": NX}, {"compatible": "nvidia,p9999-0000+p3668-0001"}])
def test_nvidias_name_of_a_xavier_nx_gives_the_manager_the_shipped_model(
    tmp_path: Path, names: dict[str, str]
) -> None:
    opened = open_device("sysfs", "", computer(tmp_path / "root", **names))
    known = opened.device.capabilities()
    assert known.description == "xavier_nx" and known.board == next(iter(names.values()))
    assert opened.power_model == SHIPPED and SHIPPED.origin.endswith("xavier_nx.yaml")
    state = manager_of(opened).state
    assert state.power_model is not None and state.power_model.model == SHIPPED
    assert state.thermal.resistance_c_per_w == 2.5
    assert "npu, emc count as switched off" in state.power_model_remark, "this tree does not show them"


@pytest.mark.parametrize("tree", ["xavier_nx_jetpack4", "xavier_nx_jetpack5", "orin_nano_jetpack6"])
def test_trees_of_real_boards_are_matched(tree: str, tmp_path: Path) -> None:
    source = sysfs_tree.shared_tree(tree)
    if source is None:
        pytest.skip("the trees of real boards lie outside the package")
    opened = open_device("sysfs", "", sysfs_tree.build(source, tmp_path / "root"))
    description = tree.rsplit("_", 1)[0]
    assert opened.device.capabilities().description == description
    state = manager_of(opened).state
    assert state.power_model is not None and state.power_model.model.board == description


def test_another_computer_has_no_power_model(tmp_path: Path) -> None:
    opened = open_device("sysfs", "", computer(tmp_path / "root", product_name="Desktop 7"))
    assert opened.power_model is None and opened.device.capabilities().description == ""
    assert manager_of(opened).state.power_model is None


def test_the_simulated_board_describes_itself() -> None:
    opened = open_device("simulated", "xavier_nx")
    assert opened.power_model == SHIPPED and opened.device.capabilities().description == "xavier_nx"


# --- clocks that differ ----------------------------------------------------------------------------------


def heard(model: PowerModel, *domains: str) -> RuntimeManager:
    table = (500_000_000, 1_000_000_000)
    known = DeviceCapabilities("b", tuple(DomainCapability(name, table) for name in domains), ("cpu",))
    manager = RuntimeManager()
    manager.step(1_000_000_000, Monitors((Input("t", 1, known), Input("t", 2, model))))
    return manager


def test_differences_of_clocks_are_named() -> None:
    assert differences(SHIPPED, ("cpu0", "gpu1", "emc")) == (("gpu1",), ("cpu2", "cpu4", "gpu", "npu"))


def test_a_model_with_terms_in_excess_is_used_and_says_so() -> None:
    state = heard(SHIPPED, "cpu0", "cpu2", "cpu4", "gpu").state
    assert state.power_model is not None
    assert "npu, emc count as switched off" in state.power_model_remark
    clocks = {"cpu0": 1.19e9, "cpu2": 1.19e9, "cpu4": 1.19e9, "gpu": 510e6}
    readings = tuple(DomainTelemetry(name, hz, 50.0) for name, hz in clocks.items())
    expected = predict_power(SHIPPED, {**clocks, "npu": 0.0, "emc": 0.0}, dict.fromkeys(clocks, 0.5), 46.0)
    measured = state.power_model.total_w(DeviceTelemetry(8.0, domains=readings), 46.0)
    assert measured == pytest.approx(expected.total_w, rel=1e-12)


def test_a_model_without_a_term_for_a_processor_is_not_used_and_says_so() -> None:
    state = heard(SHIPPED, "cpu0", "cpu6", "gpu").state
    assert state.power_model is None and "no term for cpu6" in state.power_model_remark
    without_emc = replace(SHIPPED, domains=tuple(d for d in SHIPPED.domains if d.domain != "emc"))
    state = heard(without_emc, "cpu0", "cpu2", "cpu4", "gpu", "npu", "emc").state
    assert state.power_model is not None and "no term for emc" in state.power_model_remark


def test_a_clock_that_could_never_be_read_counts_as_off() -> None:
    tables = heard(SHIPPED, *(d.domain for d in SHIPPED.domains)).state.power_model
    assert tables is not None
    clocks = {d.domain: d.top_hz for d in SHIPPED.domains} | {"emc": math.nan}
    readings = tuple(DomainTelemetry(name, hz, 0.0) for name, hz in clocks.items())
    without = tables.total_w(DeviceTelemetry(8.0, domains=readings), 46.0)
    assert math.isfinite(without)
    known = tuple(replace(r, frequency_hz=1.6e9) if r.domain == "emc" else r for r in readings)
    assert tables.total_w(DeviceTelemetry(8.0, domains=known), 46.0) > without + 0.1
    assert math.isnan(tables.total_w(DeviceTelemetry(8.0, domains=readings), 46.0)), "it is missing now"


def test_a_device_without_a_model_takes_that_of_an_earlier_one_away() -> None:
    manager = heard(SHIPPED, *(d.domain for d in SHIPPED.domains))
    assert manager.state.power_model is not None
    decision = manager.step(2_000_000_000, Monitors((Input("t", 3, NO_MODEL),)))
    assert manager.state.power_model is None
    assert decision.trigger == "library"


@pytest.mark.parametrize(
    "broken",
    [
        replace(SHIPPED, base_w=math.nan),
        replace(SHIPPED, rails=SHIPPED.rails[1:]),
        replace(SHIPPED, domains=(replace(SHIPPED.domains[0], top_hz=0.0),)),
        replace(SHIPPED, domains=(replace(SHIPPED.domains[0], voltage_v=()),)),
        replace(SHIPPED, domains=(replace(SHIPPED.domains[0], busy_w=-1.0),)),
    ],
)
def test_a_wrong_model_is_refused(broken: PowerModel) -> None:
    state = heard(broken, "cpu0").state
    assert state.power_model is None and state.refusals.counts["power_model"] == 1
    assert "power model xavier_nx" in state.refusals.last


# --- power files -----------------------------------------------------------------------------------------


def test_a_power_file_replaces_the_description(tmp_path: Path) -> None:
    path = power_file(tmp_path, power={**changed_power(), "base_w": 2.5})
    for opened in (
        open_device("sysfs", "", computer(tmp_path / "root", model=NX), power_file=path),
        open_device("simulated", "orin_nano", power_file=path),
    ):
        model = opened.power_model
        assert model is not None and (model.base_w, model.origin) == (2.5, str(path))
        assert model.domains == SHIPPED.domains and math.isnan(model.resistance_c_per_w)
    assert opened.device.capabilities().description == "orin_nano"


def changed_power() -> dict[str, object]:
    board = load_board("xavier_nx")
    return {name: getattr(board.power, name) for name in board.power.__struct_fields__}


def test_a_whole_description_is_a_power_file_too() -> None:
    path = share_file("config", "boards", "xavier_nx.yaml")
    assert load_power_model(path) == SHIPPED == load_power_model("xavier_nx")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"power": 3}, "power: Expected `object`"),
        ({"extra": 1}, "extra"),
        ({"domains": {"gpu": {"rail": "VDD_SOC"}}}, "domains.gpu: Object missing required field"),
        (
            {"domains": {"gpu": {"rail": "VDD_X", "frequencies_hz": [1]}}},
            "domains.gpu.rail: 'VDD_X' is none of",
        ),
        ({"thermal": {"resistance_c_per_w": 0, "time_constant_s": 9}}, "thermal: resistance_c_per_w must be"),
        ({"origin": "here"}, "origin: not a key"),
        ({"sensors": {}}, "governor"),  # a whole board then
    ],
)
def test_a_wrong_power_file_is_refused_in_one_line(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    path = power_file(tmp_path, **changed)
    with pytest.raises(BoardError) as error:
        open_device("simulated", "xavier_nx", power_file=path)
    assert str(path) in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_a_missing_power_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="absent.yaml: No such file"):
        open_device("simulated", "xavier_nx", power_file=tmp_path / "absent.yaml")
