"""The files that limit one clock: read, and written in an order that every kernel accepts.

Numbers are those of the files (kHz in cpufreq, Hz elsewhere).
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from dynofa_ros.device.board import FREQUENCY_TOLERANCE_HZ
from dynofa_ros.device.linux.sysfs import REFUSED_VALUE, SysFiles, to_int

# What may be written, and nothing else: a saved state that was tampered with must not make a
# privileged process write other files. `.` and `..` are no folder names here; below /sys/fs and /sys/kernel
# are other file systems, in which others may make files.
_FOLDER = r"/(?!\.\.?/)[!-.0-~]+"
ALLOWED = {
    "band": re.compile(
        rf"/sys/devices/system/cpu(?:{_FOLDER})+/scaling_(?:min|max)_freq|/sys(?!/fs/|/kernel/)(?:{_FOLDER})+/m(?:in|ax)_freq"
    ),
    "lock": re.compile(
        r"/sys/kernel/debug/(?:bpmp/debug/clk/emc/(?:mrq_rate_locked|rate)|clk/override\.emc/clk_(?:state|update_rate))"
    ),
}


@dataclass(frozen=True)
class Limits:
    """Lowest and highest clock; 0 = no limit."""

    low: int
    high: int


@dataclass(frozen=True)
class LimitFiles:
    """Where the limits of one clock stand.

    ``kind`` ``band``: a file for each end. ``lock`` (memory clock of Tegra): ``low_path`` locks the clock
    (1) to the rate in ``high_path`` or lets it go (0); a lock has low == high, no lock is 0, 0.
    Raises ValueError for files that are no limits of a clock.
    """

    kind: str
    low_path: str
    high_path: str

    def __post_init__(self) -> None:
        allowed = ALLOWED.get(self.kind)
        for path in (self.low_path, self.high_path):
            if allowed is None or not allowed.fullmatch(path):
                raise ValueError(f"{path}: not a file that limits a clock")


def same_limits(a: Limits, b: Limits, unit_hz: int) -> bool:
    """Whether two limits are the same to the kernel, which counts in kHz (devfreq since 5.5)."""
    return max(abs(a.low - b.low), abs(a.high - b.high)) * unit_hz <= FREQUENCY_TOLERANCE_HZ


def read_limits(files: SysFiles, paths: LimitFiles) -> Limits:
    """The limits in force. Raises OSError as the kernel gives it, ValueError for a file without a number."""
    low, high = _number(files, paths.low_path), _number(files, paths.high_path)
    if paths.kind == "lock":
        return Limits(high, high) if low else Limits(0, 0)
    return Limits(low, high)


def write_limits(files: SysFiles, paths: LimitFiles, wanted: Limits) -> None:
    """Set both limits; ``wanted`` must have low <= high where both are set.

    Kernels before 5.3 (cpufreq) and 5.5 (devfreq) refuse with EINVAL whatever makes min > max for a moment;
    later ones take anything and the maximum wins. Where EINVAL comes all the same, another program wrote in
    between: the order is chosen anew, once. Raises OSError as the kernel gives it, naming the file.
    """
    if paths.kind == "lock":
        _write_lock(files, paths, wanted)
        return
    now = _limits_or_none(files, paths)
    for again in (True, False):
        # Above all that is in force the maximum moves first, below it the minimum.
        low_first = now is not None and 0 < wanted.high < now.low
        try:
            _write_pair(files, paths, wanted, low_first)
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            now = _limits_or_none(files, paths)
            if now is None:  # unreadable: there are only two orders
                _write_pair(files, paths, wanted, not low_first)
                return
            if not again:
                _write_what_fits(files, paths, wanted, now, error)


def _write_pair(files: SysFiles, paths: LimitFiles, wanted: Limits, low_first: bool) -> None:
    pair = ((paths.low_path, wanted.low), (paths.high_path, wanted.high))
    for path, number in pair if low_first else pair[::-1]:
        _write(files, path, number)


def _write_what_fits(files: SysFiles, paths: LimitFiles, wanted: Limits, now: Limits, error: OSError) -> None:
    """On an old kernel a thermal limit below ``wanted.low`` forbids that minimum: as near as it goes."""
    if not 0 < now.high < wanted.low:
        raise error
    _write(files, paths.low_path, now.high)


def _write_lock(files: SysFiles, paths: LimitFiles, wanted: Limits) -> None:
    if not wanted.high:
        _write(files, paths.low_path, 0)
        return
    _write(files, paths.low_path, 1)
    _write(files, paths.high_path, wanted.high)


def _limits_or_none(files: SysFiles, paths: LimitFiles) -> Limits | None:
    try:
        return read_limits(files, paths)
    except ValueError:
        return None


def _write(files: SysFiles, path: str, number: int) -> None:
    try:
        files.write(path, str(number))
    except OSError as error:
        error.filename = path
        if error.errno == errno.EINVAL:
            error.strerror = REFUSED_VALUE
        raise


def _number(files: SysFiles, path: str) -> int:
    try:
        return to_int(files.read(path), path)
    except OSError as error:
        error.filename = path
        raise
