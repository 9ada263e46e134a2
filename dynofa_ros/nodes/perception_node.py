"""Perception node: answers camera frames with the sub-network that fits right now."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

import dynofa_ros.msg as msg
from dynofa_ros.application.commands import (
    Order,
    commanded,
    default_order,
    hinted,
    placement,
    refusal,
)
from dynofa_ros.application.emulation import DomainClock
from dynofa_ros.application.networks import Copies, Networks, SubnetKey, top_classes
from dynofa_ros.application.threads import TaskMapping
from dynofa_ros.application.worker import (
    Counters,
    Frame,
    FrameWorker,
    LatestSlot,
    RateGate,
    Timing,
    run_stretched,
)
from dynofa_ros.convert import from_ros, to_ros
from dynofa_ros.messages import (
    AppTargets,
    ClassHypothesis,
    Classification,
    DvfsState,
    Header,
    InferenceMonitor,
    SubnetCommand,
    SubnetCondition,
    SubnetLibrary,
    SubnetState,
)
from dynofa_ros.nodes import perception_status as health
from dynofa_ros.nodes.perception_parameters import PARAMETERS, TARGETS
from dynofa_ros.ros import names, qos
from dynofa_ros.ros.diagnostics import Status
from dynofa_ros.ros.images import ImageDecoder, MalformedImage
from dynofa_ros.ros.node import ManagedNode, run
from dynofa_ros.supernet.preprocess import preprocess
from dynofa_ros.supernet.switching import SWITCH_INTERVAL_S, Prepared, Switched, Switcher

try:  # not part of every installation
    from vision_msgs.msg import Classification as VisionClassification
    from vision_msgs.msg import ObjectHypothesis
except ImportError:
    VisionClassification = None

COMPARABLE_MS = 10_000.0  # a frame older than this was recorded, or the camera has another clock
WATCH_PERIOD_S = 0.2
YIELD_S = 1e-4
RECENT_FRAMES = 150  # over which the diagnostics count misses


class PerceptionNode(ManagedNode):
    """One application: its topics are `perception/<node name>/...`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("front", PARAMETERS, **arguments)
        self.app = self.get_name()
        self._worker: FrameWorker | None = None
        self._switcher: Switcher[SubnetKey] | None = None
        self._mapping = TaskMapping()
        self._clocks: tuple[DomainClock, ...] = ()
        self._state_lock = threading.Lock()
        self._last_decision_id = 0
        self._malformed_reason = ""
        self.diagnostics.add("input", self._input_status)
        self.diagnostics.add("deadline", self._deadline_status)
        self.diagnostics.add("sub-network", self._subnet_status)

    # --- lifecycle ---------------------------------------------------------------------------

    def configure(self) -> None:
        self.networks = Networks.load(self.value("weights"), self.value("library"), self.value("engine"))
        if not self.value("emulate_dvfs"):  # emulation has only this machine, whatever it stands for
            self.networks.keep_reached()
        if reason := self.networks.without(self.value("processor")):
            raise ValueError(reason)
        for reason in self.networks.unreached.values():
            self.get_logger().warning(f"one library is left out: {reason}")
        self._check_pin(self.value("subnet_id"))
        publish = {
            "classification": (msg.Classification, qos.CLASSIFICATION),
            "monitor": (msg.InferenceMonitor, qos.MONITOR),
            "targets": (msg.AppTargets, qos.APP_STATE),
            "library": (msg.SubnetLibrary, qos.APP_STATE),
            "subnet_state": (msg.SubnetState, qos.APP_STATE),
        }
        if VisionClassification is not None:
            publish["vision_classification"] = (VisionClassification, qos.CLASSIFICATION)
        self._publish = {
            name: self.advertise(kind, names.app_topic(self.app, name), profile).publish
            for name, (kind, profile) in publish.items()
        }
        self._cache_bytes = int(self.value("cache_mb") * 2**20)
        self._copies = Copies(self._prepare)
        self._switcher = Switcher(self._copies.prepare, self._cache_bytes)
        self._order = self._default_order()
        self._status, self._message = SubnetCondition.APPLIED, ""
        self._switcher.activate(self._order.key)

    def activate(self) -> None:
        self._counters = Counters()
        self._decoder = ImageDecoder(self.value("significant_bits"))
        self._slot: LatestSlot[Frame] = LatestSlot()
        self._recent_misses: deque[bool] = deque(maxlen=RECENT_FRAMES)
        self._last_image_ns: int | None = None
        self._due_gate = RateGate(self.value("rate_hz"))
        self._managed_gate: RateGate | None = None
        self._managed_order: Order | None = None
        self._worker = FrameWorker(self._slot, self._answer_or_report)
        self._mapping.add(self._worker.tid)
        self._order = self._default_order()
        self._publish_targets()
        self._publish_library()
        self._follow(self._order)
        compressed = self.value("image_transport") == "compressed"
        self.subscribe(
            CompressedImage if compressed else Image,
            names.app_topic(self.app, "image/compressed" if compressed else "image"),
            self._on_image,
            qos.IMAGE,
            foreign=True,
        )
        self.subscribe(
            msg.SubnetCommand,
            names.app_topic(self.app, "subnet_command"),
            self._on_command,
            qos.SUBNET_COMMAND,
        )
        if self.value("emulate_dvfs"):
            self.subscribe(msg.DvfsState, names.DVFS_STATE, self._on_dvfs_state, qos.DEVICE_STATE)
        self.every(WATCH_PERIOD_S, self._watch)

    def deactivate(self) -> None:
        if self._worker is not None and not self._worker.stop():
            self.get_logger().error("the frame being answered did not end within 1 s")
        self._worker = None
        self._publish_state(SubnetCondition.DISABLED, "the node is inactive")

    def cleanup(self) -> None:
        if self._switcher is not None:
            self._switcher.close()
        self._switcher = None

    # --- parameters --------------------------------------------------------------------------

    def check_parameters(self, pending: dict[str, Any]) -> str | None:
        if pending["accuracy_floor"] > pending["accuracy_target"]:
            return (
                f"accuracy_floor must be at most accuracy_target: "
                f"{pending['accuracy_floor']} > {pending['accuracy_target']}"
            )
        try:
            self._check_pin(pending["subnet_id"])
        except ValueError as error:
            return str(error)
        return None

    def _check_pin(self, subnet_id: str) -> None:
        networks = getattr(self, "networks", None)
        if subnet_id and networks is not None and not networks.processors_of(subnet_id):
            known = ", ".join(e.id for library in networks.libraries.values() for e in library)
            raise ValueError(f"subnet_id must be empty or one of {known}, got {subnet_id!r}")

    def on_parameters_changed(self, changed: set[str]) -> None:
        if not self.active:
            return
        if changed & set(TARGETS):
            self._due_gate.rate_hz = self.value("rate_hz")
            self._publish_targets()
        unmanaged = self._order.decision_id == 0
        if "subnet_id" in changed or (unmanaged and "latency_target_ms" in changed):
            self._follow(self._standing_order())
        if "paused" in changed:
            self._publish_state(*self._standing_status())

    # --- knobs -------------------------------------------------------------------------------

    def _prepare(self, key: SubnetKey) -> Prepared[SubnetKey]:
        with self._mapping.preparing(self.value("engine")):
            return self.networks.prepare(key)

    def _default_order(self) -> Order:
        target_ms = self.value("latency_target_ms") / self._slowdown
        return default_order(self.networks, self.value("processor"), self.value("subnet_id"), target_ms)

    def _standing_order(self) -> Order:
        """What to follow when the user's wishes change: the pin, else the last command, else the default."""
        if self.value("subnet_id") or self._managed_order is None:
            return self._default_order()
        return self._managed_order

    @property
    def _slowdown(self) -> float:
        return self.value("emulated_slowdown") if self.value("emulate_dvfs") else 1.0

    def _on_command(self, message: msg.SubnetCommand) -> None:
        command: SubnetCommand = from_ros(message)
        if command.decision_id <= self._last_decision_id:
            return
        self._last_decision_id = command.decision_id
        before, emulated = self._managed_order or self._order, self.value("emulate_dvfs")
        order = commanded(command, before, time.perf_counter_ns(), emulated=emulated)
        reason = refusal(command, before, self.networks, emulated=emulated)
        cpus = () if emulated else command.cpu_affinity
        reason = reason or self._mapping.refusal(cpus, command.threads, command.cluster)
        binds = bool(cpus) and not self.value("subnet_id")
        if not reason and binds and (reason := self._mapping.assign(order.affinity)):
            self._mapping.assign(self._order.affinity)
        if reason:
            self.get_logger().warning(f"command {command.decision_id} refused: {reason}")
            self._publish_state(SubnetCondition.REJECTED, reason, command.decision_id)
            return
        self._managed_order = order
        if self.value("subnet_id"):
            self._publish_state(*self._standing_status(), decision_id=command.decision_id)
            return
        self._follow(order)
        if command.prefetch_subnet_ids and self._switcher is not None:
            self._switcher.prefetch(hinted(command.prefetch_subnet_ids, order.key, self.networks))

    def _follow(self, order: Order) -> None:
        """Make ``order`` the one in force; its sub-network answers as soon as it is ready."""
        self._order = order
        self._thin(order.rate_hz)
        self._mapping.assign(order.affinity)
        assert self._switcher is not None
        if not self._switcher.holds(order.key):
            self._publish_state(SubnetCondition.PENDING, f"preparing {order.key.subnet_id}")
        self._switcher.request(order.key, self._on_switched)

    def _thin(self, rate_hz: float) -> None:
        """Answer at most rate_hz frames per second; a renewed command must not begin a new phase."""
        if not 0 < rate_hz < self.value("rate_hz"):
            self._managed_gate = None
        elif self._managed_gate is None or self._managed_gate.rate_hz != rate_hz:
            self._managed_gate = RateGate(rate_hz)

    def _standing_status(self) -> tuple[SubnetCondition, str]:
        """Status and message while nothing is being changed."""
        if self.value("paused"):
            return SubnetCondition.DISABLED, "paused"
        if self.value("subnet_id"):
            return SubnetCondition.PINNED, "pinned by the parameter subnet_id"
        return SubnetCondition.APPLIED, self._mapping.reason

    def _on_switched(self, outcome: Switched[SubnetKey]) -> None:
        """Runs in the preparation thread, or in the executor when the sub-network was ready."""
        if outcome.error is not None:
            self.get_logger().error(f"{outcome.key.subnet_id} could not be prepared: {outcome.error}")
            self._publish_state(SubnetCondition.REJECTED, outcome.error)
            return
        self._publish_state(*self._standing_status(), duration_ms=outcome.duration_ms)

    def _watch(self) -> None:
        """Keep the CPUs asked for, and the command only as long as it is valid."""
        before = self._mapping.reason
        if (reason := self._mapping.keep()) != before:
            self.get_logger().warning(reason or "the threads run where they should again")
            if self._status == SubnetCondition.APPLIED:
                self._publish_state(*self._standing_status())
        expires = self._order.expires_ns
        if expires is not None and time.perf_counter_ns() > expires:
            self.get_logger().warning("the manager is silent: back to the default sub-network")
            self._last_decision_id = 0  # a manager that starts again may count anew
            self._managed_order = None
            self._follow(self._default_order())

    def _on_dvfs_state(self, message: msg.DvfsState) -> None:
        state: DvfsState = from_ros(message)
        self._clocks = tuple(DomainClock(d.domain, d.actual_hz, d.external_slowdown) for d in state.domains)

    # --- frames ------------------------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        now = time.perf_counter_ns()
        self._last_image_ns = now
        if self.value("paused") or not self._due_gate.accepts(now):
            return
        if self._managed_gate is not None and not self._managed_gate.accepts(now):
            self._counters.drop()
        else:
            if self._slot.put(Frame(message, now)):
                self._counters.drop()
            # Let go of the interpreter, so that the worker starts now and not at the next switch.
            time.sleep(YIELD_S)

    def _answer_or_report(self, frame: Frame) -> None:
        try:
            self._answer(frame)
        except MalformedImage as error:
            self._counters.malformed()
            self._malformed_reason = str(error)
            self.get_logger().warning(f"image dropped: {error}", throttle_duration_sec=5.0)
        except Exception as error:  # noqa: BLE001 - one frame that fails must not end the stream
            self._counters.drop()
            self.get_logger().error(
                f"frame failed: {type(error).__name__}: {error}", throttle_duration_sec=5.0
            )

    def _answer(self, frame: Frame) -> None:
        started = time.perf_counter_ns()
        assert self._switcher is not None and self._switcher.current is not None
        network, order = self._switcher.current, self._order
        target_ms = self.value("latency_target_ms")
        images = preprocess(self._decoder.decode(frame.message), network.resolution)
        prepared = time.perf_counter_ns()
        logits = self._infer(network, images)
        inferred = time.perf_counter_ns()
        results = [(self.networks.label(i), p) for i, p in top_classes(logits[0], self.value("top_k"))]
        header = from_ros(frame.message.header)
        hypotheses = tuple(ClassHypothesis(label, score) for label, score in results)
        self._send("classification", Classification(hypotheses, header=header))
        if "vision_classification" in self._publish:
            vision = [ObjectHypothesis(class_id=label, score=score) for label, score in results]
            message = VisionClassification(header=frame.message.header, results=vision)
            self._publish["vision_classification"](message)
        timing = Timing(frame.received_ns, started, prepared, inferred, time.perf_counter_ns())
        sequence, dropped, malformed = self._counters.answered()
        cluster, threads = placement(order, network.key, self.networks)
        monitor = InferenceMonitor(
            header=header,
            app=self.app,
            frame_sequence=sequence,
            decision_id=order.decision_id if order.key == network.key else 0,
            subnet_id=network.key.subnet_id,
            processor=network.key.processor,
            threads=threads,
            cluster=cluster,
            queue_wait_ms=timing.queue_wait_ms,
            preprocess_ms=timing.preprocess_ms,
            inference_ms=timing.inference_ms,
            postprocess_ms=timing.postprocess_ms,
            latency_ms=timing.latency_ms,
            end_to_end_ms=end_to_end_ms(header.stamp_ns, self.get_clock().now().nanoseconds),
            latency_target_ms=target_ms,
            deadline_missed=timing.latency_ms > target_ms,
            dropped_frames=dropped,
            malformed_frames=malformed,
            top1_score=results[0][1],
        )
        self._recent_misses.extend([True] * (dropped + malformed) + [monitor.deadline_missed])
        self._send("monitor", monitor)

    def _infer(self, network: Prepared[SubnetKey], images: np.ndarray) -> np.ndarray:
        """Logits; with emulate_dvfs the call takes as long as it would on the simulated device."""
        if not self.value("emulate_dvfs"):
            return network.run(images)
        cluster, _ = placement(self._order, network.key, self.networks)
        factor = self.networks.stretch_factor(network.key, self._clocks, self._slowdown, cluster)
        return run_stretched(network.run, images, factor, network.key.threads)

    # --- monitors ----------------------------------------------------------------------------

    def _publish_targets(self) -> None:
        values = {name: self.value(name) for name in TARGETS}
        self._send("targets", AppTargets(self.app, header=self._header(), **values))

    def _publish_library(self) -> None:
        libraries = self.networks.libraries.values()
        entries = tuple(e for library in libraries for e in library.subnet_entries(self._slowdown))
        self._send("library", SubnetLibrary(self.app, entries, header=self._header()))

    def _publish_state(
        self,
        status: SubnetCondition,
        message: str,
        decision_id: int | None = None,
        duration_ms: float = math.nan,
    ) -> None:
        with self._state_lock:
            self._status, self._message = status, message
            current = self._switcher.current if self._switcher is not None else None
            key = current.key if current is not None else self._order.key
            cluster, threads = placement(self._order, key, self.networks)
            entry = self.networks.entry(key.processor, key.subnet_id, cluster, threads)
            state = SubnetState(
                header=self._header(),
                decision_id=self._order.decision_id if decision_id is None else decision_id,
                subnet_id=key.subnet_id,
                processor=key.processor,
                threads=threads,
                cluster=cluster,
                status=status,
                message=message,
                switch_duration_ms=duration_ms,
                expected_accuracy=entry.accuracy if entry else math.nan,
            )
            self._send("subnet_state", state)

    def _send(self, name: str, message: Any) -> None:
        """Publish a message of this package."""
        self._publish[name](to_ros(message))

    def _header(self) -> Header:
        return Header(self.get_clock().now().nanoseconds)

    # --- diagnostics -------------------------------------------------------------------------

    def _input_status(self) -> Status:
        if not self.active:
            return health.INACTIVE
        last = self._last_image_ns
        age_s = math.nan if last is None else (time.perf_counter_ns() - last) / 1e9
        return health.images(age_s, self._counters, self._malformed_reason)

    def _deadline_status(self) -> Status:
        return health.deadlines(list(self._recent_misses)) if self.active else health.INACTIVE

    def _subnet_status(self) -> Status:
        if not self.active or self._switcher is None or self._switcher.current is None:
            return health.INACTIVE
        key, copies = self._switcher.current.key, self._copies.resident(self._switcher.holds)
        facts = health.placement(key, copies, self._cache_bytes)
        facts |= health.mapping(key.threads, self._mapping.asked, self._mapping.threads())
        return health.subnet(
            key,
            self._order.decision_id,
            self._message,
            rejected=self._status == SubnetCondition.REJECTED,
            strayed=self._mapping.reason,
            facts=facts,
        )


def end_to_end_ms(stamp_ns: int, now_ns: int) -> float:
    """Age of an image by the node's clock; NaN where the two clocks cannot be compared."""
    age_ms = (now_ns - stamp_ns) / 1e6
    return age_ms if stamp_ns > 0 and 0 <= age_ms < COMPARABLE_MS else math.nan


def main() -> int:
    # Between the executor and the inference thread the interpreter changes only every 5 ms by default; a
    # frame would wait that long for its turn several times.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    cv2.setNumThreads(1)  # a resize is too short to be worth waking other cores for
    return run(PerceptionNode)


if __name__ == "__main__":
    raise SystemExit(main())
