"""A kernel's clock files, with its rules, in a folder of plain files.

`make_board` writes the files of a small board; `FakeKernel` is the `SysFiles` through which the code under
test sees them and which refuses, rounds and delays as kernels do. Its time is `now_s`, set by the test.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from dynofa_ros.device.linux.sysfs import SysFiles, reason_of

CPUFREQ = "/sys/devices/system/cpu/cpufreq"
GPU = "/sys/devices/17000000.gv11b/devfreq/17000000.gv11b"
GPU_DEVICE = "/sys/devices/17000000.gv11b"
CPU_TABLE = [115_200 + k * 76_800 for k in range(24)] + [1_907_200]  # kHz, Xavier NX
GPU_TABLE = [114_750_000, 204_000_000, 306_000_000, 408_000_000, 510_000_000, 803_250_000, 1_109_250_000]
CPU_DELAY_S, GPU_DELAY_S = 0.001, 0.025
COOLING = "/sys/class/thermal/cooling_device0"
NVPMODEL_CONF = """
< PARAM TYPE=FILE NAME=CPU_A >
MIN_FREQ /sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq
MAX_FREQ /sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq
< PARAM TYPE=FILE NAME=GPU >
MAX_FREQ /sys/devices/17000000.gv11b/devfreq/17000000.gv11b/max_freq
< POWER_MODEL ID=0 NAME=MODE_15W >
CPU_A MIN_FREQ 1190400
CPU_A MAX_FREQ 1420800
GPU MAX_FREQ 1109250000
< POWER_MODEL ID=1 NAME=MODE_10W >
CPU_A MIN_FREQ 1190400
CPU_A MAX_FREQ 1190400
GPU MAX_FREQ 520000000
< PM_CONFIG DEFAULT=0 >
"""


def policy(number: int) -> str:
    return f"{CPUFREQ}/policy{number}"


def make_board(root: Path, policies: int = 3) -> Path:
    """CPU policies 0, 2, 4 of two cores each and a GPU; limits as found on a real board, not at the ends."""
    files: dict[str, object] = {}
    for number in range(0, 2 * policies, 2):
        folder = policy(number)
        files |= {
            f"{folder}/related_cpus": f"{number} {number + 1}",
            f"{folder}/affected_cpus": f"{number} {number + 1}",
            f"{folder}/cpuinfo_min_freq": CPU_TABLE[0],
            f"{folder}/cpuinfo_max_freq": CPU_TABLE[-1],
            f"{folder}/scaling_available_frequencies": " ".join(map(str, CPU_TABLE)),
            f"{folder}/scaling_governor": "schedutil",
            f"{folder}/scaling_cur_freq": 1_190_400,
            f"{folder}/scaling_min_freq": 1_190_400,
            f"{folder}/scaling_max_freq": 1_420_800 + 76_800 * (number // 2),
        }
    files |= {
        f"{GPU}/available_frequencies": " ".join(map(str, GPU_TABLE)),
        f"{GPU}/governor": "nvhost_podgov",
        f"{GPU}/cur_freq": GPU_TABLE[0],
        f"{GPU}/min_freq": GPU_TABLE[0],
        f"{GPU}/max_freq": GPU_TABLE[5],
        f"{GPU_DEVICE}/of_node/name": "gv11b",
        f"{COOLING}/type": "thermal-cpufreq-0",
        f"{COOLING}/cur_state": 0,
    }
    for path, content in files.items():
        put(root, path, content)
    for number in range(0, 2 * policies):
        link(root, f"/sys/devices/system/cpu/cpu{number}/cpufreq", policy(number - number % 2))
    link(root, "/sys/class/devfreq/17000000.gv11b", GPU)
    link(root, f"{GPU}/device", GPU_DEVICE)
    return root


def put(root: Path, path: str, content: object) -> None:
    file = root / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{content}\n")


def link(root: Path, path: str, target: str) -> None:
    place = root / path[1:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(root / target[1:], place.parent))


def limits_on_disk(root: Path) -> dict[str, str]:
    """Content of every limit file, to the byte."""
    names = ("scaling_min_freq", "scaling_max_freq", "min_freq", "max_freq")
    found = [p for p in (root / "sys").rglob("*_freq") if p.name in names and not p.is_symlink()]
    return {str(p.relative_to(root)): p.read_text() for p in sorted(found)}


@dataclass
class _Domain:
    """``low`` and ``high`` are the requests of user space, ``cap`` the kernel's own (heat), 0 = none."""

    folder: str
    prefix: str
    table: list[int]
    delay_s: float
    low: int
    high: int
    cap: int = 0
    history: list[tuple[float, int]] = field(default_factory=list)

    @property
    def effective(self) -> tuple[int, int]:
        """The maximum wins, and the kernel's own maximum over the user's."""
        high = self.high or self.table[-1]
        high = min(high, self.cap or high)
        return min(self.low, high), high

    @property
    def clock(self) -> int:
        """Of a governor that goes as low as it may: the first clock at or above the minimum."""
        low, high = self.effective
        below = [entry for entry in self.table if entry <= high] or self.table[:1]
        return next((entry for entry in below if entry >= low), below[-1])


class FakeKernel(SysFiles):
    """``version``: (4, 9) refuses min > max, (5, 10) takes it and the maximum wins.

    ``busy``: this many next writes fail with EBUSY. ``errors``: path -> errno of every access to it.
    ``closed``: paths that may not be written, whoever asks. ``refused``: paths that
    take no value. ``writes``: what was written, in order.
    """

    keeps_open = False

    def __init__(self, root: Path, version: tuple[int, int] = (5, 10)) -> None:
        super().__init__(root)
        self.version = version
        self.now_s = 0.0
        self.busy = 0
        self.errors: dict[str, int] = {}
        self.closed: set[str] = set()
        self.refused: set[str] = set()
        self.read_only = False
        self.writes: list[tuple[str, str]] = []
        self._domains = {d.folder: d for d in self._find()}

    # --- the kernel's side of reading and writing ----------------------------------------------

    def read(self, path: str) -> str:
        path = self.resolve(path)
        self._fail(path)
        domain, name = self._limit(path)
        if domain is None:
            return super().read(path)
        if name == "cur_freq":
            return str(self._clock(domain))
        return str(domain.effective[name == "max_freq"])

    def write(self, path: str, text: str) -> None:
        path = self.resolve(path)
        self._fail(path)
        self._permit(path)
        if self.busy:
            self.busy -= 1
            raise OSError(errno.EBUSY, "busy", path)
        domain, name = self._limit(path)
        if domain is None or name == "cur_freq":
            super().write(path, text)
            return
        if not text.isdecimal() or path in self.refused:
            raise OSError(errno.EINVAL, "not a number", path)
        self.writes.append((path, text))
        self._set(domain, name, int(text), path)

    def can_write(self, path: str) -> tuple[bool, str]:
        try:
            self._permit(self.resolve(path))
        except OSError as error:
            return False, reason_of(error, path)
        return super().can_write(path)

    # --- what happens to a kernel ----------------------------------------------------------------

    def heat(self, folder: str, cap: int) -> None:
        """The thermal framework lowers the maximum; 0 = it has cooled down."""
        self._domains[folder].cap = cap
        put(self.root, f"{COOLING}/cur_state", 1 if cap else 0)
        self._changed(self._domains[folder])

    def other_program(self, folder: str, low: int, high: int) -> None:
        """nvpmodel, jetson_clocks or somebody's script sets both limits."""
        domain = self._domains[folder]
        domain.low, domain.high = low, high
        self._changed(domain)

    def stuck(self, folder: str, clock: int) -> None:
        """From now on the clock stands still, whatever the limits."""
        domain = self._domains[folder]
        domain.history = [(-1.0, clock)]
        domain.table = [clock]

    def unplug(self, folder: str) -> None:
        """The last core of a policy goes offline, or a device is unbound: its files are gone."""
        shutil.move(self.root / folder[1:], self.root / f"gone{folder.replace('/', '_')}")

    def plug(self, folder: str) -> None:
        shutil.move(self.root / f"gone{folder.replace('/', '_')}", self.root / folder[1:])

    def limits(self, folder: str) -> tuple[int, int]:
        """What user space has asked for, as the kernel remembers it."""
        domain = self._domains[folder]
        return domain.low, domain.high

    # --- inside ------------------------------------------------------------------------------------

    def _find(self) -> list[_Domain]:
        found = []
        for folder in [*self.glob(f"{CPUFREQ}/policy*"), *filter(self.exists, [GPU])]:
            prefix, table, delay_s = ("", "available_frequencies", GPU_DELAY_S)
            if folder.startswith(CPUFREQ):
                prefix, table, delay_s = ("scaling_", "scaling_available_frequencies", CPU_DELAY_S)
            entries = [int(word) for word in SysFiles.read(self, f"{folder}/{table}").split()]
            low, high, clock = (
                int(SysFiles.read(self, f"{folder}/{prefix}{name}"))
                for name in ("min_freq", "max_freq", "cur_freq")
            )
            found.append(_Domain(folder, prefix, entries, delay_s, low, high, history=[(-1.0, clock)]))
        return found

    def _limit(self, path: str) -> tuple[_Domain | None, str]:
        folder, name = path.rsplit("/", 1)
        domain = self._domains.get(folder)
        if domain is None or name not in {
            f"{domain.prefix}{n}" for n in ("min_freq", "max_freq", "cur_freq")
        }:
            return None, ""
        return domain, name.removeprefix(domain.prefix)

    def _set(self, domain: _Domain, name: str, value: int, path: str) -> None:
        low, high = domain.effective
        if self.version < (5, 3):
            new_low, new_high = (value, high) if name == "min_freq" else (low, value)
            if new_low and new_high and new_low > new_high:
                raise OSError(errno.EINVAL, "min > max", path)
        if name == "min_freq":
            domain.low = value
        else:
            domain.high = value
        self._changed(domain)

    def _changed(self, domain: _Domain) -> None:
        """The files on disk follow, for those who look at them directly; the clock follows later."""
        for name, value in zip(("min_freq", "max_freq"), domain.effective, strict=True):
            put(self.root, f"{domain.folder}/{domain.prefix}{name}", value)
        domain.history.append((self.now_s + domain.delay_s, domain.clock))

    def _clock(self, domain: _Domain) -> int:
        return [clock for due_s, clock in domain.history if due_s <= self.now_s][-1]

    def _fail(self, path: str) -> None:
        if path in self.errors:
            raise OSError(self.errors[path], os.strerror(self.errors[path]), path)
        if not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _permit(self, path: str) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        if path in self.closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
