"""Discovery on trees of kernel files: six of real boards where they are there, two of the project's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sysfs_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.discovery_clocks import limits_hz
from dynofa_ros.device.linux.inventory import Inventory
from dynofa_ros.device.linux.sysfs import SysFiles, reason_of
from dynofa_ros.messages import FrequencyBand

CPU = "/sys/devices/system/cpu"
POLICY = f"{CPU}/cpufreq/policy0"


def tree(name: str, root: Path, with_links: bool = True) -> SysFiles:
    path = sysfs_tree.TREES / f"{name}.yaml"
    if not path.is_file():
        shared = sysfs_tree.shared_tree(name)
        if shared is None:
            pytest.skip("the trees of real boards are not here")
        path = shared
    return SysFiles(sysfs_tree.build(path, root, with_links))


def names(inventory: Inventory) -> tuple[list[str], list[str], list[str]]:
    domains, rails, zones = inventory.domains, inventory.rails, inventory.zones
    return [d.name for d in domains], [r.name for r in rails], [z.name for z in zones]


def limits(files: SysFiles, inventory: Inventory) -> dict[str, tuple[float, float]]:
    return {d.name: tuple((hz or 0) / 1e6 for hz in limits_hz(files, d)) for d in inventory.domains}


JP4_ZONES = ["CPU-therm", "GPU-therm", "AUX-therm", "AO-therm", "thermal-fan-est"]
NX_RAILS = ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
ORIN_ZONES = [f"{name}-thermal" for name in "cpu gpu cv0 cv1 cv2 soc0 soc1 soc2 tj".split()]
RK_ZONES = [f"{name}-thermal" for name in "soc bigcore0 bigcore1 littlecore center gpu npu".split()]
NX_LIMITS = {f"cpu{n}": (1190.4, 1420.8) for n in (0, 2, 4)} | {"gpu": (114.75, 1109.25)}
BOARDS = {
    "xavier_nx_jetpack4": ("Xavier NX", NX_LIMITS | {"emc": (204, 1600)}, NX_RAILS, JP4_ZONES),
    "xavier_nx_jetpack5": ("Xavier NX", NX_LIMITS | {"emc": (204, 1600)}, NX_RAILS, JP4_ZONES),
    "orin_nano_jetpack6": (
        "Orin Nano",
        {"cpu0": (729.6, 1510.4), "cpu4": (729.6, 1510.4), "gpu": (306, 624.75), "emc": (204, 2133)},
        NX_RAILS,
        ORIN_ZONES,
    ),
    "raspberry_pi_5": ("Raspberry Pi 5", {"cpu0": (1500, 2400)}, [], ["cpu-thermal"]),
    "intel_laptop": (
        "",
        {f"cpu{n}": (400, 3400) for n in range(8)},
        ["package-0", "core", "uncore", "psys"],
        ["acpitz", "x86_pkg_temp"],
    ),
    "rk3588_cm3588": (
        "CM3588",
        {
            "cpu0": (408, 1800),
            "cpu4": (408, 2400),
            "cpu6": (408, 2400),
            "gpu": (300, 1000),
            "npu": (300, 1000),
            "emc": (528, 1848),
        },
        [],
        RK_ZONES,
    ),
}
NO_TABLE = {"intel_laptop": "intel_pstate", "rk3588_cm3588": "available_frequencies"}


@pytest.mark.parametrize("with_links", [True, False], ids=["links", "no_links"])
@pytest.mark.parametrize("name", BOARDS)
def test_real_boards(name: str, with_links: bool, tmp_path: Path) -> None:
    files = tree(name, tmp_path, with_links)
    found = discover(files)
    board, wanted, rails, zones = BOARDS[name]
    assert board in found.board and bool(board) == bool(found.board)
    assert names(found)[1:] == (rails, zones)
    assert limits(files, found) == wanted
    assert list(limits(files, found)) == list(wanted)  # in this order
    assert [r.name for r in found.rails if r.is_total] == [n for n in rails if n in ("VDD_IN", "package-0")]
    assert all(d.readable and d.writable for d in found.domains)
    for domain in found.domains:
        table = domain.frequencies_hz
        assert list(table) == sorted(table)
        if table:
            assert (table[0], table[-1]) == (domain.hardware_min_hz, domain.hardware_max_hz)
        else:
            assert domain.name == "emc" or NO_TABLE[name] in domain.reason
            assert "no frequency table" in domain.reason
    missing = {text.split(":")[0] for text in found.unsupported}
    assert {"gpu", "npu", "emc"} - set(wanted) <= missing
    assert not missing & set(wanted)


def test_own_agx_xavier(tmp_path: Path) -> None:
    files = tree("agx_xavier_jetpack5", tmp_path)
    found = discover(files)
    domains, rails, zones = names(found)
    assert (found.board, domains) == ("Jetson-AGX", ["cpu0", "cpu2", "cpu4", "gpu"])
    assert zones == ["GPU-therm", "CPU-therm", "Tboard_tegra", "AO-therm"]
    assert rails == ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]
    assert found.total_rails == tuple(rails) and not any(rail.is_total for rail in found.rails)
    # A devfreq limit of 0 is none; a limit may lie between two clocks.
    assert limits(files, found)["gpu"] == (114.75, 900) and limits(files, found)["cpu2"] == (1190.4, 1450)
    gpu = found.domains[3]
    assert gpu.directory == "/sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu"
    assert gpu.load_path == "/sys/devices/platform/bus@0/17000000.gpu/load"
    assert [d.writable for d in found.domains] == [False, True, True, True]
    assert "policy0/scaling_max_freq: mode 0444" in found.domains[0].reason
    assert found.processors == ("cpu", "gpu", "npu")
    mode = found.power_mode
    assert mode is not None and (mode.number, mode.name) == (3, "MODE_30W_6CORE")
    assert mode.cap("cpu4") == FrequencyBand("cpu4", 1190400000, 1450000000)
    assert mode.cap("gpu") == FrequencyBand("gpu", 0, 900000000) and mode.cap("emc") == FrequencyBand(
        "emc", 0, 0
    )
    text = " | ".join(found.unsupported)
    assert "npu: no devfreq" in text and "15340000.vic" in text and "PMIC-Die" in text
    assert any("off: 6, 7" in note for note in found.notes)
    assert {sign.kind for sign in found.throttle_signs} == {"thermal", "power"}


def test_own_desktop(tmp_path: Path) -> None:
    files = tree("amd_desktop", tmp_path)
    found = discover(files)
    domains, rails, zones = names(found)
    assert (found.board, domains) == ("Example Systems Desktop 7", ["cpu0", "cpu1", "cpu2", "cpu10"])
    assert (rails, zones) == (["PPT", "ina226", "package-0", "core"], ["k10temp Tctl"])
    assert [d.readable for d in found.domains] == [True, True, True, False]
    assert not any(d.writable or d.frequencies_hz for d in found.domains)
    assert [r.readable for r in found.rails] == [True, False, False, True]
    assert any("this process may use CPUs 0-1 only" in note for note in found.notes)
    assert any("cpuset holds CPUs 0-3" in note for note in found.notes)


def test_rails_by_label_on_a_chip_without_a_name(tmp_path: Path) -> None:
    chip = "/sys/class/hwmon/hwmon1"
    sysfs_tree.put(tmp_path, f"{chip}/name", "ina3221")
    for n, label in enumerate(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 1):
        for file, text in ((f"in{n}_label", label), (f"in{n}_input", "5000"), (f"curr{n}_input", "100")):
            sysfs_tree.put(tmp_path, f"{chip}/{file}", text)
    found = discover(SysFiles(tmp_path))
    assert len(found.rails) == 3 and len(found.total_rails) == 3
    (tmp_path / f"{chip}/name"[1:]).unlink()  # the labels still tell; in4 is a shunt voltage, not a rail
    for file in ("in4_input", "curr4_input"):
        sysfs_tree.put(tmp_path, f"{chip}/{file}", "5")
    assert len(discover(SysFiles(tmp_path)).rails) == 3
    sysfs_tree.put(tmp_path, f"{chip}/name", "ina3221")
    sysfs_tree.put(tmp_path, f"{chip}/in1_label", "NC")
    sysfs_tree.put(tmp_path, f"{chip}/in2_enable", "0")
    found = discover(SysFiles(tmp_path))
    assert names(found)[1] == ["VIN_SYS_5V0"]
    text = " | ".join(found.unsupported)
    assert "not connected" in text and "power VDD_CPU_CV: the channel is switched off" in text


def test_rapl_of_two_packages(tmp_path: Path) -> None:
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:1:0", "dram"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        sysfs_tree.put(tmp_path, f"/sys/class/powercap/{zone}/name", name)
        sysfs_tree.put(tmp_path, f"/sys/class/powercap/{zone}/energy_uj", "1")
    found = discover(SysFiles(tmp_path))
    assert names(found)[1] == ["package-0", "package-0/dram", "package-1", "package-1/dram"]
    assert found.total_rails == ("package-0", "package-1", "package-0/dram", "package-1/dram")


@pytest.mark.parametrize(
    "folder, node, compatible, name",
    [
        ("devfreq0", "gp10b", "", "gpu"),
        ("ffa30000.abc", "", "rockchip,rk3588-mali\\0arm,mali-valhall-csf", "gpu"),
        ("gpu-gpc-0", "", "", "gpu"),
        ("gpu-nvd-0", "", "", None),
        ("17000000.gpu", "vic", "nvidia,tegra194-vic", None),  # the node counts, not the folder
        ("fdab0000.x", "npu@fdab0000", "", "npu"),
        ("bwmgr", "", "", "emc"),
        ("6000c800.actmon", "actmon", "nvidia,tegra210-actmon", "emc"),
    ],
)
def test_kind_of_a_devfreq_device(
    folder: str, node: str, compatible: str, name: str | None, tmp_path: Path
) -> None:
    device = f"/sys/devices/platform/{folder}"
    for file, text in (("of_node/name", node), ("of_node/compatible", compatible)):
        if text:
            sysfs_tree.put(tmp_path, f"{device}/{file}", text)
    sysfs_tree.put(tmp_path, f"{device}/devfreq/{folder}/cur_freq", "300000000")
    found = discover(SysFiles(tmp_path))
    assert [domain.name for domain in found.domains] == ([name] if name else [])
    assert any(text.startswith(folder) for text in found.unsupported) == (name is None)


def test_locked_memory_clock_and_pinned_clocks(tmp_path: Path) -> None:
    files = tree("agx_xavier_jetpack5", tmp_path)
    assert not discover(files).clocks_pinned
    emc = "/sys/kernel/debug/bpmp/debug/clk/emc"
    for name, value in (("rate", 2133000000), ("min_rate", 204000000), ("max_rate", 2133000000)):
        sysfs_tree.put(tmp_path, f"{emc}/{name}", str(value))
    sysfs_tree.put(tmp_path, f"{emc}/mrq_rate_locked", "1")
    for policy in (0, 2, 4):
        sysfs_tree.put(tmp_path, f"{CPU}/cpufreq/policy{policy}/scaling_min_freq", "1450000")
    gpu = "/sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu"
    sysfs_tree.put(tmp_path, f"{gpu}/min_freq", "900000000")
    found = discover(files)
    assert found.clocks_pinned and any("jetson_clocks" in note for note in found.notes)
    assert limits(files, found)["emc"] == (2133, 2133)


def test_power_mode_of_an_old_file(tmp_path: Path) -> None:
    """TX2 names the paths in the modes themselves."""
    files = tree("agx_xavier_jetpack5", tmp_path)
    text = (
        f"< POWER_MODEL ID=1 NAME=MAXQ >\n{CPU}/cpu1/online 0\n"
        f"{CPU}/cpu0/cpufreq/scaling_max_freq 1200000\n{CPU}/cpu0/cpufreq/scaling_min_freq 0\n"
        "< PM_CONFIG DEFAULT=1 >"
    )
    sysfs_tree.put(tmp_path, "/etc/nvpmodel.conf", text)
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    mode = discover(files).power_mode
    assert mode is not None and mode.name == "MAXQ" and mode.caps == (FrequencyBand("cpu0", 0, 1200000000),)


def test_offline_policy_and_powered_off_gpu_keep_their_place(tmp_path: Path) -> None:
    files = tree("agx_xavier_jetpack5", tmp_path)
    sysfs_tree.put(tmp_path, f"{CPU}/cpufreq/policy2/scaling_cur_freq", "<unknown>")
    (tmp_path / f"{CPU}/cpufreq/policy4/scaling_min_freq"[1:]).unlink()
    found = {domain.name: domain for domain in discover(files).domains}
    assert not found["cpu2"].readable and "<unknown>" in found["cpu2"].reason
    assert not found["cpu4"].writable and "scaling_min_freq: no such file" in found["cpu4"].reason


def test_links_stay_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    sysfs_tree.put(root, "/sys/a", "inside")
    for link, target in (("abs", "/sys/a"), ("up", "../../../../sys/a"), ("own", f"{root}/sys/a")):
        (root / "sys" / link).symlink_to(target)
        assert SysFiles(root).read(f"/sys/{link}") == "inside"
    (root / "sys/one").symlink_to("two")
    (root / "sys/two").symlink_to("one")
    files = SysFiles(root)
    assert files.glob("/sys/*") == ["/sys/a", "/sys/abs", "/sys/own", "/sys/up"]
    with pytest.raises(OSError, match="symbolic links"):
        files.read("/sys/one")


def test_write_replaces_the_content_and_respects_the_mode(tmp_path: Path) -> None:
    files = SysFiles(tmp_path)
    sysfs_tree.put(tmp_path, "/sys/x", "1907200")
    files.write("/sys/x", "998400")
    assert (tmp_path / "sys/x").read_text() == "998400\n" and files.read_int("/sys/x") == 998400
    (tmp_path / "sys/x").chmod(0o444)
    assert files.can_write("/sys/x") == (False, "/sys/x: mode 0444 allows it to nobody")
    with pytest.raises(PermissionError):
        files.write("/sys/x", "1")
    with pytest.raises(FileNotFoundError) as raised:
        files.write("/sys/y", "1")
    assert reason_of(raised.value, "/sys/y") == "/sys/y: no such file" and not files.exists("/sys/y")
    sysfs_tree.put(tmp_path, "/sys/x2", "32760 ma")
    with pytest.raises(ValueError, match="/sys/x2: must hold a whole number, holds '32760 ma'"):
        files.read_int("/sys/x2")


FAULTS = st.lists(st.tuples(st.integers(0, 500), st.sampled_from(["gone", "garbage", "closed"])), max_size=60)


@settings(max_examples=15, deadline=None)
@given(faults=FAULTS, garbage=st.binary(max_size=40))
@pytest.mark.parametrize("name", ["agx_xavier_jetpack5", "amd_desktop"])
def test_no_fault_breaks_discovery(
    name: str, faults: list[tuple[int, str]], garbage: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    files = tree(name, root)
    whole = discover(files)
    sysfs_tree.break_files(root, faults, garbage)
    found = discover(files)
    assert set(d.name for d in found.domains) <= set(d.name for d in whole.domains) | {"gpu", "emc"}
    for domain in found.domains:
        assert all(hz > 0 for hz in domain.frequencies_hz)
        assert domain.readable or domain.reason
        assert domain.writable or domain.reason
        assert all(hz is None or hz >= 0 for hz in limits_hz(files, domain))
    assert all(rail.readable or rail.reason for rail in found.rails)
    assert os.listdir(root)
