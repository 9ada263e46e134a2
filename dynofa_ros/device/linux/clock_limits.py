"""The files that limit one clock: read, and written in an order that every kernel accepts.

Limits are bands in Hz, 0 = no limit; the files count in kHz (cpufreq) or in Hz.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from dynofa_ros.device.board import FREQUENCY_TOLERANCE_HZ
from dynofa_ros.device.linux.sysfs import REFUSED_VALUE, SysFiles, to_int
from dynofa_ros.messages import FrequencyBand

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
class LimitFiles:
    """Where the limits of one clock stand; a number there times ``unit_hz`` is Hz.

    ``kind`` ``band``: a file for each end. ``lock`` (memory clock of Tegra): ``low_path`` locks the clock
    (1) to the rate in ``high_path`` or lets it go (0); a lock has min == max, no lock is 0, 0.
    Raises ValueError for files that are no limits of a clock.
    """

    domain: str
    kind: str
    low_path: str
    high_path: str
    unit_hz: int

    def __post_init__(self) -> None:
        allowed = ALLOWED.get(self.kind)
        for path in (self.low_path, self.high_path):
            if allowed is None or not allowed.fullmatch(path):
                raise ValueError(f"{path}: not a file that limits a clock")

    def band(self, low: int, high: int) -> FrequencyBand:
        """Limits by the numbers in the files."""
        return FrequencyBand(self.domain, low * self.unit_hz, high * self.unit_hz)


def same_limits(a: FrequencyBand, b: FrequencyBand) -> bool:
    """Whether two limits are the same to the kernel, which counts in kHz (devfreq since 5.5)."""
    return max(abs(a.min_hz - b.min_hz), abs(a.max_hz - b.max_hz)) <= FREQUENCY_TOLERANCE_HZ


def read_limits(files: SysFiles, paths: LimitFiles) -> FrequencyBand:
    """The limits in force. Raises OSError as the kernel gives it, ValueError for a file without a number."""
    low, high = _number(files, paths.low_path), _number(files, paths.high_path)
    if paths.kind == "lock":
        return paths.band(high, high) if low else paths.band(0, 0)
    return paths.band(low, high)


def write_limits(files: SysFiles, paths: LimitFiles, wanted: FrequencyBand) -> None:
    """Set both limits; ``wanted`` must have min <= max where both are set.

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
        low_first = now is not None and 0 < wanted.max_hz < now.min_hz
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


def _write_pair(files: SysFiles, paths: LimitFiles, wanted: FrequencyBand, low_first: bool) -> None:
    pair = ((paths.low_path, wanted.min_hz), (paths.high_path, wanted.max_hz))
    for path, hz in pair if low_first else pair[::-1]:
        _write(files, path, hz // paths.unit_hz)


def _write_what_fits(
    files: SysFiles, paths: LimitFiles, wanted: FrequencyBand, now: FrequencyBand, error: OSError
) -> None:
    """On an old kernel a thermal limit below the wanted minimum forbids it: as near as it goes."""
    if not 0 < now.max_hz < wanted.min_hz:
        raise error
    _write(files, paths.low_path, now.max_hz // paths.unit_hz)


def _write_lock(files: SysFiles, paths: LimitFiles, wanted: FrequencyBand) -> None:
    if not wanted.max_hz:
        _write(files, paths.low_path, 0)
        return
    _write(files, paths.low_path, 1)
    _write(files, paths.high_path, wanted.max_hz // paths.unit_hz)


def _limits_or_none(files: SysFiles, paths: LimitFiles) -> FrequencyBand | None:
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
