"""What the manager knows: the messages it has consumed, checked, and what was learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, inf, nan, sqrt
from typing import Any

from dynofa_ros.latency import clock_ratio, core_share, latency, processor_of, reference_hz
from dynofa_ros.manager.actuator_guard import ActuatorGuard
from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.budgets import Battery
from dynofa_ros.manager.checks import check_frame, check_library, check_targets, sift
from dynofa_ros.manager.clocks import Clocks, PlaceClocks, processor_domains, top_hz
from dynofa_ros.manager.estimator import drift, prior_slowdown
from dynofa_ros.manager.feedback import Feedback
from dynofa_ros.manager.inputs import Departure, Input, Parameters
from dynofa_ros.manager.library_error import ERROR_VARIANCE
from dynofa_ros.manager.loads import Loads
from dynofa_ros.manager.margin import median_of
from dynofa_ros.manager.placement import CLUSTERED, place_of
from dynofa_ros.manager.power import PowerTables, check_power_model, power_tables
from dynofa_ros.manager.power_guard import MOST_W, PowerGuard
from dynofa_ros.manager.problem import LAUNCHER
from dynofa_ros.manager.refusals import Refusals
from dynofa_ros.manager.sensor_times import SensorTimes
from dynofa_ros.manager.thermal_guard import ThermalGuard
from dynofa_ros.messages import (
    AppTargets,
    DeviceCapabilities,
    DeviceTelemetry,
    DvfsState,
    InferenceMonitor,
    PowerModel,
    SubnetCondition,
    SubnetEntry,
    SubnetLibrary,
    SubnetState,
)

REORDER_SPAN = 50  # a frame_sequence further back than this is of a restarted node
CLOCK_JUMP_NS = 1_000_000_000
STALE_S = 2.0
NEW_FRAMES = 8  # of a sub-network: an alarm among them does not say that the load has changed
PAUSE_S, PAUSE_PERIODS = 1.0, 3.0


@dataclass
class State:
    """State of the manager's surroundings. ``consume`` returns the triggers that a message is."""

    apps: dict[str, AppState] = field(default_factory=dict)
    capabilities: DeviceCapabilities | None = None
    published_model: PowerModel | None = None  # by the device
    power_model: PowerTables | None = None  # the same, where it fits the capabilities
    power_model_remark: str = ""
    clocks: Clocks = field(default_factory=Clocks)
    power: PowerGuard = field(default_factory=PowerGuard)
    thermal: ThermalGuard = field(default_factory=ThermalGuard)
    feedback: Feedback = field(default_factory=Feedback)  # instead of a power model
    battery: Battery = field(default_factory=Battery)
    actuators: ActuatorGuard = field(default_factory=ActuatorGuard)
    dvfs: DvfsState | None = None
    telemetry: DeviceTelemetry | None = None
    telemetry_ns: int = 0  # time of the step that consumed it
    sensors: SensorTimes = field(default_factory=SensorTimes)
    refusals: Refusals = field(default_factory=Refusals)
    newest_foreign_id: int = 0  # highest decision_id that a receiver has taken
    loads: Loads = field(default_factory=Loads)
    cpus: dict[str, tuple[int, ...]] = field(default_factory=dict)  # numbers of the CPUs, by cluster
    clusters: frozenset[str] = frozenset()  # of the CPU that are used one by one; empty = the CPU as a whole
    # These two are kept by build_problem.py from step to step.
    levels: dict[Any, Any] = field(default_factory=dict)
    writable: dict[Any, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    _clocks_of: dict[str, PlaceClocks] = field(default_factory=dict)
    _drifts: dict[str, float] = field(default_factory=dict)  # by processor

    def open_step(self, now_ns: int, dt_s: float, parameters: Parameters) -> None:
        """Begins a step, ``dt_s`` after the last one."""
        self.sensors.begin(now_ns)
        self.battery.elapse(dt_s)
        self.battery.start(parameters)
        self.actuators.expire(now_ns)

    def consume(self, item: Input, now_ns: int, parameters: Parameters, settled: bool) -> set[str]:
        """Takes one message at step time ``now_ns``; ``settled`` = no clock was commanded just now."""
        if isinstance(item.message, InferenceMonitor):
            return self._frame(item.message, now_ns)
        message, reason = sift(item.message)
        if reason:
            self.refusals.refuse("device", "", reason)
        elif isinstance(message, DeviceTelemetry | DeviceCapabilities):
            self.refusals.accept("device", "")
        if isinstance(message, DeviceTelemetry):
            return self._telemetry(message, now_ns, parameters, settled)
        if isinstance(message, DvfsState):
            return self._dvfs(message)
        if isinstance(message, DeviceCapabilities):
            return self._capabilities(message, now_ns)
        if isinstance(message, PowerModel):
            return self._power_model(message)
        if isinstance(message, AppTargets):
            return self._targets(message, now_ns)
        if isinstance(message, SubnetLibrary):
            return self._library(message, now_ns)
        if isinstance(message, SubnetState):
            return self._status(item.app, message, now_ns)
        if isinstance(message, Departure):
            self.refusals.forget(message.app)
            self._drifts.clear()
            return {"departure"} if self.apps.pop(message.app, None) else set()
        raise TypeError(f"{item.topic}: {type(message).__name__} is no input of the manager")

    def close_step(self, now_ns: int, dt_s: float, parameters: Parameters) -> None:
        """Averages what was counted since the last step, ``dt_s`` ago."""
        self.refusals.elapse(dt_s)
        # After a pause, or a jump of the clock, frames per second mean nothing.
        paused = dt_s > max(PAUSE_S, PAUSE_PERIODS * parameters.control_period_s)
        for app in self.apps.values():
            app.fresh = app.begins(now_ns)
            if app.queued and not paused:
                app.arrivals.observe(app.new_frames, dt_s)
            elif app.thinned or paused:
                app.rate.restart()
            else:
                app.rate.observe(app.new_frames, dt_s)
            app.new_frames = 0
            for processor, filter_ in app.estimator.filters.items():
                if processor != app.estimator.processor or app.silent(now_ns):
                    filter_.age(dt_s)
        self.loads.close_step(dt_s, self.clocks)

    def arrange(self, apps: Sequence[AppState]) -> None:
        """Decides whether these applications use the CPU as a whole or by clusters, for all of them alike.

        By clusters as soon as a library names one whose CPUs the device knows. As a whole where somebody
        could otherwise not run at all, and everybody can this way.
        """
        if not self.clusters and not any(app.named_clusters for app in apps):
            return
        known = frozenset(self.cpus)
        split = any(not known.isdisjoint(app.named_clusters) for app in apps)
        if split and not all(app.can_run(known) for app in apps):
            split = not all(app.can_run(frozenset()) for app in apps)
        self.clusters = known if split else frozenset()
        for app in self.apps.values():
            app.clusters = self.clusters
            reason = app.left_out()
            if reason and reason != app.reported:
                self.refusals.refuse("library", app.name, f"library of {app.name}: {reason}")
            elif app.reported and not reason:
                self.refusals.accept("library", app.name)
            app.reported = reason

    def place(self, domain: str) -> str | None:
        """Processor of the allocation problem that a clock domain belongs to, None = none."""
        return domain if domain in self.clusters else processor_of(domain)

    def rebase(self, now_ns: int) -> None:
        """Starts all ages anew: the clock was set back."""
        self.telemetry_ns = min(self.telemetry_ns, now_ns)
        self.sensors.rebase(now_ns)
        self.actuators.rebase(now_ns)
        for app in self.apps.values():
            app.since_ns = min(app.since_ns, now_ns)
            app.last_frame_ns = min(app.last_frame_ns, now_ns)
            app.misses.restart()

    def telemetry_age_s(self, now_ns: int) -> float:
        """Seconds since something new came from the device, NaN = there is no device."""
        if self.capabilities is None and self.telemetry is None:
            return nan
        return (now_ns - self.telemetry_ns) * 1e-9

    def clocks_of(self, place: str) -> PlaceClocks:
        """Clock domains of a place, and what follows from them."""
        found = self._clocks_of.get(place)
        if found is None:
            domains = processor_domains(self.capabilities, place)
            cores = sum(len(self.cpus.get(domain, ())) for domain in domains)
            found = self._clocks_of[place] = PlaceClocks(domains, top_hz(self.capabilities, place), cores)
        return found

    def launch_share(self, processor: str) -> float:
        """Share of alpha that scales with the clock of the CPU: see the board file.

        0 where the CPU is used by clusters: which of them launches is not known.
        """
        if self.clusters:
            return 0.0
        return self.power_model.launch_shares.get(processor, 0.0) if self.power_model else 0.0

    def slowdown(self, app: AppState, processor: str) -> float:
        """Slowdown of an application on a processor: measured, or what others measured there.

        On a cluster where it was not measured: what is usual for it on the others. What slows it there just
        now, it may leave behind.
        """
        own = app.estimator.filters.get(processor)
        if own is not None and own.frames > 0:
            return own.slowdown * app.misses.correction
        alike = [f for name, f in app.estimator.filters.items() if name in self.clusters and f.frames > 0]
        caution = exp(app.caution(processor) * sqrt(ERROR_VARIANCE)) if app.estimator.frames else 1.0
        if processor in self.clusters and alike:
            return caution * exp(median_of(sorted(f.usual_level for f in alike)))
        others = [a.estimator.filters[processor] for a in self.apps.values() if a.estimator.known(processor)]
        return caution * prior_slowdown(others) * app.misses.correction

    def _app(self, name: str, now_ns: int) -> AppState:
        return self.apps.setdefault(name, AppState(name, since_ns=now_ns))

    def _targets(self, targets: AppTargets, now_ns: int) -> set[str]:
        reason = check_targets(targets)
        if reason is not None:
            return self.refusals.refuse("targets", targets.app, f"targets of {targets.app}: {reason}")
        self.refusals.accept("targets", targets.app)
        app = self._app(targets.app, now_ns)
        changed, app.targets = app.targets != targets, targets
        return {"targets"} if changed else set()

    def _library(self, library: SubnetLibrary, now_ns: int) -> set[str]:
        entries, reasons = check_library(library)
        self.refusals.accept("library", library.app)
        for reason in reasons:
            self.refusals.refuse("library", library.app, reason)
        app = self._app(library.app, now_ns)
        changed = app.entries != entries or bool(app.refused)
        if changed:  # equal entries keep their tables
            app.entries = entries
        app.queued = library.queued
        app.refused.clear()
        app.last_sequence = 0  # published once per start of the node
        return {"library"} if changed else set()

    def _status(self, name: str, status: SubnetState, now_ns: int) -> set[str]:
        app = self._app(name, now_ns)
        before, app.status = app.status, status
        self.newest_foreign_id = max(self.newest_foreign_id, status.decision_id)
        special = (SubnetCondition.PINNED, SubnetCondition.DISABLED)
        was = before.status if before and before.status in special else None
        now = status.status if status.status in special else None
        pinned_anew = now == SubnetCondition.PINNED and before and before.subnet_id != status.subnet_id
        return {"targets"} if was != now or pinned_anew else set()

    def _frame(self, frame: InferenceMonitor, now_ns: int) -> set[str]:
        app = self.apps.get(frame.app)
        if app is None or app.targets is None or not app.entries:
            reason = f"monitor of {frame.app}: no targets and library of it are known"
            return self.refusals.refuse("monitor", frame.app, reason)
        fault = check_frame(frame) or self._out_of_order(app, frame)
        if fault is not None:
            reason = f"monitor of {frame.app}, frame {frame.frame_sequence}: {fault}"
            return self.refusals.refuse("monitor", frame.app, reason)
        app.last_sequence, app.last_frame_ns = frame.frame_sequence, now_ns
        app.missed = frame.deadline_missed
        app.backlog_ms = app.backlog_after(frame)
        app.new_frames += 1 + frame.dropped_frames
        entry = app.ran(frame)
        if entry is None:
            where = f"{frame.subnet_id!r} on {place_of(frame)!r}" + f" x{frame.threads}" * bool(frame.threads)
            reason = f"monitor of {frame.app}: its library has no {where}"
            return self.refusals.refuse("monitor", frame.app, reason)
        self.refusals.accept("monitor", frame.app)
        place = place_of(entry)
        share = core_share(entry.threads, self.clocks_of(place).cores) if entry.threads else 1.0
        self.loads.count(place, share * frame.inference_ms, frame.inference_ms)
        factor, usual = app.size_factors(frame.request_size, entry) if app.sized else (1.0, 1.0)
        for changed in (app.estimator.processor, place):
            self._drifts.pop(changed, None)
        alarm = app.estimator.observe(
            running=("" if app.sized else frame.subnet_id, place),  # sized: another one for each request
            measured_ms=frame.inference_ms,
            latency_ms=frame.latency_ms - (frame.queue_wait_ms if app.queued else 0.0),
            predicted_ms=self._predicted_ms(entry) * app.shared,
            clock_version=self.clocks.version(place),
            period_ms=inf if app.queued else 1e3 / app.due_hz(),
            size_factor=factor,
            usual_factor=usual,
            shared=app.shared,
            entry=(frame.subnet_id, entry.threads),
            caution=app.caution(place),
        )
        self._fade(app)
        late = frame.deadline_missed or (frame.dropped_frames > 0 and not app.thinned)
        planned = entry is app.planned or entry == app.planned
        if planned and app.misses.observe(now_ns, frame.latency_ms, late):
            return {"latency", "alarm"}
        if alarm:
            # Just after a change it is the library that is wrong about the new sub-network, not the load.
            return {"latency", "alarm"} if app.estimator.steady_frames > NEW_FRAMES else {"latency"}
        return {"latency"} if frame.deadline_missed else set()

    def _fade(self, app: AppState) -> None:
        """What was seen of an application on processors that it has left."""
        for processor, known in app.estimator.filters.items():
            if processor != app.estimator.processor:
                if processor not in self._drifts:
                    running = [a.estimator for a in self.apps.values() if a.estimator.processor == processor]
                    self._drifts[processor] = drift([e.filters[processor] for e in running])
                known.fade(self._drifts[processor])

    def _out_of_order(self, app: AppState, frame: InferenceMonitor) -> str | None:
        sequence, last = frame.frame_sequence, app.last_sequence
        restarted = sequence == 1 or sequence < last - REORDER_SPAN
        return None if sequence > last or restarted else f"comes after frame {last}"

    def _predicted_ms(self, entry: SubnetEntry) -> float:
        place = place_of(entry)
        known = self.clocks_of(place)
        reference = reference_hz(entry.reference_frequencies, known.domains, known.top_hz)
        ratio = clock_ratio(reference, self.clocks.speed_hz(place))
        known_ms = float(latency(entry.alpha_ms, entry.beta_ms, ratio))
        share = self.launch_share(place)
        if share == 0.0:
            return known_ms
        launching = clock_ratio(self.clocks_of(LAUNCHER).top_hz, self.clocks.speed_hz(LAUNCHER))
        return known_ms + share * entry.alpha_ms * (launching - 1.0)

    def _telemetry(
        self, telemetry: DeviceTelemetry, now_ns: int, parameters: Parameters, settled: bool
    ) -> set[str]:
        dt_s = 0.1
        if self.telemetry is not None:
            step_ns = telemetry.header.stamp_ns - self.telemetry.header.stamp_ns
            if -CLOCK_JUMP_NS < step_ns <= 0:
                return self.refusals.refuse("telemetry", "", "telemetry: not newer than the last sample")
            if step_ns < 0:
                self.clocks.restart()
            dt_s = min(max(step_ns * 1e-9, 0.0), 1.0) or 0.1
            self.battery.use(telemetry.total_power_w, max(step_ns, 0) * 1e-9)
        self.refusals.accept("telemetry", "")
        self.telemetry, self.telemetry_ns = telemetry, now_ns
        if 0.0 <= telemetry.total_power_w < MOST_W:
            self.sensors.power_ns = now_ns
        for reading in telemetry.domains:
            self.clocks.observe(telemetry.header.stamp_ns, reading.domain, reading.frequency_hz)
            self.actuators.observe(now_ns, reading.domain, reading.frequency_hz)
        self.loads.observe(telemetry.domains, dt_s)
        self.clocks.expire(telemetry.header.stamp_ns)
        limit_c, measured_w = parameters.temperature_limit_c, telemetry.total_power_w
        temperatures_c = [t.temperature_c for t in telemetry.temperatures]
        felt = self.thermal.observe(temperatures_c, dt_s, measured_w, limit_c)
        if felt:
            self.sensors.temperature_ns = now_ns
        events = {"temperature"} if felt and self.thermal.temperature_c >= limit_c else set()
        model = self.power_model
        expected_w = model.total_w(telemetry, self.thermal.temperature_c) if model else nan
        cap_w = parameters.power_cap_w if model else inf
        if self.power.observe(measured_w, expected_w, dt_s, cap_w, settled):
            events.add("power")
        if model is None:
            cap_w = min(parameters.power_cap_w, self.battery.cap_w)
            if self.feedback.power.observe(measured_w, dt_s, cap_w, self.power.limit_w(cap_w)):
                events |= {"power", "budget"}
            # A thermometer that has fallen silent says nothing: the budget stays as it is.
            if felt and self.feedback.temperature.observe(self.thermal, dt_s, limit_c):
                events |= {"temperature", "budget"}
        return events

    def _dvfs(self, status: DvfsState) -> set[str]:
        self.dvfs = status
        self.newest_foreign_id = max(self.newest_foreign_id, status.decision_id)
        for domain in status.domains:
            self.clocks.observe(status.header.stamp_ns, domain.domain, domain.actual_hz)
        return set()

    def _capabilities(self, capabilities: DeviceCapabilities, now_ns: int) -> set[str]:
        if capabilities == self.capabilities:
            return set()
        if self.telemetry is None:
            self.telemetry_ns = now_ns  # it has from now on to say something
        self.capabilities = capabilities
        clustered = [d for d in capabilities.domains if processor_of(d.domain) == CLUSTERED]
        self.cpus = {d.domain: d.cpus for d in clustered if d.cpus}
        for app in self.apps.values():  # CPUs may be there again
            app.refused = {key for key in app.refused if not key[2]}
        self._fit_power_model()
        return {"library"}

    def _power_model(self, model: PowerModel) -> set[str]:
        known = model if model.domains else None  # without domains: the device has none
        reason = check_power_model(known) if known else None
        if reason is not None:
            return self.refusals.refuse("power_model", "", f"power model {model.board}: {reason}")
        self.refusals.accept("power_model", "")
        if known == self.published_model:
            return set()
        self.published_model = known
        self.thermal.describe(model.resistance_c_per_w, model.time_constant_s)
        self._fit_power_model()
        return {"library"}

    def _fit_power_model(self) -> None:
        """Takes the published model into use for the clocks that the device has."""
        for kept in (self.levels, self.writable, self._clocks_of):
            kept.clear()
        self.power_model, self.power_model_remark = None, ""
        if self.published_model is not None and self.capabilities is not None:
            self.power_model, self.power_model_remark = power_tables(self.published_model, self.capabilities)
