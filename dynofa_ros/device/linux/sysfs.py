"""The kernel's files below a root folder: the only module of the device layer that opens them."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from pathlib import Path

from dynofa_ros.files import natural

LARGEST_READ = 1 << 20
SAMPLE_SIZE = 1 << 16
MOST_LINKS = 40
BLANK = "\0 \t\r\n\ufeff"  # the last one begins files that were edited on Windows
NUMBER = re.compile(r"-?[0-9]{1,20}")

PERMISSION_CURE = "`sudo dynofa device permissions --install` allows it to the group dynofa"
OFF = "powered off for now"  # in every reason that is no fault: a device that is not in use
REFUSED_VALUE = "the kernel refused the value"  # text of the EINVAL of a write
# Errors of reading that pass without anybody's doing: CPU hotplug, a device without power.
TRANSIENT = {errno.EAGAIN, errno.EBUSY, errno.ENODATA}
# What it means, and what the user can do about it. Texts are ends of one-line messages.
CURES = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted, in a container it needs --privileged",
    errno.EROFS: "the file system is read-only; in a container add --privileged -v /sys:/sys",
    errno.EINVAL: "the driver has no valid value to show",  # of a read; see REFUSED_VALUE
    errno.EBUSY: "busy: CPU hotplug, or the clock is locked by another program; try again",
    errno.ENOENT: "no such file",
    errno.ENODEV: "the device is gone (unbound or powered off)",
    errno.ENXIO: "the device is gone (unbound or powered off)",
    errno.EAGAIN: f"the device is {OFF}",
    errno.EIO: "the device does not answer",
    errno.ETIMEDOUT: "the device does not answer",
    errno.ENODATA: "the sensor has no value now",
    errno.EOPNOTSUPP: "the kernel does not support it here",
}


class SysFiles:
    """Reads and writes kernel files by their usual absolute paths, looked up below ``root``.

    With another root than ``/``, absolute symbolic links count from that root, and nothing outside is
    reached. A fake kernel for tests overrides ``read`` and ``write`` and sets ``keeps_open = False``.
    ``unsettled``: whether `text` or `number` met an error that passes since it was last set to False.
    """

    keeps_open = True
    unsettled = False

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = Path(os.path.abspath(root))
        self.is_real = str(self.root) == "/"
        self._prefixes = sorted({str(self.root), os.path.realpath(root)}, key=len, reverse=True)

    def read(self, path: str) -> str:
        """Content without white space and NULs around it. Raises OSError as the kernel gives it.

        Controls inside are replaced: names in it are shown on terminals.
        """
        text = _read_all(self.open(path)).decode(errors="replace").strip(BLANK)
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() or c in BLANK else "\ufffd" for c in text)

    def read_int(self, path: str) -> int:
        """Content as a whole number. Raises OSError, and ValueError that names the path and the content."""
        return to_int(self.read(path), path)

    def text(self, path: str) -> str:
        """Content as `read` gives it, empty if it cannot be read."""
        try:
            return self.read(path)
        except OSError as error:
            self.unsettled |= error.errno in TRANSIENT
            return ""

    def name(self, path: str) -> str:
        """Content as `text` gives it, on one line: for what is shown."""
        return " ".join(self.text(path).replace("\0", " ").split())

    def number(self, path: str) -> int | None:
        """Content as a whole number, None if it cannot be read or is something else."""
        try:
            return self.read_int(path)
        except OSError as error:
            self.unsettled |= error.errno in TRANSIENT
            return None
        except ValueError:
            return None

    def write(self, path: str, text: str) -> None:
        """Write the whole text and a line end at once. Raises OSError as the kernel gives it."""
        data = text.encode() + b"\n"
        descriptor = os.open(self._host(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            if not os.fstat(descriptor).st_mode & 0o222:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.EIO, "short write", path)
            if not self.is_real:
                os.ftruncate(descriptor, len(data))  # the kernel forgets the old content by itself
        finally:
            os.close(descriptor)

    def open(self, path: str) -> int:
        """A descriptor to read from; as in the kernel, a file without read bits is closed to root too."""
        descriptor = os.open(self._host(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not os.fstat(descriptor).st_mode & 0o444:
            os.close(descriptor)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return descriptor

    def keep(self, path: str) -> KeptFile:
        """The file for many reads."""
        return KeptFile(self, path)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder, links followed."""
        try:
            return os.path.exists(self._host(path))
        except OSError:
            return False

    def names(self, path: str) -> list[str]:
        """Printable names in a folder, numbers in numeric order; empty if there is none or it is closed."""
        try:
            return sorted(filter(str.isprintable, os.listdir(self._host(path))), key=natural)
        except OSError:
            return []

    def glob(self, pattern: str) -> list[str]:
        """Paths that match; ``*``, ``?`` and ``[...]`` stand within one name. Numeric order."""
        found = ["/"]
        for part in filter(None, pattern.split("/")):
            if re.search(r"[*?\[]", part):
                found = [
                    f"{folder.rstrip('/')}/{name}"
                    for folder in found
                    for name in self.names(folder)
                    if fnmatch.fnmatchcase(name, part)
                ]
            else:
                found = [f"{folder.rstrip('/')}/{part}" for folder in found]
        return [path for path in found if self.exists(path)]

    def resolve(self, path: str) -> str:
        """The path without symbolic links, counted from the root. A missing end is kept as it is.

        Raises OSError (ELOOP) for links in a circle.
        """
        if self.is_real:
            return os.path.realpath(path)
        done: list[str] = []
        left = _parts(path)
        links = 0
        while left:
            part = left.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            here = self._join(done, part)
            if not os.path.islink(here):
                done.append(part)
                continue
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            left = _parts(self._below_root(target)) + left
        return "/" + "/".join(done)

    def mode(self, path: str) -> int | None:
        """Permission bits of a file; None if it is not there."""
        try:
            return stat.S_IMODE(os.stat(self._host(path)).st_mode)
        except OSError:
            return None

    def can_read(self, path: str) -> tuple[bool, str]:
        """Whether the file may be read, and why not."""
        return self._may(path, os.R_OK, 0o444)

    def can_write(self, path: str) -> tuple[bool, str]:
        """Whether the file may be written, and why not. Nothing is written.

        For root too the mode must have a write bit, as the kernel demands it in sysfs.
        """
        return self._may(path, os.W_OK, 0o222)

    def _may(self, path: str, kind: int, bits: int) -> tuple[bool, str]:
        try:
            host = self._host(path)
            mode = stat.S_IMODE(os.stat(host).st_mode)
            if kind == os.W_OK and os.statvfs(host).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        except OSError as error:
            return False, reason_of(error, path)
        cure = f"; `sudo chmod a+r {path}` allows it until the next start" if kind == os.R_OK else ""
        if not mode & bits:
            return False, f"{path}: mode {mode:04o} allows it to nobody{cure}"
        if not os.access(host, kind):
            return False, reason_of(OSError(errno.EACCES, ""), path) + cure
        return True, ""

    def _host(self, path: str) -> str:
        if self.is_real:
            return path
        return self._join(_parts(self.resolve(path)))

    def _join(self, parts: list[str], *more: str) -> str:
        return "/".join((str(self.root), *parts, *more))

    def _below_root(self, target: str) -> str:
        for prefix in self._prefixes:
            if target == prefix or target.startswith(prefix + "/"):
                return target[len(prefix) :]
        return target


class KeptFile:
    """A file that stays open between reads, for sensors; after an error the next read opens it again."""

    def __init__(self, files: SysFiles, path: str) -> None:
        self.path = path
        self._files = files
        self._descriptor = -1

    def read(self) -> str:
        """Content now, as `SysFiles.read` gives it. Raises OSError; ENODEV for a deleted file."""
        if not self._files.keeps_open:
            return self._files.read(self.path)
        if self._descriptor < 0:
            self._descriptor = self._files.open(self.path)
        try:
            data = os.pread(self._descriptor, SAMPLE_SIZE, 0)
            if not self._files.is_real:
                self._check_fake()
        except OSError:
            self.close()
            raise
        return data.decode(errors="replace").strip(BLANK)

    def _check_fake(self) -> None:
        """Fail where sysfs would: an ordinary file can still be read after it was deleted or closed."""
        state = os.fstat(self._descriptor)
        if not state.st_nlink:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), self.path)
        if not state.st_mode & 0o444:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def to_int(text: str, path: str) -> int:
    """A whole number from a file. Raises ValueError that names the path and what it held."""
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{path}: must hold a whole number, holds {text[:40]!r}")
    return int(text)


def reason_of(error: OSError, path: str) -> str:
    """One line: the file, what is wrong, and what to do about it."""
    if error.errno is None:
        return f"{path}: {error}"
    text = REFUSED_VALUE if error.strerror == REFUSED_VALUE else CURES.get(error.errno)
    return f"{path}: {text or os.strerror(error.errno)}"


def _read_all(descriptor: int) -> bytes:
    try:
        chunks: list[bytes] = []
        size = 0
        while size < LARGEST_READ and (chunk := os.read(descriptor, SAMPLE_SIZE)):
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
