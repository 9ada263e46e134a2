"""The package's own description is complete and says the same everywhere."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import dynofa_ros

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 needs tomli to read pyproject.toml")

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dynofa_ros"
MODULES = sorted(PACKAGE.rglob("*.py"))
MESSAGES = sorted((ROOT / "msg").glob("*.msg"))
SCRIPTS = sorted((ROOT / "scripts").iterdir())
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# import name -> (rosdep or ROS package key in package.xml, or "" where pip alone has it; PyPI name)
THIRD_PARTY = {
    "ament_index_python": ("ament_index_python", ""),
    "backports": ("", "backports.zstd"),
    "builtin_interfaces": ("builtin_interfaces", "ros-std-msgs"),
    "cv2": ("python3-opencv", "opencv-python-headless"),
    "cv_bridge": ("cv_bridge", "rosbags-image"),
    "diagnostic_msgs": ("diagnostic_msgs", "ros-diagnostic-msgs"),
    "jinja2": ("", "jinja2"),
    "launch": ("launch", ""),
    "launch_ros": ("launch_ros", ""),
    "lifecycle_msgs": ("lifecycle_msgs", "ros-lifecycle-msgs"),
    "matplotlib": ("python3-matplotlib", "matplotlib"),
    "mfusepy": ("", "mfusepy"),
    "msgspec": ("", "msgspec"),
    "numpy": ("python3-numpy", "numpy"),
    "onnx": ("", "onnx"),
    "onnxruntime": ("", "onnxruntime"),
    "openvino": ("", "openvino"),
    "psutil": ("python3-psutil", "psutil"),
    "pycocotools": ("", "pycocotools"),
    "rcl_interfaces": ("rcl_interfaces", "ros-rcl-interfaces"),
    "rclpy": ("rclpy", "ros-rclpy"),
    "rich": ("", "rich"),
    "rosbags": ("", "rosbags"),
    "sacrebleu": ("", "sacrebleu"),
    "safetensors": ("", "safetensors"),
    "scipy": ("python3-scipy", "scipy"),
    "sensor_msgs": ("sensor_msgs", "ros-sensor-msgs"),
    "std_msgs": ("std_msgs", "ros-std-msgs"),
    "tokenizers": ("", "tokenizers"),
    "torch": ("", "torch"),
    "vision_msgs": ("vision_msgs", ""),
    "lz4": ("", "lz4"),
    "yaml": ("python3-yaml", "pyyaml"),
}
UNITS = ("_hz", "_ms", "_s", "_w", "_j", "_c", "_v", "_a", "_percent", "_per_c", "_per_ghz", "_per_w", "_v2")
# float32[] header        # comment
FIELD = re.compile(r"(?P<type>[\w/]+(\[\])?) (?P<name>[A-Za-z]\w*)(=(?P<value>\S+))? *(# (?P<comment>.+))?")


def pip_name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def pip_requirements() -> set[str]:
    """Names in the lists of setup.py, which are literals."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
    ]
    return {pip_name(requirement) for value in lists for requirement in ast.literal_eval(value)}


def extras(*names: str) -> set[str]:
    """Names in these extras of pyproject.toml, without names in all of them."""
    groups = PYPROJECT["project"]["optional-dependencies"]
    found = {pip_name(requirement) for name in names or groups for requirement in groups[name]}
    return found - {"dynofa-ros"}


def imported_by(path: Path) -> set[str]:
    """Top-level names of every package that the module imports, at its top or in a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def fields_of(message: Path) -> list[re.Match[str]]:
    """Fields and constants; a line that cannot be read as one fails the test."""
    lines = [line for line in message.read_text().splitlines() if line and not line.startswith("#")]
    matches = [FIELD.fullmatch(line.rstrip()) for line in lines]
    unreadable = [line for line, match in zip(lines, matches, strict=True) if match is None]
    assert not unreadable, f"{message.name}: {unreadable}"
    return [match for match in matches if match]


def test_one_version_everywhere() -> None:
    changelog = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changelog
    assert MANIFEST.findtext("version") == dynofa_ros.__version__ == changelog[1]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dynofa_ros.__version__"}


def test_the_source_archive_has_every_tracked_file() -> None:
    """But for what only git and CI read; the rest setuptools adds by itself."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    named = {word for line in (ROOT / "MANIFEST.in").read_text().splitlines() for word in line.split()[1:]}
    tops = {Path(name).parts[0] for name in listed.stdout.splitlines()}
    by_itself = {"MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
    assert {top for top in tops if not top.startswith(".")} - named == by_itself


def test_the_maintainer_is_one_and_no_placeholder() -> None:
    email = MANIFEST.find("maintainer").get("email")
    assert email == PYPROJECT["project"]["authors"][0]["email"]
    assert re.fullmatch(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", email) and "example" not in email


def test_manifest_is_valid() -> None:
    package = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    warnings: list[str] = []
    package.parse_package(str(ROOT / "package.xml"), warnings=warnings)
    assert warnings == []
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_every_import_is_declared() -> None:
    manifest = {element.text for element in MANIFEST if element.tag in ("depend", "exec_depend")}
    requirements = pip_requirements()
    sources = [*MODULES, *(ROOT / "launch").glob("*.py")]
    known = sys.stdlib_module_names | {"compression", "dynofa_ros"}  # compression: from Python 3.14
    imported = {name for source in sources for name in imported_by(source)} - known
    assert {"numpy", "rclpy"} <= imported
    assert imported <= THIRD_PARTY.keys(), "unknown import: add it to package.xml, setup.py and this table"
    assert {THIRD_PARTY[name][0] for name in imported} - {""} <= manifest
    optional = extras("bleu", "openvino", "torch", "evaluation", "train", "virtual-board")
    declared = requirements | optional
    needed = {THIRD_PARTY[name][1] for name in imported} - {""}
    assert needed <= declared
    assert declared - needed == set(), "nothing imports it"


def pins(file: str) -> set[str]:
    """Names that a file of constraints/ pins; every line pins one exactly."""
    lines = (ROOT / "constraints" / file).read_text().splitlines()
    found = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert [line for line in found if not re.match(r"[\w.-]+==[\w.]+(;|$)", line)] == []
    return {pip_name(line) for line in found}


def test_make_pins_everything_it_installs() -> None:
    build = {pip_name(requirement) for requirement in PYPROJECT["build-system"]["requires"]}
    assert build | pip_requirements() <= pins("demo.txt")
    assert extras() <= pins("demo.txt") | pins("test.txt")


def test_demo_installs_no_torch() -> None:
    """Neither torch nor what only torch needs, such as CUDA's libraries."""
    assert "torch" not in pip_requirements()
    large = {name for name in pins("demo.txt") if name.startswith(("torch", "nvidia", "cuda", "triton"))}
    assert large == set()
    assert {"torch", "triton"} <= pins("test.txt")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_an_installed_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env python3\n")
    assert f"scripts/{script.name}\n" in (ROOT / "CMakeLists.txt").read_text()
    assert re.search(r"^from dynofa_ros\.entry_point import (main|node)$", text, re.MULTILINE)
    module = (re.findall(r'node\("dynofa_ros\.(\S+)"\)', text) or ["cli.main"])[0]
    tree = ast.parse((PACKAGE / (module.replace(".", "/") + ".py")).read_text())
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda path: path.stem)
def test_message_explains_itself(message: Path) -> None:
    """Meaning in a comment on every line; unit in the name of every measured quantity."""
    assert message.read_text().startswith("# ")
    for field in fields_of(message):
        assert field["comment"], f"{message.name}: {field['name']} has no comment"
        measured = field["type"].startswith("float") and not field["name"].endswith(UNITS)
        if measured:
            # of no dimension, or with the names of vision_msgs and the unit in the comment
            explained = ("0..1", "factor", "longer", "units", " px ", " in px", "rad")
            assert any(word in f" {field['comment']}" for word in explained), (
                f"{message.name}: unit of {field['name']}?"
            )


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_python_3_10(module: Path) -> None:
    ast.parse(module.read_text(), filename=str(module), feature_version=(3, 10))


def test_installation_has_every_file() -> None:
    """A file that CMakeLists.txt forgot would be missing only on the user's machine."""
    messages = importlib.util.find_spec("dynofa_ros.msg")
    assert messages and messages.origin, "the messages are not built: run make install"
    site_packages = Path(messages.origin).parents[2]
    prefix = next(p for p in site_packages.parents if (p / "share" / "dynofa_ros").is_dir())
    templates = [file for kind in ("j2", "html", "tsv") for file in (ROOT / "dynofa_ros").rglob(f"*.{kind}")]
    expected = {site_packages / file.relative_to(ROOT) for file in (*MODULES, *templates)}
    expected |= {prefix / "lib" / "dynofa_ros" / script.name for script in SCRIPTS}
    for folder in ("config", "launch"):
        files = (p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        expected |= {prefix / "share" / "dynofa_ros" / file.relative_to(ROOT) for file in files}
    assert sorted(str(file) for file in expected if not file.exists()) == [], "run make install"


def test_messages_import_from_anywhere(tmp_path: Path) -> None:
    code = "from dynofa_ros.msg import ManagerDecision; print(ManagerDecision().feasible)"
    for folder in (ROOT, tmp_path):
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert run.stdout.strip() == "False", run.stderr
