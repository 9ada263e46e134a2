"""What is simulated: applications, noise, and the events of a timeline. Plain data.

Units are in the names; times are seconds since the start of the scene; unknown numbers are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from dynofa_ros.device.board import Board, processor_domains
from dynofa_ros.manager.inputs import Parameters
from dynofa_ros.messages import AppTargets, SubnetEntry


@dataclass(frozen=True)
class Regime:
    """A state of the noise that holds for a number of frames: ``factor`` on all times.

    The number is uniform from ``shortest`` to ``longest``; without ``longest`` the state has no memory and
    lasts ``shortest`` frames in the mean.
    """

    factor: float
    shortest: int
    longest: int = 0


@dataclass(frozen=True)
class Noise:
    """Spread of the time of one inference: exp(sigma * z), z normal with lag-1 correlation, times a spike.

    ``tail``: exponent of a Pareto law of the spikes, of which ``spike`` is the least (inf = all alike).
    ``regimes``: states that take turns. ``logged``: recorded factors instead of the normal ones, played from
    a random place. ``preempted_share`` of the frames take an exponential time of mean ``preempted_ms`` more
    and all take ``offset_ms`` more, whatever the network and the clock.
    """

    sigma: float
    spike_share: float
    spike: float
    correlation: float = 0.0
    tail: float = inf
    regimes: tuple[Regime, ...] = ()
    logged: tuple[float, ...] = ()
    preempted_share: float = 0.0
    preempted_ms: float = 0.0
    offset_ms: float = 0.0


# From logs of real boards (facts: CV 0.04-0.07 alone, 0.09-0.18 with a competing job).
NONE = Noise(0.0, 0.0, 1.0)
ISOLATED = Noise(0.04, 0.01, 1.3, 0.05)
CONTENDED = Noise(0.18, 0.03, 2.0, 0.2)


@dataclass(frozen=True)
class Sizes:
    """Sizes of requests: log-normal. ``guess_sigma``: of the guess before a request is answered."""

    median: float
    sigma: float
    guess_sigma: float = 0.0


# Tokens of German sentences of Tatoeba: median 10, 95 % up to 19, 99 % up to 24. The guess is from the length
# of the English sentence: the log of the ratio of both (characters, held-out pairs) deviates by 0.206.
SENTENCES = Sizes(10.0, 0.385, 0.206)


@dataclass(frozen=True)
class App:
    """One application. ``library``: what it may run, all processors together.

    ``mapping``: the processor, or cluster, that policies without task mapping use. ``movable`` False: nobody
    may move it.
    ``start``: the sub-network it runs at first by default (None = a policy chooses). ``poisson``: frames come
    at random with the mean rate of the targets. ``queued``: they wait in order, none replaces another.
    ``sizes``: of requests, where the library has a law for them. It is there in [``from_s``, ``until_s``).
    """

    name: str
    targets: AppTargets
    library: tuple[SubnetEntry, ...]
    mapping: str = "gpu"
    movable: bool = True
    start: str | None = None
    from_s: float = 0.0
    until_s: float = inf
    poisson: bool = False
    queued: bool = False
    sizes: Sizes | None = None
    overhead_ms: float = 3.0  # preprocessing and postprocessing of a frame

    @property
    def usable(self) -> tuple[SubnetEntry, ...]:
        """The library as it is published: of one processor only if the application must not move."""
        if self.movable:
            return self.library
        return tuple(e for e in self.library if self.mapping in (e.processor, e.cluster))


@dataclass(frozen=True)
class NewTargets:
    """A user changes the targets of an application."""

    at_s: float
    targets: AppTargets


@dataclass(frozen=True)
class NewParameters:
    """A user changes the manager's parameters: power cap, temperature limit, objective."""

    at_s: float
    parameters: Parameters


@dataclass(frozen=True)
class Load:
    """Load from outside on all domains of a processor, from now on.

    ``slowdown`` 0.35 = managed work there takes 35 % longer.
    """

    at_s: float
    processor: str
    utilization: float
    slowdown: float


@dataclass(frozen=True)
class NewMode:
    """The nvpmodel mode is switched from outside; the device then offers the clocks that the mode leaves."""

    at_s: float
    mode: str


@dataclass(frozen=True)
class Surroundings:
    """Ambient temperature, and the thermal resistance as a multiple of the board's (a fan that stops)."""

    at_s: float
    ambient_c: float
    resistance_factor: float = 1.0


@dataclass(frozen=True)
class Reserved:
    """A processor is reserved for another program until ``until_s``.

    The applications withdraw its sub-networks from their libraries; work that stays there is slowed down.
    """

    at_s: float
    until_s: float
    processor: str
    slowdown: float = 4.0


FaultKind = Literal["frozen_monitors", "no_temperature", "ignored_clocks", "manager_paused"]


@dataclass(frozen=True)
class Fault:
    """Something breaks in [at_s, until_s)."""

    at_s: float
    until_s: float
    kind: FaultKind


Event: TypeAlias = NewTargets | NewParameters | Load | NewMode | Surroundings | Reserved | Fault


@dataclass(frozen=True)
class Scene:
    """One scenario, or one variant of it.

    ``board``: what policies know; ``real_board``: what is simulated (None = the same). ``contention``: by
    how much a running job slows another on the same processor. ``bias``: spread of the true latency of an
    application on a processor against its library. ``entry_error``: spread of the true latency of every
    entry against its library, by processor. ``clock_share``: range of the true share of the clock in the
    latency of the entries, by processor (as the library has it where it is not named). ``feasible``: phases
    [from, until) in which all targets can be held, where misses and energy are compared. ``steps``: times
    after which settling is measured.
    """

    name: str
    title: str
    board: Board
    apps: tuple[App, ...]
    duration_s: float
    timeline: tuple[Event, ...] = ()
    parameters: Parameters = field(default_factory=Parameters)
    mode: str | None = None
    noise: Noise = ISOLATED
    bias: float = 0.03
    entry_error: Mapping[str, float] = field(default_factory=dict)
    clock_share: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    contention: Mapping[str, float] = field(default_factory=lambda: {"cpu": 1.0, "gpu": 0.45, "npu": 0.45})
    feasible: tuple[tuple[float, float], ...] = ((0.0, inf),)
    steps: tuple[float, ...] = ()
    real_board: Board | None = None
    temperature_c: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def truth(self) -> Board:
        """The board that is simulated."""
        return self.board if self.real_board is None else self.real_board

    @property
    def places(self) -> tuple[str, ...]:
        """What applications run on: processors; instead of the CPU its clusters if a library names any."""
        named = any(e.cluster for app in self.apps for e in app.library)
        clusters = processor_domains(self.truth, "cpu") if named else ()
        others = [name for name in self.truth.processors if name != "cpu"]
        return (*clusters, *others) if clusters else self.truth.processors

    def app(self, name: str) -> App:
        """An application by name. Raises KeyError."""
        for app in self.apps:
            if app.name == name:
                return app
        raise KeyError(name)

    def targets_of(self, app: App) -> list[tuple[float, AppTargets]]:
        """Targets of an application with the times from which they hold."""
        changes = [e for e in self.timeline if isinstance(e, NewTargets) and e.targets.app == app.name]
        return [(app.from_s, app.targets), *((e.at_s, e.targets) for e in changes)]

    def targets_at(self, app: App, now_s: float) -> AppTargets:
        """Targets of an application at a time, before it is there those that it comes with."""
        return ([asked for at_s, asked in self.targets_of(app) if at_s <= now_s] or [app.targets])[-1]
