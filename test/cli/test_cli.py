"""The `dynofa` command as its users meet it: help, exit codes, one-line errors, figures from a bag."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import dynofa_process
from factories import decision
from rich.console import Console
from rosbags.rosbag2 import StoragePlugin, Writer

from dynofa_ros.demo import setup as demo_setup
from dynofa_ros.demo.phases import PHASES
from dynofa_ros.demo.processes import NodeSpec, Processes
from dynofa_ros.demo.setup import camera_environment, prepare_output
from dynofa_ros.errors import UsageError
from dynofa_ros.messages import Header, Parameter
from dynofa_ros.recording.bag import typestore
from dynofa_ros.recording.metrics import Phase
from dynofa_ros.recording.run import Fault, Label, Monitor, Reading, Run, Telemetry
from dynofa_ros.recording.status import status
from dynofa_ros.recording.tables import live_view, phase_line


def message(kind: str, **fields: Any) -> bytes:
    """A serialised message; what is not given is zero or empty."""
    store = typestore()
    return bytes(store.serialize_cdr(make(kind, **fields), kind))


def make(kind: str, **fields: Any) -> Any:
    """A message of rosbags with defaults for what is not given."""
    store = typestore()
    if kind == "std_msgs/msg/Header" and not fields:
        fields = {"frame_id": "front_camera"}
    values = {}
    for name, (node_type, description) in store.fielddefs[kind][1]:
        if name in fields:
            values[name] = fields[name]
        elif node_type.name == "NAME":
            values[name] = make(str(description))
        elif node_type.name == "BASE":
            values[name] = "" if description[0] == "string" else 0
        else:
            values[name] = []
    return store.types[kind](**values)


def write_run(path: Path, storage: StoragePlugin, version: int = 8) -> None:
    """A bag with ten answered frames, two of them late, as a robot's recorder writes it."""
    kind = "dynofa_ros/msg/InferenceMonitor"
    with Writer(path, version=version, storage_plugin=storage) as writer:  # type: ignore[arg-type]
        topic = writer.add_connection("/robot1/perception/front/monitor", kind, typestore=typestore())
        for number in range(10):
            late = number >= 8
            raw = message(
                kind,
                subnet_id="a",
                processor="cpu",
                latency_ms=50.0 + late,
                inference_ms=45.0,
                deadline_missed=late,
            )
            writer.write(topic, 10**18 + number * 10**8, raw)


@pytest.mark.parametrize("command", [(), ("demo",), ("report",)])
def test_help_shows_an_example(command: tuple[str, ...]) -> None:
    result = dynofa_process(*command, "--help")
    assert result.returncode == 0
    assert not command or f"example: dynofa {command[0]}" in result.stdout


def test_help_needs_no_heavy_imports() -> None:
    code = "import sys; from dynofa_ros.cli.main import make_parser; make_parser(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert not {"numpy", "rclpy", "rosbags", "matplotlib", "torch", "rich"} & loaded


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["demo", "--seconds", "nan"], "must be a number from 5 to 86400 s, got 'nan'"),
        (["demo", "--seconds", "fast"], "must be a number from 5 to 86400 s, got 'fast'"),
        (["demo", "--apps", "0"], "must be a whole number from 1 to 6, got '0'"),
        (["demo", "--rate-hz", "-5"], "must be a number from 0.5 to 120 Hz"),
        (["demo", "--seed", "1.5"], "must be a whole number"),
        (["demo", "--topic", "/camera"], "--topic needs --bag"),
        (["demo", "--bag", "missing"], "missing does not exist"),
        (["demo", "--images", "missing"], "--images missing is not a folder"),
        (["demo", "--images", "a", "--bag", "b"], "not allowed with"),
        (["fly"], "invalid choice"),
        (["report"], "required"),
    ],
)
def test_bad_usage_is_exit_code_2(arguments: list[str], reason: str, tmp_path: Path) -> None:
    result = dynofa_process(*arguments, *(["--out", tmp_path / "out"] if arguments[:1] == ["demo"] else []))
    assert result.returncode == 2
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_report_without_a_bag_fails_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = dynofa_process("report", tmp_path / name)
    assert result.returncode == 1
    assert result.stderr.startswith("dynofa report: ") and result.stderr.count("\n") == 1
    assert name in result.stderr


def test_report_of_a_bag_without_a_run(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=9) as writer:
        topic = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=typestore())
        writer.write(topic, 1, message("std_msgs/msg/String", data="hello"))
    result = dynofa_process("report", tmp_path / "bag")
    assert result.returncode == 1
    assert "holds no run" in result.stderr


@pytest.mark.parametrize(
    ("storage", "version"), [(StoragePlugin.SQLITE3, 8), (StoragePlugin.SQLITE3, 9), (StoragePlugin.MCAP, 9)]
)
def test_report_of_a_robots_bag(storage: StoragePlugin, version: int, tmp_path: Path) -> None:
    write_run(tmp_path / "bag", storage, version)
    result = dynofa_process(
        *("report", tmp_path / "bag", "--json", tmp_path / "f.json"),
        *("--plot", tmp_path / "f.png", "--html", tmp_path / "f.html"),
    )
    assert (result.returncode, result.stderr) == (0, "")
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["results"] == figures["frames_due"] == 10
    assert figures["deadline_miss_percent"] == pytest.approx(20.0)
    assert figures["latency_ms"]["p50"] == 50.0
    assert figures["frames_published"] is None, "no camera of the demo in this bag"
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert '"missed":[8,9]' in (tmp_path / "f.html").read_text()
    row = next(line for line in result.stdout.splitlines() if line.startswith("all"))
    assert re.split(r"\s+", row)[1:3] == ["10", "20.0"]


def test_report_that_cannot_write_its_file(tmp_path: Path) -> None:
    write_run(tmp_path / "bag", StoragePlugin.MCAP)
    (tmp_path / "file").write_text("")
    result = dynofa_process("report", tmp_path / "bag", "--json", tmp_path / "file" / "f.json")
    assert result.returncode == 1
    assert "cannot write" in result.stderr and "Traceback" not in result.stderr


def test_output_folder_of_an_earlier_demo_is_reused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_output(out)
    (out / "bag").mkdir()
    (out / "bag" / "bag.mcap").write_text("old")
    (out / "summary.json").write_text("{}")
    prepare_output(out)
    assert [path.name for path in out.iterdir()] == ["logs"]


def test_logs_of_something_else_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "precious.log").write_text("precious")
    with pytest.raises(UsageError, match="logs"):
        prepare_output(tmp_path)
    assert (tmp_path / "logs" / "precious.log").read_text() == "precious"


def test_other_files_in_the_output_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    prepare_output(tmp_path)
    prepare_output(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["timeline.png", "bag", "summary.json", "report.html"])
def test_what_an_earlier_demo_did_not_write_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match=name):
        prepare_output(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_inputs_inside_the_output_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "bag").mkdir(parents=True)
    with pytest.raises(UsageError, match="would be overwritten"):
        demo_setup.check_options(
            demo_setup.DemoOptions(out=tmp_path / "out", images=tmp_path / "out" / "bag")
        )


def test_an_output_folder_with_a_comma_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a comma"):
        demo_setup.check_options(demo_setup.DemoOptions(out=tmp_path / "first,second"))


def test_camera_environment_respects_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    if os.path.isdir("/dev/shm"):
        assert camera_environment()["FASTDDS_DEFAULT_PROFILES_FILE"].endswith("fastdds_camera.xml")
    monkeypatch.setattr(demo_setup, "SHM_NEEDED_BYTES", 2**62)
    assert camera_environment() == {}, "no room in shared memory"
    monkeypatch.setattr(demo_setup, "SHM_NEEDED_BYTES", 0)
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "mine.xml")
    assert camera_environment() == {}


def test_timeline_is_the_promised_one() -> None:
    names = [phase.name for phase in PHASES]
    assert names == ["steady", "background_load", "power_cap", "tighter_target", "release"]
    steady, load, cap, tighter, release = PHASES
    assert steady == type(steady)("steady") and release == type(release)("release")
    assert load.slowdown > 0 and cap.power_cap_share is not None and cap.power_cap_share < 1
    assert tighter.latency_share < 1


def test_parameters_keep_their_type_in_the_file_of_a_node(tmp_path: Path) -> None:
    parameters = {"a": 60.0, "b": "007", "c": True, "d": ""}
    command = NodeSpec("demo.camera_node", "demo", "camera", parameters).command(tmp_path / "p.yaml")
    assert command[-7:] == [
        *("--ros-args", "-r", "__ns:=/demo", "-r", "__node:=camera"),
        *("--params-file", str(tmp_path / "p.yaml")),
    ]
    sections = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert sections == {"/demo/camera": {"ros__parameters": parameters}}


def test_several_nodes_of_a_process_have_parameters_of_their_own(tmp_path: Path) -> None:
    own = {"translator": {"target": "de"}, "parser": {"target": "intent"}}
    spec = NodeSpec("nodes.language_node", "language", nodes=own)
    command = spec.command(tmp_path / "p.yaml")
    assert spec.label == "language" and command[4:6] == ["translator", "parser"]
    assert not any("__node" in argument for argument in command)
    sections = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert sections == {f"/language/{app}": {"ros__parameters": p} for app, p in own.items()}


def test_a_node_that_dies_is_reported_with_its_last_line(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        process = processes.start(NodeSpec("no_such_node", "demo", "ghost", {}, {}))
        process.wait(20.0)
        (failure,) = processes.failures()
        assert processes.failures() == [], "reported once"
    assert re.match(r"demo/ghost ended with exit code 1: ModuleNotFoundError: .*no_such_node", failure)
    assert (tmp_path / "demo_ghost.log").is_file()


def small_run() -> Run:
    """One late frame, one sample of the device, one decision."""
    run = Run(accuracy={("front", "s3", "cpu"): 0.812})
    key = (1, "front_camera")
    times_ms = (1.0, 3.0, 61.0, 1.6, 66.6, 60.0)
    run.monitors = [
        Monitor("front", 0, 0, "s3", "cpu", *times_ms, True, header=Header(*key), time_ns=2 * 10**9)
    ]
    run.results = [Label(2 * 10**9, "front", key, "stop")]
    run.truths = [Label(10**9, "", key, "stop")]
    run.telemetry = [Telemetry(10**9, 5.25, 1.0, 41.5, {"cpu0": 1.19e9}, "simulated")]
    made = decision(trigger="power", binding_constraint="power_cap", feasible=False)
    run.decisions = [Reading(10**9, replace(made, parameters=(Parameter("power_cap_w", 6.5),)))]
    return run


def test_the_live_table_shows_what_happens() -> None:
    console = Console(width=120, file=io.StringIO())
    phase = Phase("power_cap", 10**9, 3 * 10**9)
    console.print(live_view(status(small_run(), phase.start_ns, phase.end_ns), "power cap · 12 of 60 s"))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for text in ("power cap · 12 of 60 s", "s3", "66.6", "100.0", "81.2", "cpu0 1190", "5.25 of 6.50 W"):
        assert text in shown, text
    assert "trigger power · bound by power_cap · not every target can be met" in shown
    assert phase_line(small_run(), phase).startswith("power_cap            1 results  missed 100.0 %")


def test_the_live_table_bears_a_run_without_anything() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(live_view(status(Run(), 0, 1), "steady"))
    for missing in ("no application", "no device", "no manager"):
        assert missing in console.file.getvalue()  # type: ignore[attr-defined]
    assert "missed – %" in phase_line(Run(), Phase("steady", 0, 1))


def test_hostile_names_are_shown_as_they_are() -> None:
    """No markup of rich, and no control sequence of the terminal."""
    run, console = small_run(), Console(width=200, file=io.StringIO(), force_terminal=True)
    run.monitors = [replace(run.monitors[0], app="[/red]\x1b]0;owned\x07", subnet_id="[blink]")]
    run.report(Fault(1, "/a: b", 2, "[/]\x1b[2J"))
    console.print(live_view(status(run, 0, 3 * 10**9), "[bold]"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("[/red]\ufffd]0;owned\ufffd", "[blink]", "[/]\ufffd[2J", "[bold]"):
        assert text in shown
