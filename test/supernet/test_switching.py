"""Background preparation, atomic swap, bounded cache."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from dynofa_ros.paths import share_file
from dynofa_ros.supernet import materialise, switching
from dynofa_ros.supernet.registry import load_engine
from dynofa_ros.supernet.supernet import Supernet, load_supernet
from dynofa_ros.supernet.switching import Pauses, Prepared, Switched, Switcher, prepare_subnet

pytestmark = pytest.mark.live

WAIT_S = 30.0


class Bench:
    """Prepares fake sub-networks of 10 bytes; a held key waits, a broken one fails."""

    def __init__(self, capacity: int = 35) -> None:
        self.prepared: list[str] = []
        self.broken: set[str] = set()
        self.gates: dict[str, threading.Event] = {}
        self.reports: list[Switched[str]] = []
        self._reported = threading.Condition()
        self.switcher: Switcher[str] = Switcher(self.prepare, capacity)

    def prepare(self, key: str) -> Prepared[str]:
        if key in self.gates:
            assert self.gates[key].wait(WAIT_S)
        self.prepared.append(key)
        if key in self.broken:
            raise RuntimeError(f"{key} is\nbroken")
        return Prepared(key, lambda images: images, (3, 64, 64), 10, np.asarray)

    def report(self, outcome: Switched[str]) -> None:
        with self._reported:
            self.reports.append(outcome)
            self._reported.notify_all()

    def request(self, key: str) -> bool:
        return self.switcher.request(key, self.report)

    def wait_for_reports(self, number: int) -> None:
        with self._reported:
            assert self._reported.wait_for(lambda: len(self.reports) >= number, WAIT_S), self.reports

    @property
    def current(self) -> str:
        assert self.switcher.current is not None
        return self.switcher.current.key


def wait_for(condition):
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it did not happen")


@pytest.fixture
def bench():
    bench = Bench()
    bench.switcher.activate("a")
    yield bench
    for gate in bench.gates.values():
        gate.set()
    bench.switcher.close()


def test_the_old_one_answers_until_the_new_one_is_ready(bench):
    bench.gates["b"] = threading.Event()
    assert not bench.request("b")
    assert bench.current == "a"
    bench.gates["b"].set()
    bench.wait_for_reports(1)
    assert bench.current == "b" and bench.reports[0].error is None and bench.reports[0].duration_ms >= 0


def test_a_repeated_switch_is_swapped_in_at_once(bench):
    bench.request("b")
    bench.wait_for_reports(1)
    assert bench.request("a") and bench.current == "a"
    assert bench.prepared == ["a", "b"]


def test_a_failed_preparation_keeps_the_old_one_and_says_why(bench):
    bench.broken.add("b")
    bench.request("b")
    bench.wait_for_reports(1)
    assert bench.reports[0].error == "b is broken" and bench.current == "a"
    bench.broken.clear()
    bench.request("b")
    bench.wait_for_reports(2)
    assert bench.current == "b"


def test_only_the_newest_request_counts(bench):
    bench.gates["b"] = threading.Event()
    bench.request("b")
    bench.request("c")
    bench.gates["b"].set()
    bench.wait_for_reports(1)
    assert bench.current == "c" and [r.key for r in bench.reports] == ["c"]


def test_a_repeated_request_is_prepared_once(bench):
    bench.gates["b"] = threading.Event()
    bench.request("b")
    bench.request("b")
    bench.gates["b"].set()
    bench.wait_for_reports(1)
    assert bench.current == "b" and bench.prepared == ["a", "b"] and len(bench.reports) == 1


def test_a_cached_request_overtakes_one_in_preparation(bench):
    bench.gates["b"] = threading.Event()
    bench.request("b")
    assert bench.request("a")
    bench.gates["b"].set()
    bench.request("c")
    bench.wait_for_reports(2)
    assert bench.current == "c" and [r.key for r in bench.reports] == ["a", "c"]


def test_the_cache_is_bounded_and_drops_the_least_recently_used(bench):
    for number, key in enumerate("bcd", start=1):
        bench.request(key)
        bench.wait_for_reports(number)
    assert sum(p.nbytes for p in bench.switcher.held) <= 35
    assert not bench.request("a")  # had to leave
    bench.wait_for_reports(4)
    assert bench.request("d")  # was still there


def test_hints_are_prepared_within_the_bound_and_never_shown(bench):
    bench.switcher.prefetch(["b", "c", "d"])
    wait_for(lambda: bench.prepared == ["a", "b", "c", "d"])
    assert bench.current == "a" and bench.request("b") and bench.request("c")
    assert sum(p.nbytes for p in bench.switcher.held) <= 35


def test_a_library_is_held_as_far_as_there_is_room(bench):
    bench.switcher.hold(["b", "c", "d", "e"])
    wait_for(lambda: bench.prepared == ["a", "b", "c", "d"])  # what does not fit ends it
    bench.switcher.prefetch(["e"])
    wait_for(lambda: bench.switcher.holds("e"))
    assert [key for key in "abcde" if bench.switcher.holds(key)] == ["a", "c", "e"], "a guess takes its place"
    bench.request("b")
    bench.wait_for_reports(1)
    assert bench.current == "b" and bench.switcher.holds("e")


def test_a_request_does_not_wait_for_a_guess(bench):
    bench.gates["b"] = threading.Event()
    bench.switcher.prefetch(["b"])
    bench.request("c")
    bench.wait_for_reports(1)
    assert bench.current == "c" and not bench.switcher.holds("b")
    bench.request("b")  # the guess in preparation will do
    bench.request("d")  # and is not waited for either
    bench.wait_for_reports(2)
    assert [r.key for r in bench.reports] == ["c", "d"]
    bench.request("b")
    bench.gates["b"].set()
    bench.wait_for_reports(3)
    assert bench.current == "b" and bench.prepared.count("b") == 1


def test_optimised_networks_are_mapped_from_files(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = pytest.importorskip("dynofa_ros.supernet.engines.onnxruntime")
    if not engine.MAPS_FILES:
        pytest.skip(f"onnxruntime {engine.onnxruntime.__version__} maps no files")
    net = load_supernet("ofa_mbv3_demo", share_file("config", "weights", "ofa_mbv3_demo.safetensors"))
    config = net.space.smallest
    images = np.random.default_rng(0).normal(size=(2, *net.plan(config).input_shape)).astype(np.float32)
    first, again = (net.prepare(config, "onnxruntime", processor="cpu")(images) for _ in range(2))
    (file,) = tmp_path.rglob("*.ort")
    monkeypatch.setattr(switching, "MAPPED_BYTES", 1000)
    runtime = load_engine("onnxruntime")
    assert prepare_subnet("a", net, config, runtime, processor="cpu").nbytes == 1000
    np.testing.assert_array_equal(first, again)
    monkeypatch.setattr(engine, "MAPS_FILES", False)
    plain = net.prepare(config, "onnxruntime", processor="cpu")(images)
    in_memory = prepare_subnet("a", net, config, runtime, processor="cpu").nbytes
    assert in_memory == net.materialise(config).nbytes > 1000
    np.testing.assert_allclose(first, plain, atol=1e-4)
    monkeypatch.setattr(engine, "MAPS_FILES", True)
    if engine.onnxruntime_c.library() is not None:  # as versions before 1.31 do it
        monkeypatch.setattr(engine, "BY_PYTHON", False)
        run = net.prepare(config, "onnxruntime", processor="cpu")
        np.testing.assert_allclose(run(images), first, atol=1e-5)
        np.testing.assert_allclose(run(images[:1]), first[:1], atol=1e-5)
        with pytest.raises(RuntimeError, match="Run: .*invalid dimensions"):
            run(images[..., 1:])
        with pytest.raises(RuntimeError, match="Run: .*input"):
            run.graphs["network"]({"pictures": images})
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file.write_bytes(b"damaged" * 100)
    np.testing.assert_array_equal(net.prepare(config, "onnxruntime", processor="cpu")(images), first)
    assert file.stat().st_size > 10_000, "written anew"
    monkeypatch.setattr(engine, "KEPT_BYTES", 0)
    for other in (net.space.largest, config):
        net.prepare(other, "onnxruntime", processor="cpu")
    assert list(tmp_path.rglob("*.ort")) == [file] and not list(tmp_path.rglob("*.part")), "the newest stays"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    np.testing.assert_array_equal(net.prepare(config, "onnxruntime", processor="cpu")(images), plain)
    assert "optimised networks are not kept" in caplog.text


def test_a_subnet_that_was_prepared_before_is_not_cut_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = pytest.importorskip("dynofa_ros.supernet.engines.onnxruntime")
    if not engine.MAPS_FILES:
        pytest.skip(f"onnxruntime {engine.onnxruntime.__version__} maps no files")
    net = load_supernet("ofa_mbv3_demo", share_file("config", "weights", "ofa_mbv3_demo.safetensors"))
    config, runtime = net.space.smallest, load_engine("onnxruntime")
    images = np.random.default_rng(0).normal(size=(2, *net.plan(config).input_shape)).astype(np.float32)
    stored = net.plan(config).stored().items()
    means = {key: net.weights[key][: shape[0]] for key, shape in stored if key.endswith("running_mean")}

    def prepared(statistics=None, supernet=net):
        subnet = supernet.materialise(config, statistics)
        answer = runtime.prepare(subnet, 1, "cpu")(images)
        return answer, subnet.is_cut

    (first, cut), (again, cut_again) = prepared(), prepared()
    assert cut and not cut_again
    np.testing.assert_array_equal(first, again)
    other, cut = prepared({key: mean + 1 for key, mean in means.items()})
    assert cut and np.abs(other - first).max() > 0.1, "statistics of its own: another network"
    _, cut = prepared(supernet=Supernet(net.space, replace(net.weights, mapping=None)))
    assert cut, "weights in memory may have changed"
    monkeypatch.setattr(materialise, "_code_digest", lambda: "another version of this package")
    assert prepared()[1]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for index in tmp_path.rglob("*.json"):
        index.write_text("damaged")
    again, cut = prepared()
    assert cut
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(("space", "packed"), [("ofa_mbv3_demo", False), ("seq2seq_demo", True)])
def test_weights_of_matrix_products_are_packed_in_memory(space, packed, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(switching, "MAPPED_BYTES", 1000)
    engine = pytest.importorskip("dynofa_ros.supernet.engines.onnxruntime")
    if not engine.MAPS_FILES:
        pytest.skip(f"onnxruntime {engine.onnxruntime.__version__} maps no files")
    net, runtime = (
        load_supernet(space, share_file("config", "weights", f"{space}.safetensors")),
        load_engine("onnxruntime"),
    )
    for cut in (True, False):
        subnet = net.materialise(net.space.smallest)
        run = runtime.prepare(subnet, 1, "cpu")
        assert subnet.is_cut is cut and run.mapped is not packed
        assert {(graph.packed, graph.file is None) for graph in run.graphs.values()} == {(packed, False)}
    size = prepare_subnet("a", net, net.space.smallest, runtime, processor="cpu").nbytes
    assert size == (4 * net.plan(net.space.smallest).params if packed else 1000)


def test_a_step_waits_for_a_pause_that_is_long_enough(monkeypatch):
    monkeypatch.setattr(switching, "LONGEST_WAIT_S", WAIT_S)
    pauses, pause, waited = Pauses(), threading.Event(), threading.Event()

    def step():
        pauses.wait()
        waited.set()

    pauses.wait()  # of a stream that has not begun
    pause.wait(0.3)
    with pauses:
        threading.Thread(target=step).start()
        assert not waited.wait(0.1), "while a request is answered"
    assert waited.wait(WAIT_S / 2), "in the pause behind it"
    monkeypatch.setattr(switching, "LONGEST_WAIT_S", 0.5)
    with pauses:
        pauses.wait()  # at once: the last pause was too short for any
    monkeypatch.setattr(switching, "LONGEST_WAIT_S", 0.05)
    pause.wait(0.05)
    with pauses:
        start = time.perf_counter()
        pauses.wait()
        assert time.perf_counter() - start >= 0.05, "a request that takes long is not waited for"
    pause.wait(0.05)
    with pauses:
        pauses.wait(10.0)  # at once: no pause is that long
    monkeypatch.setattr(switching, "LONGEST_WAIT_S", WAIT_S)
    pause.wait(0.2)
    start = time.perf_counter()
    pauses.wait()  # the stream has ended
    assert time.perf_counter() - start < WAIT_S / 2


def test_each_step_of_a_preparation_may_wait():
    net = load_supernet("ofa_mbv3_demo", share_file("config", "weights", "ofa_mbv3_demo.safetensors"))
    waits = []
    prepare_subnet("a", net, net.space.smallest, load_engine("onnxruntime"), wait=waits.append)
    assert len(waits) == 1 + switching.WARM_UP_RUNS and waits[:2] == [0.0, 0.0] and waits[2] > 0


# --- the memory of a perception process -----------------------------------------------------------

ANSWER = """
import sys
import dynofa_ros.nodes.perception_node
from dynofa_ros.application.networks import Networks, SubnetKey
networks = Networks.load("", "", "onnxruntime")
entry = networks.libraries["cpu"].entries[0]
prepared = networks.prepare(SubnetKey("cpu", entry.id))
assert prepared.nbytes > 0
assert "torch" not in sys.modules
"""


GAPS = """
import contextlib
import numpy as np, psutil
from dynofa_ros.supernet.memory import large_blocks_returned
own = psutil.Process()
np.ones(2**21)  # once this is freed, glibc takes blocks of its size from the heap
with large_blocks_returned() if RETURNED else contextlib.nullcontext():
    pairs = [(np.ones(2**20), np.ones(10_000)) for _ in range(10)]
before, small = own.memory_info().rss, [pair[1] for pair in pairs]
del pairs
print((before - own.memory_info().rss) / 2**20)
"""


@pytest.mark.parametrize("returned", [True, False])
def test_large_blocks_leave_no_gaps_in_the_heap(returned):
    code = GAPS.replace("RETURNED", str(returned))
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert (float(found.stdout) > 70) is returned, "80 MiB are freed, between small blocks that stay"


def test_a_perception_process_with_onnxruntime_never_imports_torch():
    done = subprocess.run([sys.executable, "-c", ANSWER], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_hint_that_does_not_fit_is_prepared_once_only(bench):
    """Three hints in a cache for the current one and two more: the third is tried once, then known."""
    for _ in range(3):
        bench.switcher.prefetch(["b", "c", "d"])
        wait_for(lambda: "d" in bench.prepared)
        threading.Event().wait(0.1)
    assert sorted(set(bench.prepared)) == ["a", "b", "c", "d"] and bench.prepared.count("d") == 1
    assert [key for key in "abcd" if bench.switcher.holds(key)] == ["a", "b", "c"]


def test_new_hints_replace_what_is_no_longer_hinted(bench):
    bench.switcher.prefetch(["b", "c"])
    wait_for(lambda: bench.switcher.holds("c"))
    bench.switcher.prefetch(["d"])
    wait_for(lambda: bench.switcher.holds("d"))
    assert bench.switcher.holds("a") and sum(p.nbytes for p in bench.switcher.held) <= 35


def test_a_report_that_raises_does_not_end_switching(bench, caplog):
    def broken(outcome):
        raise RuntimeError("the listener is gone")

    bench.switcher.request("b", broken)
    wait_for(lambda: bench.current == "b")
    threading.Event().wait(0.05)
    bench.request("c")
    bench.wait_for_reports(1)
    assert bench.current == "c" and "the listener is gone" in caplog.text
