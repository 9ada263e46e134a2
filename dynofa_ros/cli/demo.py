"""`dynofa demo`: the nodes as real processes, a camera, a timeline; figures and a picture of the run."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.live import Live

from dynofa_ros.cli.common import FAILED, OK, CliError, save_plot, write_json
from dynofa_ros.cli.report import print_comparison, print_errors, print_summary
from dynofa_ros.demo.live_table import live_view, phase_line
from dynofa_ros.demo.phases import MANAGER, FivePhases, Script
from dynofa_ros.demo.processes import NodeProcess, Processes
from dynofa_ros.demo.setup import CAMERA, DemoOptions, check_options, node_specs, prepare_output
from dynofa_ros.demo.timeline import LARGEST_SUBNET_MS, LATENCY_TARGET_MS
from dynofa_ros.recording import metrics
from dynofa_ros.recording.bag import BagError
from dynofa_ros.recording.run import Run, read_run
from dynofa_ros.topics import PHASE_END

if TYPE_CHECKING:
    from dynofa_ros.demo.camera_bag import CameraTopic
    from dynofa_ros.demo.director import Link
    from dynofa_ros.demo.scenario_run import Played

APPS = ("front", "rear", "left", "right", "up", "down")
SECONDS, RATE_HZ = 60.0, 15.0
READY_TIMEOUT_S = 60.0
WARM_UP_S = 6.0  # also the time in which the manager learns what margin this machine needs
DRAIN_S = 0.2  # for the last frames to be answered and recorded
MARK_DRAIN_S = 0.2
BAG_MARGIN_S = 30.0  # a replayed bag may take so much longer than it lasts
POLL_S = 0.05
VIEW_PERIOD_S = 1.0
CPU_PERIOD_S = 1.0


class NodesFailed(Exception):
    """Nodes failed or ended by themselves; the errors are noted already."""


def run(options: DemoOptions) -> int:
    """Run the demo; returns the exit code. Raises CliError where it cannot even begin."""
    camera = check_options(options)
    prepare_output(options.out)
    return Demo(options, camera).run()


class Demo:
    """One run."""

    def __init__(self, options: DemoOptions, camera: CameraTopic | None) -> None:
        self._options = options
        self._camera = camera
        self._played: Played | None = None  # with --scenario
        self._script: Script
        if options.scenario is None:
            self._apps = APPS[: options.apps or 1]
            self._script = FivePhases(self._apps, options.seconds or SECONDS, options.rate_hz or RATE_HZ)
        else:
            from dynofa_ros.demo.scenario_run import Played

            self._played = Played(options.scenario, options.seconds, options.seed)
            self._apps = self._played.apps
        self._console = Console()
        self._errors: list[str] = []
        self._signal: int | None = None
        self._processes: Processes | None = None
        self._link: Link | None = None
        self._manager: psutil.Process | None = None
        self._next_cpu_s = 0.0
        self._view: Live | None = None
        self._next_view_s = 0.0
        self._phase: metrics.Phase | None = None
        self._total_s = math.nan

    def run(self) -> int:
        """The whole demo: nodes, timeline or bag, end, figures. Returns the exit code."""
        with self._signals():
            try:
                self._perform()
            except CliError as error:
                self._errors.append(str(error))
            except NodesFailed:
                pass
            finally:
                self._finish()
            summary = self._summarise()
        print_errors(summary, self._console)
        return FAILED if summary["errors"] else OK

    # --- the run -----------------------------------------------------------------------------

    def _perform(self) -> None:
        from dynofa_ros.demo.director import Link

        options = self._options
        # All nodes are on this machine, and nobody else on the network should hear a demo.
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        # Joining ROS takes effect in the background: by the end of the measurement the neighbours are known.
        self._link = link = Link(self._apps, self._wait)
        self._say(f"measuring the sub-networks on this machine ({options.out / 'logs'} has the logs)")
        emulated_slowdown = self._calibrate()
        if self._played is not None:
            self._script = self._played.prepare(self._library, emulated_slowdown)
        link.check_alone(own=0)
        self._say("starting the nodes")
        link.record(options.out / "bag")
        self._start_nodes(emulated_slowdown)
        link.wait_until_recorded(READY_TIMEOUT_S)
        link.configure(MANAGER)
        link.activate(MANAGER)
        link.wait_until_ready(READY_TIMEOUT_S)
        link.configure(CAMERA)
        if self._camera is None:
            self._warm_up(link)
        with self._live():
            if self._camera is None:
                self._play_timeline(link)
            else:
                self._play_bag(link, self._camera)

    def _warm_up(self, link: Link) -> None:
        """Frames before the first phase: the first ones after a start find cold caches."""
        link.activate(CAMERA)
        self._wait(WARM_UP_S)
        link.activate(CAMERA, active=False)
        self._wait(DRAIN_S)

    def _play_timeline(self, link: Link) -> None:
        script = self._script
        start_s = time.monotonic()
        self._total_s = script.ends_s[-1]
        for index, (name, end_s) in enumerate(zip(script.names, script.ends_s, strict=True)):
            self._begin(link, name)
            if index == 0:
                link.activate(CAMERA)
                start_s = time.monotonic()
            script.apply(link, index)
            self._wait(start_s + end_s - time.monotonic())
            self._report_phase(link)
        link.activate(CAMERA, active=False)
        self._wait(DRAIN_S)

    def _play_bag(self, link: Link, camera: CameraTopic) -> None:
        self._total_s = camera.duration_ns / 1e9
        self._begin(link, "bag")
        link.activate(CAMERA)
        deadline_s = time.monotonic() + self._total_s + BAG_MARGIN_S
        while not link.camera_finished.is_set():
            if time.monotonic() > deadline_s:
                raise CliError(f"{CAMERA} did not finish {camera.bag}: {self._last_line(CAMERA)}")
            self._wait(POLL_S)
        self._wait(DRAIN_S + LATENCY_TARGET_MS / 1e3)
        self._report_phase(link)

    def _begin(self, link: Link, name: str) -> None:
        link.start_phase(name)
        self._phase = metrics.Phase(name, time.time_ns(), metrics.FOREVER_NS)

    def _report_phase(self, link: Link) -> None:
        if self._options.headless and self._phase is not None:
            phase = metrics.Phase(self._phase.name, self._phase.start_ns, time.time_ns())
            self._say(phase_line(link.live, phase))

    # --- processes ---------------------------------------------------------------------------

    def _calibrate(self) -> float:
        """Measure the library on this machine, in a process of its own. Returns the emulated slowdown."""
        command = [sys.executable, "-m", "dynofa_ros.demo.machine_speed", str(self._library)]
        log_path = self._options.out / "logs" / "calibrate.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
            try:
                while process.poll() is None:
                    self._wait(POLL_S)
                assert process.stdout is not None
                output = process.stdout.read().decode()
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise CliError(f"measuring the sub-networks failed: {lines[-1] if lines else 'no output'}")
        return max(1.0, LARGEST_SUBNET_MS / float(output))

    @property
    def _library(self) -> Path:
        return self._options.out / "logs" / "library_cpu.yaml"

    def _start_nodes(self, emulated_slowdown: float) -> None:
        processes = self._processes = Processes(self._options.out / "logs")
        setup = self._script.setup
        specs = node_specs(self._options, setup, self._camera, self._library, emulated_slowdown)
        started = {spec.label: processes.start(spec) for spec in specs}
        self._watch_cpu(started[MANAGER])

    def _watch_cpu(self, manager: NodeProcess) -> None:
        self._manager = psutil.Process(manager.pid)
        self._manager.cpu_percent()  # the first call only sets the start of the interval

    # --- waiting -----------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Sleep, and meanwhile supervise. Raises NodesFailed or CliError to end the run."""
        deadline = time.monotonic() + seconds
        while True:
            self._supervise()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_S))

    def _supervise(self) -> None:
        if self._signal is not None:
            raise CliError(f"interrupted by {signal.Signals(self._signal).name}")
        failures = self._processes.failures() if self._processes else []
        if failures:
            self._errors += failures
            raise NodesFailed
        if self._link is not None and self._link.failure:
            raise CliError(f"the demo's own ROS thread failed: {self._link.failure}")
        if self._link is not None and self._link.live.errors:  # told by a node, on demo/errors
            raise NodesFailed
        now = time.monotonic()
        if self._phase is not None and self._link is not None:
            self._sample_cpu(self._link, now)
            self._refresh(self._link, self._phase, now)

    def _sample_cpu(self, link: Link, now: float) -> None:
        if self._manager is None or now < self._next_cpu_s:
            return
        try:
            percent = self._manager.cpu_percent()
        except psutil.Error:
            return  # it ended just now: supervision tells
        if self._next_cpu_s:  # the interval before the first phase is not part of the run
            link.publish_manager_cpu(percent)
        self._next_cpu_s = now + CPU_PERIOD_S

    def _refresh(self, link: Link, phase: metrics.Phase, now: float) -> None:
        if self._view is not None and now >= self._next_view_s:
            self._next_view_s = now + VIEW_PERIOD_S
            first_ns = link.live.marks[0].time_ns if link.live.marks else phase.start_ns
            elapsed_s = (time.time_ns() - first_ns) / 1e9
            self._view.update(live_view(link.live, phase, elapsed_s, self._total_s), refresh=True)

    @contextmanager
    def _live(self) -> Iterator[None]:
        if self._options.headless:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as self._view:
            yield
        self._view = None

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self._signal = number

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- the end -----------------------------------------------------------------------------

    def _finish(self) -> None:
        """Close the recording, end the nodes. Nothing here may keep the rest from happening."""
        link = self._link
        if link is not None and self._phase is not None:
            link.start_phase(PHASE_END)
            for error in self._errors:
                link.publish_error(error)
            time.sleep(MARK_DRAIN_S)
        failure = link.stop_recording() if link is not None else None
        if failure:
            self._errors.append(failure)
        if self._processes is not None:
            self._errors += self._processes.end()
        if link is not None:
            link.close()

    def _summarise(self) -> dict[str, Any]:
        """Figures and picture, from nothing but the recording."""
        out = self._options.out
        try:
            recorded = read_run(out / "bag")
        except BagError as error:
            recorded = Run()
            if not self._errors:
                self._errors.append(str(error))
        summary = metrics.summary(recorded)
        if not self._errors and summary["frames_published"] and not summary["results"]:
            self._errors.append(
                f"{summary['frames_published']} images were published and none was answered; "
                f"{self._options.out / 'logs'} has the perception node's reasons"
            )
        summary["errors"] += [error for error in self._errors if error not in summary["errors"]]
        beside = None
        if self._played is not None and not summary["errors"]:
            beside = self._played.simulate(recorded, summary, WARM_UP_S)
        write_json(out / "summary.json", summary)
        if self._options.json is not None:
            write_json(self._options.json, summary)
        if recorded.marks and (recorded.monitors or recorded.telemetry):
            save_plot(recorded, out / "timeline.png", beside)
            print_summary(summary, self._console)
        if beside is not None:
            print_comparison(summary["comparison"], self._console)
        self._say(f"results in {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
        return summary

    def _last_line(self, label: str) -> str:
        return self._processes.last_log_line(label) if self._processes else "no log output"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
