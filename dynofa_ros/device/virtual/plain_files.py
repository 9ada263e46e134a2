"""A virtual kernel as plain files, for machines without FUSE.

A write is seen up to one period later, and its refusal cannot reach the writer: the old content comes
back instead. What depends on the kernel's errors is therefore tried with FUSE only.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from dynofa_ros.device.virtual.kernel import VirtualKernel

PERIOD_S = 0.02


class PlainFiles:
    """The files below ``root``; `update` carries changes in both directions and must be called often."""

    def __init__(self, kernel: VirtualKernel, root: Path) -> None:
        self.kernel, self.root = kernel, root
        self._shown: dict[str, str] = {}
        for link, target in kernel.links.items():
            place = root / link[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.path.relpath(root / target[1:], place.parent))
        self.update()

    def update(self) -> None:
        """Takes what was written since the last call, then shows what is."""
        present = set(self.kernel.paths())
        for path in self._shown.keys() & present:
            if self.kernel.writable(path):
                self._take(path)
        present = set(self.kernel.paths())
        for path in self._shown.keys() - present:
            shutil.rmtree(self._file(path).parent, ignore_errors=True)
        for path in present:
            self._show(path)
        self._shown = {path: self._shown[path] for path in present}

    def _take(self, path: str) -> None:
        with suppress(OSError):
            text = self._file(path).read_text().strip()
            if text != self._shown[path].strip():
                self._shown[path] = text
                self.kernel.write(path, text)

    def _show(self, path: str) -> None:
        text = self.kernel.read(path)
        if self._shown.get(path) == text and self._file(path).exists():
            return
        file = self._file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        # In place, as a kernel file: readers keep it open. One write, so that none sees half of it.
        with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o644), "wb", buffering=0) as stream:
            data = text.encode() + b"\n"
            stream.write(data)
            stream.truncate(len(data))
        file.chmod(0o644 if self.kernel.writable(path) else 0o444)
        self._shown[path] = text

    def _file(self, path: str) -> Path:
        return self.root / path[1:]
