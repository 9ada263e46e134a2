"""The processor of a clock domain."""

from __future__ import annotations

from functools import lru_cache

PROCESSORS = ("cpu", "gpu", "npu")


@lru_cache(maxsize=64)
def processor_of(domain: str) -> str | None:
    """Processor that a clock domain belongs to: ``cpu`` for ``cpu0``, None for ``emc``."""
    name = domain.rstrip("0123456789")
    return name if name in PROCESSORS else None
