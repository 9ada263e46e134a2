"""The files of a virtual kernel inside one process: no folder, no FUSE, no clock but the kernel's own."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.device.virtual.kernel import VirtualKernel


class KernelFiles(SysFiles):
    """What `SysFiles` offers, answered by a virtual kernel."""

    keeps_open = False

    def __init__(self, kernel: VirtualKernel) -> None:
        super().__init__(Path("/nowhere"))
        self.kernel = kernel

    def resolve(self, path: str) -> str:
        for _ in range(4):
            for link, target in self.kernel.links.items():
                if path == link or path.startswith(link + "/"):
                    path = target + path[len(link) :]
        return path

    def read(self, path: str) -> str:
        return self.kernel.read(self.resolve(path)).replace("\\0", "\0").strip("\0 \t\r\n")

    def write(self, path: str, text: str) -> None:
        self.kernel.write(self.resolve(path), text)

    def exists(self, path: str) -> bool:
        path = self.resolve(path)
        return any(known == path or known.startswith(path + "/") for known in self.kernel.paths())

    def names(self, path: str) -> list[str]:
        prefix = self.resolve(path).rstrip("/") + "/"
        places = [*self.kernel.paths(), *self.kernel.links]
        found = {known[len(prefix) :].split("/")[0] for known in places if known.startswith(prefix)}
        return sorted(
            found, key=lambda name: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", name)]
        )

    def can_read(self, path: str) -> tuple[bool, str]:
        return (True, "") if self.exists(path) else (False, f"{path}: no such file")

    def can_write(self, path: str) -> tuple[bool, str]:
        if self.kernel.writable(self.resolve(path)):
            return True, ""
        return False, f"{path}: {os.strerror(errno.EACCES)}"
