"""What chance decides in a scene, drawn beforehand from the seed, so that all policies meet the same.

Every number belongs to one application and one image (or one processor), never to the order in which a policy
made things happen. The noise of an inference is log-normal, and now and then the same times a spike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import erf, exp, log, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.latency import PROCESSORS
from dynofa_ros.simulation.scene import App, Noise, Scene

OVERHEAD_SIGMA = 0.2
ARRIVALS, FRAMES, BIAS, SIZES = 1, 2, 3, 4  # streams

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """Chance of one application; one value per request. ``bias`` by processor. ``sizes``, and what they are
    guessed to be: NaN where the application has none."""

    arrivals_s: tuple[float, ...]
    noise: tuple[float, ...]  # factor on the inference
    overhead_ms: tuple[float, ...]
    bias: dict[str, float]  # factor on the library
    sizes: tuple[float, ...]
    guesses: tuple[float, ...]


def draw(scene: Scene, seed: int) -> dict[str, Trace]:
    """The traces of all applications of a scene, by name."""
    return {app.name: _trace(scene, app, number, seed) for number, app in enumerate(scene.apps)}


def _trace(scene: Scene, app: App, number: int, seed: int) -> Trace:
    arrivals = _arrivals(app, scene.duration_s, np.random.default_rng((seed, ARRIVALS, number)))
    frames = np.random.default_rng((seed, FRAMES, number))
    noise = _factors(scene.noise, len(arrivals), frames)
    spread = OVERHEAD_SIGMA if scene.noise.sigma else 0.0
    overhead = app.overhead_ms * np.exp(spread * frames.standard_normal(len(arrivals)))
    biases = np.exp(scene.bias * np.random.default_rng((seed, BIAS, number)).standard_normal(len(PROCESSORS)))
    sizes, guesses = _sizes(app, len(arrivals), np.random.default_rng((seed, SIZES, number)))
    return Trace(
        tuple(arrivals.tolist()),
        tuple(noise.tolist()),
        tuple(overhead.tolist()),
        dict(zip(PROCESSORS, biases.tolist(), strict=True)),
        sizes,
        guesses,
    )


def _sizes(app: App, number: int, rng: np.random.Generator) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sizes of the requests, whole numbers, and what they are guessed to be."""
    if app.sizes is None:
        return (nan,) * number, (nan,) * number
    spread, wrong = rng.standard_normal((2, number))
    sizes = np.maximum(1.0, np.round(app.sizes.median * np.exp(app.sizes.sigma * spread)))
    guesses = sizes * np.exp(app.sizes.guess_sigma * wrong)
    return tuple(sizes.tolist()), tuple(guesses.tolist())


def _arrivals(app: App, duration_s: float, rng: np.random.Generator) -> Floats:
    start_s, end_s = app.from_s, min(app.until_s, duration_s)
    rate = app.targets.rate_hz
    count = int((end_s - start_s) * rate) + 1
    gaps = rng.exponential(1.0 / rate, 2 * count + 20) if app.poisson else np.full(count, 1.0 / rate)
    first_s = gaps[0] if app.poisson else rng.uniform() / rate
    times: Floats = start_s + first_s + np.cumsum(gaps) - gaps[0]
    return times[times < end_s]


def _factors(noise: Noise, number: int, rng: np.random.Generator) -> Floats:
    normal, spikes = rng.standard_normal(number), rng.uniform(size=number)
    fresh = (1.0 - noise.correlation**2) ** 0.5
    for n in range(1, number):
        normal[n] = noise.correlation * normal[n - 1] + fresh * normal[n]
    return np.exp(noise.sigma * normal) * np.where(spikes < noise.spike_share, noise.spike, 1.0)


def cdf(noise: Noise, factor: float) -> float:
    """Probability that the noise stays at or below ``factor``."""
    if factor <= 0.0:
        return 0.0
    calm, spiked = (_log_normal_cdf(noise.sigma, f) for f in (factor, factor / noise.spike))
    return (1.0 - noise.spike_share) * calm + noise.spike_share * spiked


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
    return 0.5 * (1.0 + erf(log(factor) / sigma / sqrt(2.0)))
