"""The parameters file documents what the nodes declare; the launch file starts them under the right names."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs rclpy")

from dynofa_ros.ros import parameters
from dynofa_ros.ros.parameters import ParameterSpec

pytestmark = pytest.mark.live

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMETERS_FILE = REPOSITORY / "config" / "dynofa.yaml"
NODES = {
    "/**/perception/*": "perception_node",
    "/**/language/*": "language_node",
    "/**/dynofa/manager": "manager_node",
    "/**/dynofa/device": "device_node",
}


def declared(node: str) -> tuple[ParameterSpec, ...]:
    """The table of a node. Skips if the messages are not built; a fault of the module itself is an error."""
    pytest.importorskip("dynofa_ros.msg", reason="the messages of the package are not built")
    return importlib.import_module(f"dynofa_ros.nodes.{node}").PARAMETERS


def yaml_scalar(value: Any) -> str:
    """As a person writes it: doubles with a point, so that they are doubles on every distribution."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).replace("inf", ".inf")


def section(name: str, specs: tuple[ParameterSpec, ...]) -> str:
    """What the file should say about one node."""
    lines = [f"{name}:", "  ros__parameters:"]
    for spec in specs:
        text = parameters.describe(spec)
        lines += textwrap.wrap(
            text, 106, initial_indent="    # ", subsequent_indent="    #   ", break_on_hyphens=False
        )
        lines.append(f"    {'# ' * spec.unset}{spec.name}: {yaml_scalar(spec.default)}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("name", "node"), NODES.items())
def test_the_parameters_file_has_every_parameter_with_its_range_and_default(name: str, node: str) -> None:
    expected = section(name, declared(node))
    found = re.search(rf"^{re.escape(name)}:\n(?:[ ].*\n)*", PARAMETERS_FILE.read_text(), re.MULTILINE)
    assert found is not None, f"{PARAMETERS_FILE.name} lacks the section {name}"
    assert found.group() == expected, f"the section of {PARAMETERS_FILE.name} should read:\n{expected}"


@pytest.mark.parametrize(("name", "node"), NODES.items())
def test_every_value_of_the_parameters_file_is_declared_and_allowed(name: str, node: str) -> None:
    specs = {spec.name: spec for spec in declared(node) if not spec.unset}
    values = yaml.safe_load(PARAMETERS_FILE.read_text())[name]["ros__parameters"]
    assert set(values) == set(specs)
    for key, value in values.items():
        assert type(value) is type(specs[key].default), f"{key}: {value!r}"
        assert parameters.check(specs[key], value) is None


def test_the_parameters_file_has_no_other_section() -> None:
    assert set(yaml.safe_load(PARAMETERS_FILE.read_text())) == set(NODES)


@pytest.mark.parametrize(
    ("name", "full_name", "matches"),
    [
        ("/**/perception/*", "/perception/front", True),
        ("/**/perception/*", "/fleet/robot1/perception/front", True),
        ("/**/perception/*", "/perception/front/x", False),
        ("/**/dynofa/device", "/dynofa/device", True),
        ("/**/dynofa/device", "/robot1/dynofa/device", True),
        ("/**/dynofa/device", "/dynofa/manager", False),
    ],
)
def test_the_sections_match_the_nodes_in_every_namespace(name: str, full_name: str, matches: bool) -> None:
    pattern = name.replace("/*", r"(/\w+)")  # as rclpy does: /** becomes (/\w+)*
    assert bool(re.fullmatch(pattern, full_name)) == matches


# --- the launch file -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launch_file() -> ModuleType:
    return load("dynofa")


def load(name: str) -> ModuleType:
    """A launch file as a module."""
    # Not `launch`: the folder of that name in this repository would be taken for the package.
    pytest.importorskip("launch_ros", reason="needs launch and launch_ros, which only a ROS distribution has")
    path = REPOSITORY / "launch" / f"{name}.launch.py"
    spec = importlib.util.spec_from_file_location(f"{name}_launch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launched(launch_file: ModuleType, **arguments: str) -> dict[str, Any]:
    """Full name -> expanded Node action, of a launch with these arguments."""
    from launch import LaunchContext

    context = LaunchContext()
    given = {"params_file": str(PARAMETERS_FILE), **arguments}
    context.launch_configurations.update(given)
    nodes: dict[str, Any] = {}

    def visit(entity: Any) -> None:
        if type(entity).__name__ == "Node":
            entity._perform_substitutions(context)
            nodes[entity.node_name] = entity
            return
        for child in entity.visit(context) or []:
            visit(child)

    for entity in launch_file.generate_launch_description().entities:
        visit(entity)
    return nodes


def remappings(node: Any) -> dict[str, str]:
    return dict(node.expanded_remapping_rules or [])


def given_parameters(node: Any) -> dict[str, Any]:
    """Parameters of the launch file itself, on top of those of the file."""
    values: dict[str, Any] = {}
    files = [argument for argument, is_file in node._Node__expanded_parameter_arguments if is_file]
    assert files[0] == str(PARAMETERS_FILE)
    for file in files[1:]:
        for content in yaml.safe_load(Path(file).read_text()).values():
            values |= content["ros__parameters"]
    return values


def test_the_arguments_are_those_of_the_interface(launch_file: ModuleType) -> None:
    arguments = {a.name: a for a in launch_file.generate_launch_description().get_launch_arguments()}
    assert set(arguments) == {
        "cameras",
        "texts",
        "image_topic_template",
        "device_backend",
        "params_file",
        "namespace",
        "use_sim_time",
        "autostart",
        "log_level",
        "use_respawn",
        "on_exit",
    }
    assert all(argument.description for argument in arguments.values())
    backend = next(spec for spec in declared("device_node") if spec.name == "backend")
    assert tuple(arguments["device_backend"].choices) == backend.choices


def test_by_default_one_camera_the_manager_and_the_device(launch_file: ModuleType) -> None:
    nodes = launched(launch_file)
    assert set(nodes) == {"/perception/front", "/dynofa/manager", "/dynofa/device"}
    assert remappings(nodes["/perception/front"]) == {}, "images come on perception/front/image"
    assert all(given_parameters(node) == {} for node in nodes.values()), "defaults leave the file alone"


def test_a_namespace_moves_everything(launch_file: ModuleType) -> None:
    nodes = launched(launch_file, namespace="robot1", cameras="front, rear")
    assert set(nodes) == {
        "/robot1/perception/front",
        "/robot1/perception/rear",
        "/robot1/dynofa/manager",
        "/robot1/dynofa/device",
    }
    assert remappings(nodes["/robot1/perception/rear"]) == {}


def test_texts_are_answered_in_one_process(launch_file: ModuleType) -> None:
    nodes = launched(launch_file, texts="translator, parser", namespace="robot1")
    (language,) = [n for name, n in nodes.items() if name.startswith("/robot1/language/")]
    command = [part.text for substitutions in language.cmd for part in substitutions if hasattr(part, "text")]
    assert " translator parser " in f" {' '.join(command)} "
    assert "robot1.language.parser:=info" in command
    assert given_parameters(language) == {}


@pytest.mark.parametrize(
    ("template", "topics"),
    [
        (
            "/cameras/{camera}/color",
            {"~/image": "/cameras/rear/color", "~/image/compressed": "/cameras/rear/color/compressed"},
        ),
        (
            "{camera}/image_raw",
            {"~/image": "/robot1/rear/image_raw", "~/image/compressed": "/robot1/rear/image_raw/compressed"},
        ),
        ("", {}),
    ],
)
def test_image_topics_follow_the_template(
    launch_file: ModuleType, template: str, topics: dict[str, str]
) -> None:
    nodes = launched(launch_file, namespace="robot1", cameras="rear", image_topic_template=template)
    assert remappings(nodes["/robot1/perception/rear"]) == topics


def test_arguments_reach_the_nodes(launch_file: ModuleType) -> None:
    nodes = launched(launch_file, device_backend="simulated", use_sim_time="true", autostart="false")
    common = {"use_sim_time": True, "autostart": False}
    assert given_parameters(nodes["/dynofa/device"]) == {**common, "backend": "simulated"}
    assert given_parameters(nodes["/dynofa/manager"]) == common
    assert given_parameters(nodes["/perception/front"]) == common


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cameras": "front,,rear"}, "'' is not a name"),
        ({"cameras": "front,1st"}, "'1st' is not a name"),
        ({"cameras": "front,front"}, "a name occurs twice"),
        ({"texts": "translator,"}, "'' is not a name"),
        ({"texts": "front"}, "'front' is the name of a camera"),
        ({"params_file": "/no/such.yaml"}, "params_file:=/no/such.yaml: there is no such file"),
        ({"cameras": "front,rear", "image_topic_template": "/camera/image"}, "must contain {camera}"),
        ({"image_topic_template": "/{cam}/image"}, "{cam} is unknown; {camera} is the camera's name"),
        ({"image_topic_template": "/{camera/image"}, "{camera/image is unknown"),
        (
            {"image_topic_template": "/{camera}/image/"},
            "must be the name of a topic, e.g. /{camera}/image_raw",
        ),
        ({"image_topic_template": "/{camera}/1st-image"}, "must be the name of a topic"),
        ({"image_topic_template": "~/image"}, "must be the name of a topic"),
    ],
)
def test_a_bad_argument_says_what_would_be_right(
    launch_file: ModuleType, arguments: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        launched(launch_file, **arguments)


@pytest.mark.parametrize(
    ("section", "matched"),
    [
        ("/**", True),
        ("/**/perception/*", True),
        ("/robot1/dynofa/manager", True),
        ("/robot1/perception/rear", False),
        ("front", False),
        ("/dynofa/manager", False),
        ("/perception/*", False),
    ],
)
def test_a_section_that_matches_no_node_is_named(
    launch_file: ModuleType, section: str, matched: bool, tmp_path: Path
) -> None:
    names = ["/robot1/dynofa/device", "/robot1/dynofa/manager", "/robot1/perception/front"]
    file = tmp_path / "parameters.yaml"
    file.write_text(yaml.safe_dump({section: {"ros__parameters": {"rate_hz": 5.0}}}))
    warnings = launch_file.unmatched(str(file), names)
    assert bool(warnings) != matched
    assert all(section in text and "/robot1/dynofa/manager" in text for text in warnings)


def test_nested_sections_are_understood(launch_file: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(yaml.safe_dump({"robot1": {"dynofa": {"manager": {"ros__parameters": {}}}}}))
    assert launch_file.unmatched(str(file), ["/robot1/dynofa/manager"]) == []


@pytest.mark.parametrize(
    ("codes", "on_exit", "status"),
    [([0, 0], "keep", 0), ([1, 0], "keep", 1), ([1, 1], "keep", 1), ([1, 0], "shutdown", 1)],
)
def test_the_exit_status_says_whether_the_nodes_failed(
    launch_file: ModuleType, codes: list[int], on_exit: str, status: int
) -> None:
    from launch.actions import ExecuteProcess

    from launch import LaunchDescription, LaunchService

    watch = launch_file.ExitWatch(len(codes), on_exit)
    programs = [f"import time; time.sleep({0.2 * i}); exit({code})" for i, code in enumerate(codes)]
    service = LaunchService(noninteractive=True)
    service.include_launch_description(
        LaunchDescription(
            [ExecuteProcess(cmd=[sys.executable, "-c", text], on_exit=watch.ended) for text in programs]
        )
    )
    assert service.run() == status


def test_respawn_and_log_level_reach_every_node(
    launch_file: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level without the name of a logger would be that of rcl too."""
    monkeypatch.setattr(launch_file, "Node", lambda **arguments: SimpleNamespace(**arguments))
    given = {"params_file": str(PARAMETERS_FILE), "ros_namespace": "/robot1", "image_topic_template": ""}
    given |= {"cameras": "front,rear", "texts": "translator,parser", "device_backend": "auto"}
    given |= {"use_sim_time": "false", "autostart": "true", "on_exit": "keep"}

    def nodes(use_respawn: str, log_level: str) -> list[SimpleNamespace]:
        configurations = {**given, "use_respawn": use_respawn, "log_level": log_level}
        actions = launch_file.launch_nodes(SimpleNamespace(launch_configurations=configurations))
        return [action for action in actions if isinstance(action, SimpleNamespace)]

    assert [(node.respawn, node.on_exit is None) for node in nodes("false", "info")] == [(False, False)] * 5
    restarted = nodes("true", "debug")
    assert [(node.respawn, node.respawn_delay) for node in restarted] == [(True, 2.0)] * 5
    assert {node.on_exit for node in restarted} == {None}, "a node that comes back ends nothing"
    own = ("dynofa.device", "dynofa.manager", "perception.front", "perception.rear")
    own = (*own, "language.translator", "language.parser")
    levels = [argument for node in restarted for argument in node.ros_arguments]
    assert levels == [a for name in own for a in ("--log-level", f"robot1.{name}:=debug")]


def test_a_dead_node_is_named_and_ends_the_others_if_asked(launch_file: ModuleType) -> None:
    died = SimpleNamespace(process_name="manager_node-2", returncode=-9), SimpleNamespace(is_shutdown=False)
    (log,) = launch_file.ExitWatch(3, "keep").ended(*died)
    text = "".join(part.text for part in log.msg)
    assert text.startswith("manager_node-2 ended with -9") and "the others go on" in text
    with pytest.raises(RuntimeError, match="manager_node-2 ended with -9"):
        launch_file.ExitWatch(3, "shutdown").ended(*died)


# --- replay.launch.py ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replay_file() -> ModuleType:
    return load("replay")


def replayed(replay_file: ModuleType, **arguments: str) -> Any:
    """The process of a launch with these arguments."""
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update({"namespace": "", "json": "", **arguments})
    (process,) = replay_file.launch_replay(context)
    return process


def command_line(process: Any) -> list[str]:
    """Its arguments behind the executable, which only an installed package has."""
    return [part.text for substitutions in process.cmd[1:] for part in substitutions]


def test_a_replay_needs_a_bag(replay_file: ModuleType) -> None:
    arguments = {a.name: a for a in replay_file.generate_launch_description().get_launch_arguments()}
    assert set(arguments) == {"bag", "namespace", "json"}
    assert arguments["bag"].default_value is None
    with pytest.raises(ValueError, match=r"bag:=/no/such: there is no such file or folder"):
        replayed(replay_file, bag="/no/such")


def test_a_replay_is_the_command(replay_file: ModuleType, tmp_path: Path) -> None:
    assert command_line(replayed(replay_file, bag=str(tmp_path))) == ["replay", str(tmp_path)]
    process = replayed(replay_file, bag=str(tmp_path), namespace="robot1", json="a.json")
    assert command_line(process) == ["replay", str(tmp_path), "--namespace=robot1", "--json=a.json"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_replay_that_fails_fails_the_launch(replay_file: ModuleType, code: int) -> None:
    from launch.actions import ExecuteProcess

    from launch import LaunchDescription, LaunchService

    ended = ExecuteProcess(cmd=[sys.executable, "-c", f"exit({code})"], on_exit=replay_file.check)
    service = LaunchService(noninteractive=True)
    service.include_launch_description(LaunchDescription([ended]))
    assert service.run() == code
