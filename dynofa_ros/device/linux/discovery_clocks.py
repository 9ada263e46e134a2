"""Discovery of clock domains: cpufreq policies, devfreq devices by what they are, Tegra memory clock."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import replace

from dynofa_ros.device.linux.inventory import ClockDomain
from dynofa_ros.device.linux.sysfs import CURES, PERMISSION_CURE, TRANSIENT, SysFiles, reason_of

CPU = "/sys/devices/system/cpu"
DEBUG = "/sys/kernel/debug"
BPMP_EMC = f"{DEBUG}/bpmp/debug/clk/emc"
NANO_EMC = f"{DEBUG}/clk/override.emc"
EMC_CAP = "/sys/kernel/nvpmodel_emc_cap/emc_iso_cap"
EMC_LOADS = (
    f"{DEBUG}/cactmon/mc_all",
    f"{DEBUG}/bpmp/debug/actmon/mc_all_avg_activity",
    "/sys/kernel/actmon_avg_activity/mc_all",
)
NPU_LOAD = f"{DEBUG}/rknpu/load"
DEVFREQ_FOLDERS = (
    "/sys/class/devfreq/*",
    "/sys/devices/*/devfreq/*",
    "/sys/devices/platform/*/devfreq/*",
    "/sys/devices/platform/*/*/devfreq/*",
    "/sys/devices/*/devfreq_dev",
    "/sys/devices/platform/*/devfreq_dev",
    "/sys/devices/platform/*/*/devfreq_dev",
)
# Names of device-tree nodes, and parts of `compatible`, of each kind of device.
NODE_KINDS = {
    **dict.fromkeys(("gpu", "gv11b", "gp10b", "ga10b", "gb10b", "gm20b", "gk20a", "mali", "kgsl-3d0"), "gpu"),
    "npu": "npu",
    **dict.fromkeys(
        ("dmc", "emc", "bwmgr", "actmon", "memory-controller", "external-memory-controller"), "emc"
    ),
}
COMPATIBLE_KINDS = (
    (re.compile(r"nvidia,g[a-z]\d{2}[a-z]\b|mali|adreno|kgsl-3d|v3d|vivante,gc|img,.*(gpu|rogue)"), "gpu"),
    (re.compile(r"npu"), "npu"),
    (re.compile(r"[-,](dmc|emc|bwmgr|ddrc|actmon)\b"), "emc"),
)
TURBO_STEP_HZ = 1_000_000
MISSING = {"gpu": "no devfreq device of a GPU", "npu": "no devfreq device of an NPU"}


def find_domains(files: SysFiles) -> tuple[tuple[ClockDomain, ...], tuple[str, ...]]:
    """Clock domains (CPU by policy, then gpu, npu, emc) and what is missing, with the reason."""
    cpus = _cpu_domains(files)
    others, strangers = _devfreq_domains(files)
    if not any(domain.name == "emc" for domain in others):
        others += _tegra_emc(files)
    missing = [] if cpus else [f"cpu clocks: no cpufreq policy in {CPU}/cpufreq"]
    kinds = {domain.name for domain in others}
    missing += [f"{kind}: {why}" for kind, why in MISSING.items() if kind not in kinds]
    if "emc" not in kinds:
        missing.append(f"emc: {_why_no_emc(files)}")
    missing += [f"{name}: a devfreq device that is no GPU, NPU or memory, left alone" for name in strangers]
    return (*cpus, *others), tuple(missing)


def limits_hz(files: SysFiles, domain: ClockDomain) -> tuple[int | None, int | None]:
    """Limits in force now, Hz; None where they cannot be read.

    A devfreq limit of 0 means the end of the hardware's range. A locked memory clock has min == max.
    """
    low = _hz(files, domain.min_path, domain.unit_hz)
    high = _hz(files, domain.max_path, domain.unit_hz)
    if domain.lock_path:
        if files.number(domain.lock_path) == 1:
            rate = _hz(files, domain.current_path, domain.unit_hz)
            return rate, rate
        cap = files.number(EMC_CAP)
        high = min(high, cap) if high and cap else high
    return low or domain.hardware_min_hz, high or domain.hardware_max_hz


def current_hz(files: SysFiles, domain: ClockDomain) -> int | None:
    """The clock now, Hz; None if it cannot be read or reads 0 (powered off, or unknown near idle)."""
    return _hz(files, domain.current_path, domain.unit_hz) or None


def cpu_numbers(text: str) -> tuple[int, ...]:
    """CPU numbers of a list like ``0-3,6`` or ``0 1``; empty if it is something else."""
    numbers: list[int] = []
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if not match:
            return ()
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


def cpus_are_off(files: SysFiles, domain: ClockDomain) -> bool:
    """Whether no CPU of a clock is online; the kernel then shows neither its table nor its CPUs."""
    if domain.kind != "cpufreq":
        return False
    online = cpu_numbers(files.text(f"{CPU}/online"))
    return bool(online) and not set(online) & set(domain.cpus or (int(domain.name.removeprefix("cpu")),))


def _cpu_domains(files: SysFiles) -> list[ClockDomain]:
    found: dict[str, str] = {}
    for path in files.glob(f"{CPU}/cpufreq/policy[0-9]*") + files.glob(f"{CPU}/cpu[0-9]*/cpufreq"):
        number = re.search(r"(?:policy|/cpu)([0-9]+)(?:/cpufreq)?$", path)
        if number:
            found.setdefault(files.resolve(path), f"cpu{number[1]}")
    return [_cpu_domain(files, directory, name) for directory, name in found.items()]


def _cpu_domain(files: SysFiles, directory: str, name: str) -> ClockDomain:
    driver = files.text(f"{directory}/scaling_driver")
    boosts = files.number(f"{CPU}/cpufreq/boost") == 1
    tables = [f"{directory}/scaling_available_frequencies"]
    if boosts:
        tables.append(f"{directory}/scaling_boost_frequencies")
    table = _table(files, tables, 1000)
    step_hz = table[-1] - table[-2] if len(table) > 1 else 0
    current = f"{directory}/scaling_cur_freq"
    if not files.exists(current):
        current = f"{directory}/cpuinfo_cur_freq"
    cpus = cpu_numbers(files.text(f"{directory}/related_cpus")) or cpu_numbers(
        files.text(f"{directory}/affected_cpus")
    )
    low = _hz(files, f"{directory}/cpuinfo_min_freq", 1000) or (table[0] if table else None)
    high = _hz(files, f"{directory}/cpuinfo_max_freq", 1000) or (table[-1] if table else None)
    domain = ClockDomain(
        name=name,
        kind="cpufreq",
        directory=directory,
        frequencies_hz=table,
        unit_hz=1000,
        cpus=cpus,
        min_path=f"{directory}/scaling_min_freq",
        max_path=f"{directory}/scaling_max_freq",
        current_path=current,
        governor_path=_if_there(files, f"{directory}/scaling_governor"),
        hardware_min_hz=low,
        hardware_max_hz=high,
        # acpi-cpufreq shows the nominal clock, or on Intel that + 1 MHz, for whatever turbo reaches.
        turbo=step_hz == TURBO_STEP_HZ or (boosts and driver == "acpi-cpufreq" and bool(table)),
    )
    return _judged(files, domain, f"no frequency table{f' with driver {driver}' if driver else ''}")


def _devfreq_domains(files: SysFiles) -> tuple[list[ClockDomain], list[str]]:
    found: dict[str, list[ClockDomain]] = {"gpu": [], "npu": [], "emc": []}
    strangers: list[str] = []
    folders = dict.fromkeys(
        files.resolve(path) for pattern in DEVFREQ_FOLDERS for path in files.glob(pattern)
    )
    for directory in folders:
        if not (files.exists(f"{directory}/cur_freq") or files.exists(f"{directory}/max_freq")):
            continue
        kind = _kind(files, directory)
        if kind is None:
            strangers.append(directory.rsplit("/", 1)[1])
            continue
        number = len(found[kind])
        found[kind].append(_devfreq_domain(files, directory, f"{kind}{number or ''}", kind))
    return [domain for domains in found.values() for domain in domains], strangers


def _devfreq_domain(files: SysFiles, directory: str, name: str, kind: str) -> ClockDomain:
    table = _table(files, [f"{directory}/available_frequencies"], 1)
    loads = [f"{_device(files, directory)}/load", f"{directory}/load"]
    if kind == "npu":
        loads.append(NPU_LOAD)
    domain = ClockDomain(
        name=name,
        kind="devfreq",
        directory=directory,
        frequencies_hz=table,
        min_path=f"{directory}/min_freq",
        max_path=f"{directory}/max_freq",
        current_path=f"{directory}/cur_freq",
        governor_path=_if_there(files, f"{directory}/governor"),
        hardware_min_hz=table[0] if table else None,
        hardware_max_hz=table[-1] if table else None,
        load_path=next(filter(files.exists, loads), None),
    )
    return _judged(files, domain, "no frequency table (available_frequencies)")


def _tegra_emc(files: SysFiles) -> list[ClockDomain]:
    if files.exists(f"{BPMP_EMC}/rate"):
        directory, names = BPMP_EMC, ("rate", "rate", "mrq_rate_locked")
        ends = (f"{BPMP_EMC}/min_rate", f"{BPMP_EMC}/max_rate")
    elif files.exists(f"{NANO_EMC}/clk_rate"):
        directory, names = NANO_EMC, ("clk_rate", "clk_update_rate", "clk_state")
        ends = (f"{DEBUG}/tegra_bwmgr/emc_min_rate", f"{DEBUG}/tegra_bwmgr/emc_max_rate")
    else:
        return []
    current, rate, lock = (f"{directory}/{name}" for name in names)
    domain = ClockDomain(
        name="emc",
        kind="emc",
        directory=directory,
        min_path=ends[0],
        max_path=ends[1],
        current_path=current,
        hardware_min_hz=_hz(files, ends[0], 1),
        hardware_max_hz=_hz(files, ends[1], 1),
        lock_path=lock,
        rate_path=rate,
        load_path=next(filter(files.exists, EMC_LOADS), None),
    )
    return [_judged(files, domain, "no frequency table; the clock is rounded when it is locked")]


def _why_no_emc(files: SysFiles) -> str:
    if files.exists(DEBUG) and not files.can_read(DEBUG)[0]:
        return f"no memory devfreq, and {DEBUG} is open to root only"
    return "no memory devfreq and no EMC clock in debugfs"


def _judged(files: SysFiles, domain: ClockDomain, no_table: str) -> ClockDomain:
    """The domain with ``readable``, ``writable`` and the reasons why not."""
    readable, why_not_read = _readable(files, domain.current_path)
    written = (domain.min_path, domain.max_path)
    if domain.lock_path and domain.rate_path:
        written = (domain.lock_path, domain.rate_path)
    refusals = [why for ok, why in map(files.can_write, written) if not ok]
    reasons = [why_not_read] if why_not_read else []
    if refusals:
        cure = f"; {PERMISSION_CURE}" if refusals[0].endswith(CURES[errno.EACCES]) else ""
        reasons.append(f"cannot write {refusals[0]}{cure}")
    reasons += [] if domain.frequencies_hz else [no_table]
    return replace(domain, readable=readable, writable=not refusals, reason="; ".join(reasons))


def _readable(files: SysFiles, path: str) -> tuple[bool, str]:
    allowed, why = files.can_read(path)
    if not allowed:
        return False, why
    try:
        files.read_int(path)
    except OSError as error:
        return error.errno in TRANSIENT, reason_of(error, path)
    except ValueError as error:
        return False, str(error)
    return True, ""


def _kind(files: SysFiles, directory: str) -> str | None:
    """``gpu``, ``npu``, ``emc`` or None: by device-tree node, else by what the device is called."""
    device = _device(files, directory)
    node = files.text(f"{device}/of_node/name").split("@")[0]
    if node in NODE_KINDS:
        return NODE_KINDS[node]
    compatible = files.text(f"{device}/of_node/compatible").split("\0")
    for pattern, kind in COMPATIBLE_KINDS:
        if any(map(pattern.search, compatible)):
            return kind
    if node:
        return None
    for name in (files.text(f"{directory}/name"), directory.rsplit("/", 1)[1], device.rsplit("/", 1)[-1]):
        last = re.split(r"[.:]", name)[-1].split("@")[0]
        if last in NODE_KINDS or last.startswith("gpu-gpc"):
            return NODE_KINDS.get(last, "gpu")
    return None


def _device(files: SysFiles, directory: str) -> str:
    """Folder of the device that a devfreq folder belongs to."""
    link = f"{directory}/device"
    if files.exists(link):
        return files.resolve(link)
    parent, name = directory.rsplit("/", 1)
    if parent.endswith("/devfreq"):
        return parent[: -len("/devfreq")]
    return parent if name == "devfreq_dev" else directory


def _table(files: SysFiles, paths: Iterable[str], unit_hz: int) -> tuple[int, ...]:
    values = [word for path in paths for word in files.text(path).split()]
    if not all(re.fullmatch(r"[0-9]{1,13}", word) for word in values):
        return ()
    return tuple(sorted({int(word) * unit_hz for word in values if int(word)}))


def _hz(files: SysFiles, path: str, unit_hz: int) -> int | None:
    value = files.number(path)
    return None if value is None or value < 0 else value * unit_hz


def _if_there(files: SysFiles, path: str) -> str | None:
    return path if files.exists(path) else None
