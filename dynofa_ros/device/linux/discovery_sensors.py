"""Discovery of sensors: power rails by label, energy counters, temperatures by type, signs of throttling."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TypeVar

from dynofa_ros.device.linux.inventory import Rail, ThrottleSign, Zone
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.files import natural

Named = TypeVar("Named", Rail, Zone)

I2C = "/sys/bus/i2c"
IIO_FOLDERS = (
    f"{I2C}/drivers/ina3221x/*/iio:device*",
    f"{I2C}/devices/*/iio:device*",
    "/sys/bus/iio/devices/iio:device*",
)
HWMON_FOLDERS = (
    "/sys/class/hwmon/hwmon*",
    f"{I2C}/drivers/ina3221/*/hwmon/hwmon*",
    f"{I2C}/devices/*/hwmon/hwmon*",
)
RAPL_FOLDERS = (
    "/sys/class/powercap/intel-rapl*:*",
    "/sys/devices/virtual/powercap/intel-rapl*/intel-rapl*:*",
    "/sys/devices/virtual/powercap/intel-rapl*/intel-rapl*:*/intel-rapl*:*",
)
ZONE_FOLDERS = ("/sys/class/thermal/thermal_zone*", "/sys/devices/virtual/thermal/thermal_zone*")
# Rails that feed the whole module and contain the others of their board.
TOTAL_LABELS = {"VDD_IN", "POM_5V_IN", "VIN"}
# Boards without such a rail whose rails add up to the module: AGX Xavier, AGX Orin. Other rails of the board,
# such as VDDQ_VDD2_1V8AO of AGX Orin, are fed by one of these.
COMPLETE_SETS = (
    frozenset({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"}),
    frozenset({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}),
)
INA3221_CHANNELS = 3
CPU_CHIPS = {"k10temp", "zenpower", "coretemp", "cpu_thermal"}
CHIP_NAME = re.compile("[A-Za-z0-9_.-]+")
HWMON_NUMBER = re.compile("(?<=/hwmon)[0-9]+$|(?<=/iio:device)[0-9]+$")
EVENTS = re.compile("oc[0-9]+_event_cnt")
PACKAGE_EVENTS = "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count"
ALARM = re.compile("(curr|in)[0-9]+_l?crit_alarm")
COOLING = re.compile(r"cpu|gpu|devfreq|processor", re.IGNORECASE)


def find_rails(files: SysFiles) -> tuple[tuple[Rail, ...], tuple[str, ...]]:
    """Power sensors, and what is missing or left out, with the reason."""
    found: list[Rail] = []
    missing: list[str] = []
    for folder in _folders(files, IIO_FOLDERS):
        _iio_rails(files, folder, found, missing)
    for folder in _folders(files, HWMON_FOLDERS):
        _hwmon_rails(files, folder, found, missing)
    found += _rapl_rails(files)
    rails = tuple(_judged(files, rail) for rail in _unique(found))
    if not rails:
        missing.append("power: no INA3221 (iio or hwmon), no RAPL, no hwmon sensor with power or current")
    missing += [f"power {rail.name}: {rail.reason}" for rail in rails if not rail.readable]
    return rails, tuple(missing)


def total_rails(rails: tuple[Rail, ...]) -> tuple[str, ...]:
    """Names of the rails whose sum is the power of the module; empty if the sensors cannot tell.

    A total rail alone; else a set known to be complete; else the processor packages and memory of RAPL.
    """
    totals = [rail.name for rail in rails if rail.is_total and rail.kind != "rapl"]
    if totals:
        return tuple(totals[:1])
    names = {rail.name.upper(): rail.name for rail in rails if rail.kind != "rapl"}
    for complete in COMPLETE_SETS:
        if complete <= names.keys():
            return tuple(name for label, name in names.items() if label in complete)
    packages = [rail.name for rail in rails if rail.kind == "rapl" and rail.is_total]
    memory = [rail.name for rail in rails if rail.kind == "rapl" and re.search(r"(^|/)dram", rail.name)]
    return tuple(packages + memory) if packages else ()


def no_total(rails: tuple[Rail, ...]) -> str:
    """Why the power of the module is not known."""
    names = {rail.name.upper() for rail in rails}
    nearest = max(COMPLETE_SETS, key=lambda complete: len(complete & names))
    if len(nearest & names) * 2 > len(nearest):
        return f"{', '.join(sorted(nearest - names))} cannot be read, the other rails are only a part"
    return "no rail is the total, and the rails are not known to add up to it"


def find_zones(files: SysFiles) -> tuple[tuple[Zone, ...], tuple[str, ...]]:
    """Temperature sensors by type, and what was left out, with the reason."""
    zones: list[Zone] = []
    missing: list[str] = []
    for folder in _folders(files, ZONE_FOLDERS):
        name = files.name(f"{folder}/type")
        if name.upper().startswith("PMIC"):
            missing.append(f"temperature {name}: a constant placeholder, left out")
        elif name or files.exists(f"{folder}/temp"):
            zones.append(_zone(files, name or folder.rsplit("/", 1)[1], f"{folder}/temp"))
    if all(zone.name == "acpitz" for zone in zones):
        zones += _chip_temperatures(files)
    zones = _unique(zones)
    if not zones:
        missing.append("temperature: no thermal zone and no temperature sensor of a processor")
    missing += [f"temperature {zone.name}: {zone.reason}" for zone in zones if not zone.readable]
    return tuple(zones), tuple(missing)


def find_throttle_signs(files: SysFiles) -> tuple[ThrottleSign, ...]:
    """Cooling devices of processors, over-current alarms of rails, the under-voltage alarm of a Pi, and
    counts of such events: over-current of Tegra, throttling of Intel packages.
    """
    signs = [
        ThrottleSign("thermal", f"{folder}/cur_state")
        for folder in files.glob("/sys/class/thermal/cooling_device*")
        if COOLING.search(files.name(f"{folder}/type")) and files.exists(f"{folder}/cur_state")
    ]
    for folder in _folders(files, HWMON_FOLDERS):
        chip = _chip(files, folder)
        if chip in ("ina3221", "rpi_volt"):
            names = filter(ALARM.fullmatch, files.names(folder))
            signs += [ThrottleSign("power", f"{folder}/{name}") for name in names]
        elif chip == "soctherm_oc":
            names = filter(EVENTS.fullmatch, files.names(folder))
            signs += [ThrottleSign("power", f"{folder}/{name}", counts=True) for name in names]
    packages = files.glob(PACKAGE_EVENTS)[:1]
    return (*signs, *(ThrottleSign("thermal", path, counts=True) for path in packages))


def _iio_rails(files: SysFiles, folder: str, found: list[Rail], missing: list[str]) -> None:
    """Channels of the INA3221 driver of JetPack 4 (ina3221x): mW, mV and mA."""
    for label_file in [name for name in files.names(folder) if re.fullmatch("rail_name_[0-9]+", name)]:
        path, channel = f"{folder}/{label_file}", label_file.rsplit("_", 1)[1]
        allowed, why = files.can_read(path)
        label = files.name(path)
        if not label:
            missing.append(f"power channel {channel}: no name; {why or f'{path} is empty'}")
        elif label.upper() == "NC":
            missing.append(f"power channel {channel} ({path}): not connected")
        else:
            paths = [f"{folder}/in_{what}{channel}_input" for what in ("power", "voltage", "current")]
            power, voltage, current = (path if files.exists(path) else None for path in paths)
            found.append(Rail(label, "iio", _is_total(label), power, 1e-3, voltage, current))


def _hwmon_rails(files: SysFiles, folder: str, found: list[Rail], missing: list[str]) -> None:
    """Rails of one hwmon chip: its power files (uW), else voltage x current of the same channel."""
    chip = _chip(files, folder)
    names = set(files.names(folder))
    powers = sorted(name for name in names if re.fullmatch("power[0-9]+_(input|average)", name))
    for name in powers:
        if name.endswith("_average") and name.replace("_average", "_input") in names:
            continue
        label = files.name(f"{folder}/{name.split('_')[0]}_label") or chip or "power"
        found.append(Rail(label, "hwmon", _is_total(label), f"{folder}/{name}", 1e-6))
    if powers:
        return
    channels = _channels(names, chip)
    if not channels and chip == "simple_vin":
        missing.append(f"power {chip}: shows a voltage without a current")
    for voltage, current in channels:
        prefix = voltage.split("_")[0]
        label = files.name(f"{folder}/{prefix}_label") or files.name(
            f"{folder}/{current.split('_')[0]}_label"
        )
        if not label and len(channels) == 1:
            label = chip
        elif not label and chip == "ina3221":
            label = f"{chip}_{prefix[2:]}"
        if not label:  # one of several channels of an unknown chip: what it measures is not known either
            missing.append(f"power channel {prefix[2:]} of {chip or folder}: has no name")
        elif label.upper() == "NC":
            missing.append(f"power channel {prefix[2:]} of {chip}: not connected")
        elif files.number(f"{folder}/{prefix}_enable") == 0:
            missing.append(f"power {label}: the channel is switched off ({folder}/{prefix}_enable is 0)")
        else:
            paths = (f"{folder}/{voltage}", f"{folder}/{current}")
            found.append(Rail(label, "hwmon", _is_total(label), None, 1e-3, *paths))


def _channels(names: set[str], chip: str) -> list[tuple[str, str]]:
    """Voltage and current file of each channel.

    On the INA3221 the channels are 1 to 3; in4 to in6 are shunt voltages, in7 and curr4 are sums.
    """
    if chip == "ina3221":
        pairs = [(f"in{n}_input", f"curr{n}_input") for n in range(1, INA3221_CHANNELS + 1)]
        return [pair for pair in pairs if names & set(pair)]
    voltages = [name for name in sorted(names) if re.fullmatch("in[0-9]+_input", name)]
    currents = [name for name in sorted(names) if re.fullmatch("curr[0-9]+_input", name)]
    if len(voltages) == 1 and len(currents) == 1:
        return [(voltages[0], currents[0])]
    return [
        (name, name.replace("in", "curr", 1))
        for name in voltages
        if name.replace("in", "curr", 1) in currents
    ]


def _rapl_rails(files: SysFiles) -> list[Rail]:
    """Energy counters of the processor; the same ones seen over MMIO are left out."""
    rails: list[Rail] = []
    folders = [folder for folder in _folders(files, RAPL_FOLDERS) if files.exists(f"{folder}/energy_uj")]
    names = {folder.rsplit("/", 1)[1]: files.name(f"{folder}/name") for folder in folders}
    for folder in folders:
        key = folder.rsplit("/", 1)[1]
        name = names[key] or key
        is_package = name.startswith("package")
        if "-mmio" in key and any(other != key and names[other] == name for other in names):
            continue
        parent = names.get(key.rsplit(":", 1)[0], "")
        if parent and list(names.values()).count(name) > 1:
            name = f"{parent}/{name}"
        limit = files.number(f"{folder}/max_energy_range_uj")
        energy = f"{folder}/energy_uj"
        rails.append(Rail(name, "rapl", is_package, energy_path=energy, energy_range_uj=limit or None))
    return rails


def _chip_temperatures(files: SysFiles) -> list[Zone]:
    """Temperatures of processor chips in hwmon, for computers without thermal zones of their own."""
    zones: list[Zone] = []
    for folder in _folders(files, HWMON_FOLDERS):
        chip = _chip(files, folder)
        if chip in CPU_CHIPS:
            for name in files.names(folder):
                if re.fullmatch("temp[0-9]+_input", name):
                    label = files.name(f"{folder}/{name.split('_')[0]}_label")
                    zones.append(_zone(files, f"{chip} {label}".strip(), f"{folder}/{name}"))
    return zones


def _zone(files: SysFiles, name: str, path: str) -> Zone:
    return Zone(name, path, *files.can_read(path))


def _judged(files: SysFiles, rail: Rail) -> Rail:
    """The rail with ``readable`` and the reason why not."""
    if rail.kind == "rapl" or rail.power_path:
        needed = [rail.energy_path or rail.power_path]
    else:
        needed = [rail.voltage_path, rail.current_path]
    if None in needed:
        return replace(rail, readable=False, reason="neither a power file nor voltage and current files")
    refusals = [why for ok, why in (files.can_read(path) for path in needed if path) if not ok]
    return replace(rail, readable=not refusals, reason=refusals[0] if refusals else "")


def _unique(named: list[Named]) -> list[Named]:
    """Rails or zones, a name that comes again with its number of occurrence."""
    seen: Counter[str] = Counter()
    result = []
    for one in named:
        seen[one.name] += 1
        number = seen[one.name]
        result.append(one if number == 1 else replace(one, name=f"{one.name}_{number}"))
    return result


def _is_total(label: str) -> bool:
    return label.upper() in TOTAL_LABELS


def _chip(files: SysFiles, folder: str) -> str:
    """Name of a hwmon chip: its file, else the driver that its path tells; empty if neither does."""
    for name in (files.name(f"{folder}/name"), files.name(f"{folder}/device/name")):
        if CHIP_NAME.fullmatch(name):
            return name
    driver = re.search("/drivers/([^/]+)/", folder)
    return driver[1] if driver else ""


def _folders(files: SysFiles, patterns: tuple[str, ...]) -> list[str]:
    """Folders that match, each once, without links, by the devices: numbers of hwmon and iio are those of one
    boot only.
    """
    found = dict.fromkeys(files.resolve(path) for pattern in patterns for path in files.glob(pattern))
    return sorted(found, key=lambda folder: natural(HWMON_NUMBER.sub("", folder)))
