"""Perception of one or more cameras, the runtime manager and the device, one process each.

    ros2 launch dynofa_ros dynofa.launch.py cameras:=front,rear device_backend:=auto

An argument that is left at its default leaves the parameters file alone.
"""

import os
import re

from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
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
        description="Least severity that is logged",
    ),
]


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
    template = given["image_topic_template"]
    cameras = camera_names(given["cameras"])
    if len(cameras) > 1 and template and "{camera}" not in template:
        raise ValueError(f"image_topic_template {template!r} must contain {{camera}}: there are several")
    return [
        node("dynofa", "device", "device_node", given, {**common, **device}),
        node("dynofa", "manager", "manager_node", given, common),
        *(
            node(
                "perception", name, "perception_node", given, common, image_remappings(name, template, given)
            )
            for name in cameras
        ),
    ]


def node(namespace, name, executable, given, parameters, remappings=()):
    return Node(
        package="dynofa_ros",
        executable=executable,
        namespace=namespace,
        name=name,
        parameters=[given["params_file"], *([parameters] if parameters else [])],
        remappings=list(remappings),
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )


def camera_names(cameras):
    names = [name.strip() for name in cameras.split(",")]
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"cameras:={cameras}: {name!r} is not a name: it needs a letter, then letters, digits or _"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"cameras:={cameras}: a name occurs twice")
    return names


def image_remappings(camera, template, given):
    """From the node's own topics to the camera's."""
    if not template:
        return []
    topic = template.replace("{camera}", camera)
    if not topic.startswith("/"):  # a node would take it as relative to its own namespace
        topic = f"{given.get('ros_namespace', '').rstrip('/')}/{topic}"
    return [("~/image", topic), ("~/image/compressed", topic + "/compressed")]
