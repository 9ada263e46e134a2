"""The simulator for the manager's tests: one fault at a time, in nanoseconds of a clock that may jump.

Applications run alone on their processor: those that share one do not slow each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from math import inf, isfinite, nan

from dynofa_ros.device.board import load_board, power_model
from dynofa_ros.evaluation.policies.manager import command_of
from dynofa_ros.manager import RuntimeManager
from dynofa_ros.manager.inputs import Departure, Input, Message, Monitors, Parameters
from dynofa_ros.manager.runtime_manager import Decision
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    DomainCapability,
    DomainFrequency,
    DomainTelemetry,
    DvfsState,
    Header,
    PowerModel,
    SubnetCondition,
    SubnetEntry,
    SubnetLibrary,
    TemperatureReading,
)
from dynofa_ros.simulation.application import SimulatedApplication
from dynofa_ros.simulation.log import FrameRecord
from dynofa_ros.simulation.noise import draw
from dynofa_ros.simulation.policy import Command, GroundTruth, Observation, Policy
from dynofa_ros.simulation.scene import App, NewTargets, Noise, Scene
from dynofa_ros.simulation.simulator import DEVICE, Simulation

MS = 1_000_000
SECOND = 1_000_000_000
TOP_HZ = 1_907_200_000
LONGEST_S = 300.0
METER_SAMPLES = 5  # of telemetry, over which the power that a test judges is a mean
BOARD = load_board("xavier_nx")
MODEL = power_model(BOARD)
CPU = ("cpu0", "cpu2", "cpu4")


def make_library(
    app: str, entries: int = 10, slowest_ms: float = 45.0, processor: str = "cpu"
) -> SubnetLibrary:
    """A front from 0.72 at a third of the time to 0.80 at ``slowest_ms``."""
    reference = tuple(
        DomainFrequency(d, BOARD.domains[d].frequencies_hz[-1])
        for d in BOARD.domains
        if d.startswith(processor)
    )
    rows = []
    for n in range(entries):
        share = n / (entries - 1) if entries > 1 else 1.0
        total = slowest_ms * (1.0 + 2.2 * share) / 3.2
        accuracy = 0.72 + 0.08 * share**0.6
        rows.append(
            SubnetEntry(f"s{n}", processor, accuracy, total, 0.15 * total, 0.85 * total, nan, reference)
        )
    return SubnetLibrary(app, tuple(rows))


def capabilities() -> DeviceCapabilities:
    domains = tuple(
        DomainCapability(name, domain.frequencies_hz, can_write=name != "emc")
        for name, domain in BOARD.domains.items()
    )
    return DeviceCapabilities("xavier_nx", domains, ("cpu", "gpu", "npu"))


def telemetry(
    stamp_ns: int, power_w: float, domains: tuple[DomainTelemetry, ...], *temperatures_c: float
) -> DeviceTelemetry:
    """One sample of the device."""
    temperatures = tuple(TemperatureReading(f"zone{n}", t) for n, t in enumerate(temperatures_c))
    return DeviceTelemetry(power_w, domains=domains, temperatures=temperatures, header=Header(stamp_ns))


def published(messages: Iterable[object]) -> tuple[object, ...]:
    """The messages, and with the capabilities of the board its power model, as its device publishes both."""
    together = ((m, MODEL) if isinstance(m, DeviceCapabilities) else (m,) for m in messages)
    return tuple(chain.from_iterable(together))


@dataclass(eq=False)
class PlantApp:
    """One perception node, of which ``node`` is the simulated half."""

    targets: AppTargets
    library: SubnetLibrary
    camera_hz: float = 15.0
    start: str = "s0"
    node: SimulatedApplication = field(init=False)

    @property
    def running(self) -> str:
        return self.node.current.subnet_id

    def begin(self, overhead_ms: float, noise: Noise, seed: int) -> None:
        """A new node, whose frames take what the library says."""
        entries, camera = self.library.entries, replace(self.targets, rate_hz=self.camera_hz)
        place, name = entries[0].processor, self.targets.app
        spec = App(name, camera, entries, place, start=self.start, overhead_ms=overhead_ms)
        scene = Scene("", "", BOARD, (spec,), LONGEST_S, noise=noise, bias=0.0)
        self.node = SimulatedApplication(spec, draw(scene, seed)[name])
        self.node.targets = self.targets


@dataclass
class Frame:
    """One due frame as the judge sees it."""

    time_ns: int
    app: str
    subnet_id: str
    latency_ms: float
    missed: bool
    hz: float


class _Manager(Policy):
    """Hands everything to the plant's manager."""

    name = "manager"

    def __init__(self, plant: Plant) -> None:
        self._plant = plant

    def start(self, scene: Scene, truth: GroundTruth | None) -> Command:
        return Command(governors=dict.fromkeys(scene.board.processors, "performance"))

    def wants(self) -> float:
        return self._plant.parameters.control_period_s

    def on_frame(self, frame: FrameRecord) -> Command | None:
        plant = self._plant
        if not frame.thinned:
            latency_ms = frame.latency_ms if isfinite(frame.latency_ms) else inf
            hz = plant.hz["cpu0"]
            plant.frames.append(Frame(plant.now_ns, frame.app, frame.subnet_id, latency_ms, frame.missed, hz))
        return None

    def step(self, now_s: float, observation: Observation) -> Command | None:
        plant = self._plant
        monitors = Monitors(observation.inputs, plant.parameters)
        plant.steps.append((plant.now_ns, monitors))
        plant.decisions.append(plant.manager.step(plant.now_ns, monitors))
        return command_of(plant.decisions[-1])


class _Simulation(Simulation):
    """Messages bear the plant's time, and pass its tampering."""

    def __init__(self, plant: Plant, scene: Scene) -> None:
        self._owner = plant
        self._energy: deque[tuple[float, float]] = deque(maxlen=METER_SAMPLES + 1)
        super().__init__(scene, _Manager(plant), plant.seed)

    def publish(self, topic: str, message: Message) -> None:
        plant = self._owner
        if isinstance(message, DeviceTelemetry):
            if plant.background:
                self.burden()
            self._energy.append((self.now_s, self.plant.device.energy_j))
            (before_s, before_j), (now_s, now_j) = self._energy[0], self._energy[-1]
            if now_s > before_s:  # true, and with a frame more or less in it hardly another
                plant.power.append((plant.now_ns, (now_j - before_j) / (now_s - before_s)))
            if not plant.telemetry_on:
                return
        if isinstance(message, PowerModel):
            if plant.model is None:
                return
            message = plant.model
        if isinstance(message, (DeviceTelemetry, DvfsState)):
            message = replace(message, header=Header(plant.now_ns))
        plant.send(topic, message)

    def burden(self) -> None:
        """Others slow managed work down, and do the same work at any clock of the CPU."""
        plant = self._owner
        for name in self.plant.processors:
            share = plant.background * TOP_HZ / plant.hz["cpu0"] if name == "cpu" else 0.0
            self.plant.set_load("load", name, min(1.0, share), plant.slowdown - 1.0, self.now_s)

    def join(self, app: PlantApp) -> None:
        """A node begins, in place of one of the same name."""
        plant = self._owner
        if app.targets.app in self.apps:
            self._leave(self.apps[app.targets.app])
            self._inputs = [item for item in self._inputs if not isinstance(item.message, Departure)]
        noise = Noise(plant.noise, plant.spike_share, plant.spike)
        app.begin(plant.overhead_ms, noise, 1000 * plant.seed + plant.apps.index(app))
        app.node.next_request = bisect_left(app.node.trace.arrivals_s, self.now_s)
        self.apps[app.node.name] = app.node
        self._join(app.node)

    def forget_commands(self) -> None:
        """The device as if no manager had ever been there."""
        self.plant._bands.clear()
        self._decision_id = 0


@dataclass
class Plant:
    """Runs a manager against simulated nodes; the log is for the test to judge."""

    manager: RuntimeManager
    apps: list[PlantApp]
    parameters: Parameters = field(default_factory=Parameters)
    slowdown: float = 1.0
    background: float = 0.0  # utilisation by others at the top clock
    noise: float = 0.04
    spike_share: float = 0.005
    spike: float = 1.3
    overhead_ms: float = 2.0
    seed: int = 0
    telemetry_on: bool = True
    model: PowerModel | None = MODEL
    tamper: Callable[[Input], Input] | None = None

    def __post_init__(self) -> None:
        self.frames: list[Frame] = []
        self.decisions: list[Decision] = []
        self.steps: list[tuple[int, Monitors]] = []
        self.power: list[tuple[int, float]] = []
        self._zero_ns = 1_000 * SECOND
        scene = Scene("plant", "", BOARD, (), LONGEST_S, contention={})
        self.simulation = _Simulation(self, scene)
        self.simulation.begin()
        for app in self.apps:
            self.add(app)

    @property
    def now_ns(self) -> int:
        """Time of the manager's clock; setting it is a jump of that clock."""
        return self._zero_ns + round(1e9 * self.simulation.now_s)

    @now_ns.setter
    def now_ns(self, value: int) -> None:
        self._zero_ns += value - self.now_ns

    @property
    def inbox(self) -> list[Input]:
        """What the manager's next step gets."""
        return self.simulation._inputs

    @property
    def hz(self) -> dict[str, float]:
        """Clocks in effect."""
        return {name: float(hz) for name, hz in self.simulation.plant.clocks_hz.items()}

    def hold_clocks(self, hz: int) -> None:
        """Another program holds the clock of the CPU, inside the bands."""
        self.simulation.plant.device.set_governor("cpu", "userspace", hz)

    def add(self, app: PlantApp) -> None:
        """A node begins."""
        if app not in self.apps:
            self.apps.append(app)
        self.simulation.join(app)

    def silence(self, app: PlantApp) -> None:
        """No more images."""
        app.node.present = False

    def announce(self, app: PlantApp) -> None:
        """Everything latched of a node, again."""
        name = app.targets.app
        self.send(f"perception/{name}/targets", app.targets)
        self.send(f"perception/{name}/library", app.library)
        self.send(f"perception/{name}/subnet_state", app.node.status(SubnetCondition.APPLIED))

    def announce_device(self) -> None:
        """Everything latched of the device, again."""
        self.send(DEVICE + "capabilities", self.simulation.plant.capabilities())
        self.send(DEVICE + "power_model", MODEL)
        self.simulation._publish_clocks()

    def send(self, topic: str, message: Message) -> None:
        """A message for the manager's next step."""
        item = Input(topic, getattr(message, "frame_sequence", self.now_ns), message)
        self.inbox.append(self.tamper(item) if self.tamper else item)

    def retarget(self, app: PlantApp, targets: AppTargets) -> None:
        """A user changes targets: the node publishes them and the manager steps at once."""
        app.targets = targets
        self.simulation.happen(NewTargets(self.simulation.now_s, targets))
        self.step()

    def set_parameters(self, parameters: Parameters) -> None:
        """A user changes parameters: the manager steps at once."""
        self.parameters = parameters
        self.step()

    def step(self) -> None:
        """A step of the manager now."""
        self.simulation._step("event")

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        self.simulation.burden()
        self.simulation.advance(self.simulation.now_s + seconds)


def miss_share(frames: list[Frame], start_ns: int, end_ns: int) -> float:
    """Share of missed frames in an interval; NaN if there are none."""
    inside = [f.missed for f in frames if start_ns <= f.time_ns < end_ns]
    return sum(inside) / len(inside) if inside else nan


def switches(frames: list[Frame], start_ns: int, end_ns: int) -> int:
    """Changes of sub-network or clock from frame to frame."""
    knobs = [(f.subnet_id, f.hz) for f in frames if start_ns <= f.time_ns < end_ns]
    return sum(a != b for a, b in zip(knobs, knobs[1:], strict=False))
