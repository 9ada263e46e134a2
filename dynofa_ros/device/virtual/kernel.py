"""What a kernel does behind its clock and sensor files, with the simulated SoC as the hardware.

`VirtualKernel` answers reads and writes of paths, whether they come from FUSE or from plain files.
Limits are kept as the kernel keeps them: the request of user space stays, what is in force is cut to the
table. Kernels up to 5.2 refuse a minimum above the maximum (cpufreq_set_policy of 4.9); later ones take it
and the maximum wins (PM QoS).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from dynofa_ros.device.board import Board
from dynofa_ros.device.device import Device, DeviceSample
from dynofa_ros.device.simulated.power_modes import mode_limits
from dynofa_ros.device.simulated.real_time import RealTimeSimulation
from dynofa_ros.device.simulated.simulated_device import SimulatedDevice
from dynofa_ros.device.virtual.tree import Tree, cpu_folders, mode_caps, nvpmodel_conf
from dynofa_ros.messages import FrequencyBand, ThrottleFlag

PLAY = "/virtual_board/play"
STATUS = "/var/lib/nvpmodel/status"
CPU = "/sys/devices/system/cpu"
ZONES = "/sys/devices/virtual/thermal/"
MEAN_ZONE = "thermal-fan-est"
EMC_RATE = "/sys/kernel/debug/bpmp/debug/clk/emc/rate"
WRITABLE = ("/scaling_governor", "/governor", "/railgate_enable", PLAY)
CHECKED_LIMITS_UNTIL = (5, 3)
SAMPLE_S = 0.005  # files read one after the other show one moment
TICKS_PER_S = 100  # USER_HZ of /proc/stat
USAGE = "mode NAME | jetson_clocks | limit DOMAIN MAX_HZ | cpu NUMBER on|off | ambient CELSIUS"


class VirtualKernel:
    """Kernel files of a board. Paths are absolute, as on the board; links are not followed here.

    ``device``: the SoC where its time is advanced from outside, to what ``clock_s`` says; else there is an
    own one that follows the clock. Errors are OSError with the kernel's number.
    """

    def __init__(
        self,
        tree: Tree,
        board: Board,
        clock_s: Callable[[], float] = time.monotonic,
        device: SimulatedDevice | None = None,
    ) -> None:
        self.tree, self.board, self._clock_s = tree, board, clock_s
        self.device = device or SimulatedDevice(board)
        self.simulation = RealTimeSimulation(self.device, clock_s)
        self._hardware: Device = device or self.simulation
        self.links = dict(tree.links)
        self._files: dict[str, str] = {**tree.files, PLAY: USAGE}
        if board.modes:
            self._files |= {"/etc/nvpmodel.conf": nvpmodel_conf(tree, board), STATUS: ""}
        if tree.mode:
            self._files[STATUS] = _status(board.modes[tree.mode].id)
        self._live: dict[str, Callable[[], str]] = {}
        self._limits: dict[str, tuple[str, int, int]] = {}  # by path: domain, unit in Hz, 0 = min or 1 = max
        self._asked: dict[str, FrequencyBand] = {}  # by user space, before the table cuts it
        self._tables: dict[str, tuple[int, ...]] = {}
        self._hidden: set[str] = set()  # folders of clusters without an online CPU
        self._sample: DeviceSample | None = None
        self._sampled_s = -1.0
        self._busy_ticks = dict.fromkeys(board.domains, 0.0)
        self._start_s = clock_s()
        self._cpu_folders = cpu_folders(tree, board)
        for domain, folder in {**self._cpu_folders, **tree.devfreq}.items():
            self._add_domain(domain, folder)
        self._add_sensors()
        for zone in [p for p in self._files if p.startswith(ZONES) and "/type" in p]:
            folder = zone.rsplit("/", 1)[0]
            self.links.setdefault(f"/sys/class/thermal/{folder.rsplit('/', 1)[1]}", folder)

    # --- files --------------------------------------------------------------------------------

    def paths(self) -> tuple[str, ...]:
        """Every file that is there now."""
        return tuple(path for path in {**self._files, **self._live} if not self._is_hidden(path))

    def names(self, folder: str) -> set[str]:
        """What is in a folder, links among it; empty if there is no such folder."""
        start = folder.rstrip("/") + "/"
        every = (*self.paths(), *self.links)
        return {path[len(start) :].split("/", 1)[0] for path in every if path.startswith(start)}

    def writable(self, path: str) -> bool:
        """Whether the file has a write bit."""
        return path in self._limits or path.endswith(WRITABLE) or self._online_cpu(path) is not None

    def read(self, path: str) -> str:
        """Content, without the line end; ``\\0`` of a tree is NUL. Raises OSError."""
        self._require(path)
        live = self._live.get(path)
        return live() if live else self._files[path].replace("\\0", "\0")

    def write(self, path: str, text: str) -> None:
        """Takes what was written, with or without a line end. Raises OSError."""
        self._require(path)
        text = text.strip()
        if path in self._limits:
            self._write_limit(path, text)
        elif path == PLAY:
            self.play(text)
        elif (cpu := self._online_cpu(path)) is not None:
            self.hotplug(cpu, on={"0": False, "1": True}[self._one_of(text, ("0", "1"), path)])
        elif path.endswith(WRITABLE):
            known = self._files.get(path.replace("governor", "available_governors"), text).split()
            self._files[path] = self._one_of(text, known, path)
        else:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    # --- what others do to a board --------------------------------------------------------------

    def play(self, order: str) -> None:
        """An event by its text, see `USAGE`. Raises OSError (EINVAL) for one that has no meaning."""
        try:
            if order.strip() == "jetson_clocks":
                self.pin_clocks()
            else:
                play(self, order)
        except (KeyError, ValueError):
            raise OSError(errno.EINVAL, f"{order!r} is none of: {USAGE}", PLAY) from None

    def set_mode(self, name: str) -> None:
        """As nvpmodel does it: the limits are written, CPUs go off- and online, the status file follows."""
        mode = self.board.modes[name]
        for domain, _, cap_hz in mode_caps(self.tree, self.board, name):
            self._ask(FrequencyBand(domain, min(self._asked[domain].min_hz, cap_hz), cap_hz))
        for cpu in self._all_cpus():
            self.hotplug(cpu, on=mode.cores is None or cpu < mode.cores)
        self._files[STATUS] = _status(mode.id)
        for domain, limit in mode_limits(self.board, name).items():
            if domain not in self._asked:  # it has no files here
                found = self.board.domains[domain]
                high_hz = min(found.start_max_hz, limit.frequencies_hz[-1])
                self._hardware.apply([FrequencyBand(domain, min(found.start_min_hz, high_hz), high_hz)])

    def set_by_others(self, domain: str, max_hz: int) -> None:
        """Another program writes a maximum."""
        self._ask(replace(self._asked[domain], max_hz=max_hz))

    @property
    def ambient_c(self) -> float:
        """Temperature around the board."""
        return self.device.ambient_c

    @ambient_c.setter
    def ambient_c(self, celsius: float) -> None:
        self.device.ambient_c = celsius

    def pin_clocks(self) -> None:
        """As jetson_clocks does it: every minimum to its maximum."""
        for band in list(self._asked.values()):
            self._ask(replace(band, min_hz=band.max_hz))

    # --- clocks ---------------------------------------------------------------------------------

    def _add_domain(self, domain: str, folder: str) -> None:
        is_cpu = domain in self._cpu_folders
        prefix, unit = ("scaling_", 1000) if is_cpu else ("", 1)
        table = self._files[f"{folder}/{prefix}available_frequencies"].split()
        self._tables[domain] = tuple(sorted(int(word) * unit for word in table))
        paths = [f"{folder}/{prefix}{end}_freq" for end in ("min", "max")]
        found = FrequencyBand(domain, *(int(self._files[path]) * unit for path in paths))
        for end, path in enumerate(paths):
            self._limits[path] = (domain, unit, end)
            self._live[path] = lambda n=end: str(self.limits_hz(domain)[n] // unit)  # type: ignore[misc]
        self._live[f"{folder}/{prefix}cur_freq"] = lambda: str(self.clocks_hz().get(domain, 0) // unit)
        self._ask(found)

    def _write_limit(self, path: str, text: str) -> None:
        domain, unit_hz, end = self._limits[path]
        if not text.isdecimal():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        value_hz = int(text) * unit_hz
        low, high = self.limits_hz(domain)
        new_low, new_high = (low, value_hz) if end else (value_hz, high)
        if self.tree.kernel < CHECKED_LIMITS_UNTIL and new_low > new_high:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        asked = self._asked[domain]
        self._ask(replace(asked, max_hz=value_hz) if end else replace(asked, min_hz=value_hz))

    def _ask(self, band: FrequencyBand) -> None:
        self._asked[band.domain] = band
        self._hardware.apply([FrequencyBand(band.domain, *self.limits_hz(band.domain))])

    def limits_hz(self, domain: str) -> tuple[int, int]:
        """The limits that the files show: what is asked for, cut by the table; the maximum wins."""
        asked, table = self._asked[domain], self._tables[domain]
        high = next((hz for hz in reversed(table) if hz <= asked.max_hz), table[0])
        low = next((hz for hz in table if hz >= asked.min_hz), table[-1])
        return min(low, high), high

    def clocks_hz(self) -> Mapping[str, int]:
        """Clocks in effect now, in Hz."""
        self._hardware.applied()  # catches up
        return self.device.clocks_hz()

    # --- hotplug --------------------------------------------------------------------------------

    def _all_cpus(self) -> list[int]:
        return sorted(
            int(word)
            for folder in self._cpu_folders.values()
            for word in self.tree.files[f"{folder}/related_cpus"].split()
        )

    def hotplug(self, cpu: int, *, on: bool) -> None:
        """A CPU goes off- or online. Raises ValueError for one that cannot."""
        self._hardware.applied()  # catches up
        self.device.hotplug(cpu, on=on)
        domain, folder = next(
            (domain, folder)
            for domain, folder in self._cpu_folders.items()
            if str(cpu) in self.tree.files[f"{folder}/related_cpus"].split()
        )
        self._ask(self._asked[domain])  # what was written meanwhile
        affected = set(self._files[f"{folder}/affected_cpus"].split())
        affected = affected | {str(cpu)} if on else affected - {str(cpu)}
        self._files[f"{folder}/affected_cpus"] = " ".join(sorted(affected, key=int))
        self._files[f"{CPU}/cpu{cpu}/online"] = "1" if on else "0"
        (self._hidden.discard if affected else self._hidden.add)(folder)
        online = [n for n in self._all_cpus() if self._files.get(f"{CPU}/cpu{n}/online", "1") == "1"]
        self._files[f"{CPU}/online"] = ",".join(map(str, online))

    def _online_cpu(self, path: str) -> int | None:
        head, _, rest = path.removeprefix(f"{CPU}/cpu").partition("/")
        return int(head) if path.startswith(f"{CPU}/cpu") and rest == "online" and head.isdecimal() else None

    # --- sensors --------------------------------------------------------------------------------

    def _add_sensors(self) -> None:
        names = {self.board.power.total_rail, *self.board.rails}
        for path, label in self.tree.files.items():
            folder, _, file = path.rpartition("/")
            if file.endswith("_label") and label in names:
                number = file.removeprefix("in").removesuffix("_label")
                self._live[f"{folder}/in{number}_input"] = lambda n=label: self._rail(n, "voltage_v")  # type: ignore[misc]
                self._live[f"{folder}/curr{number}_input"] = lambda n=label: self._rail(n, "current_a")  # type: ignore[misc]
            elif file == "type" and label in (*self.board.thermal.sensor_offsets_c, MEAN_ZONE):
                self._live[f"{folder}/temp"] = lambda n=label: self._temperature(n)  # type: ignore[misc]
        for domain, folder in self.tree.devfreq.items():
            load = f"{folder.split('/devfreq/')[0]}/load"
            if load in self.tree.files:
                self._live[load] = lambda d=domain: str(round(1000 * self._busy_share(d)))  # type: ignore[misc]
        self._live["/proc/stat"] = self._cpu_times
        if EMC_RATE in self.tree.files and "emc" in self.board.domains:
            self._live[EMC_RATE] = lambda: str(self.clocks_hz()["emc"])
        cooling = "/sys/class/thermal/cooling_device0"
        self._files.setdefault(f"{cooling}/type", "thermal-cpufreq-0")
        self._live[f"{cooling}/cur_state"] = lambda: str(
            int(bool(self.sample().throttle_flags & ThrottleFlag.THERMAL))
        )

    def sample(self) -> DeviceSample:
        """What the sensors show; one sample serves the files that are read within 5 ms."""
        now_s = self._clock_s()
        if self._sample is None or now_s - self._sampled_s >= SAMPLE_S:
            passed_s = now_s - self._sampled_s if self._sample else 0.0
            self._sample, self._sampled_s = self._hardware.read(), now_s
            for domain in self._sample.domains:
                self._busy_ticks[domain.domain] += domain.utilization * passed_s * TICKS_PER_S
        return self._sample

    def _rail(self, name: str, field: str) -> str:
        rail = next(rail for rail in self.sample().rails if rail.name == name)
        return str(round(1000 * getattr(rail, field)))

    def _temperature(self, name: str) -> str:
        known = {t.name: t.temperature_c for t in self.sample().temperatures}
        return str(round(1000 * known.get(name, sum(known.values()) / len(known))))

    def _busy_share(self, domain: str) -> float:
        return next((d.utilization for d in self.sample().domains if d.domain == domain), 0.0)

    def _cpu_times(self) -> str:
        """User and idle time of every CPU, in ticks."""
        self.sample()
        total = (self._clock_s() - self._start_s) * TICKS_PER_S
        lines = []
        for domain, folder in self._cpu_folders.items():
            busy = round(self._busy_ticks[domain])
            for cpu in self._files[f"{folder}/affected_cpus"].split():
                lines.append(f"cpu{cpu} {busy} 0 0 {max(0, round(total) - busy)} 0 0 0 0 0 0")
        sums = [sum(int(line.split()[column]) for line in lines) for column in (1, 4)]
        return "\n".join([f"cpu  {sums[0]} 0 0 {sums[1]} 0 0 0 0 0 0", *lines])

    # --- inside ---------------------------------------------------------------------------------

    def _is_hidden(self, path: str) -> bool:
        return any(path.startswith(folder + "/") for folder in self._hidden)

    def _require(self, path: str) -> None:
        if (path not in self._files and path not in self._live) or self._is_hidden(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    @staticmethod
    def _one_of(text: str, known: tuple[str, ...] | list[str], path: str) -> str:
        if text not in known:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return text


def play(board: VirtualKernel | SimulatedDevice, order: str) -> None:
    """What others do to a board, as text (`USAGE`), but for jetson_clocks, which needs files.

    Raises ValueError or KeyError for what it cannot."""
    match order.split():
        case ["mode", name]:
            board.set_mode(name)
        case ["limit", domain, hz]:
            board.set_by_others(domain, int(hz))
        case ["cpu", number, ("on" | "off") as state]:
            board.hotplug(int(number), on=state == "on")
        case ["ambient", celsius]:
            board.ambient_c = float(celsius)
        case _:
            raise ValueError(order)


def _status(mode: int) -> str:
    """Content of nvpmodel's status file."""
    return f"pmode:{mode:04d} fmode:quiet"
