"""CPUs of the threads that compute, and on which processor copies of a network stay. No ROS process here."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator

import msgspec
import numpy as np
import pytest

from dynofa_ros.application import networks as networks_module
from dynofa_ros.application.networks import DEMO_LIBRARY, Networks, SubnetKey
from dynofa_ros.application.threads import INFERENCE, POOL, Kernel, TaskMapping, ThreadState, cpu_list
from dynofa_ros.library.library import load_library, save_library
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.engines.engine import Engine
from dynofa_ros.supernet.switching import Switcher

ALLOWED = frozenset(os.sched_getaffinity(0))
two_cpus = pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
WAIT_S = 10.0
ONE = np.zeros((1, 1))  # what the fake engine runs on


class FakeKernel(Kernel):
    """Four CPUs; what a thread was bound to shrinks silently to those online, as in the kernel."""

    def __init__(self) -> None:
        self.online = frozenset(range(4))
        self.names = {10: "python3", 11: INFERENCE, 12: POOL, 13: "dds"}
        self.masks = dict.fromkeys(self.names, frozenset(range(4)))
        self.ended: set[int] = set()

    def tids(self) -> list[int]:
        return sorted(self.names)

    def name(self, tid: int) -> str:
        return self.names[tid]

    def rename(self, tid: int, name: str) -> None:
        self.names[tid] = name

    def cpus(self, tid: int) -> frozenset[int]:
        return self.masks[tid] & self.online

    def bind(self, tid: int, cpus: Collection[int]) -> None:
        if tid in self.ended:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if not self.online & set(cpus):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.masks[tid] = frozenset(cpus)

    def last_cpu(self, tid: int) -> int:
        if tid in self.ended:
            raise FileNotFoundError(tid)
        return min(self.cpus(tid))

    def allowed(self) -> frozenset[int]:
        return self.online

    def is_offline(self, cpu: int) -> bool:
        return cpu == 3 and cpu not in self.online


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


def test_only_the_threads_that_compute_are_bound_and_freed(kernel):
    mapping = TaskMapping(kernel)
    assert mapping.assign([]) == "" and len(set(kernel.masks.values())) == 1  # nothing asked, nothing touched
    assert mapping.assign([1, 2]) == ""
    assert kernel.masks[11] == kernel.masks[12] == {1, 2}
    assert kernel.masks[10] == kernel.masks[13] == {0, 1, 2, 3}
    assert mapping.threads() == (
        ThreadState(11, INFERENCE, frozenset({1, 2}), 1),
        ThreadState(12, POOL, frozenset({1, 2}), 1),
    )
    assert mapping.assign([]) == "" and kernel.masks[11] == kernel.masks[12] == {0, 1, 2, 3}


def test_cpus_that_the_kernel_takes_away_are_reported_and_come_back(kernel):
    mapping = TaskMapping(kernel)
    assert mapping.assign([2, 3]) == ""
    kernel.online -= {3}
    assert mapping.keep() == "CPU 2-3 asked for, but the kernel has inference (thread 11) on 2"
    kernel.online -= {2}
    assert mapping.keep() == "the kernel refuses CPU 2-3: Invalid argument"
    kernel.online |= {2, 3}
    assert mapping.keep() == "" and kernel.masks[12] == {2, 3}


def test_a_cpuset_that_resets_the_threads_is_overruled_as_far_as_it_allows(kernel):
    mapping = TaskMapping(kernel)
    mapping.assign([1])
    kernel.masks[12] = frozenset(range(4))  # what a change of the cpuset did before Linux 6.2
    assert mapping.keep() == "" and kernel.masks[12] == {1}


def test_a_thread_that_ends_meanwhile_is_no_fault(kernel):
    kernel.ended = {12}
    mapping = TaskMapping(kernel)
    assert mapping.assign([1]) == "" and [t.tid for t in mapping.threads()] == [11]


@pytest.mark.parametrize(
    ("cpus", "threads", "reason"),
    [
        ((), 0, ""),
        ((0, 2), 4, ""),
        ((0, 7), 1, "cpu_affinity [0, 7] must be among [0, 1, 2]"),
        ((3,), 1, "cpu_affinity [3] must be among [0, 1, 2]: CPU 3 is offline"),
        ((0,), 200, "threads = 200 must be at most 3, the CPUs of this process"),
    ],
)
def test_what_the_process_cannot_have_is_refused_in_one_line(kernel, cpus, threads, reason):
    kernel.online = frozenset(range(3 if reason else 4))
    assert TaskMapping(kernel).refusal(cpus, threads) == reason
    named = f"cluster cpu4: {reason}" if reason.startswith("cpu_affinity") else reason
    assert TaskMapping(kernel).refusal(cpus, threads, "cpu4") == named


def test_cpu_lists_read_as_the_kernel_writes_them():
    assert [cpu_list(c) for c in ((), {3}, {2, 0, 1, 5}, {1, 3})] == ["", "3", "0-2,5", "1,3"]


# --- this kernel and the real engines ---------------------------------------------------------------


class Inference(threading.Thread):
    """An inference thread: runs what it is given."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._work: list = []
        self._turn = threading.Condition()
        self.start()

    def run(self) -> None:
        while True:
            with self._turn:
                assert self._turn.wait_for(lambda: self._work, 60)
                work, done = self._work.pop()
            if work is None:
                return
            work()
            done.set()

    def do(self, work) -> None:
        done = threading.Event()
        with self._turn:
            self._work.append((work, done))
            self._turn.notify()
        assert work is None or done.wait(WAIT_S)


@pytest.fixture
def inference() -> Iterator[Inference]:
    thread = Inference()
    yield thread
    thread.do(None)
    thread.join(WAIT_S)


def pools(mapping: TaskMapping) -> list[ThreadState]:
    return [t for t in mapping.threads() if t.name == POOL]


@two_cpus
def test_every_pool_of_onnxruntime_moves_with_the_inference_thread_and_still_answers(inference):
    networks, mapping = Networks.load("", "", "onnxruntime"), TaskMapping()
    mapping.add(inference.native_id)
    first, second = sorted(ALLOWED)[:2]
    ids = [e.id for e in networks.libraries["cpu"].entries[:2]]
    prepared = []

    def prepare(subnet_id: str, threads: int) -> None:
        def work() -> None:
            with mapping.preparing("onnxruntime", threads):
                prepared.append(networks.prepare(SubnetKey("cpu", subnet_id, threads)))

        before = os.sched_getaffinity(0)
        background = threading.Thread(target=work)
        background.start()
        background.join()
        assert os.sched_getaffinity(0) == before

    prepare(ids[0], 2)
    assert len(pools(mapping)) == 1  # of two threads the inference thread is one
    images = np.ones((1, *prepared[0].input_shape), np.float32)
    reference = prepared[0].run(images)
    for cpus in ({first}, {second}, {first, second}):
        assert mapping.assign(cpus) == ""
        assert [t.cpus for t in mapping.threads()] == [cpus] * 2
        end = time.monotonic() + WAIT_S
        while {t.last_cpu for t in mapping.threads()} - cpus and time.monotonic() < end:
            inference.do(lambda: prepared[0].run(images))  # a thread that sleeps moves when it wakes
        assert {t.last_cpu for t in mapping.threads()} <= cpus
    mapping.assign({second})
    prepare(ids[1], 2)  # prepared on any CPU, bound before it answers
    assert [t.cpus for t in pools(mapping)] == [{second}] * 2
    prepare(ids[1], 1)  # no pool
    assert len(pools(mapping)) == 2 and Kernel().allowed() == ALLOWED
    results = []
    inference.do(lambda: results.append(prepared[0].run(images)))
    np.testing.assert_allclose(results[0], reference, atol=1e-4)
    prepared.clear()  # what leaves the cache takes its threads along
    end = time.monotonic() + WAIT_S
    while pools(mapping) and time.monotonic() < end:
        time.sleep(0.01)
    assert not pools(mapping)


@two_cpus
def test_the_openmp_pool_of_torch_is_the_inference_threads(inference):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import torch

    mapping = TaskMapping()
    mapping.add(inference.native_id)
    first, second = sorted(ALLOWED)[:2]
    mapping.assign({second})

    def work() -> None:
        torch.set_num_threads(2)
        torch.rand(1 << 21).exp().sum()

    inference.do(work)
    children = [t for t in mapping.threads() if t.tid != inference.native_id]
    assert children and all(t.name == INFERENCE and t.cpus == {second} for t in children)
    assert mapping.assign({first, second}) == ""
    inference.do(work)
    assert all(t.cpus == {first, second} for t in mapping.threads())
    assert Kernel().allowed() == ALLOWED


# --- placement --------------------------------------------------------------------------------------


class NamingEngine(Engine):
    """Answers with the name of the processor that it was prepared for."""

    def processors(self) -> tuple[str, ...]:
        return "cpu", "gpu"

    def prepare_graph(self, graph, threads, processor):
        return lambda inputs: {"logits": processor}


@pytest.fixture
def networks(monkeypatch, tmp_path) -> Networks:
    """The demo's, with a second library for a GPU that a fake engine reaches."""
    cpu = share_file(*DEMO_LIBRARY)
    gpu = tmp_path / "gpu.yaml"
    library = load_library(cpu)
    save_library(gpu, msgspec.structs.replace(library, processor="gpu"))
    if library.bn_statistics is not None:
        shutil.copy(cpu.parent / library.bn_statistics.file, tmp_path)
    monkeypatch.setattr(networks_module, "load_engine", lambda name: NamingEngine())
    return Networks.load("", f"{cpu},{gpu}", "onnxruntime")


class Reports:
    def __init__(self) -> None:
        self.errors: list[str | None] = []
        self._reported = threading.Event()

    def __call__(self, outcome) -> None:
        self.errors.append(outcome.error)
        self._reported.set()

    def wait(self) -> None:
        assert self._reported.wait(WAIT_S)
        self._reported.clear()


@pytest.mark.parametrize(("copies_that_fit", "stays"), [(2.0, True), (1.5, False), (0.0, False)])
def test_both_copies_stay_or_the_network_moves_by_budget(networks, copies_that_fit, stays):
    subnet = networks.libraries["cpu"].entries[0].id
    on_cpu, on_gpu = SubnetKey("cpu", subnet), SubnetKey("gpu", subnet)
    reports = Reports()
    size = networks.prepare(on_cpu).nbytes
    switcher: Switcher[SubnetKey] = Switcher(networks.prepare, int(copies_that_fit * size))
    try:
        assert switcher.activate(on_cpu).run(ONE) == "cpu"
        assert not switcher.request(on_gpu, reports)
        reports.wait()
        assert switcher.current.run(ONE) == "gpu" and reports.errors == [None]
        resident = {p.key: p.nbytes for p in switcher.held}
        assert resident == {on_cpu: size, on_gpu: size} if stays else {on_gpu: size}
        assert switcher.request(on_cpu, reports) == stays  # swapped in at once, or prepared again
        reports.wait()
        assert switcher.current.run(ONE) == "cpu"
    finally:
        switcher.close()


def test_processors_that_the_engine_does_not_reach_are_set_aside_by_name(networks, monkeypatch):
    def reached(engine: str, processor: str) -> None:
        if processor != "cpu":
            raise networks_module.EngineError(f"engine {engine} reaches no {processor} here")

    monkeypatch.setattr(networks_module, "require_processor", reached)
    networks.keep_reached()
    assert list(networks.libraries) == ["cpu"] and networks.without("cpu") == ""
    assert networks.without("gpu") == "engine onnxruntime reaches no gpu here"
    assert networks.without("npu") == "processor 'npu' has no library: there is one for cpu"
