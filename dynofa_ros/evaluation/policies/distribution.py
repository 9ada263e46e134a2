"""Distribution of the noise of one inference: a log-normal, and now and then the same times a spike."""

from __future__ import annotations

from functools import lru_cache
from math import erf, exp, log, sqrt

from dynofa_ros.simulation.scene import Noise


def normal_cdf(z: float) -> float:
    """Probability that a standard normal variable stays below ``z``."""
    return 0.5 * (1.0 + erf(z / sqrt(2.0)))


def cdf(noise: Noise, factor: float) -> float:
    """Probability that the noise stays at or below ``factor``."""
    if factor <= 0.0:
        return 0.0
    calm = _log_normal_cdf(noise.sigma, factor)
    return (1.0 - noise.spike_share) * calm + noise.spike_share * _log_normal_cdf(
        noise.sigma, factor / noise.spike
    )


@lru_cache(maxsize=256)
def quantile(noise: Noise, share: float) -> float:
    """Least factor that the noise stays at or below with probability ``share`` (0..1, 1 excluded)."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must be from 0 to below 1, not {share}")
    low, high = 0.0, noise.spike * exp(10.0 * noise.sigma)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if cdf(noise, middle) >= share else (middle, high)
    return high


def mean(noise: Noise) -> float:
    """Expected factor."""
    return exp(0.5 * noise.sigma**2) * (1.0 + noise.spike_share * (noise.spike - 1.0))


def _log_normal_cdf(sigma: float, factor: float) -> float:
    if sigma == 0.0:
        return float(factor >= 1.0 - 1e-12)
    return normal_cdf(log(factor) / sigma)
