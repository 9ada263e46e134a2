"""Limits that others put on the clocks: the nvpmodel mode in force, jetson_clocks, CPU sets."""

from __future__ import annotations

import re

from dynofa_ros.device.linux.discovery_clocks import CPU, EMC_CAP, cpu_numbers, limits_hz
from dynofa_ros.device.linux.inventory import ClockDomain, PowerMode
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.messages import FrequencyBand

NVPMODEL_CONF = "/etc/nvpmodel.conf"
NVPMODEL_STATUS = "/var/lib/nvpmodel/status"
MODE_NUMBER = re.compile("[0-9]{1,9}")
HEADER = re.compile(r"<\s*(PARAM|POWER_MODEL|PM_CONFIG|FAN_CONFIG)\s+([^>]*)>")
FIELD = re.compile(r"([A-Z_]+)=(\S+)")
NEXT_KERNEL = "_KNEXT"
NO_LIMIT = {-1, 2**31 - 1}


def power_mode(files: SysFiles, domains: tuple[ClockDomain, ...]) -> PowerMode | None:
    """The nvpmodel mode in force with its caps per domain; None without a readable configuration.

    The number is that of the status file, else the default of the configuration.
    """
    paths, modes, default = _parse(files.text(NVPMODEL_CONF))
    status = re.search(r"pmode:\s*([0-9]{1,9})\b", files.text(NVPMODEL_STATUS))
    number = int(status[1]) if status else default
    if number is None or number not in modes:
        return None
    name, settings = modes[number]
    caps: dict[str, dict[str, int]] = {}
    lost: list[str] = []
    for key, value in settings:
        limited = [(domain, end) for domain in domains if (end := _which_limit(files, paths, key, domain))]
        if not re.fullmatch(r"-?[0-9]{1,15}", value):
            if limited:
                lost.append(
                    f"nvpmodel mode {name or number}: {' '.join(key)} must be a number, is {value[:40]}"
                )
            continue
        for domain, end in limited:
            hz = int(value) * domain.unit_hz
            caps.setdefault(domain.name, {})[end] = 0 if int(value) in NO_LIMIT else max(hz, 0)
        named = paths.get(key) or [key[1]]
        if not limited and 0 < int(value) not in NO_LIMIT and _is_cap(files, key, named):
            lost.append(
                f"nvpmodel mode {name or number}: the cap {value} of {key[0] or 'a clock'} is not known: "
                f"no clock found has {' or '.join(named)}"
            )
    found = (FrequencyBand(domain, cap.get("min", 0), cap.get("max", 0)) for domain, cap in caps.items())
    return PowerMode(number, name, tuple(found), tuple(dict.fromkeys(lost)))


class PowerModes:
    """nvpmodel's mode in force. Its files are read every time, and looked into when they changed.

    A clock that was found once keeps its cap while it is gone (its CPUs are off).
    """

    def __init__(self, files: SysFiles, domains: tuple[ClockDomain, ...]) -> None:
        self._files = files
        self._domains: dict[str, ClockDomain] = {}
        self.update(domains)

    def update(self, domains: tuple[ClockDomain, ...]) -> None:
        """Clocks that appeared or moved."""
        self._domains |= {domain.name: domain for domain in domains}
        self._mode: PowerMode | None = None
        self._seen = ("", "")

    def now(self) -> PowerMode | None:
        seen = (self._files.text(NVPMODEL_CONF), self._files.text(NVPMODEL_STATUS))
        # A file that is being replaced is empty for a moment.
        written = all(new or not old for new, old in zip(seen, self._seen, strict=True))
        if seen != self._seen and written:
            self._seen = seen
            self._mode = power_mode(self._files, tuple(self._domains.values()))
        return self._mode


def clocks_pinned(files: SysFiles, domains: tuple[ClockDomain, ...]) -> bool:
    """Whether every CPU and GPU clock that could move has min == max, as jetson_clocks leaves them."""
    states = []
    for domain in domains:
        if domain.kind == "cpufreq" or domain.name == "gpu":
            low, high = limits_hz(files, domain)
            if domain.hardware_min_hz != domain.hardware_max_hz and low and high:
                states.append(low == high)
    return bool(states) and all(states)


def cpu_notes(files: SysFiles) -> tuple[str, ...]:
    """Which CPUs are on, and which this process may use (affinity and cpuset)."""
    notes = []
    online, present = files.text(f"{CPU}/online"), files.text(f"{CPU}/present")
    if online:
        off = sorted(set(cpu_numbers(present)) - set(cpu_numbers(online)))
        notes.append(f"CPUs online: {online}" + (f"; off: {', '.join(map(str, off))}" if off else ""))
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", files.text("/proc/self/status"), re.MULTILINE)
    if allowed and set(cpu_numbers(allowed[1])) != set(cpu_numbers(online)):
        notes.append(f"this process may use CPUs {allowed[1]} only (affinity or cpuset)")
    cpuset = _cpuset(files)
    if cpuset and set(cpu_numbers(cpuset)) != set(cpu_numbers(online)):
        notes.append(f"its cpuset holds CPUs {cpuset}; no affinity reaches outside")
    return tuple(notes)


def _cpuset(files: SysFiles) -> str:
    """CPUs of this process's control group, version 2 or 1; empty if there is none."""
    for line in files.text("/proc/self/cgroup").splitlines():
        number, controllers, group = (line.split(":", 2) + ["", ""])[:3]
        if number == "0" and not controllers:
            path = f"/sys/fs/cgroup{group.rstrip('/')}/cpuset.cpus.effective"
        elif "cpuset" in controllers.split(","):
            path = f"/sys/fs/cgroup/cpuset{group.rstrip('/')}/cpuset.cpus"
        else:
            continue
        cpus = files.text(path)
        if cpus:
            return cpus
    return ""


def _which_limit(files: SysFiles, paths: Paths, key: Key, domain: ClockDomain) -> str:
    """``min`` or ``max`` if a setting is that limit of the domain, else empty."""
    named = paths.get(key) or [key[1]]
    for path in named:
        if domain.name == "emc" and path == EMC_CAP:
            return "max"
        real = files.resolve(path) if path.startswith("/") else ""
        cpu = re.search(r"/cpu([0-9]+)/cpufreq/(\w+)$", real)
        if cpu and domain.kind == "cpufreq" and int(cpu[1]) in domain.cpus:
            real = f"{domain.directory}/{cpu[2]}"
        if real in (domain.min_path, domain.max_path):
            return "min" if real == domain.min_path else "max"
    # A kernel may show the GPU elsewhere than all of the paths say; there is only one.
    if key[0] == domain.name.upper() == "GPU" and not any(map(files.exists, named)):
        return {"MIN_FREQ": "min", "MAX_FREQ": "max"}.get(key[1], "")
    return ""


def _is_cap(files: SysFiles, key: Key, named: list[str]) -> bool:
    """Whether a setting is the maximum of a clock that should be there: of a GPU, or of a CPU that is on."""
    if not (key[1] == "MAX_FREQ" or key[1].endswith("max_freq")):
        return False
    numbers = re.findall(r"/(?:cpu|policy)([0-9]+)/", " ".join(named))
    online = cpu_numbers(files.text(f"{CPU}/online"))
    return key[0] == "GPU" or "gpu" in named[0] or any(int(number) in online for number in numbers)


Key = tuple[str, str]
Paths = dict[Key, list[str]]
Settings = list[tuple[Key, str]]


def _parse(text: str) -> tuple[Paths, dict[int, tuple[str, Settings]], int | None]:
    """Paths by (parameter, argument), modes by number with their settings, and the default mode.

    Old files (TX2) name the path itself in a mode; its key is then ("", path). An argument may have paths
    for several kernels: that of later ones is called ``<argument>_KNEXT``.
    """
    paths: Paths = {}
    modes: dict[int, tuple[str, Settings]] = {}
    default: int | None = None
    section, name, settings = "", "", Settings()
    for line in text.splitlines():
        words = line.split("#")[0].split()
        header = HEADER.match(line.strip())
        if header:
            section, fields = header[1], dict(FIELD.findall(header[2]))
            name, settings = fields.get("NAME", ""), []
            if section == "POWER_MODEL" and MODE_NUMBER.fullmatch(fields.get("ID", "")):
                modes[int(fields["ID"])] = (name, settings)
            elif section == "PM_CONFIG" and MODE_NUMBER.fullmatch(fields.get("DEFAULT", "")):
                default = int(fields["DEFAULT"])
        elif section == "PARAM" and len(words) == 2:
            key = (name.removesuffix(NEXT_KERNEL), words[0].removesuffix(NEXT_KERNEL))
            paths.setdefault(key, []).append(words[1])
        elif section == "POWER_MODEL" and len(words) == 3:
            settings.append(((words[0], words[1].removesuffix(NEXT_KERNEL)), words[2]))
        elif section == "POWER_MODEL" and len(words) == 2 and words[0].startswith("/"):
            settings.append((("", words[0]), words[1]))
    return paths, modes, default
