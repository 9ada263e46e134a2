"""The clock limits found before the first change, on disk until they are back.

One file per kernel (root folder), next to a lock that only one process at a time can hold. The process that
changes clocks holds the lock, saves what it finds, and only then writes. A process that was killed leaves the
file; `restore_saved` restores the clocks at the next start, in `dynofa device restore`, or at boot.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dynofa_ros.device.linux.clock_limits import LimitFiles, read_limits, same_limits, write_limits
from dynofa_ros.device.linux.inventory import PowerMode
from dynofa_ros.device.linux.sysfs import SysFiles, reason_of
from dynofa_ros.errors import one_line
from dynofa_ros.files import read_bounded
from dynofa_ros.messages import DomainState, DomainStatus, FrequencyBand
from dynofa_ros.paths import PACKAGE

SCHEMA_VERSION = 1
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SYSTEM_FOLDER = Path("/var/lib", PACKAGE)
LARGEST_STATE = 1 << 20  # bytes
FILE_MODE = 0o664  # the group of the system's folder may restore what another of its members left
BUSY_WAITS_S = (0.005, 0.02, 0.08)  # hotplug of a CPU takes 10 to 100 ms


class BackupError(ValueError):
    """The state file cannot be used, or another process holds the clocks; one line for the user."""


@dataclass(frozen=True)
class SavedClock(LimitFiles):
    """Limits of one clock as found, in the numbers of its files, 0 = no limit.

    ``lowest`` and ``highest``: the hardware's range, 0 = unknown. ``power_mode``: nvpmodel's, if known.
    """

    low: int
    high: int
    lowest: int = 0
    highest: int = 0
    power_mode: int | None = None
    boot_id: str = ""

    def mode_band(self, mode: PowerMode | None) -> FrequencyBand | None:
        """The limits of nvpmodel's mode, None where it has none for the clock."""
        cap = mode.cap(self.domain) if mode else None
        if cap is None or not cap.max_hz:
            return None
        return FrequencyBand(self.domain, cap.min_hz or self.lowest * self.unit_hz, cap.max_hz)


def state_folder() -> Path:
    """Where states are kept: $DYNOFA_STATE_DIR, else the system's folder if it can be used, else the user's.

    The system's, /var/lib/dynofa_ros, serves all users of the clocks and the unit that runs at boot. The
    user's is in $XDG_STATE_HOME, by default ~/.local/state. Raises BackupError for a user without a home.
    """
    chosen = os.environ.get("DYNOFA_STATE_DIR")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0 or os.access(SYSTEM_FOLDER, os.W_OK | os.X_OK):
        return SYSTEM_FOLDER
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", PACKAGE)
    except RuntimeError:
        raise BackupError(
            f"no folder for the clocks found at start: user {os.geteuid()} has no home and HOME is not set; "
            "set DYNOFA_STATE_DIR"
        ) from None


class ClockBackup:
    """The state file and the lock of the kernel that ``files`` shows.

    Nothing is created before `acquire`. All methods raise OSError if the folder cannot be used, and
    BackupError as said there and where no folder is given and `state_folder` knows none.
    """

    def __init__(self, files: SysFiles, folder: Path | None = None) -> None:
        self._root = os.path.realpath(files.root)
        self._folder = folder
        self._lock = -1
        self._boot_id = _boot_id(files)
        self._clocks: dict[str, SavedClock] = {}

    @cached_property
    def path(self) -> Path:
        """The state file. Not looked for before it is needed: reading a device needs none."""
        folder = self._folder if self._folder is not None else state_folder()
        return folder / f"clocks-{hashlib.sha256(self._root.encode()).hexdigest()[:12]}.json"

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def _lock_path(self) -> Path:
        return self.path.with_suffix(".lock")

    @property
    def clocks(self) -> tuple[SavedClock, ...]:
        """What is on disk, as of `acquire`, `save` and `remove`."""
        return tuple(self._clocks.values())

    @property
    def boot_id(self) -> str:
        return self._boot_id

    @property
    def held(self) -> bool:
        return self._lock >= 0

    def left_over(self) -> bool:
        """Whether there is a state file of clocks that were not restored."""
        return self.path.exists()

    def acquire(self) -> None:
        """Take the lock and read what an earlier process left.

        Raises BackupError if another process holds it (its number is in the text), or the file is damaged.
        """
        if self.held:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_own(self._lock_path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._clocks = {clock.domain: clock for clock in self._read()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            with suppress(PermissionError):  # the mode above was cut by the umask; only the owner may
                os.fchmod(descriptor, FILE_MODE)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise BackupError(
                f"process {holder} controls the clocks of {self._root} ({self._lock_path}); stop it first"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def release(self) -> None:
        """Let the lock go; the kernel does it for a process that was killed."""
        if self.held:
            os.close(self._lock)
            self._lock = -1
            self._clocks = {}

    def save(self, clocks: Iterable[SavedClock]) -> None:
        """Add clocks, on disk when this returns. What is there already stays: only the first is as found."""
        new = {
            clock.domain: replace(clock, boot_id=self._boot_id)
            for clock in clocks
            if clock.domain not in self._clocks
        }
        if new:
            self._store({**self._clocks, **new})

    def remove(self, domains: Iterable[str]) -> None:
        """Forget clocks that are back."""
        gone = set(domains)
        left = {name: clock for name, clock in self._clocks.items() if name not in gone}
        if len(left) != len(self._clocks):
            self._store(left)

    def _store(self, clocks: dict[str, SavedClock]) -> None:
        if not self.held:
            raise BackupError(f"{self.path}: the lock is not held")
        if clocks:
            content = {
                "schema_version": SCHEMA_VERSION,
                "sysfs_root": self._root,
                "clocks": [asdict(clock) for clock in clocks.values()],
            }
            _write_durably(self.path, (json.dumps(content, indent=1) + "\n").encode())
        else:
            self.path.unlink(missing_ok=True)
        self._clocks = clocks

    def _read(self) -> list[SavedClock]:
        try:
            content = json.loads(read_bounded(self.path, LARGEST_STATE, os.O_NOFOLLOW))
            if content["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version {content['schema_version']} is not {SCHEMA_VERSION}")
            return [_checked(entry) for entry in content["clocks"]]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BackupError(
                f"{self.path}: not a state of clocks ({one_line(error)}); "
                "set the clocks by hand or restart the computer, and delete the file"
            ) from error


def restore_saved(
    files: SysFiles,
    backup: ClockBackup,
    mode: PowerMode | None = None,
    domains: Sequence[str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[DomainState, ...]:
    """Give the saved clocks back and forget those that are back, judged by reading them again.

    The lock must be held. ``mode``: nvpmodel's now. ``domains``: only these. What cannot be restored now
    (a GPU without power, a CPU offline) stays on disk for the next try. Raises OSError only for the state
    file itself.

    Returns what became of each, with the limits in Hz, 0 = no limit: ``done``, or why not yet.
    """
    chosen = [clock for clock in backup.clocks if domains is None or clock.domain in domains]
    returned = tuple(_restore_clock(files, clock, backup.boot_id, mode, sleep) for clock in chosen)
    backup.remove(result.domain for result in returned if result.done)
    return returned


def _restore_clock(
    files: SysFiles,
    clock: SavedClock,
    boot_id: str,
    mode: PowerMode | None,
    sleep: Callable[[float], None],
) -> DomainState:
    wanted = _owed(clock, mode)

    def result(done: bool, reason: str = "") -> DomainState:
        status = DomainStatus.APPLIED if done else DomainStatus.PENDING
        return DomainState(clock.domain, wanted.min_hz, wanted.max_hz, math.nan, status, reason=reason)

    if clock.boot_id != boot_id and _set_by_boot(files, clock, mode):
        return result(True, "the computer was restarted, which restored it")
    reason = ""
    try:
        _write_patiently(files, clock, wanted, sleep)
    except OSError as error:
        reason = reason_of(error, str(error.filename or clock.high_path))
    try:
        now = read_limits(files, clock)
    except OSError as error:
        return result(False, reason or reason_of(error, str(error.filename or clock.high_path)))
    except ValueError as error:
        return result(False, reason or str(error))
    if same_limits(now, wanted):  # also where writing is not allowed and nothing was changed
        return result(True)
    return result(
        False,
        reason
        or f"set to {wanted.min_hz}..{wanted.max_hz}, but the kernel says {now.min_hz}..{now.max_hz}: "
        "heat or power holds it, or another program has set it",
    )


def _owed(clock: SavedClock, mode: PowerMode | None) -> FrequencyBand:
    """The limits to restore: as found, or those of the nvpmodel mode that was chosen since then."""
    chosen = clock.mode_band(mode)
    same = mode is None or clock.power_mode is None or mode.number == clock.power_mode
    if same or chosen is None or clock.kind != "band":
        return clock.band(clock.low, clock.high)
    return replace(chosen, min_hz=min(chosen.min_hz, chosen.max_hz))


def _set_by_boot(files: SysFiles, clock: SavedClock, mode: PowerMode | None) -> bool:
    """Whether the limits in force come from a start of the computer that lies between.

    Limits do not outlive a restart: what the kernel or nvpmodel has set since then is right, also where it
    differs from what was found, which may have been set by hand for that boot only. So limits as found, the
    hardware's whole range and the mode's own stay. Any other band is taken for one of ours that something
    carried over (a tool that saves clocks at shutdown and sets them at boot, a root folder that is no
    kernel's): that is restored. A clock that is not there (yet) has nothing to restore.
    """
    try:
        now = read_limits(files, clock)
    except OSError:
        return True
    except ValueError:
        return False
    right = [clock.band(clock.low, clock.high), clock.band(0, 0), clock.band(clock.lowest, clock.highest)]
    return any(same_limits(now, band) for band in (*right, clock.mode_band(mode)) if band is not None)


def _write_patiently(
    files: SysFiles, paths: LimitFiles, wanted: FrequencyBand, sleep: Callable[[float], None]
) -> None:
    for wait_s in BUSY_WAITS_S:
        try:
            return write_limits(files, paths, wanted)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        sleep(wait_s)
    write_limits(files, paths, wanted)


def _checked(entry: Any) -> SavedClock:
    clock = SavedClock(**entry)
    for name in ("low", "high", "unit_hz", "lowest", "highest"):
        value = getattr(clock, name)
        if type(value) is not int or not 0 <= value < 2**62:
            raise ValueError(f"{name} of {clock.domain} must be a whole number >= 0, not {value!r}")
    texts = (clock.domain, clock.kind, clock.low_path, clock.high_path, clock.boot_id)
    known_mode = clock.power_mode is None or type(clock.power_mode) is int
    if not clock.unit_hz or not known_mode or not all(isinstance(t, str) and t.isprintable() for t in texts):
        raise ValueError(f"{entry} is not a clock")
    return clock


def _boot_id(files: SysFiles) -> str:
    """Of the kernel below the root if it says so, else of this computer's."""
    with suppress(OSError):
        return files.read(BOOT_ID)
    with suppress(OSError):
        return Path(BOOT_ID).read_text(encoding="ascii").strip()
    return ""


def _open_own(path: Path, flags: int) -> int:
    """A descriptor of an ordinary file without another name, as others may put links into the folder."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, FILE_MODE)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "not an ordinary file, or a link to another one", str(path))
    return descriptor


def _write_durably(path: Path, data: bytes) -> None:
    """A reader finds the old file or the new one, also after a power cut. The lock keeps writers apart."""
    temporary = path.with_suffix(".tmp")
    with os.fdopen(_open_own(temporary, os.O_WRONLY | os.O_CREAT), "wb") as file:
        file.truncate()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
