"""Task mapping: the CPUs of the threads that compute, set and read back from the kernel. No ROS here.

The threads that compute are the inference thread and the pool of the engine. No engine tells its threads,
but a thread inherits the name of the one that creates it: the inference thread has a name of its own (the
pool of OpenMP, one per calling thread, comes from there), and so has a preparing thread for as long as it
prepares (the pools of ONNX Runtime and OpenVINO come from there).

The threads of the ROS executor, of DDS and of the preparation are left alone. Bound to the same CPUs they
would have to preempt the inference; unbound the kernel moves them to a CPU that is free.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

INFERENCE = "inference"
POOL = "inference-pool"  # the kernel keeps 15 characters
POOL_OF_CALLER = ("torch",)  # OpenMP: what a preparation creates serves only preparations
CALLER_ALONE = ("onnxruntime",)  # has no pool for one thread
NO_THREAD = (FileNotFoundError, ProcessLookupError)  # it ended meanwhile

_TASKS = Path("/proc/self/task")
_CPUS = Path("/sys/devices/system/cpu")
_LAST_CPU_FIELD = 36  # of /proc/*/stat, counted behind the name: processor, field 39 in proc(5)


@dataclass(frozen=True)
class ThreadState:
    """A thread as the kernel has it. cpus: where it may run; last_cpu: where it ran last."""

    tid: int
    name: str
    cpus: frozenset[int]
    last_cpu: int


class Kernel:
    """The kernel's side of the threads of this process. Raises OSError as the kernel gives it."""

    def tids(self) -> list[int]:
        return sorted(int(entry.name) for entry in _TASKS.iterdir())

    def name(self, tid: int) -> str:
        return (_TASKS / str(tid) / "comm").read_text().rstrip("\n")

    def rename(self, tid: int, name: str) -> None:
        (_TASKS / str(tid) / "comm").write_text(name)

    def cpus(self, tid: int) -> frozenset[int]:
        return frozenset(os.sched_getaffinity(tid))

    def bind(self, tid: int, cpus: Collection[int]) -> None:
        os.sched_setaffinity(tid, cpus)

    def last_cpu(self, tid: int) -> int:
        behind_name = (_TASKS / str(tid) / "stat").read_text().rpartition(")")[2]
        return int(behind_name.split()[_LAST_CPU_FIELD])

    def allowed(self) -> frozenset[int]:
        """CPUs of the main thread, which nobody here binds: those online in the cpuset of the process."""
        return self.cpus(os.getpid())

    def is_offline(self, cpu: int) -> bool:
        with contextlib.suppress(OSError):
            return (_CPUS / f"cpu{cpu}" / "online").read_text().strip() == "0"
        return False


class TaskMapping:
    """The CPUs on which one process computes; they change with an order, never with a frame."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or Kernel()
        self._lock = threading.Lock()
        self._preparing: set[int] = set()
        self._bound = False  # whether a thread may have other CPUs than the process
        self.asked: frozenset[int] = frozenset()  # empty = all that the process may use
        self.reason = ""  # why the threads do not run on the CPUs asked for

    def refusal(self, cpus: Collection[int], threads: int, cluster: str = "") -> str:
        """Why the process cannot compute on ``cpus`` (empty = all) with ``threads``; empty = it can.

        cluster: whose CPUs these are, empty = nobody said.
        """
        allowed = self._kernel.allowed()
        if threads > len(allowed):
            return f"threads = {threads} must be at most {len(allowed)}, the CPUs of this process"
        outside = set(cpus) - allowed
        if not outside:
            return ""
        offline = [cpu for cpu in sorted(outside) if self._kernel.is_offline(cpu)]
        hint = f": CPU {cpu_list(offline)} is offline" if offline else ""
        named = f"cluster {cluster}: " if cluster else ""
        return f"{named}cpu_affinity {sorted(cpus)} must be among {sorted(allowed)}{hint}"

    def add(self, tid: int) -> None:
        """Take an inference thread in, before it computes."""
        self._kernel.rename(tid, INFERENCE)
        with self._lock:
            self._place()

    @contextlib.contextmanager
    def preparing(self, engine: str, threads: int) -> Iterator[None]:
        """Threads that the calling thread creates meanwhile compute; bound before they answer a frame."""
        if engine in POOL_OF_CALLER or (threads == 1 and engine in CALLER_ALONE):
            yield
            return
        tid = threading.get_native_id()
        name = self._kernel.name(tid)
        with self._lock:
            self._preparing.add(tid)
        self._kernel.rename(tid, POOL)
        try:
            yield
        finally:
            self._kernel.rename(tid, name)
            with self._lock:
                self._preparing.discard(tid)
                self._place()

    def assign(self, cpus: Collection[int]) -> str:
        """Bind every thread that computes to ``cpus`` (empty = all); why that failed, empty if it did not.

        What the kernel has then is read back: a cpuset or a CPU that went offline shrinks it silently.
        """
        with self._lock:
            self.asked = frozenset(cpus)
            self._place()
            return self.reason

    def keep(self) -> str:
        """Look whether the kernel still has what was asked for, bind again if not; as ``assign``."""
        with self._lock:
            if self.asked and (self.reason or self._difference()):
                self._place()
            return self.reason

    def threads(self) -> tuple[ThreadState, ...]:
        """The threads that compute, as the kernel has them now: the inference thread first."""
        with self._lock:
            return tuple(self._states())

    def _place(self) -> None:
        if not self.asked and not self._bound:
            return
        self._bound = bool(self.asked)
        cpus = self.asked or self._kernel.allowed()
        refused = ""
        seen: set[int] = set()
        # a bound thread hands its CPUs on to those that it creates, so none is missed when no new one is seen
        while new := [tid for tid in self._tids() if tid not in seen]:
            seen.update(new)
            for tid in new:
                try:
                    self._kernel.bind(tid, cpus)
                except NO_THREAD:
                    continue
                except OSError as error:
                    refused = f"the kernel refuses CPU {cpu_list(cpus)}: {error.strerror}"
        self.reason = refused or (self._difference() if self.asked else "")

    def _difference(self) -> str:
        for state in self._states():
            if state.cpus != self.asked:
                return (
                    f"CPU {cpu_list(self.asked)} asked for, "
                    f"but the kernel has {state.name} (thread {state.tid}) on {cpu_list(state.cpus)}"
                )
        return ""

    def _tids(self) -> list[int]:
        tids = []
        for tid in self._kernel.tids():
            with contextlib.suppress(*NO_THREAD):
                if self._kernel.name(tid) in (INFERENCE, POOL) and tid not in self._preparing:
                    tids.append(tid)
        return tids

    def _states(self) -> list[ThreadState]:
        states = []
        for tid in self._tids():
            with contextlib.suppress(*NO_THREAD):
                kernel = self._kernel
                states.append(ThreadState(tid, kernel.name(tid), kernel.cpus(tid), kernel.last_cpu(tid)))
        return sorted(states, key=lambda state: (state.name, state.tid))


def cpu_list(cpus: Collection[int]) -> str:
    """CPU numbers as the kernel writes them: {0, 1, 2, 5} -> "0-2,5"."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
