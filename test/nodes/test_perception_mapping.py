"""Threads, CPUs and processor of a perception node as a real process over DDS, checked from outside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dynofa_ros.msg import SubnetCommand, SubnetState
from perception_client import APP, LARGEST, LIBRARY, NAMESPACE, SMALLEST, Client, image
from ros_client import TIMEOUT_S
from ros_domain import own_domain

from dynofa_ros.application.networks import DEMO_LIBRARY
from dynofa_ros.application.threads import INFERENCE, POOL, cpu_list
from dynofa_ros.library.library import save_library
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_engine

pytestmark = pytest.mark.live

ALLOWED = frozenset(os.sched_getaffinity(0))
FIRST, SECOND = (sorted(ALLOWED) * 2)[:2]
two_cpus = pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
RUN = "from dynofa_ros.nodes.perception_node import main; raise SystemExit(main())"
# A kernel that never gives SECOND: what a cpuset that shrinks between question and answer looks like.
SHRUNK = f"""
import os
bind = os.sched_setaffinity
os.sched_setaffinity = lambda tid, cpus: bind(tid, set(cpus) - {{{SECOND}}} or {{{FIRST}}})
"""
MIB = 2**20


class Robot(Client):
    """A client that keeps the values of the diagnostics too, and sends commands."""

    def __init__(self, pid: int, domain_id: int) -> None:
        super().__init__(domain_id)
        self.pid, self.number = pid, 0

    def send(self, status: int = SubnetState.APPLIED, **fields: Any) -> SubnetState:
        """A command, and the state that answers it."""
        self.number += 1
        self.forget("subnet_state")
        self.command.publish(SubnetCommand(decision_id=self.number, **fields))
        self.facts.pop("sub-network", None)

        def answer() -> Any:
            states = self.received["subnet_state"]
            return next((s for s in states if (s.decision_id, s.status) == (self.number, status)), None)

        return self.wait(answer, f"state {status} of command {fields}")

    def fact(self, condition: Callable[[dict[str, str]], Any], what: str) -> dict[str, str]:
        """Values of the diagnostics of the sub-network that meet the condition."""
        self.wait(lambda: (facts := self.facts.get("sub-network")) and condition(facts), what)
        return self.facts["sub-network"]

    def threads(self) -> dict[int, tuple[str, frozenset[int]]]:
        """Name and CPUs of every thread of the node, as the kernel has them."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            tid = int(task.name)
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
                found[tid] = ((task / "comm").read_text().strip(), frozenset(os.sched_getaffinity(tid)))
        return found

    def computing(self) -> dict[int, frozenset[int]]:
        return {tid: cpus for tid, (name, cpus) in self.threads().items() if name in (INFERENCE, POOL)}


@contextmanager
def robot(*parameters: str, before: str = "") -> Iterator[Robot]:
    arguments = [a for p in ("latency_target_ms:=1000.0", "rate_hz:=100", *parameters) for a in ("-p", p)]
    domain_id = own_domain()  # the nodes have the same name
    process = subprocess.Popen(
        [sys.executable, "-c", before + RUN, "--ros-args", "-r", f"__node:={APP}", "-r", f"__ns:={NAMESPACE}"]
        + arguments,
        env={**os.environ, "ROS_DOMAIN_ID": str(domain_id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
    )
    client = Robot(process.pid, domain_id)
    try:
        client.wait_for_node()
        yield client
    finally:
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0


@pytest.fixture(scope="module")
def node() -> Iterator[Robot]:
    with robot() as client:
        yield client


@pytest.mark.parametrize("cpus", [{FIRST}, {SECOND}, {FIRST, SECOND}], ids=cpu_list)
@pytest.mark.parametrize("threads", [1, 2])
@two_cpus
def test_the_threads_that_compute_run_where_they_should_and_no_other_is_bound(node, threads, cpus):
    for subnet_id in (LARGEST.id, SMALLEST.id):
        node.send(subnet_id=subnet_id, threads=threads, cpu_affinity=sorted(cpus))
        node.answer(image())
        assert node.received["monitor"][-1].subnet_id == subnet_id
        computing = node.computing()
        assert set(computing.values()) == {frozenset(cpus)}
        names = [name for name, _ in node.threads().values()]
        assert names.count(INFERENCE) == 1 and (threads == 1 or names.count(POOL) >= 1)
        others = {own for tid, (_, own) in node.threads().items() if tid not in computing}
        assert others == {ALLOWED}  # executor, DDS and preparation

    def reads_back(facts: dict[str, str]) -> bool:
        seen = {k: v for k, v in facts.items() if k.startswith("thread ")}
        asked = (facts["CPUs asked for"], facts["threads asked for"]) == (cpu_list(cpus), str(threads))
        return (
            asked
            and len(seen) == len(node.computing())
            and all(v.startswith(f"CPUs {cpu_list(cpus)}, last on ") for v in seen.values())
        )

    node.fact(reads_back, "what was asked for and what the kernel has")
    assert node.diagnostics["sub-network"][0] == 0


@two_cpus
def test_a_command_that_names_no_cpus_leaves_them_and_a_silent_manager_frees_them(node):
    node.send(subnet_id=SMALLEST.id, cpu_affinity=[SECOND])
    node.send(subnet_id=LARGEST.id)
    assert set(node.computing().values()) == {frozenset({SECOND})}
    node.send(subnet_id=LARGEST.id, valid_for_s=0.5)
    node.wait(lambda: set(node.computing().values()) == {ALLOWED}, "all CPUs again")
    node.number = 0  # the node forgets the number of a manager that fell silent


@two_cpus
def test_threads_that_somebody_else_moves_are_moved_back(node):
    node.send(subnet_id=SMALLEST.id, cpu_affinity=[SECOND])
    for tid in node.computing():
        os.sched_setaffinity(tid, {FIRST})
    node.wait(lambda: set(node.computing().values()) == {frozenset({SECOND})}, "the CPUs asked for")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cpu_affinity": [FIRST, 4095]}, "must be among"),
        ({"threads": 255}, f"threads = 255 must be at most {len(ALLOWED)}"),
        ({"processor": "gpu"}, "processor 'gpu' has no library: there is one for cpu"),
    ],
)
def test_an_impossible_mapping_is_refused_and_the_old_one_stays(node, fields, words):
    node.send(subnet_id=SMALLEST.id, cpu_affinity=[FIRST], threads=1)
    state = node.send(SubnetState.REJECTED, **{"subnet_id": LARGEST.id, **fields})
    assert words in state.message and "\n" not in state.message
    assert (state.subnet_id, state.processor) == (SMALLEST.id, "cpu")
    assert set(node.computing().values()) == {frozenset({FIRST})}
    node.answer(image())
    assert node.received["monitor"][-1].subnet_id == SMALLEST.id


@two_cpus
def test_a_cluster_is_its_library_entry_on_its_cpus_and_said_back(tmp_path):
    entries = [
        msgspec.structs.replace(e, cluster=cluster, threads=threads)
        for cluster, threads in (("cpu0", 1), ("cpu0", 2), ("cpu4", 1))
        for e in (SMALLEST, LARGEST)
    ]
    own = msgspec.structs.replace(LIBRARY, entries=tuple(entries), bn_statistics=None)
    save_library(tmp_path / "cpu.yaml", own)
    with robot(f"library:={tmp_path / 'cpu.yaml'}") as node:
        state = node.received["subnet_state"][-1]
        assert (state.cluster, state.threads) == ("", 1), "nobody has said which CPUs a cluster has"
        published = node.wait(lambda: node.received["library"], "the library")[-1].entries
        assert [(e.id, e.cluster, e.threads) for e in published] == [(e.id, *e.placement) for e in entries]
        state = node.send(subnet_id=SMALLEST.id, cluster="cpu0", threads=2, cpu_affinity=[FIRST, SECOND])
        assert (state.cluster, state.threads) == ("cpu0", 2)
        node.answer(image())
        monitor = node.received["monitor"][-1]
        assert (monitor.subnet_id, monitor.cluster, monitor.threads) == (SMALLEST.id, "cpu0", 2)
        node.send(subnet_id=SMALLEST.id, cluster="cpu4", threads=1, cpu_affinity=[SECOND])
        assert set(node.computing().values()) == {frozenset({SECOND})}
        state = node.send(
            SubnetState.REJECTED, subnet_id=SMALLEST.id, cluster="cpu0", threads=1, cpu_affinity=[4095]
        )
        assert state.message.startswith("cluster cpu0: cpu_affinity [4095] must be among ")
        assert (state.cluster, state.threads) == ("cpu4", 1), "the old one stays"
        node.answer(image())
        assert node.received["monitor"][-1].cluster == "cpu4"


@two_cpus
def test_cpus_that_the_kernel_does_not_give_are_a_refusal():
    with robot(before=SHRUNK) as node:
        node.send(subnet_id=SMALLEST.id, cpu_affinity=[FIRST])
        state = node.send(SubnetState.REJECTED, subnet_id=LARGEST.id, cpu_affinity=[FIRST, SECOND])
        assert state.message.startswith(f"CPU {cpu_list({FIRST, SECOND})} asked for, but the kernel has ")
        assert state.subnet_id == SMALLEST.id
        node.answer(image())
        assert node.received["monitor"][-1].subnet_id == SMALLEST.id
        assert set(node.computing().values()) == {frozenset({FIRST})}


# --- CPU <-> GPU ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> str:
    """The demo's library for the CPU, and the same for a GPU."""
    folder, cpu = tmp_path_factory.mktemp("libraries"), share_file(*DEMO_LIBRARY)
    save_library(folder / "gpu.yaml", msgspec.structs.replace(LIBRARY, processor="gpu"))
    if LIBRARY.bn_statistics is not None:
        shutil.copy(cpu.parent / LIBRARY.bn_statistics.file, folder)
    return f"library:={cpu},{folder / 'gpu.yaml'}"


def test_a_processor_that_the_engine_does_not_reach_is_refused_by_name(libraries):
    if "gpu" in load_engine("onnxruntime").processors():
        pytest.skip("this ONNX Runtime reaches a GPU")
    with robot(libraries) as node:
        assert {e.processor for e in node.received["library"][-1].entries} == {"cpu"}
        state = node.send(SubnetState.REJECTED, subnet_id=SMALLEST.id, processor="gpu")
        assert "engine onnxruntime reaches no gpu here, only cpu" in state.message
        node.answer(image())
        assert node.received["monitor"][-1].processor == "cpu"


def test_both_copies_stay_while_the_budget_holds_them(libraries):
    with robot(libraries, "emulate_dvfs:=true", "cache_mb:=64.0") as node:
        hint = [f"gpu/{SMALLEST.id}"]
        node.send(subnet_id=SMALLEST.id, processor="cpu", prefetch_subnet_ids=hint)
        node.fact(lambda f: f["placement"] == "on cpu, a copy stays on gpu", "the copy that was hinted at")
        for processor in ("gpu", "cpu"):
            node.send(subnet_id=SMALLEST.id, processor=processor)
            assert SubnetState.PENDING not in [s.status for s in node.received["subnet_state"]]
            node.answer(image())
            assert node.received["monitor"][-1].processor == processor
        facts = node.fact(lambda f: f["processor"] == "cpu", "the processor")
        copies = [k for k in facts if f": {SMALLEST.id}, threads 1" in k]
        assert {k.split(":")[0] for k in copies} == {"copy on cpu", "copy on gpu"}
        assert float(facts["cache budget, MB"]) == pytest.approx(64 * MIB / 1e6, rel=1e-4)
        assert 0 < float(facts["cached, MB"]) < float(facts["cache budget, MB"])


def test_without_room_for_both_the_network_moves(libraries):
    with robot(libraries, "emulate_dvfs:=true", "cache_mb:=0.0") as node:
        node.send(subnet_id=SMALLEST.id, processor="cpu")
        for processor in ("gpu", "cpu"):
            node.send(subnet_id=SMALLEST.id, processor=processor, prefetch_subnet_ids=[LARGEST.id])
            assert SubnetState.PENDING in [s.status for s in node.received["subnet_state"]]
            facts = node.fact(lambda f, p=processor: f["processor"] == p, "the processor")
            assert facts["placement"] == f"on {processor}, no copy elsewhere"
            assert [k for k in facts if k.startswith("copy on")] == [
                f"copy on {processor}: {SMALLEST.id}, threads 1"
            ]
