"""A process that changes clocks until it is killed; run by test_clocks_killed.py.

It loads the code once and forks for every order, so that each kill hits a real process of its own without
paying for a start of Python. Orders are JSON lines: {"seed": N, "how": ..., "point": N, "late": bool}; the
answers are the process's number, and then its wait status.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynofa_ros.device.linux.clock_found import FoundClocks
from dynofa_ros.device.linux.discovery import discover
from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.device.linux.sysfs import SysFiles
from dynofa_ros.entry_point import interruptible
from dynofa_ros.messages import FrequencyBand

# Those that change a file. What it reads in between leaves everything as it is on disk: a kill there leaves
# what a kill before the next one of these does.
SYSTEM_CALLS = ("open", "write", "pwrite", "fsync", "ftruncate", "replace", "rename", "unlink", "fchmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def random_bands(device: SysfsDevice, choice: random.Random) -> list[FrequencyBand]:
    """For some of the domains, never what was found."""
    bands = []
    for domain in device.capabilities().domains:
        if choice.random() < 0.8:
            low, high = sorted(choice.choices(domain.frequencies_hz, k=2))
            bands.append(FrequencyBand(domain.domain, low, high))
    return bands


def forever(root: Path, choice: random.Random) -> None:
    """Until killed."""
    device = SysfsDevice(SysFiles(root), allow_writes=True)
    while True:
        device.apply(random_bands(device, choice))
        device.applied()
        if choice.random() < 0.2:
            device.restore()


def once(root: Path, choice: random.Random, point: int = 0) -> None:
    """Open, change twice, restore: short, so that it can be killed before each system call in turn."""
    files = SysFiles(root)
    inventory = discover(files)  # only reads
    if point:
        die_before_call(point)
    with SysfsDevice(files, allow_writes=True, inventory=inventory) as device:
        device.apply(random_bands(device, choice))
        device.apply(random_bands(device, choice))


def terminated(root: Path, choice: random.Random) -> None:
    """As `dynofa` commands do it: signals become exceptions."""
    with interruptible(), SysfsDevice(SysFiles(root), allow_writes=True) as device:
        while True:
            device.apply(random_bands(device, choice))


def failing(root: Path, choice: random.Random) -> None:
    with SysfsDevice(SysFiles(root), allow_writes=True) as device:
        device.apply(random_bands(device, choice))
        raise RuntimeError("a fault of the program")


def forgotten(root: Path, choice: random.Random) -> None:
    """The program ends without a word."""
    device = SysfsDevice(SysFiles(root), allow_writes=True)
    device.apply(random_bands(device, choice))


WAYS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (forever, once, terminated, failing, forgotten)
}


def die_before_call(number: int) -> None:
    """Kill this process with SIGKILL right before its n-th system call that changes a file."""
    count = itertools.count(1)

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            reads = name == "open" and not arguments[1] & WRITING
            if not reads and next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in SYSTEM_CALLS:
        setattr(os, name, counted(name))


def save_late() -> None:
    """A fault for the test of the test: clocks are written first and what is found then is saved after."""
    save, apply = FoundClocks.save, SysfsDevice.apply
    FoundClocks.has = lambda self, domain: True  # type: ignore[method-assign]
    FoundClocks.save = lambda self, domains: ""  # type: ignore[method-assign]

    def apply_then_save(self: SysfsDevice, bands: list[FrequencyBand]) -> Any:
        states = apply(self, bands)
        FoundClocks.has = lambda self, domain: False  # type: ignore[method-assign]
        save(self._writer._found, self.inventory.domains)
        return states

    SysfsDevice.apply = apply_then_save  # type: ignore[assignment,method-assign]


def child(root: Path, order: dict[str, Any]) -> None:
    if order.get("late"):
        save_late()
    more = {"point": order["point"]} if "point" in order else {}
    WAYS[order["how"]](root, random.Random(order["seed"]), **more)


def main() -> None:
    root = Path(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            sys.stderr = open(os.devnull, "w")
            try:
                child(root, order)
            except BaseException:
                os._exit(3)
            if order["how"] == "forgotten":
                sys.exit(0)  # with everything that Python does at its end
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
