"""The rig for this computer: its own clocks and sensors, and inference as a perception node runs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dynofa_ros.device.linux.linux_device import SysfsDevice
from dynofa_ros.library.files import OpenLibrary
from dynofa_ros.library.profiling import running_on
from dynofa_ros.library.sweep import SweepError
from dynofa_ros.library.testbench import RealRig
from dynofa_ros.supernet.engines.engine import Runner, load_engine, require_processor
from dynofa_ros.supernet.materialise import materialise
from dynofa_ros.supernet.plan import make_plan


@dataclass(frozen=True)
class Inference:
    """How networks are run where a point of the sweep does not say; ``affinity`` empty = on every CPU of the
    process."""

    engine: str = "onnxruntime"
    affinity: Collection[int] = ()

    def bound(self) -> AbstractContextManager[None]:
        """Binds this thread, and the threads that engines start in it."""
        return running_on(self.affinity)


def rig_of(device: SysfsDevice, libraries: Mapping[str, OpenLibrary], inference: Inference) -> RealRig:
    """A rig on ``device``. Raises EngineError for a processor that the engine does not reach, SweepError if
    no clock can be set."""
    for processor in libraries:
        require_processor(inference.engine, processor)
    capabilities = device.capabilities()
    if not any(d.can_write for d in capabilities.domains):
        reasons = "; ".join(f"{d.domain}: {d.reason}" for d in capabilities.domains) or "no clock was found"
        raise SweepError(f"no clock of {capabilities.board or 'this computer'} can be set: {reasons}")
    prepare_for_engine = load_engine(inference.engine)

    def prepare(processor: str, subnet_id: str, threads: int) -> tuple[Runner, int]:
        opened = libraries[processor]
        entry = opened.library.find(subnet_id)
        assert entry is not None
        config = opened.library.config(entry)
        plan = make_plan(opened.supernet.space, config)
        subnet = materialise(plan, opened.supernet.weights, opened.statistics.get(subnet_id))
        return prepare_for_engine(subnet, threads or 1, processor), config.resolution

    cpus = cluster_cpus(device)

    def bound(cluster: str) -> AbstractContextManager[None]:
        return running_on(cpus[cluster]) if cluster else nullcontext()

    return RealRig(device, prepare, bound)


def cluster_cpus(device: SysfsDevice) -> dict[str, tuple[int, ...]]:
    """Numbers of the CPUs of each clock domain that has some online."""
    return {domain.domain: domain.cpus for domain in device.capabilities().domains if domain.cpus}


def total_rail(device: SysfsDevice) -> str:
    """Name of the sensor of the whole module's power; "" where there is none, or several."""
    totals = [rail.name for rail in device.read().rails if rail.is_total]
    return totals[0] if len(totals) == 1 else ""


def open_own(sysfs_root: Path, override_jetson_clocks: bool) -> SysfsDevice:
    """This computer's device, writable. Raises ValueError or OSError in one line: see ``open_device``."""
    from dynofa_ros.device.open import open_device

    device = open_device("sysfs", "", sysfs_root, True, override_pinned=override_jetson_clocks).device
    assert isinstance(device, SysfsDevice)
    return device
