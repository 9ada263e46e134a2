"""The compiled inner loops (kernel.c), where they were built; without them the allocator does with NumPy.

Both give the same results bit for bit; compiled is several times faster.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SOURCE = Path(__file__).with_name("kernel.c")
LIBRARY = Path(__file__).with_name("_kernel.so")
FLAGS = ("-O3", "-std=c99", "-ffp-contract=off", "-fPIC", "-shared")
ARRAYS = (
    "ends",
    "time_ms",
    "slowdown",
    "margin",
    "load_per_ms",
    "budget_ms",
    "contention",
    "base_w",
    "slope_w",
    "idle_w",
    "background",
    "below_top",
    "pins",
)
MOST_APPS, MOST_PROCESSORS, MOST_ROWS = 64, 8, 256
VERSION = 1  # of what kernel.c and this module agree on
WITHOUT = "DYNOFA_NO_KERNEL"  # environment variable: any text = NumPy only


class Grid(ctypes.Structure):
    """`grid_t` of kernel.c. ``arrays`` has to hold what the addresses point to."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("apps", "levels", "rows", "processors")),
        *((name, ctypes.c_void_p) for name in ARRAYS),
        *((name, ctypes.c_double) for name in ("constant_w", "limit_w")),
    )


class Asked(ctypes.Structure):
    """`asked_t` of kernel.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("level", "divider", "relaxed"))


class Kernel:
    """The loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        double, pointer, whole = ctypes.c_double, ctypes.c_void_p, ctypes.c_int
        self._least_power = library.dynofa_least_power
        self._least_power.restype = double
        self._least_power.argtypes = (pointer, pointer, double, double, pointer, pointer)
        self._best_for = library.dynofa_best_for
        self._best_for.restype = whole
        self._best_for.argtypes = (pointer, pointer, whole, whole, double, double, whole, pointer, pointer)

    def least_power(
        self, grid: Grid, asked: Asked, ceiling: float, others_ceiling: float
    ) -> tuple[float, list[int], list[int]]:
        """Least power without the constant part (inf = none), processor of each application, row of each
        processor (-1 = hosts nobody)."""
        mapping, rows = (ctypes.c_int * grid.apps)(), (ctypes.c_int * grid.processors)()
        one, other = ctypes.addressof(grid), ctypes.addressof(asked)
        power_w = self._least_power(one, other, ceiling, others_ceiling, mapping, rows)
        return power_w, list(mapping), list(rows)

    def best_for(
        self,
        grid: Grid,
        asked: Asked,
        app: int,
        dividers: Sequence[int],
        *,
        relaxed: bool,
        ceiling: float,
        rounding: float,
    ) -> tuple[int, int] | None:
        """Least of the dividers, then best demand level, of one application; None = none."""
        count = len(dividers)
        given, found = (ctypes.c_int * count)(*dividers), (ctypes.c_int * 2)()
        one, other = ctypes.addressof(grid), ctypes.addressof(asked)
        if not self._best_for(one, other, app, relaxed, ceiling, rounding, count, given, found):
            return None
        return found[0], found[1]


def address(array: NDArray[np.generic]) -> int:
    """Where the numbers of a contiguous array lie; the array has to outlive the use of it."""
    if not array.flags.c_contiguous:
        raise ValueError("the kernel reads contiguous arrays only")
    return int(array.ctypes.data)


@lru_cache(maxsize=4)
def load(path: Path = LIBRARY) -> Kernel | None:
    """The compiled kernel, None where it was not built, is of another version, or is not wanted."""
    if os.environ.get(WITHOUT) or not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        return Kernel(library) if library.dynofa_kernel_version() == VERSION else None
    except (OSError, AttributeError):
        return None


def build(path: Path, compiler: str | None = None) -> None:
    """Compiles the kernel as CMakeLists.txt does; for tests and for work on the sources.

    Raises OSError without a compiler, CalledProcessError if it fails.
    """
    command = [compiler or os.environ.get("CC") or "cc", *FLAGS, "-o", str(path), str(SOURCE), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
