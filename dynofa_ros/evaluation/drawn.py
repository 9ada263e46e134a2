"""Scenes drawn at random, whose plant is not the manager's model: the held-out test of the evaluation.

Two streams of the same law: the ``practice`` stream is for development, the ``held-out`` stream for the
report alone. A scene is a function of its stream and number.

Drawn are the board, its mode, one to five applications with their libraries (all shipped ones, scaled and
cut down to some of their entries), rates, deadlines and accuracies, what happens (load from outside, other
targets, another mode, a power cap), and what the manager cannot know: how strongly jobs slow each other (it
has a guess), a family of noise that its margins were not shaped on, and the spread of the true latency of
every entry. The true library itself is drawn by each seed.

The spread is one of three: what the library says of its own fit (residuals of points left out: 2.6 % on the
GPU, 21 % on the CPU; the notes in config/libraries), 5 %, or 10 %. The share of the clock in the GPU's
latency is known from one reading to lie between 0.28 and 0.52; the library has 0.4.

What a scene asks for is made from what the library promises at some clock, so that most, but not all, can be
held: whether one can is for the oracle to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from dynofa_ros.device.board import Board, load_board
from dynofa_ros.evaluation.policies.profile import offered
from dynofa_ros.evaluation.scenarios import (
    OVERHEAD_MS,
    clustered_library,
    default_board,
    scaled,
    translation_library,
    vision_library,
)
from dynofa_ros.files import read_yaml
from dynofa_ros.latency import latency
from dynofa_ros.library.library import load_library
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.manager.placement import place_of
from dynofa_ros.messages import AppTargets, SubnetEntry
from dynofa_ros.paths import share_file
from dynofa_ros.simulation.scene import (
    App,
    Event,
    Load,
    NewMode,
    NewParameters,
    NewTargets,
    Noise,
    Regime,
    Scene,
)

Stream: TypeAlias = Literal["practice", "held-out"]
STREAMS: dict[Stream, tuple[int, str]] = {"practice": (1, "P"), "held-out": (2, "H")}  # salt, letter
DURATION_S = 60.0
MODES = {
    "xavier_nx": (None, "MODE_15W_6CORE", "MODE_20W_6CORE", "MODE_10W_4CORE"),
    "orin_nano": (None, "15W", "25W", "MAXN_SUPER"),
}
COUNTS, COUNT_ODDS = (1, 2, 3, 4, 5), (0.45, 0.3, 0.12, 0.08, 0.05)
KINDS, KIND_ODDS = ("vision", "clusters", "demo"), (0.8, 0.1, 0.1)
PROCESSORS = (("gpu",), ("cpu", "gpu"), ("gpu", "npu"), ("cpu", "gpu", "npu"), ("cpu",))
PROCESSOR_ODDS = (0.3, 0.25, 0.15, 0.2, 0.1)
ERRORS: dict[str, dict[str, float]] = {
    "stated": {"cpu": 0.21, "gpu": 0.026, "npu": 0.026},
    "5 %": dict.fromkeys(("cpu", "gpu", "npu"), 0.05),
    "10 %": dict.fromkeys(("cpu", "gpu", "npu"), 0.1),
}
CLOCK_SHARE = {"gpu": (0.28, 0.52)}
BIAS = 0.05
SLUGGISH_MS = 100.0  # of the smallest entry on a cluster, as in S13


@lru_cache(maxsize=1)
def noises() -> dict[str, Noise]:
    """Families of noise that no margin was shaped on, by name."""
    log = read_yaml(share_file("config", "noise_log.yaml"), dict[str, list[float]])
    bursts, calm = Regime(1.45, 8, 25), Regime(1.0, 120, 400)
    markov = (Regime(1.0, 60), Regime(1.12, 25), Regime(1.3, 8))
    return {
        "calm": Noise(0.03, 0.0, 1.0, 0.1),
        "bursts of 8 to 25 frames": Noise(0.04, 0.0, 1.0, 0.05, regimes=(calm, bursts)),
        "Pareto spikes": Noise(0.04, 0.03, 1.15, tail=3.0),
        "Markov-modulated": Noise(0.04, 0.003, 1.3, regimes=markov),
        "wide and correlated": Noise(0.1, 0.01, 1.5, 0.6),
        "recorded on x86": Noise(0.0, 0.0, 1.0, logged=tuple(log["x86_two_applications"])),
        "preempted": Noise(0.04, 0.005, 1.3, preempted_share=0.02, preempted_ms=12.0),
        "offset": Noise(0.04, 0.005, 1.3, offset_ms=7.0, preempted_share=0.01, preempted_ms=5.0),
    }


def drawn_scene(number: int, stream: Stream = "held-out") -> Scene:
    """One scene of a stream, from 0 on."""
    salt, letter = STREAMS[stream]
    rng = np.random.default_rng((salt, number))
    kind = str(rng.choice(KINDS, p=KIND_ODDS))
    name = "orin_nano" if kind == "vision" and rng.uniform() < 0.3 else "xavier_nx"
    board = load_board(name) if name == "orin_nano" else default_board()
    modes = [m for m in MODES[name] if kind != "clusters" or "4CORE" not in (m or "")]  # with all clusters
    mode = modes[rng.integers(len(modes))]
    clocks = offered(board, mode)
    count = int(rng.choice(COUNTS, p=COUNT_ODDS)) if kind == "vision" else int(rng.integers(1, 3))
    factor = float(np.exp(0.3 * rng.standard_normal()))
    apps = [_app(rng, f"app{n}", _library(rng, kind, board, factor), count, clocks) for n in range(count)]
    if kind == "vision" and rng.uniform() < 0.1:
        apps.append(_translation(board, clocks))
    family = str(rng.choice(tuple(noises())))
    error = str(rng.choice(tuple(ERRORS)))
    contention = round(float(rng.uniform(0.3, 1.0)), 2)
    timeline = _timeline(rng, [m for m in modes if m not in (None, mode)], apps)
    what = ", ".join(type(event).__name__ for event in timeline) or "nothing happens"
    title = (
        f"{len(apps)} x {kind} on {name} in {mode or 'no mode'}; noise: {family}; error of entries: {error}; "
        f"contention {contention}; {what}"
    )
    return Scene(
        name=f"{letter}{number}",
        title=title,
        board=board,
        apps=tuple(apps),
        duration_s=DURATION_S,
        timeline=timeline,
        mode=mode,
        noise=noises()[family],
        bias=BIAS,
        entry_error=ERRORS[error],
        clock_share=CLOCK_SHARE,
        contention={"cpu": 1.0, "gpu": contention, "npu": contention},
        steps=tuple(event.at_s for event in timeline),
    )


def _library(rng: np.random.Generator, kind: str, board: Board, factor: float) -> tuple[SubnetEntry, ...]:
    """Some entries of a shipped library; the same sub-networks on all processors."""
    if kind == "clusters":
        whole = clustered_library()
        entries = scaled(whole, factor * SLUGGISH_MS / whole[0].latency_ms)
    elif kind == "demo":
        path = share_file("config", "libraries", "demo", "cpu_ofa_mbv3_demo.yaml")
        entries = scaled(load_library(path).subnet_entries(), 4.0 * factor)
    else:
        wanted = PROCESSORS[rng.choice(len(PROCESSORS), p=PROCESSOR_ODDS)]
        there = [p for p in wanted if p in board.processors]
        entries = scaled([e for e in vision_library() if e.processor in there], factor)
    ids = sorted({e.id for e in entries})
    kept = set(
        rng.choice(ids, size=int(rng.integers(min(6, len(ids)), len(ids) + 1)), replace=False).tolist()
    )
    some = tuple(e for e in entries if e.id in kept)
    return some if {e.processor for e in some} == {e.processor for e in entries} else entries


def _top_ms(entry: SubnetEntry, clocks: Mapping[str, tuple[int, ...]]) -> float:
    """By the library, at the highest clock of the mode."""
    named = [(r.domain, r.frequency_hz) for r in entry.reference_frequencies]
    ratios = [hz / clocks[domain][-1] for domain, hz in named if clocks.get(domain)]
    return float(latency(entry.alpha_ms, entry.beta_ms, max(ratios, default=1.0)))


def _app(
    rng: np.random.Generator,
    name: str,
    library: tuple[SubnetEntry, ...],
    count: int,
    clocks: Mapping[str, tuple[int, ...]],
) -> App:
    places = list(dict.fromkeys(place_of(e) for e in library))
    mapping = "gpu" if "gpu" in places else str(rng.choice(places))
    own = sorted((e for e in library if place_of(e) == mapping), key=lambda e: e.accuracy)
    asked = own[int(rng.integers(len(own)))]
    top_ms = _top_ms(asked, clocks)
    load = float(rng.uniform(0.15, 0.75)) / count
    rate = float(np.clip(round(2e3 * load / top_ms) / 2, 0.5, 30.0))
    loose = float(rng.uniform(1.35, 2.6)) * (1.0 + 0.5 * (count - 1))
    deadline_ms = OVERHEAD_MS + min(top_ms * loose, 1500.0 / rate)
    targets = AppTargets(
        app=name,
        latency_target_ms=round(deadline_ms, 1),
        accuracy_target=asked.accuracy,
        accuracy_floor=asked.accuracy - float(rng.choice((0.0, 0.01, 0.02))),
        rate_hz=rate,
        priority=int(rng.integers(3)),
    )
    return App(name, targets, library, mapping, start=asked.id, overhead_ms=OVERHEAD_MS)


def _translation(board: Board, clocks: Mapping[str, tuple[int, ...]]) -> App:
    library = translation_library(board.domains["gpu"].frequencies_hz[-1])
    longest_ms = 2.5 * _top_ms(library[2], clocks)
    targets = AppTargets(
        "translation",
        longest_ms,
        library[2].accuracy,
        library[0].accuracy,
        0.1,
        miss_tolerance=0.05,
        priority=2,
    )
    return App("translation", targets, library, start=library[2].id, poisson=True, overhead_ms=OVERHEAD_MS)


def _timeline(rng: np.random.Generator, others: list[str], apps: list[App]) -> tuple[Event, ...]:
    events: list[Event] = []
    if rng.uniform() < 0.4:
        start_s, slowdown = float(rng.uniform(8, 30)), float(rng.uniform(0.1, 0.45))
        events.append(Load(start_s, apps[0].mapping, 0.3, slowdown))
        events.append(Load(start_s + float(rng.uniform(8, 20)), apps[0].mapping, 0.0, 0.0))
    if rng.uniform() < 0.3:
        targets = apps[0].targets
        later_ms = round(targets.latency_target_ms * float(rng.uniform(0.85, 1.6)), 1)
        events.append(NewTargets(float(rng.uniform(15, 45)), replace(targets, latency_target_ms=later_ms)))
    if rng.uniform() < 0.2:
        events.append(NewMode(float(rng.uniform(15, 45)), str(rng.choice(others))))
    if rng.uniform() < 0.15:
        cap_w = round(float(rng.uniform(5.0, 8.0)), 1)
        events.append(NewParameters(float(rng.uniform(10, 40)), Parameters(power_cap_w=cap_w)))
    return tuple(sorted(events, key=lambda event: event.at_s))
