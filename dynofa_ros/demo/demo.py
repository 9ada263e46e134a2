"""One run of the demo: measure this machine, start the nodes, play the phases or a bag, sum up."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.live import Live

from dynofa_ros import files
from dynofa_ros.demo.applications import CLASSIFIER, DEFAULT_TASKS, demo_apps
from dynofa_ros.demo.phases import DEVICE, MANAGER, FivePhases, Phases
from dynofa_ros.demo.processes import Processes
from dynofa_ros.demo.setup import (
    DemoOptions,
    Measured,
    board_spec,
    check_options,
    node_specs,
    prepare_output,
    source_specs,
)
from dynofa_ros.entry_point import handled
from dynofa_ros.errors import CliError, writing
from dynofa_ros.recording import metrics
from dynofa_ros.recording.bag import BagError
from dynofa_ros.recording.page import write_page
from dynofa_ros.recording.run import Run, read_run
from dynofa_ros.recording.scoring import PRECISION
from dynofa_ros.recording.status import status
from dynofa_ros.recording.tables import (
    live_view,
    number,
    phase_line,
    print_comparison,
    print_errors,
    print_summary,
)
from dynofa_ros.topics import DEVICE_CPU, MANAGER_CPU, PHASE_END, Topic

if TYPE_CHECKING:
    from dynofa_ros.demo.camera_bag import CameraTopic
    from dynofa_ros.demo.comparison import LiveScenario
    from dynofa_ros.demo.director import Director

SECONDS = 60.0
READY_TIMEOUT_S = 60.0
WARM_UP_S = 6.0  # also the time in which the manager learns what margin this machine needs
DRAIN_S = 0.2  # for the last answers to be recorded
MARK_DRAIN_S = 0.2
BAG_MARGIN_S = 30.0  # a replayed bag may take so much longer than it lasts
POLL_S = 0.05
VIEW_PERIOD_S = 1.0
CPU_PERIOD_S = 1.0


class NodesFailed(Exception):
    """Nodes failed or ended by themselves; the errors are noted already."""


def run(options: DemoOptions) -> dict[str, Any]:
    """Run the demo; returns what is in its summary.json. Raises CliError where it cannot even begin."""
    camera = check_options(options)
    prepare_output(options.out)
    return Demo(options, camera).run()


class Demo:
    """One run."""

    def __init__(self, options: DemoOptions, camera: CameraTopic | None) -> None:
        self._options = options
        self._camera = camera
        self._scenario: LiveScenario | None = None
        self._phases: Phases
        if options.scenario is None:
            single = options.apps or options.bag or options.images
            tasks = options.task or ((CLASSIFIER.task,) if single else DEFAULT_TASKS)
            self._apps = demo_apps(tasks, options.apps, options.rate_hz)
            self._phases = FivePhases(self._apps, options.seconds or SECONDS)
        else:
            from dynofa_ros.demo.comparison import LiveScenario

            self._scenario = LiveScenario(options.scenario, options.seconds, options.seed)
            self._apps = [replace(CLASSIFIER, name=name) for name in self._scenario.apps]
        self._sources = list(dict.fromkeys(app.source.node for app in self._apps))
        self._measured: dict[str, Measured] = {}  # by application
        self._console = Console(markup=False, emoji=False)
        self._errors: list[str] = []
        self._signal: int | None = None
        self._processes: Processes | None = None
        self._director: Director | None = None
        self._measured_cpu: dict[Topic, psutil.Process] = {}
        self._next_cpu_s = 0.0
        self._view: Live | None = None
        self._next_view_s = 0.0
        self._phase: metrics.Phase | None = None
        self._total_s = math.nan

    def run(self) -> dict[str, Any]:
        """The whole demo: nodes, phases or bag, end, figures. Returns the summary."""
        with handled(self._note_signal):
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
        return summary

    # --- the run -----------------------------------------------------------------------------

    def _perform(self) -> None:
        from dynofa_ros.demo.director import Director

        options = self._options
        # All nodes are on this machine, and a demo should not be received by others on the network.
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        # Joining ROS takes effect in the background: by the end of the measurement the neighbours are known.
        self._director = director = Director([app.name for app in self._apps], self._wait)
        self._say(f"measuring the sub-networks on this machine ({options.out / 'logs'} has the logs)")
        self._measure_machine()
        if self._scenario is not None:
            measured = self._measured[self._apps[0].name]
            self._phases = self._scenario.prepare(measured.library, measured.slowdown)
        director.check_alone(own=0)
        self._say("starting the nodes")
        director.record(options.out / "bag")
        self._start_nodes()
        director.wait_until_recorded(READY_TIMEOUT_S)
        director.configure(MANAGER)
        director.activate(MANAGER)
        director.wait_until_decided(READY_TIMEOUT_S)
        for source in self._sources:
            director.configure(source)
        if self._camera is None:
            self._warm_up(director)
        with self._live():
            if self._camera is None:
                self._play_phases(director)
            else:
                self._play_bag(director, self._camera)

    def _warm_up(self, director: Director) -> None:
        """Requests before the first phase: the first ones after a start find cold caches."""
        self._activate(director)
        self._wait(WARM_UP_S)
        self._deactivate(director)

    def _activate(self, director: Director) -> None:
        for source in self._sources:
            director.activate(source)

    def _deactivate(self, director: Director) -> None:
        """Send no more requests, and wait until the last one is answered."""
        for source in self._sources:
            director.activate(source, active=False)
        self._wait(DRAIN_S + max(app.latency_target_ms for app in self._apps) / 1e3)

    def _play_phases(self, director: Director) -> None:
        phases = self._phases
        start_s = time.monotonic()
        self._total_s = phases.ends_s[-1]
        for index, (name, end_s) in enumerate(zip(phases.names, phases.ends_s, strict=True)):
            self._begin(director, name)
            if index == 0:
                self._activate(director)
                start_s = time.monotonic()
            phases.begin(director, index)
            self._wait(start_s + end_s - time.monotonic())
            self._report_phase(director)
        self._deactivate(director)

    def _play_bag(self, director: Director, camera: CameraTopic) -> None:
        self._total_s = camera.duration_ns / 1e9
        self._begin(director, "bag")
        self._activate(director)
        deadline_s = time.monotonic() + self._total_s + BAG_MARGIN_S
        while not director.camera_finished:
            if time.monotonic() > deadline_s:
                node = self._sources[0]
                raise CliError(f"{node} did not finish {camera.bag}: {self._last_line(node)}")
            self._wait(POLL_S)
        self._wait(DRAIN_S + self._apps[0].latency_target_ms / 1e3)
        self._report_phase(director)

    def _begin(self, director: Director, name: str) -> None:
        director.start_phase(name)
        self._phase = metrics.Phase(name, time.time_ns(), metrics.FOREVER_NS)

    def _report_phase(self, director: Director) -> None:
        if self._options.headless and self._phase is not None:
            phase = metrics.Phase(self._phase.name, self._phase.start_ns, time.time_ns())
            self._say(phase_line(director.live, phase))

    # --- processes ---------------------------------------------------------------------------

    def _measure_machine(self) -> None:
        """Measure the libraries on this machine, in a process of its own."""
        logs = self._options.out / "logs"
        files = {app.files: logs / f"library_{app.files[1]}.yaml" for app in self._apps}
        arguments = [str(x) for names, file in files.items() for x in (*names, file)]
        command = [sys.executable, "-m", "dynofa_ros.demo.machine_speed", *arguments]
        with (logs / "machine_speed.log").open("wb") as log:
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
            text = (logs / "machine_speed.log").read_text(encoding="utf-8", errors="replace")
            lines = text.strip().splitlines()
            raise CliError(f"measuring the sub-networks failed: {lines[-1] if lines else 'no output'}")
        largest_ms = dict(zip(files, map(float, output.split()), strict=True))
        for app in self._apps:
            slowdown = max(1.0, app.largest_ms / largest_ms[app.files])
            self._measured[app.name] = Measured(files[app.files], slowdown)

    def _start_nodes(self) -> None:
        processes = self._processes = Processes(self._options.out / "logs")
        setup = self._phases.setup
        if self._options.virtual_board is not None:
            processes.start(board_spec(self._options))
            self._wait_for_board(self._options.board_folder)
        specs = node_specs(self._options, self._apps, setup, self._camera, self._measured)
        specs += source_specs(self._options, self._apps, setup)
        started = {spec.label: processes.start(spec) for spec in specs}
        for topic, label in ((MANAGER_CPU, MANAGER), (DEVICE_CPU, DEVICE)):
            self._measured_cpu[topic] = process = psutil.Process(started[label].pid)
            process.cpu_percent()  # the first call only sets the start of the interval

    def _wait_for_board(self, folder: Path) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not (folder / "sys").is_dir():
            if time.monotonic() > deadline_s:
                raise CliError(f"the virtual board did not appear in {folder}")
            self._wait(POLL_S)

    # --- waiting -----------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Sleep, and meanwhile supervise. Raises NodesFailed or CliError to end the run."""
        deadline = time.monotonic() + seconds
        while True:
            self._supervise()
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return
            time.sleep(min(remaining_s, POLL_S))

    def _supervise(self) -> None:
        if self._signal is not None:
            raise CliError(f"interrupted by {signal.Signals(self._signal).name}")
        failures = self._processes.failures() if self._processes else []
        if failures:
            self._errors += failures
            raise NodesFailed
        if self._director is None:
            return
        if self._director.failure:
            raise CliError(f"the demo's own ROS thread failed: {self._director.failure}")
        if self._director.live.errors:  # of a node, on demo/errors
            raise NodesFailed
        if self._phase is not None:
            self._sample_cpu(self._director, time.monotonic())
            self._refresh(self._director, self._phase, time.monotonic())

    def _sample_cpu(self, director: Director, now: float) -> None:
        if now < self._next_cpu_s:
            return
        for topic, process in self._measured_cpu.items():
            with suppress(psutil.Error):  # it ended just now: supervision reports it
                percent = process.cpu_percent()
                if self._next_cpu_s:  # the interval before the first phase is not part of the run
                    director.publish_cpu(topic, percent)
        self._next_cpu_s = now + CPU_PERIOD_S

    def _refresh(self, director: Director, phase: metrics.Phase, now: float) -> None:
        if self._view is not None and now >= self._next_view_s:
            self._next_view_s = now + VIEW_PERIOD_S
            live, now_ns = director.live, time.time_ns()
            elapsed_s = (now_ns - (live.marks[0].time_ns if live.marks else phase.start_ns)) / 1e9
            title = f"{phase.name.replace('_', ' ')} · {elapsed_s:.0f} of {number(self._total_s)} s"
            self._view.update(live_view(status(live, phase.start_ns, now_ns), title), refresh=True)

    @contextmanager
    def _live(self) -> Iterator[None]:
        if self._options.headless:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as self._view:
            yield
        self._view = None

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    # --- the end -----------------------------------------------------------------------------

    def _finish(self) -> None:
        """Close the recording, end the nodes. No step may keep the rest from its turn."""
        director = self._director
        if director is not None and self._phase is not None:
            director.start_phase(PHASE_END)
            for error in self._errors:
                director.publish_error(error)
            time.sleep(MARK_DRAIN_S)
        failure = director.stop_recording() if director is not None else None
        if failure:
            self._errors.append(failure)
        if self._processes is not None:
            self._errors += self._processes.end()
        if director is not None:
            director.close()

    def _summarise(self) -> dict[str, Any]:
        """Figures, picture and page, from nothing but the recording."""
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
                f"{summary['frames_published']} requests were published and none was answered; "
                f"{self._options.out / 'logs'} has the reasons of the nodes"
            )
        summary["errors"] += [error for error in self._errors if error not in summary["errors"]]
        beside = None
        if self._scenario is not None and not summary["errors"]:
            beside = self._scenario.simulate(recorded, summary, WARM_UP_S)
        with writing(out / "summary.json"):
            files.write_json(out / "summary.json", summary)
        if recorded.marks and (recorded.monitors or recorded.telemetry):
            from dynofa_ros.recording.timeline_plot import plot_timeline  # matplotlib takes a second to load

            with writing(out / "timeline.png"):
                plot_timeline(recorded, out / "timeline.png", beside)
            if any(t.metric == PRECISION for t in recorded.truths):
                from dynofa_ros.demo.scene_sheet import plot_scenes

                with writing(out / "detections.png"):
                    plot_scenes(recorded, self._options.seed, out / "detections.png")
            with writing(out / "report.html"):
                write_page(recorded, out / "report.html", summary)
            print_summary(summary, self._console)
        if beside is not None:
            print_comparison(summary["comparison"], self._console)
        self._say(f"results in {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
        if (out / "report.html").is_file():
            self._say(f"open {out / 'report.html'} in a browser: each decision, its reason and alternatives")
        return summary

    def _last_line(self, label: str) -> str:
        return self._processes.last_log_line(label) if self._processes else "no log output"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
