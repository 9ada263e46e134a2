"""What the demo needs before it starts: options checked, an empty output folder, the nodes to run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.demo.applications import CAMERA_MODULE, DemoApp
from dynofa_ros.demo.phases import Setup
from dynofa_ros.demo.processes import NodeSpec
from dynofa_ros.errors import UsageError, writing
from dynofa_ros.paths import share_file
from dynofa_ros.recording.bag import BagError
from dynofa_ros.topics import DEMO, DVFS_STATE, LANGUAGE, PERCEPTION, VIRTUAL_CLOCKS

if TYPE_CHECKING:
    from dynofa_ros.demo.camera_bag import CameraTopic

SHM_DIRECTORY = Path("/dev/shm")
SHM_NEEDED_BYTES = 48 * 2**20  # the camera's segment of config/fastdds_camera.xml, and some
SOURCE_NICENESS = 10  # drawing pictures is not the robot's work: it must not take the cores from perception
OWN_OUTPUTS = frozenset({"bag", "detections.png", "logs", "report.html", "summary.json", "timeline.png"})
MARKER = Path("logs", ".dynofa_demo")  # tells an earlier demo's folders from the user's own


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked for. bag: play this one instead of a timeline. scenario: instead of the phases.

    seconds: None = 60, or the scenario's own length. task: one or several; None = two, or a classifier alone
    where there is a scenario, a bag, a number of applications or a folder of images.
    """

    out: Path
    seconds: float | None = None
    headless: bool = False
    task: Sequence[str] | None = None
    apps: int | None = None  # None = as the demo of the task, or the scenario has
    images: Path | None = None
    bag: Path | None = None
    topic: str = ""
    rate_hz: float | None = None  # None = as the demo of the task, or the scenario has
    seed: int = 0
    scenario: str | None = None
    virtual_board: str | None = None  # the device node's real backend on it, instead of the simulated one

    @property
    def board_folder(self) -> Path:
        """Where the files of the virtual board are."""
        return self.out.resolve() / "logs" / "board"


def check_options(options: DemoOptions) -> CameraTopic | None:
    """The camera topic of --bag, None without one. Raises UsageError where options cannot work."""
    if "," in str(options.out.resolve()):
        raise UsageError(f"--out {options.out} has a comma in its path, which separates libraries of a node")
    written = {options.out.resolve() / name for name in OWN_OUTPUTS}
    for path in (options.bag, options.images):
        if path is not None and written & {path.resolve(), *path.resolve().parents}:
            raise UsageError(f"{path} would be overwritten by the demo's output; choose another --out")
    if options.images is not None and not options.images.is_dir():
        raise UsageError(f"--images {options.images} is not a folder")
    if options.virtual_board is not None:
        from dynofa_ros.device.virtual.tree import TreeError, load_tree

        try:
            load_tree(options.virtual_board)
        except TreeError as error:
            raise UsageError(f"--virtual-board: {error}") from error
    if options.bag is None:
        return None
    from dynofa_ros.demo.camera_bag import find_camera

    try:
        return find_camera(options.bag, options.topic)
    except BagError as error:
        raise UsageError(str(error)) from error


def prepare_output(out: Path) -> None:
    """Room for the results: those of an earlier demo in the folder are removed, nothing else is.

    Raises UsageError where something of the same name is not an earlier demo's.
    """
    with writing(out):
        entries = {entry.name for entry in out.iterdir()} & OWN_OUTPUTS if out.exists() else set()
        if entries and not (out / MARKER).is_file():
            raise UsageError(f"{out / min(entries)} is not of an earlier demo; choose another --out")
        for name in entries:
            path = out / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (out / "logs").mkdir(parents=True)
        (out / MARKER).touch()


@dataclass(frozen=True)
class Measured:
    """Of one application: its library with the latencies of this machine, and how much slower the emulated
    device is."""

    library: Path
    slowdown: float


def node_specs(
    options: DemoOptions,
    apps: Sequence[DemoApp],
    setup: Setup,
    camera: CameraTopic | None,
    measured: Mapping[str, Measured],
) -> list[NodeSpec]:
    """All nodes of the demo but the sources of its requests. camera: the topic of --bag."""
    parameters: dict[str, dict[str, Any]] = {
        app.name: {
            "task": app.task,
            "processor": setup.processor,
            "library": str(measured[app.name].library.resolve()),
            "emulate_dvfs": True,
            "emulated_slowdown": measured[app.name].slowdown,
            **app.options,
            **setup.applications[app.name],
        }
        for app in apps
    }
    device: dict[str, object] = {"backend": "simulated", **setup.device}
    environment, clocks = {}, {}
    if options.virtual_board is not None:
        device = {"backend": "sysfs", "sysfs_root": str(options.board_folder), "allow_writes": True}
        environment = {"XDG_STATE_HOME": str(options.out.resolve() / "logs" / "state")}
        clocks = {f"/{DVFS_STATE.of()}": f"/{VIRTUAL_CLOCKS.of()}"}
    seeing = {app.name for app in apps if app.node.startswith(PERCEPTION)}
    transport = {"image_transport": camera.transport if camera else "raw"}
    specs = [
        NodeSpec("nodes.device_node", "dynofa", "device", device, environment),
        # the manager begins when everything is recorded
        NodeSpec("nodes.manager_node", "dynofa", "manager", {"autostart": False}),
        *(
            NodeSpec("nodes.perception_node", PERCEPTION, app, {**transport, **own}, remappings=clocks)
            for app, own in parameters.items()
            if app in seeing
        ),
    ]
    reading = {app: own for app, own in parameters.items() if app not in seeing}
    if reading:
        specs.append(NodeSpec("nodes.language_node", LANGUAGE, nodes=reading, remappings=clocks))
    return specs


def source_specs(options: DemoOptions, apps: Sequence[DemoApp], setup: Setup) -> list[NodeSpec]:
    """The nodes that send the requests; they begin when they are activated."""
    pictures = {
        "images": str(options.images.resolve()) if options.images else "",
        "bag": str(options.bag.resolve()) if options.bag else "",
        "bag_topic": options.topic,
    }
    specs = []
    for source in {app.source.name: app.source for app in apps}.values():
        own = [app.name for app in apps if app.source.name == source.name]
        parameters = {
            "autostart": False,
            "apps": ",".join(own),
            "rate_hz": max(setup.applications[app]["rate_hz"] for app in own),
            "seed": options.seed,
            **(pictures if source.module == CAMERA_MODULE else {}),
            **source.parameters,
        }
        environment = camera_environment() if source.module == CAMERA_MODULE else {}
        specs.append(
            NodeSpec(f"demo.{source.module}", DEMO, source.name, parameters, environment, SOURCE_NICENESS)
        )
    return specs


def board_spec(options: DemoOptions) -> NodeSpec:
    """The node of --virtual-board; the others start when its files are there."""
    parameters = {"tree": options.virtual_board or "", "folder": str(options.board_folder)}
    return NodeSpec("demo.virtual_board_node", DEMO, "virtual_board", parameters)


def camera_environment() -> dict[str, str]:
    """Fast DDS settings with which images fit in shared memory; none if the user chose some or room lacks."""
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    if any(name in os.environ for name in names):
        return {}
    if not SHM_DIRECTORY.is_dir() or shutil.disk_usage(SHM_DIRECTORY).free < SHM_NEEDED_BYTES:
        return {}
    profile = str(share_file("config", "fastdds_camera.xml"))
    return {name: profile for name in names}
