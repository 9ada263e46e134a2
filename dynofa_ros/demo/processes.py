"""Starts, supervises and ends the node processes of the demo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

END_S = 15.0  # time to end by itself before a process is killed: seconds on a busy computer
POLL_S = 0.02
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class NodeSpec:
    """A process to start: `python -m dynofa_ros.<module>` as /<namespace>/<name>.

    nodes: parameters by name, where the process has several nodes and takes their names as arguments.
    """

    module: str
    namespace: str
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    niceness: int = 0
    remappings: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name for people: `perception/front`, or the namespace of several nodes."""
        return f"{self.namespace}/{self.name}" if self.name else self.namespace

    def command(self, parameters: Path) -> list[str]:
        """Command line of the process. parameters: a file that is written for it."""
        by_node = self.nodes or {self.name: self.parameters}
        sections = {f"/{self.namespace}/{n}": {"ros__parameters": dict(own)} for n, own in by_node.items()}
        parameters.write_text(yaml.safe_dump(sections), encoding="utf-8")
        remappings = {"__ns": f"/{self.namespace}", **self.remappings}
        remappings |= {"__node": self.name} if self.name else {}
        remaps = [x for old, new in remappings.items() for x in ("-r", f"{old}:={new}")]
        child = [sys.executable, "-m", "dynofa_ros.demo.child", f"dynofa_ros.{self.module}", *self.nodes]
        return [*child, "--ros-args", *remaps, "--params-file", str(parameters)]


class NodeProcess:
    """One running node in a process group of its own, so that Ctrl-C in the terminal reaches only us."""

    def __init__(self, spec: NodeSpec, log_path: Path) -> None:
        self.label = spec.label
        self.log_path = log_path
        self._log = log_path.open("wb")
        self._process = subprocess.Popen(
            spec.command(log_path.with_suffix(".yaml")),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "RCUTILS_LOGGING_BUFFERED_STREAM": "0",
                "PYTHONUNBUFFERED": "1",
                **spec.environment,
            },
            start_new_session=True,
        )
        psutil.Process(self._process.pid).nice(psutil.Process().nice() + spec.niceness)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for the number of a signal; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Wait for the end; returns the exit code. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def signal(self, number: int) -> None:
        """Send a signal to the process and everything it started."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.killpg(self._process.pid, number)

    def last_log_line(self) -> str:
        """The last line that the node wrote, without colours."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return _COLOUR.sub("", lines[-1]).strip() if lines else "no log output"

    def close(self) -> None:
        """Release the pipe and the log file of a process that ended."""
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()


class Processes:
    """All processes of one run. Leaving the `with` block ends them."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        self._running: dict[str, NodeProcess] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def start(self, spec: NodeSpec) -> NodeProcess:
        """Start a node; its output goes to `<label>.log`, a slash as an underscore."""
        process = NodeProcess(spec, self._log_directory / f"{spec.label.replace('/', '_')}.log")
        self._running[spec.label] = process
        return process

    def failures(self) -> list[str]:
        """One line per process that ended although nobody asked it to; each is reported once."""
        ended = [p for p in self._running.values() if p.exit_code is not None]
        for process in ended:
            process.close()
            del self._running[process.label]
        return [f"{p.label} ended with exit code {p.exit_code}: {p.last_log_line()}" for p in ended]

    def last_log_line(self, label: str) -> str:
        """The last line that a running node wrote."""
        return self._running[label].last_log_line()

    def end(self) -> list[str]:
        """Ask all processes to end, kill those that do not. One line per process that did not end well."""
        problems = self.failures()
        for process in self._running.values():
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline and any(p.exit_code is None for p in self._running.values()):
            time.sleep(POLL_S)
        for process in self._running.values():
            if process.exit_code is None:
                process.signal(signal.SIGKILL)
                problems.append(f"{process.label} did not end within {END_S:g} s and was killed")
            elif process.exit_code not in (0, -signal.SIGTERM):  # -SIGTERM: it had not even started yet
                problems.append(
                    f"{process.label} ended with exit code {process.exit_code}: {process.last_log_line()}"
                )
            process.close()
        self._running.clear()
        return problems
