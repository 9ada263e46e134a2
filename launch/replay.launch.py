"""The manager again on a recorded run; exit status 1 if a decision is not reproduced bit for bit.

    ros2 launch dynofa_ros replay.launch.py bag:=out/bag

It is `dynofa replay`: no topic is played, and other nodes are not disturbed.
"""

import os

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch_ros.substitutions import ExecutableInPackage

from launch import LaunchDescription

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="A rosbag2, or a folder that `dynofa demo` wrote"),
    DeclareLaunchArgument("namespace", default_value="", description="The robot, if the bag has several"),
    DeclareLaunchArgument("json", default_value="", description="Also write the results to this file"),
]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=launch_replay)])


def launch_replay(context):
    """The process, once the arguments are known."""
    given = context.launch_configurations
    if not os.path.exists(given["bag"]):
        raise ValueError(f"bag:={given['bag']}: there is no such file or folder")
    options = [f"--{name}={given[name]}" for name in ("namespace", "json") if given[name]]
    command = [ExecutableInPackage("dynofa", "dynofa_ros"), "replay", given["bag"], *options]
    return [ExecuteProcess(cmd=command, output="screen", on_exit=check)]


def check(event, context):
    """Launch itself has no exit status of a process; an error of a handler gives it 1."""
    if event.returncode != 0:
        raise RuntimeError(f"dynofa replay ended with {event.returncode}, see above")
