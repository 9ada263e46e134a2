"""Discovery of clocks, sensors and limits by what the kernel's files say, never by a fixed number."""

from __future__ import annotations

from dynofa_ros.device.linux.discovery_clocks import find_domains
from dynofa_ros.device.linux.discovery_limits import NVPMODEL_CONF, clocks_pinned, cpu_notes, power_mode
from dynofa_ros.device.linux.discovery_sensors import (
    find_rails,
    find_throttle_signs,
    find_zones,
    no_total,
    total_rails,
)
from dynofa_ros.device.linux.inventory import Inventory, PowerMode
from dynofa_ros.device.linux.sysfs import SysFiles

MODEL_FILES = ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
COMPATIBLE_FILES = ("/proc/device-tree/compatible", "/sys/firmware/devicetree/base/compatible")
DMI_FOLDERS = ("/sys/class/dmi/id", "/sys/devices/virtual/dmi/id")
# Device nodes and folders of accelerators: the processor that a network runs on, and a name for the reader.
ACCELERATORS = (
    ("/dev/nvidia[0-9]", "gpu", "NVIDIA GPU"),
    ("/dev/nvhost-gpu", "gpu", "Tegra GPU"),
    ("/dev/nvgpu", "gpu", "Tegra GPU"),
    ("/sys/devices/*/*.nvdla[0-9]", "npu", "DLA"),
    ("/sys/devices/platform/*/*.nvdla[0-9]", "npu", "DLA"),
    ("/sys/devices/platform/*/*/*.nvdla[0-9]", "npu", "DLA"),
    ("/sys/kernel/debug/rknpu", "npu", "Rockchip NPU"),
    ("/sys/bus/platform/drivers/RKNPU/*.npu", "npu", "Rockchip NPU"),
)


def discover(files: SysFiles) -> Inventory:
    """Look at everything once; no file is written. What cannot be used is in the result, with a reason."""
    files.unsettled = False
    board = _board(files)
    domains, no_domains = find_domains(files)
    rails, no_rails = find_rails(files)
    zones, no_zones = find_zones(files)
    mode = power_mode(files, domains)
    pinned = clocks_pinned(files, domains)
    totals = total_rails(rails)
    accelerators = _accelerators(files)
    processors = {"cpu", *(domain.name for domain in domains), *(kind for kind, _ in accelerators)}
    notes = [name for _, name in accelerators]
    unsupported = [*no_domains, *no_rails, *no_zones]
    if not board:
        unsupported.insert(0, "board: neither a device-tree model nor a DMI product name")
    if rails and not totals:
        unsupported.append(f"total power: {no_total(rails)}")
    others = [
        rail.name for rail in rails if rail.is_total and rail.kind != "rapl" and rail.name not in totals
    ]
    if len(totals) > 1:
        notes.append(f"total power = {' + '.join(totals)}")
    elif others:
        notes.append(f"total power = {totals[0]}, the first of several such rails; not {', '.join(others)}")
    if mode:
        notes.append(f"nvpmodel mode {mode.number} {mode.name}; {_caps_text(mode)}")
        unsupported += mode.lost
    elif files.exists(NVPMODEL_CONF):
        unsupported.append(f"nvpmodel: {NVPMODEL_CONF} does not say which mode is in force")
    notes += [
        f"{domain.name}: {domain.frequencies_hz[-1]} Hz stands for turbo, the clock may be faster"
        for domain in domains
        if domain.turbo
    ]
    if pinned:
        notes.append("every clock is pinned (min = max), as jetson_clocks does: sudo jetson_clocks --restore")
    return Inventory(
        board=board,
        domains=domains,
        rails=rails,
        zones=zones,
        unsupported=tuple(dict.fromkeys(unsupported)),
        notes=(*notes, *cpu_notes(files)),
        processors=tuple(name for name in ("cpu", "gpu", "npu") if name in processors),
        total_rails=totals,
        throttle_signs=find_throttle_signs(files),
        power_mode=mode,
        clocks_pinned=pinned,
        identities=identities(files),
        unsettled=files.unsettled,
    )


def _board(files: SysFiles) -> str:
    """Model of the device tree, else vendor and product of the DMI, else the first ``compatible``."""
    for path in MODEL_FILES:
        if files.name(path):
            return files.name(path)
    for folder in DMI_FOLDERS:
        names = [files.name(f"{folder}/{name}") for name in ("sys_vendor", "product_name")]
        if names[1]:
            return " ".join(filter(None, names))
    return next((name.split("\0")[0] for name in map(files.text, COMPATIBLE_FILES) if name), "")


def identities(files: SysFiles) -> tuple[str, ...]:
    """See Inventory.identities."""
    found: list[str] = []
    for entry in next(filter(None, map(files.text, COMPATIBLE_FILES)), "").split("\0"):
        vendor, _, boards = entry.partition(",")
        carrier, _, module = boards.partition("+")
        found += [entry, f"{vendor},{module}"] if carrier and module else [entry]
    found += map(files.text, MODEL_FILES)
    found += (files.text(f"{folder}/product_name") for folder in DMI_FOLDERS)
    return tuple(dict.fromkeys(filter(None, found)))


def _accelerators(files: SysFiles) -> list[tuple[str, str]]:
    """(processor, "name (node)") of each accelerator, each node once."""
    found: dict[str, tuple[str, str]] = {}
    for pattern, processor, name in ACCELERATORS:
        for path in files.glob(pattern):
            found.setdefault(path.rsplit("/", 1)[1], (processor, f"{name}: {path}"))
    return list(found.values())


def _caps_text(mode: PowerMode) -> str:
    caps = [f"{cap.domain} {cap.max_hz / 1e6:g} MHz" for cap in mode.caps if cap.max_hz]
    return f"caps {', '.join(caps)}" if caps else "no caps on the clocks found"
