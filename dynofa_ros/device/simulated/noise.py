"""Random numbers that depend on what they are for, not on how many were drawn before."""

from __future__ import annotations

import struct
from hashlib import blake2b
from statistics import NormalDist

NORMAL = NormalDist()
KEY = struct.Struct("<qqq")


def uniform(seed: int, stream: int, index: int) -> float:
    """Uniform in (0, 1): number ``index`` of a stream."""
    digest = blake2b(KEY.pack(seed, stream, index), digest_size=8).digest()
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) / 2**52


def normal(seed: int, stream: int, index: int) -> float:
    """Standard normal: number ``index`` of a stream."""
    return NORMAL.inv_cdf(uniform(seed, stream, index))
