"""Random numbers of a scene (noise, lengths, arrivals), drawn from the seed: the same for all policies.

Every number belongs to one application and one request (or one processor, or one library entry), never to the
order in which a policy made things happen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan

import numpy as np
from numpy.typing import NDArray

from dynofa_ros.latency import PROCESSORS
from dynofa_ros.manager.placement import Key, entry_key
from dynofa_ros.messages import SubnetEntry
from dynofa_ros.simulation.scene import App, Noise, Scene

OVERHEAD_SIGMA = 0.2
MOST = 5.0  # longest spike of a Pareto law
ARRIVALS, FRAMES, BIAS, SIZES, REGIMES, EXTRA, ENTRIES = 1, 2, 3, 4, 5, 6, 7  # streams

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """Chance of one application; one value per request. ``bias`` by processor, ``entries`` by library entry.

    ``noise``: factor on the inference, ``extra_ms``: what it takes besides. ``regimes``: number of the state
    of the noise, empty where there is one only. ``entries``: the true library, without the bias. ``sizes``,
    and what they are guessed to be: NaN where the application has none.
    """

    arrivals_s: tuple[float, ...]
    noise: tuple[float, ...]
    extra_ms: tuple[float, ...]
    regimes: tuple[int, ...]
    overhead_ms: tuple[float, ...]
    bias: dict[str, float]  # factor on the library
    sizes: tuple[float, ...]
    guesses: tuple[float, ...]
    entries: dict[Key, SubnetEntry]


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
    more = np.random.default_rng((seed, EXTRA, number))
    states = _states(scene.noise, len(arrivals), np.random.default_rng((seed, REGIMES, number)))
    if scene.noise.logged:
        start = int(more.integers(len(scene.noise.logged)))
        noise = noise * np.resize(np.roll(scene.noise.logged, -start), len(arrivals))
    if len(states):
        noise = noise * np.array([regime.factor for regime in scene.noise.regimes])[states]
    return Trace(
        tuple(arrivals.tolist()),
        tuple(noise.tolist()),
        tuple(_extra_ms(scene.noise, len(arrivals), more).tolist()),
        tuple(states.tolist()),
        tuple(overhead.tolist()),
        dict(zip(PROCESSORS, biases.tolist(), strict=True)),
        sizes,
        guesses,
        _true_entries(scene, app, np.random.default_rng((seed, ENTRIES, number))),
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
    # A spike of probability u is the u / share quantile of their law, so that one number decides both.
    longer = np.maximum(spikes / noise.spike_share, 1e-9) ** (-1.0 / noise.tail) if noise.spike_share else 1.0
    spike = np.minimum(noise.spike * longer, max(MOST, noise.spike))
    return np.exp(noise.sigma * normal) * np.where(spikes < noise.spike_share, spike, 1.0)


def _states(noise: Noise, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The state at each request; every state is followed by any other one."""
    if not noise.regimes:
        return np.zeros(0, np.int64)
    states: list[int] = []
    now = int(rng.integers(len(noise.regimes)))
    while len(states) < number:
        regime = noise.regimes[now]
        low, high = regime.shortest, regime.longest
        states += [now] * int(rng.integers(low, high + 1) if high else rng.geometric(1.0 / low))
        now = (now + int(rng.integers(1, len(noise.regimes)))) % len(noise.regimes)
    return np.array(states[:number])


def _extra_ms(noise: Noise, number: int, rng: np.random.Generator) -> Floats:
    preempted = rng.uniform(size=number) < noise.preempted_share
    return noise.offset_ms + np.where(preempted, rng.exponential(noise.preempted_ms, number), 0.0)


def _true_entries(scene: Scene, app: App, rng: np.random.Generator) -> dict[Key, SubnetEntry]:
    """The library as it really is: every entry with an error of its own, and with the true clock share."""
    shares = {p: rng.uniform(*scene.clock_share.get(p, (0.0, 0.0))) for p in PROCESSORS}
    entries = {}
    for entry, z in zip(app.library, rng.standard_normal(len(app.library)).tolist(), strict=True):
        error = scene.entry_error.get(entry.processor, 0.0)
        if error or entry.processor in scene.clock_share:
            total_ms = entry.alpha_ms + entry.beta_ms
            share = entry.beta_ms / total_ms
            share = shares[entry.processor] if entry.processor in scene.clock_share else share
            total_ms *= float(np.exp(error * z))
            alpha_ms, beta_ms = (1.0 - share) * total_ms, share * total_ms
            entry = replace(entry, latency_ms=total_ms, alpha_ms=alpha_ms, beta_ms=beta_ms)
        entries[entry_key(entry)] = entry
    return entries
