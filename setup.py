"""What `pip install .` runs: the CMake build, repackaged as a wheel. colcon uses CMakeLists.txt alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

PACKAGE = "dynofa_ros"
ROOT = Path(__file__).resolve().parent

# A robot keeps what its distribution has: bounds only where that of Ubuntu 22.04 is too old. torch: an extra.
# onnxruntime and onnxruntime-gpu overwrite each other, so on Arm boards the user chooses.
RUNTIME = [
    "backports.zstd; python_version < '3.14'",
    "lz4",
    "matplotlib",
    "msgspec",
    "numpy",
    "onnx",
    "onnxruntime; platform_machine == 'x86_64'",
    "psutil",
    "PyYAML",
    "rich>=12.3",
    "rosbags",
    "safetensors",
    "scipy",
    "tokenizers",
]
# What a ROS 2 distribution brings by apt, from PyPI.
WITHOUT_DISTRIBUTION = [
    "opencv-python-headless",
    "rosbags-image",
    "ros-rclpy[fastrtps]; platform_machine == 'x86_64'",
    "ros-diagnostic-msgs; platform_machine == 'x86_64'",
    "ros-lifecycle-msgs; platform_machine == 'x86_64'",
    "ros-rcl-interfaces; platform_machine == 'x86_64'",
    "ros-sensor-msgs; platform_machine == 'x86_64'",
    "ros-std-msgs; platform_machine == 'x86_64'",
]


def sourced_prefixes() -> list[Path]:
    """Prefixes of the ROS 2 distribution whose setup file was sourced; empty if none was."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "") if "ROS_DISTRO" in os.environ else ""
    return [Path(p).resolve() for p in prefixes.split(os.pathsep) if p]


def requirements() -> list[str]:
    """Run-time requirements; the messages run only with the rosidl series that generated them."""
    if sourced_prefixes():
        return RUNTIME
    try:
        same_rosidl = [f"ros-rosidl-runtime-c~={version('ros-rosidl-runtime-c')}"]
    except PackageNotFoundError:
        same_rosidl = []
    return RUNTIME + WITHOUT_DISTRIBUTION + same_rosidl


def ros_prefix() -> Path:
    """The prefix that holds the ROS build tools: the PyPI wheels' or a sourced distribution's."""
    spec = importlib.util.find_spec("ament_package")
    folders = Path(spec.origin).resolve().parents if spec and spec.origin else []
    prefix = next((p for p in folders if (p / "share" / "ament_cmake").is_dir()), None)
    sourced = sourced_prefixes()
    if sourced and prefix not in sourced:  # build isolation hides it
        sys.exit(
            f"error: ROS 2 {os.environ['ROS_DISTRO']} is sourced: use colcon build, "
            "or pip install --no-build-isolation ."
        )
    if prefix is None:
        sys.exit("error: no ROS 2 build tools found: source a ROS 2 distribution and use colcon build")
    return prefix


def staged_install(build: Path) -> Path:
    """Configures, builds and installs into a folder below ``build``; returns that folder."""
    prefix = ros_prefix()
    environment = dict(os.environ)
    if not sourced_prefixes():
        environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(prefix)
    stage = build / "stage"
    origin = build / "origin.txt"
    built_from = f"{prefix}\n{sys.executable}\n{ROOT}\n"
    if not origin.is_file() or origin.read_text() != built_from:
        shutil.rmtree(
            build, ignore_errors=True
        )  # CMake caches paths; an isolated build has new ones each time
        build.mkdir(parents=True)
        origin.write_text(built_from)
    shutil.rmtree(stage, ignore_errors=True)  # otherwise deleted source files would still be packed
    options = {
        "Python3_EXECUTABLE": sys.executable,
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_INSTALL_PREFIX": str(stage),
        "BUILD_TESTING": "OFF",
    }
    if not sourced_prefixes():  # ON takes two thirds of the time; cmake/pypi_wheels.cmake has the exceptions
        options["CMAKE_UNITY_BUILD"] = os.environ.get("UNITY_BUILD", "OFF")
    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build)]
    for command in (
        [*configure, *(f"-D{name}={value}" for name, value in options.items())],
        ["cmake", "--build", str(build), "--target", "install"],
    ):
        if subprocess.run(command, env=environment).returncode:
            sys.exit(f"error: {' '.join(command[:2])} failed, see above")
    return stage


class BuildStaged(build_py):
    """Takes the Python half and the data files from the staged installation."""

    def run(self) -> None:
        stage = staged_install(Path(self.get_finalized_command("build").build_temp).resolve())
        python_half = next(stage.rglob(f"{PACKAGE}/__init__.py")).parent
        target = Path(self.build_lib, PACKAGE)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(python_half, target, ignore=shutil.ignore_patterns("__pycache__"))
        data_files: defaultdict[str, list[str]] = defaultdict(list)
        for file in stage.rglob("*"):
            if file.is_file() and python_half.parent not in file.parents:
                data_files[str(file.parent.relative_to(stage))].append(str(file))
        self.distribution.data_files = sorted(data_files.items())


class PlatformDistribution(Distribution):
    """Makes the wheel platform-specific: the generated messages are extension modules."""

    def has_ext_modules(self) -> bool:
        return True


(ROOT / "build").mkdir(exist_ok=True)
setup(
    options={"egg_info": {"egg_base": "build"}},  # in the source tree it would pass for an installed package
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    install_requires=requirements(),
    cmdclass={"build_py": BuildStaged},
    distclass=PlatformDistribution,
)
