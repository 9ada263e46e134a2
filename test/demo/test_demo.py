"""`dynofa demo` from end to end: real processes over DDS, as a user starts and stops them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from command import dynofa_process
from rosbags.rosbag2 import StoragePlugin, Writer

from dynofa_ros.demo.camera_bag import RAW_TYPE
from dynofa_ros.demo.camera_sources import ENCODERS, compose, sign_picture
from dynofa_ros.demo.phases import PHASES
from dynofa_ros.recording.bag import BagError, open_bag, typestore
from dynofa_ros.recording.run import read_run

# Times are for a slow machine with other things to do: each is what only a demo that hangs exceeds.
pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

START_TIMEOUT_S = 150.0
END_S = 90.0  # how long an interrupted demo may take to end, of the time that it would have gone on
LONG_S = 240
SECONDS = 15.0
SHARED_MEMORY = Path("/dev/shm")
# A demo that is not judged by its figures takes the library as it is, and needs no time to learn margins.
UNJUDGED = """
from dynofa_ros.application.networks import demo_library
from dynofa_ros.cli.main import main
from dynofa_ros.demo import demo
from dynofa_ros.paths import share_file

def shipped(self):
    for app in self._apps:
        self._measured[app.name] = demo.Measured(share_file(*demo_library(app.files[1])), 4.0)

demo.WARM_UP_S, demo.Demo._measure_machine = 0.5, shipped
raise SystemExit(main())
"""

Timeline = tuple[Path, int, str, dict[str, Any]]  # folder, exit code, terminal output, summary


class Running:
    """A demo in a process of its own, and everything that it started."""

    def __init__(self, out: Path, *arguments: object, judged: bool = True) -> None:
        self.out = out
        started = ("-m", "dynofa_ros.cli.main") if judged else ("-c", UNJUDGED)
        command = [sys.executable, *started, "demo", "--headless", "--out", str(out)]
        # A group of its own: tests end a demo, never each other.
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.nodes: list[psutil.Process] = []
        self.shared_memory: set[Path] = set()
        self._before = set(SHARED_MEMORY.iterdir())  # a process killed earlier may have left some

    def wait_until_recording(self) -> None:
        """Until answered frames are on disk; notes the processes and the shared memory that they use."""
        wait_for(self._camera_is_active, START_TIMEOUT_S, "no frames", self.process)
        wait_for(self._has_recorded, START_TIMEOUT_S, "no answers were recorded", self.process)
        self.nodes = [p for p in psutil.Process(self.process.pid).children(recursive=True) if p.is_running()]
        pids = [self.process.pid, *(p.pid for p in self.nodes)]
        self.shared_memory = {path for pid in pids for path in mapped_shared_memory(pid)} - self._before

    def _camera_is_active(self) -> bool:
        """For the second time: the first is the warm-up."""
        log = self.out / "logs" / "demo_camera.log"
        return log.is_file() and log.read_text().count(": active") >= 2

    def _has_recorded(self) -> bool:
        """Every application has answered."""
        time.sleep(1.0)
        with suppress(BagError):  # it is written to
            run = read_run(self.out / "bag")
            return bool(run.targets) and {m.app for m in run.monitors} == run.targets.keys()
        return False

    def node(self, name: str) -> psutil.Process:
        """The process of a node, by the name that it was given."""
        return next(p for p in self.nodes if f"__node:={name}" in p.cmdline())

    def finish(self, timeout_s: float) -> tuple[int, str, dict[str, Any]]:
        """Exit code, terminal output and summary of a demo that ends by itself."""
        text, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, text, json.loads((self.out / "summary.json").read_text())

    def check_nothing_is_left(self) -> None:
        """No process and no shared memory of the demo's nodes."""
        assert self.nodes and self.shared_memory, "nothing was watched"
        wait_for(lambda: not any(map(alive, self.nodes)), END_S, f"orphans: {self.nodes}")
        left = {path for path in self.shared_memory if path.exists()}
        # Fast DDS shares its port files with every other participant of this machine.
        in_use = {path for pid in psutil.pids() for path in mapped_shared_memory(pid)} if left else set()
        assert left - in_use == set()


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def mapped_shared_memory(pid: int) -> set[Path]:
    """The Fast DDS segments that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:  # it ended, or is someone else's
        return set()
    mapped = (line.split()[5:] for line in lines)
    names = ("fastdds_", "fastrtps_")
    return {Path(path[0]) for path in mapped if path and Path(path[0]).name.startswith(names)}


def wait_for(
    condition: Callable[[], bool], timeout_s: float, what: str, process: subprocess.Popen[str] | None = None
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"{what}; the demo ended with {process.returncode}: {process.communicate()[0]}")
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """A whole short demo: its folder, exit code, output and summary."""
    tasks = ("--task", "classification,translation")
    demo = Running(tmp_path_factory.mktemp("demo") / "out", "--seconds", SECONDS, *tasks)
    demo.wait_until_recording()
    code, text, summary = demo.finish(SECONDS + START_TIMEOUT_S)
    demo.check_nothing_is_left()
    return demo.out, code, text, summary


@pytest.mark.alone
def test_the_demo_succeeds(timeline: Timeline) -> None:
    out, code, text, summary = timeline
    assert code == 0, text
    assert summary["errors"] == []
    written = {"summary.json", "timeline.png", "report.html", "bag", "logs"}
    assert {path.name for path in out.iterdir()} == written
    for phase in PHASES:
        assert any(line.startswith(phase.name) for line in text.splitlines()), "one line per phase"
    assert f"open {out / 'report.html'} in a browser" in text


@pytest.mark.alone
def test_phases_are_equally_long(timeline: Timeline) -> None:
    """The first also lasts until its sources send, the last until all is answered: seconds if it is busy."""
    phases, planned_s = timeline[3]["phases"], SECONDS / len(PHASES)
    assert [phase["name"] for phase in phases] == [phase.name for phase in PHASES]
    lengths_s = [phase["end_s"] - phase["start_s"] for phase in phases]
    assert median(lengths_s) == pytest.approx(planned_s, abs=0.3 * planned_s)
    for number, phase in enumerate(phases):
        assert phase["start_s"] > number * planned_s - 0.5, "begun before its time"
        assert phase["results"] > 0


@pytest.mark.alone
def test_the_manager_moves_sub_networks_and_clocks(timeline: Timeline) -> None:
    summary = timeline[3]
    clocks = {
        (domain, hz)
        for phase in summary["phases"]
        for domain, used in phase["clocks_used"].items()
        for hz in used
        if domain.startswith(("cpu", "gpu"))
    }
    assert any(len(app["subnets_used"]) >= 2 for app in summary["apps"].values())
    assert summary["subnet_switches"] >= 1
    assert len(clocks) > len({domain for domain, _ in clocks}), "no domain changed its clock"
    assert summary["decisions"] > SECONDS and summary["dvfs_commands"] >= 1
    assert summary["manager_cpu_percent"] > 0.0 and summary["device_cpu_percent"] > 0.0


@pytest.mark.alone
def test_frames_are_answered_in_time_and_correctly(timeline: Timeline) -> None:
    summary = timeline[3]
    front, seconds = summary["apps"]["front"], summary["phases"][-1]["end_s"]
    # Loose, for a busy machine and phases of 3 s; the goals of `make demo` are for a minute on an idle one.
    # The camera has a low priority. A manager that stayed at the largest sub-network would miss all of two
    # phases, load and tighter target: 40 %.
    assert 4 * SECONDS < front["frames_published"] <= 15 * seconds + 1
    assert front["results"] > 0.5 * front["frames_published"]
    assert front["deadline_miss_percent_settled"] < 35.0
    accuracy = front["accuracy"]
    assert accuracy["frames_scored"] == front["results"]
    # Four standard deviations of an accuracy of 0.8; 0.03 holds for the full minute.
    deviation = (0.8 * 0.2 / front["results"]) ** 0.5
    assert accuracy["measured"] == pytest.approx(accuracy["expected"], abs=4.0 * deviation)
    assert 0 < summary["mean_power_w"] < 30
    assert summary["energy_j"] == pytest.approx(summary["mean_power_w"] * seconds, rel=0.2)


@pytest.mark.alone
def test_sentences_are_answered_under_the_same_manager(timeline: Timeline) -> None:
    translator = timeline[3]["apps"]["translator"]
    assert all_answered(translator) > 0.7 * SECONDS
    assert translator["deadline_miss_percent_settled"] < 50.0  # twenty sentences on a busy machine
    assert translator["accuracy_metric"] == "BLEU / 100"
    accuracy = translator["accuracy"]
    assert accuracy["frames_scored"] == translator["results"] and 0.3 < accuracy["expected"] < 0.4
    assert accuracy["measured"] > accuracy["expected"], "the sentences are simpler than those of the library"


@pytest.mark.alone
def test_every_result_carries_a_header_of_the_camera(timeline: Timeline) -> None:
    run = read_run(timeline[0] / "bag")
    results = [result.frame for result in run.results if result.app == "front"]
    assert results and set(results) <= {truth.frame for truth in run.truths}
    monitors = [m.frame for m in run.monitors if m.app == "front"]
    both = min(len(results), len(monitors))
    assert monitors[:both] == results[:both]
    assert max(len(results), len(monitors)) <= both + 1, "the recording may end between the two"


@pytest.mark.alone
def test_figures_are_recomputed_from_the_bag(timeline: Timeline) -> None:
    out, _, _, summary = timeline
    again = out.parent / "again.json"
    assert dynofa_process("report", out, "--json", again).returncode == 0
    assert json.loads(again.read_text()) == summary


@pytest.mark.alone
def test_every_decision_is_reproduced_from_the_bag(timeline: Timeline) -> None:
    result = dynofa_process("replay", timeline[0])
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split()[0]) > 2 * SECONDS, "control_period_s is 0.2 s"


@pytest.mark.alone
def test_the_bag_has_all_topics_but_images(timeline: Timeline) -> None:
    with open_bag(timeline[0] / "bag") as reader:
        topics = {c.topic for c in reader.connections}
    assert "/perception/front/image" not in topics
    app = {"classification", "monitor", "targets", "library", "subnet_state", "subnet_command"}
    assert {f"/perception/front/{name}" for name in app} <= topics
    assert {f"/perception/translator/{name}" for name in app - {"classification"}} <= topics
    assert {"/language/translator/text", "/language/translator/translation"} <= topics
    device = {"telemetry", "capabilities", "power_model", "dvfs_state", "dvfs_command", "simulated_load"}
    assert {f"/dynofa/device/{name}" for name in device} <= topics
    assert {"/dynofa/manager/decision", "/dynofa/manager/state"} <= topics
    assert {"/diagnostics", "/parameter_events"} <= topics


@pytest.mark.alone
def test_the_picture_is_drawn(timeline: Timeline) -> None:
    picture = cv2.imread(str(timeline[0] / "timeline.png"))
    assert picture is not None and picture.shape[1] >= 1000
    assert picture.std() > 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_soon_and_keeps_its_results(number: signal.Signals, tmp_path: Path) -> None:
    """And while it runs, a second one in the same domain is refused."""
    quick = ("--seconds", LONG_S, "--task", "classification")
    demo = Running(tmp_path / "out", *quick, judged=False)
    demo.wait_until_recording()
    if number == signal.SIGINT:
        code, _, summary = Running(tmp_path / "second", *quick).finish(END_S)
        assert code == 1 and "has a dynofa manager or device already" in summary["errors"][0]
    begin = time.monotonic()
    os.kill(demo.process.pid, number)
    code, text, summary = demo.finish(LONG_S)
    assert time.monotonic() - begin < END_S, text
    assert code == 1
    assert summary["errors"] == [f"interrupted by {number.name}"]
    assert summary["results"] > 0 and (demo.out / "timeline.png").is_file()
    demo.check_nothing_is_left()


def test_a_killed_demo_leaves_no_orphan(tmp_path: Path) -> None:
    demo = Running(tmp_path / "out", "--seconds", LONG_S, "--task", "classification", judged=False)
    demo.wait_until_recording()
    demo.process.kill()
    demo.process.communicate()
    wait_for(lambda: not any(map(alive, demo.nodes)), END_S, f"orphans: {demo.nodes}")
    assert read_run(demo.out).monitors, "what was recorded so far can be read"


def test_a_node_that_dies_is_an_error(tmp_path: Path) -> None:
    demo = Running(tmp_path / "out", "--seconds", LONG_S, "--apps", 2, judged=False)
    demo.wait_until_recording()
    demo.node("rear").kill()
    code, text, summary = demo.finish(END_S)
    assert code == 1
    assert len(summary["errors"]) == 1, summary["errors"]
    error = summary["errors"][0]
    assert error.startswith("perception/rear ended with exit code -9: ") and error in " ".join(text.split())
    assert set(summary["apps"]) == {"front", "rear"}
    for app in summary["apps"].values():
        assert app["results"] > 0 and app["frames_published"] > 0
    assert summary["results"] == sum(app["results"] for app in summary["apps"].values())


def all_answered(app: dict[str, Any]) -> int:
    """How many texts were answered: all, but that a busy machine may still have the last ones in work."""
    results, published = app["results"], app["frames_published"]
    assert published - 3 <= results <= published and app["dropped_frames"] == app["malformed_frames"] == 0
    return int(results)


def quick_demo(out: Path, *arguments: str, judged: bool = True) -> dict[str, Any]:
    """Summary of a demo of 8 s, whose decisions can be replayed."""
    code, text, summary = Running(out, "--seconds", 8, *arguments, judged=judged).finish(START_TIMEOUT_S)
    assert code == 0, text
    assert dynofa_process("replay", out).returncode == 0
    return summary


def test_a_translator_and_a_parser_share_a_process(tmp_path: Path) -> None:
    summary = quick_demo(tmp_path / "out", "--task", "translation", judged=False)
    metrics = {app: values["accuracy_metric"] for app, values in summary["apps"].items()}
    assert metrics == {"translator": "BLEU / 100", "parser": "exact match"}
    for app in summary["apps"].values():
        assert all_answered(app) >= 5
    assert summary["apps"]["parser"]["accuracy"]["measured"] > 0.8


@pytest.mark.alone
def test_a_detector_and_a_translator_are_the_default(tmp_path: Path) -> None:
    summary = quick_demo(tmp_path / "out")
    detector, translator = (summary["apps"][app] for app in ("detector", "translator"))
    accuracy = detector["accuracy"]
    assert detector["accuracy_metric"] == "mAP50:95"
    assert accuracy["frames_scored"] == detector["results"] > 10
    assert accuracy["measured"] > 0.5 * accuracy["expected"] > 0.05  # of a few scenes
    # What is left of phases of 1.6 s without their first second is some fifteen frames.
    assert detector["deadline_miss_percent_settled"] < 50.0
    assert all_answered(translator) >= 5
    sheet = cv2.imread(str(tmp_path / "out" / "detections.png"))
    assert sheet is not None and sheet.std() > 10


ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8")
PICTURES = 4
STAMP_S = 1_500_000_000


def stamp_ns(number: int) -> int:
    """Stamp of image `number` of the bag."""
    return (STAMP_S + number) * 10**9 + number


def write_camera_bag(path: Path, storage: StoragePlugin) -> None:
    """Every picture once in every encoding, 2 Hz, stamps long past."""
    store = typestore()
    types = store.types
    with Writer(path, version=8, storage_plugin=storage) as writer:
        camera = writer.add_connection("/elsewhere/eye", RAW_TYPE, typestore=store)
        for number in range(PICTURES * len(ENCODINGS)):
            rgb = compose(sign_picture(9, number // len(ENCODINGS)).rgb, 640, 480)
            encoding = ENCODINGS[number % len(ENCODINGS)]
            pixels = np.ascontiguousarray(ENCODERS[encoding](rgb))
            stamp = types["builtin_interfaces/msg/Time"](sec=STAMP_S + number, nanosec=number)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="eye")
            image = types[RAW_TYPE](
                header=header,
                height=480,
                width=640,
                encoding=encoding,
                is_bigendian=0,
                step=pixels.nbytes // 480,
                data=pixels.reshape(-1),
            )
            writer.write(camera, 10**18 + number * 500_000_000, store.serialize_cdr(image, RAW_TYPE))


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_bag_recorded_elsewhere_is_answered(storage: StoragePlugin, tmp_path: Path) -> None:
    write_camera_bag(tmp_path / "camera", storage)
    demo = Running(tmp_path / "out", "--bag", tmp_path / "camera", judged=False)
    code, text, summary = demo.finish(START_TIMEOUT_S)
    assert code == 0, text
    number = PICTURES * len(ENCODINGS)
    assert summary["frames_published"] == number
    assert summary["results"] + summary["dropped_frames"] == summary["frames_due"]
    assert summary["results"] >= number // 2  # all of them, unless the machine is busy
    run = read_run(demo.out / "bag")
    assert len(run.results) == summary["results"]
    subnets = {monitor.frame: monitor.subnet_id for monitor in run.monitors}
    classes: dict[tuple[int, str], set[str | None]] = {}
    for result in run.results:
        sent = result.frame[0] // 10**9 - STAMP_S
        assert 0 <= sent < number and result.frame == (stamp_ns(sent), "eye")
        if result.frame in subnets:  # its monitor, on a topic of its own, may be the one that is not recorded
            classes.setdefault((sent // len(ENCODINGS), subnets[result.frame]), set()).add(result.value)
    assert {picture for picture, _ in classes} == set(range(PICTURES))
    assert all(len(found) == 1 for found in classes.values()), f"encodings differ: {classes}"
