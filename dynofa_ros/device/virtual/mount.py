"""A virtual kernel as a file system (FUSE): reads and writes reach it at once, with the kernel's errors."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import mfusepy

from dynofa_ros.device.virtual.kernel import VirtualKernel

READY_S = 10.0
# Folders come and go with the CPUs, and contents with every read.
UNCACHED = {"direct_io": True, "attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}


class _Files(mfusepy.Operations):
    """Paths of the kernel as FUSE asks for them. One call at a time, under ``lock``."""

    use_ns = True

    def __init__(self, kernel: VirtualKernel, lock: threading.Lock) -> None:
        self.kernel, self._lock = kernel, lock

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        with self._lock:
            if path in self.kernel.links:
                return {"st_mode": stat.S_IFLNK | 0o777, "st_nlink": 1}
            if path in self.kernel.paths():
                mode = 0o644 if self.kernel.writable(path) else 0o444
                return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": 4096}
            if self.kernel.names(path):
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        with self._lock:
            return [".", "..", *sorted(self.kernel.names(path))]

    def readlink(self, path: str) -> str:
        return os.path.relpath(self.kernel.links[path], PurePosixPath(path).parent)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        with self._lock, _kernel_errors():
            data = self.kernel.read(path).encode() + b"\n"
        return data[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self._lock, _kernel_errors():
            self.kernel.write(path, data.decode(errors="replace"))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """A kernel file has no length."""


@contextmanager
def _kernel_errors() -> Iterator[None]:
    """OSError of the kernel to FUSE's."""
    try:
        yield
    except OSError as error:
        raise mfusepy.FuseOSError(error.errno) from error


class Mount:
    """The kernel's files at ``point`` until `close`. Raises OSError where FUSE does not work."""

    def __init__(self, kernel: VirtualKernel, point: Path, lock: threading.Lock | None = None) -> None:
        self.point = point
        self._failure: BaseException | None = None
        operations = _Files(kernel, lock or threading.Lock())
        self._thread = threading.Thread(target=self._serve, args=(operations,), daemon=True, name="fuse")
        self._thread.start()
        deadline_s = time.monotonic() + READY_S
        while not os.path.ismount(point):
            if self._failure or time.monotonic() > deadline_s:
                raise OSError(f"FUSE does not work here: {self._failure or 'no answer'}")
            time.sleep(0.02)

    def close(self) -> None:
        """Unmount; for the main thread only. Files that are still open do not hinder it."""
        for command in (["fusermount3", "-u", "-z"], ["fusermount", "-u", "-z"], ["umount", "-l"]):
            try:
                done = subprocess.run([*command, str(self.point)], capture_output=True).returncode == 0
            except FileNotFoundError:
                continue
            if done:
                break
        self._thread.join(READY_S)
        # libfuse leaves SIGPIPE at its default: the next write to a closed pipe would end the process.
        signal.signal(signal.SIGPIPE, signal.getsignal(signal.SIGPIPE))

    def _serve(self, operations: _Files) -> None:
        try:
            mfusepy.FUSE(operations, str(self.point), foreground=True, nothreads=True, **UNCACHED)
        except BaseException as error:  # noqa: BLE001 - libfuse may end in SystemExit or RuntimeError
            self._failure = error
