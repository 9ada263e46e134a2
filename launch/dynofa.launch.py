"""Perception of one or more cameras, the runtime manager and the device, one process each; answers to texts.

    ros2 launch dynofa_ros dynofa.launch.py cameras:=front,rear texts:=translator device_backend:=auto

An argument that is left at its default leaves the parameters file alone. A node that dies is named; the exit
status is 1 if every node ended and one of them failed, or one failed with on_exit:=shutdown.
"""

import os
import re

import yaml
from launch.actions import DeclareLaunchArgument, GroupAction, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

ARGUMENTS = [
    DeclareLaunchArgument(
        "cameras",
        default_value="front",
        description="Cameras, separated by commas; each gets a perception node of its name",
    ),
    DeclareLaunchArgument(
        "image_topic_template",
        default_value="",
        description="Image topic of a camera, e.g. {camera}/image_raw; relative to namespace unless it "
        "begins with /; the compressed one is below it; empty = perception/<camera>/image",
    ),
    DeclareLaunchArgument(
        "texts",
        default_value="",
        description="Applications that answer texts, separated by commas, in one process; empty = none",
    ),
    DeclareLaunchArgument(
        "device_backend",
        default_value="auto",
        choices=["auto", "sysfs", "simulated"],
        description="Where clocks and sensors are; auto = as in params_file",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([FindPackageShare("dynofa_ros"), "config", "dynofa.yaml"]),
        description="Parameters of all nodes",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Put in front of all names"),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false", "True", "False"],
        description="Take the time from /clock; false = as in params_file",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false", "True", "False"],
        description="The nodes become active by themselves; true = as in params_file",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severity that the nodes log; debug is that of this package, not of the middleware",
    ),
    DeclareLaunchArgument(
        "use_respawn",
        default_value="false",
        choices=["true", "false", "True", "False"],
        description="Start a node again 2 s after it died",
    ),
    DeclareLaunchArgument(
        "on_exit",
        default_value="keep",
        choices=["keep", "shutdown"],
        description="What the death of one node means for the others",
    ),
]
RESPAWN_DELAY_S = 2.0


def generate_launch_description():
    namespace = LaunchConfiguration("namespace")
    nodes = GroupAction([PushRosNamespace(namespace), OpaqueFunction(function=launch_nodes)])
    return LaunchDescription([*ARGUMENTS, nodes])


def launch_nodes(context):
    """The nodes, once the arguments are known."""
    given = context.launch_configurations
    if not os.path.isfile(given["params_file"]):  # launch_ros would go on with the defaults
        raise ValueError(f"params_file:={given['params_file']}: there is no such file")
    common = {}
    if given["use_sim_time"].lower() == "true":
        common["use_sim_time"] = True
    if given["autostart"].lower() == "false":
        common["autostart"] = False
    device = {} if given["device_backend"] == "auto" else {"backend": given["device_backend"]}
    cameras = names_of("cameras", given["cameras"])
    texts = names_of("texts", given["texts"]) if given["texts"] else []
    template = checked_template(given["image_topic_template"], cameras)
    if taken := set(cameras) & set(texts):
        raise ValueError(f"texts:={given['texts']}: {taken.pop()!r} is the name of a camera")
    watch = ExitWatch(2 + len(cameras) + bool(texts), given["on_exit"])
    root = given.get("ros_namespace", "").rstrip("/")
    names = ["dynofa/device", "dynofa/manager", *(f"perception/{camera}" for camera in cameras)]
    language = [f"language/{text}" for text in texts]
    own = {"dynofa/device": {**common, **device}}
    return [
        *(
            LogInfo(msg=text)
            for text in unmatched(
                # The file of the package speaks of texts too, which need not be wanted.
                given["params_file"],
                [f"{root}/{name}" for name in [*names, *(language or ["language/none"])]],
            )
        ),
        *(
            node(name, root, given, own.get(name, common), watch, image_remappings(name, template, root))
            for name in names
        ),
        *([node("language", root, given, common, watch, arguments=texts)] if texts else []),
    ]


def node(name, root, given, parameters, watch, remappings=None, arguments=()):
    """One process. name: namespace and node, or the namespace of nodes named by its arguments."""
    namespace, _, base = name.partition("/")
    level = given["log_level"]
    loggers = [f"{root}/{namespace}/{n}".strip("/").replace("/", ".") for n in arguments or [base]]
    return Node(
        package="dynofa_ros",
        executable=f"{base if namespace == 'dynofa' else namespace}_node",
        namespace=namespace,
        name=base or None,
        arguments=list(arguments),
        parameters=[given["params_file"], *([parameters] if parameters else [])],
        remappings=remappings or [],
        # Without a name it would be the level of rcl too, which logs hundreds of lines a second.
        ros_arguments=[a for logger in loggers for a in ("--log-level", f"{logger}:={level}")],
        output="screen",
        emulate_tty=True,
        respawn=given["use_respawn"].lower() == "true",
        respawn_delay=RESPAWN_DELAY_S,
        on_exit=None if given["use_respawn"].lower() == "true" else watch.ended,
    )


class ExitWatch:
    """Names the nodes that die. Launch has no exit status of its own: an error of a handler gives it 1."""

    def __init__(self, running, on_exit):
        self.running, self.on_exit, self.failed = running, on_exit, []

    def ended(self, event, context):
        self.running -= 1
        if context.is_shutdown:
            return []
        if event.returncode != 0:
            self.failed.append(f"{event.process_name} ended with {event.returncode}")
        if self.failed and (self.on_exit == "shutdown" or self.running == 0):
            raise RuntimeError(f"{', '.join(self.failed)}, see above")
        if event.returncode == 0:
            return []
        return [LogInfo(msg=f"{self.failed[-1]}, see above; the others go on (use_respawn, on_exit)")]


def unmatched(params_file, names):
    """A warning for every section of the parameters file that matches none of these nodes."""
    with open(params_file, encoding="utf-8") as file:
        sections = yaml.safe_load(file) or {}
    patterns = [pattern for pattern in section_names(sections) if not any(matches(pattern, n) for n in names)]
    return [
        f"warning: {params_file}: the section {pattern!r} matches no node here: {', '.join(names)}"
        for pattern in patterns
    ]


def section_names(sections, before=""):
    """Full names or patterns of the nodes that a parameters file speaks of; namespaces may be nested."""
    for key, value in sections.items() if isinstance(sections, dict) else ():
        name = f"{before}/{str(key).strip('/')}"
        if isinstance(value, dict) and "ros__parameters" in value:
            yield name
        else:
            yield from section_names(value, name)


def matches(pattern, name):
    """As rcl matches: ** is any number of names, * is one."""
    parts = [
        {"**": r"(/\w+)*", "*": r"/\w+"}.get(part, f"/{re.escape(part)}") for part in pattern[1:].split("/")
    ]
    return re.fullmatch("".join(parts), name) is not None


def checked_template(template, cameras):
    for field in re.findall(r"\{[^}]*\}?|\}", template.replace("{camera}", "")):
        raise ValueError(
            f"image_topic_template:={template}: {field} is unknown; {{camera}} is the camera's name"
        )
    name = r"[A-Za-z_]\w*"
    if template and not re.fullmatch(rf"/?{name}(/{name})*", template.replace("{camera}", "c"), re.ASCII):
        raise ValueError(
            f"image_topic_template:={template}: must be the name of a topic, e.g. /{{camera}}/image_raw"
        )
    if len(cameras) > 1 and template and "{camera}" not in template:
        raise ValueError(f"image_topic_template {template!r} must contain {{camera}}: there are several")
    return template


def names_of(argument, value):
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"{argument}:={value}: {name!r} is not a name: it needs a letter, then letters, digits or _"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{argument}:={value}: a name occurs twice")
    return names


def image_remappings(name, template, root):
    """From the node's own topics to the camera's."""
    namespace, camera = name.split("/")
    if namespace != "perception" or not template:
        return []
    topic = template.replace("{camera}", camera)
    if not topic.startswith("/"):  # a node would take it as relative to its own namespace
        topic = f"{root}/{topic}"
    return [("~/image", topic), ("~/image/compressed", topic + "/compressed")]
