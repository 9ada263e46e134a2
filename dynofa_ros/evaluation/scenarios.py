"""The scenarios S1 to S14: scenes on the committed libraries of the simulated board.

They are declared in config/scenarios.yaml. Some have several scenes: the scenario itself, and variants whose
names begin with its own ("S1 D70").

The five sub-transformers of S12 are plain data, as a transformer has no place in the library schema. Sources:
the range of latency, 0.356 to 1.526 s, is that of Dynamic-HAT (Parry et al., MLCAD 2021) on the GPU of a
Jetson Nano, not of the simulated board. The five BLEU scores, 25.8 to 28.5, and where the three in the middle
lie in the range are those of HAT on a Titan Xp (README of hardware-aware-transformers: 57.1, 91.2, 126, 146.7
and 208.1 ms), scaled to it. Accuracy is BLEU / 28.5. The share of the clock in the latency is a guess, that
of the convolutional networks.

The libraries of sentences and of commands (S12 4 Hz, S12 0.3 Hz, S14) are the shipped ones of the two
targets of `seq2seq_demo`, measured on two x86 cores with one thread in ONNX Runtime. How much slower the
simulated CPU is, and the share of its clock, are guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import lru_cache
from math import inf, nan
from typing import Any, Literal

import msgspec

from dynofa_ros.device.board import Board, cluster_cpus, load_board
from dynofa_ros.device.board_sections import Mode
from dynofa_ros.files import read_yaml
from dynofa_ros.library.library import load_library
from dynofa_ros.library.testbench import thread_share
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import MISS_TOLERANCE, AppTargets, DomainFrequency, SubnetEntry
from dynofa_ros.paths import share_file
from dynofa_ros.simulation import scene as parts
from dynofa_ros.simulation.scene import App, Event, NewTargets, Scene

BOARD = "xavier_nx"
SPACE = "ofa_mbv3_w1.2"
MODE_10W, MODE_CAPPED = "MODE_10W_4CORE", "MODE_GPU_510"
OVERHEAD_MS = 3.0
HAT_MS = (57.1, 91.2, 126.0, 146.7, 208.1)
HAT_BLEU = (25.8, 27.6, 27.9, 28.1, 28.5)
RANGE_MS = (356.0, 1526.0)
CLOCK_SHARE = 0.4  # guess
SLOWER = 20.0  # guess: how much slower the simulated CPU is
CONTENTION = {"cpu": 1.0, "gpu": 0.45, "npu": 0.45}

NOISES = {"none": parts.NONE, "isolated": parts.ISOLATED, "contended": parts.CONTENDED}
EVENTS: dict[str, Any] = {  # but for targets
    "load": parts.Load,
    "parameters": parts.NewParameters,
    "mode": parts.NewMode,
    "surroundings": parts.Surroundings,
    "reserved": parts.Reserved,
    "fault": parts.Fault,
}


def evaluation_board(name: str = BOARD) -> Board:
    """A board with one more mode, the cap of the GPU at 510 MHz that S4 has on top of 10 W."""
    board = load_board(name)
    caps = {**board.modes[MODE_10W].caps_hz, "gpu": 510_000_000}
    mode = Mode(max(m.id for m in board.modes.values()) + 1, board.modes[MODE_10W].cores, caps)
    return msgspec.structs.replace(board, modes={**board.modes, MODE_CAPPED: mode})


@lru_cache(maxsize=1)
def default_board() -> Board:
    """The board of all scenarios, read once."""
    return evaluation_board()


@lru_cache(maxsize=1)
def vision_library() -> tuple[SubnetEntry, ...]:
    """The committed sub-networks of the board, all processors together."""
    entries: list[SubnetEntry] = []
    for processor in ("cpu", "gpu", "npu"):
        library = load_library(share_file("config", "libraries", BOARD, f"{processor}_{SPACE}.yaml"))
        entries += library.subnet_entries()
    return tuple(entries)


@lru_cache(maxsize=1)
def clustered_library() -> tuple[SubnetEntry, ...]:
    """The committed sub-networks of the CPU on each of its clusters, with one thread and with two.

    The committed library is of all six cores; how much longer fewer threads take is `thread_share`, a guess
    for this board.
    """
    board = default_board()
    clusters = cluster_cpus(board)
    cores = sum(map(len, clusters.values()))
    entries = [e for e in vision_library() if e.processor == "cpu"]
    placed = []
    for cluster, cpus in clusters.items():
        reference = tuple(r for r in entries[0].reference_frequencies if r.domain == cluster)
        for threads in range(1, len(cpus) + 1):
            slower = scaled(entries, thread_share(threads) / thread_share(cores))
            placed += [
                replace(e, cluster=cluster, threads=threads, reference_frequencies=reference) for e in slower
            ]
    return tuple(placed)


def scaled(library: Sequence[SubnetEntry], factor: float) -> tuple[SubnetEntry, ...]:
    """The same sub-networks with all latencies multiplied."""
    return tuple(
        replace(e, latency_ms=factor * e.latency_ms, alpha_ms=factor * e.alpha_ms, beta_ms=factor * e.beta_ms)
        for e in library
    )


def translation_library(top_hz: int) -> tuple[SubnetEntry, ...]:
    """The five entries on the GPU, ascending in latency and accuracy."""
    reference, (low, high) = (DomainFrequency("gpu", top_hz),), RANGE_MS
    entries = []
    for number, (hat_ms, bleu) in enumerate(zip(HAT_MS, HAT_BLEU, strict=True)):
        ms = low + (high - low) * (hat_ms - HAT_MS[0]) / (HAT_MS[-1] - HAT_MS[0])
        law = ((1.0 - CLOCK_SHARE) * ms, CLOCK_SHARE * ms)
        entry = SubnetEntry(f"hat_{number}", "gpu", bleu / HAT_BLEU[-1], ms, *law, nan, reference)
        entries.append(entry)
    return tuple(entries)


def backbone_library(*, commands: bool = False) -> tuple[SubnetEntry, ...]:
    """The shipped library of sentences, or of commands, on a slower CPU."""
    name = "cpu_seq2seq_demo" + "_intent" * commands
    library = load_library(share_file("config", "libraries", "demo", f"{name}.yaml"))
    return tuple(replace(entry, threads=1) for entry in library.subnet_entries(SLOWER))


# --- declarations -------------------------------------------------------------------------------------------


class AppRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An application; see the head of the file."""

    name: str
    rate_hz: float
    latency_target_ms: float
    accuracy_target: float
    accuracy_floor: float | None = None
    miss_tolerance: float = MISS_TOLERANCE
    priority: int = 0
    library: Literal["vision", "translation", "clusters", "sentences", "commands"] = "vision"
    stretched: dict[str, float] = {}
    mapping: str = "gpu"
    movable: bool = True
    start: str | None = None
    from_s: float = 0.0
    until_s: float = inf
    poisson: bool = False
    queued: bool = False


class SceneRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scene; names as in ``simulation.scene.Scene``."""

    name: str
    title: str
    duration_s: float
    feasible: tuple[tuple[float, float], ...]
    apps: tuple[AppRecord, ...]
    timeline: tuple[dict[str, dict[str, Any]], ...] = ()
    steps: tuple[float, ...] | Literal["timeline"] = ()
    parameters: Parameters = Parameters()
    mode: str | None = None
    noise: Literal["none", "isolated", "contended"] = "isolated"
    bias: float = 0.03
    contention: dict[str, float] = {}
    sensors: dict[str, float] = {}
    temperature_c: float | None = None
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def declared() -> dict[str, tuple[SceneRecord, ...]]:
    """The scenes of every scenario; a variant has what it does not say from the first one.

    Raises FileNotFoundError, or msgspec.ValidationError naming the key.
    """
    path = share_file("config", "scenarios.yaml")
    raw = read_yaml(path, dict[str, list[dict[str, Any]]])
    merged = {name: [{**scenes[0], **scene} for scene in scenes] for name, scenes in raw.items()}
    return msgspec.convert(merged, dict[str, tuple[SceneRecord, ...]])


def make_scene(record: SceneRecord, board: Board) -> Scene:
    """The scene on a board. Raises ValueError naming an event that is none."""
    apps = tuple(_app(one, board) for one in record.apps)
    timeline = tuple(_event(kind, raw, apps) for event in record.timeline for kind, raw in event.items())
    noisy = msgspec.structs.replace(board, sensors=msgspec.structs.replace(board.sensors, **record.sensors))
    made = {
        "board": board,
        "apps": apps,
        "timeline": timeline,
        "noise": NOISES[record.noise],
        "contention": CONTENTION | record.contention,
        "steps": tuple(e.at_s for e in timeline) if record.steps == "timeline" else record.steps,
        "real_board": noisy if record.sensors else None,
    }
    return Scene(**_same(record, Scene) | made)


def _app(record: AppRecord, board: Board) -> App:
    floor = record.accuracy_target if record.accuracy_floor is None else record.accuracy_floor
    asked = _same(record, AppTargets) | {"app": record.name, "accuracy_floor": floor}
    made = {"targets": AppTargets(**asked), "library": _library(record, board), "overhead_ms": OVERHEAD_MS}
    sizes = parts.SENTENCES if record.library in ("sentences", "commands") else None
    return App(**_same(record, App) | made | {"sizes": sizes})


def _same(record: AppRecord | SceneRecord, kind: type[Scene | App | AppTargets]) -> dict[str, Any]:
    """The values of a record that another class has under the same names."""
    return {f.name: getattr(record, f.name) for f in fields(kind) if hasattr(record, f.name)}


def _library(record: AppRecord, board: Board) -> tuple[SubnetEntry, ...]:
    if record.library == "translation":
        return translation_library(board.domains["gpu"].frequencies_hz[-1])
    if record.library in ("sentences", "commands"):
        return backbone_library(commands=record.library == "commands")
    entries = vision_library() if record.library == "vision" else clustered_library()
    for name, wanted_ms in record.stretched.items():
        entries = scaled(entries, wanted_ms / next(e.latency_ms for e in entries if e.id == name))
    return entries


def _event(kind: str, raw: dict[str, Any], apps: tuple[App, ...]) -> Event:
    if kind == "targets":
        before = next(app.targets for app in apps if app.name == raw["app"])
        changed = {**asdict(before), "accuracy_floor": raw["accuracy_target"], **raw}
        return NewTargets(float(raw["at_s"]), msgspec.convert(changed, AppTargets))
    if kind not in EVENTS:
        raise ValueError(f"unknown event '{kind}' (known: targets, {', '.join(EVENTS)})")
    event: Event = msgspec.convert(raw, EVENTS[kind])
    return event


SCENARIOS = tuple(declared())


def scenes(names: Sequence[str], board: Board | None = None) -> list[Scene]:
    """All scenes of the named scenarios, in the order of SCENARIOS. Raises ValueError for an unknown name."""
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise ValueError(f"unknown scenario {', '.join(unknown)} (known: {', '.join(SCENARIOS)})")
    known = default_board() if board is None else board
    wanted = [one for name in SCENARIOS if name in names for one in declared()[name]]
    return [make_scene(one, known) for one in wanted]


def scenario_of(scene: str) -> str:
    """S1 for the scene "S1 D70"."""
    return scene.split()[0]
