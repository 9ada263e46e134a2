"""Memory that glibc would keep although it was freed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 4 * 2**20
ADAPTED_BYTES = 32 * 2**20  # what glibc comes to by itself after the first large block that is freed


def trim_memory() -> None:
    """Give memory that was freed back to the system; glibc would keep what an engine needed to start."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Large blocks that are allocated meanwhile go back to the system as soon as they are freed.

    Else they leave gaps in the heap: weights that were cut and written once would cost their size for ever.
    """
    setting = _function("mallopt") or (lambda name, value: 0)
    setting(M_MMAP_THRESHOLD, LARGE_BYTES)
    try:
        yield
    finally:
        setting(M_MMAP_THRESHOLD, ADAPTED_BYTES)
        setting(M_TRIM_THRESHOLD, 2 * ADAPTED_BYTES)


@functools.cache
def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
