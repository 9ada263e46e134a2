"""The topics of the package: one table of names, message types, QoS, senders and receivers.

Names are relative to the root of the user's namespace, `/` or `/robot1`. The nodes are one level below it
(`perception/front`, `dynofa/manager`) or directly in it (`-r __ns:=/robot1`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# Namespaces of nodes, below the root. Whatever an application answers, its knobs and monitors are on
# perception/<app>/..., where the manager looks for them.
PERCEPTION, LANGUAGE, CORE, DEMO = "perception", "language", "dynofa", "demo"
PHASE_END = "end"  # on demo/phase: closes the last phase
_OWN = "dynofa_ros/msg/"


@dataclass(frozen=True)
class Topic:
    """name: `{app}` stands for the name of an application. kind: message type, "std_msgs/msg/String".

    latched: a node that starts late gets the last messages. Publisher and subscriber take the same QoS.
    """

    name: str
    kind: str
    sender: str = ""
    receivers: tuple[str, ...] = ()
    depth: int = 5
    reliable: bool = True
    latched: bool = False

    def of(self, app: str = "") -> str:
        """Name of the topic of an application, relative to the root."""
        return self.name.format(app=app)

    def match(self, relative: str) -> str | None:
        """The application whose topic this is, "" for a topic of none; None if it is another topic."""
        found = _pattern(self.name).fullmatch("/" + relative)
        return found.groupdict().get("app", "") if found and not found["root"] else None

    def root(self, full: str) -> str | None:
        """Prefix of a full name, "" or "/robot1"; None if it is another topic."""
        found = _pattern(self.name).fullmatch(full)
        return found["root"] if found else None


def _state(name: str, kind: str, sender: str, *receivers: str) -> Topic:
    """Latched: the last message holds until the next one."""
    return Topic(name, _OWN + kind, sender, receivers, depth=1, latched=True)


# A queue of one, as an old frame is worthless. Perception subscribes as the camera publishes; best effort
# receives from any. A camera of ours publishes reliably, which reaches both kinds of subscriber.
IMAGE = Topic("perception/{app}/image", "sensor_msgs/msg/Image", "camera", ("perception",), 1, False)
COMPRESSED_IMAGE = Topic(
    "perception/{app}/image/compressed",
    "sensor_msgs/msg/CompressedImage",
    "camera",
    ("perception",),
    1,
    False,
)
TEXT = Topic("language/{app}/text", "std_msgs/msg/String", "user", ("language",), 16)
TRANSLATION = Topic("language/{app}/translation", _OWN + "Translation", "language", ("user",), 16)
TRANSLATE = "language/{app}/translate"  # the action dynofa_ros/action/Translate, for the same texts
CLASSIFICATION = Topic("perception/{app}/classification", _OWN + "Classification", "perception", ("user",))
DETECTIONS = Topic("perception/{app}/detections", _OWN + "Detection2DArray", "perception", ("user",))
LABEL_INFO = _state("perception/{app}/label_info", "LabelInfo", "perception", "user")
MONITOR = Topic(
    "perception/{app}/monitor", _OWN + "InferenceMonitor", "perception", ("manager", "simulated device")
)
TARGETS = _state("perception/{app}/targets", "AppTargets", "perception", "manager")
LIBRARY = _state("perception/{app}/library", "SubnetLibrary", "perception", "manager")
SUBNET_STATE = _state("perception/{app}/subnet_state", "SubnetState", "perception", "manager")
SUBNET_COMMAND = _state("perception/{app}/subnet_command", "SubnetCommand", "manager", "perception")
TELEMETRY = Topic("dynofa/device/telemetry", _OWN + "DeviceTelemetry", "device", ("manager",))
CAPABILITIES = _state("dynofa/device/capabilities", "DeviceCapabilities", "device", "manager")
POWER_MODEL = _state("dynofa/device/power_model", "PowerModel", "device", "manager")
DVFS_STATE = _state("dynofa/device/dvfs_state", "DvfsState", "device", "manager", "perception")
DVFS_COMMAND = _state("dynofa/device/dvfs_command", "DvfsCommand", "manager", "device")
SIMULATED_LOAD = Topic("dynofa/device/simulated_load", _OWN + "SimulatedLoad", "demo", ("simulated device",))
TEMPERATURE = Topic("dynofa/device/temperature", "sensor_msgs/msg/Temperature", "device", ("user",))
BATTERY = Topic("dynofa/device/battery", "sensor_msgs/msg/BatteryState", "device", ("user",))
DECISION = Topic(
    "dynofa/manager/decision", _OWN + "ManagerDecision", "manager", ("user",), depth=5, latched=True
)
MANAGER_STATE = _state("dynofa/manager/state", "ManagerState", "manager", "recorder")
DIAGNOSTICS = Topic(  # absolute by convention
    "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "every node", ("user",), depth=1
)
# What requests of a demo should be answered; which text of which application: header.frame_id.
GROUND_TRUTH = Topic("demo/camera/ground_truth", _OWN + "Classification", "demo", ("recorder",))
TRUE_BOXES = Topic("demo/scenes/ground_truth", _OWN + "Detection2DArray", "demo", ("recorder",))
TRUE_SENTENCE = Topic("demo/sentences/ground_truth", _OWN + "Translation", "demo", ("recorder",))
TRUE_COMMAND = Topic("demo/commands/ground_truth", _OWN + "Translation", "demo", ("recorder",))
CAMERA_FINISHED = Topic("demo/camera/finished", "std_msgs/msg/Empty", "demo", ("demo",))  # at a bag's end
PHASE = Topic("demo/phase", "std_msgs/msg/String", "demo", ("recorder",))  # its name, at its start
MANAGER_CPU = Topic("demo/manager_cpu_percent", "std_msgs/msg/Float64", "demo", ("recorder",))  # 1 Hz
DEVICE_CPU = Topic("demo/device_cpu_percent", "std_msgs/msg/Float64", "demo", ("recorder",))  # 1 Hz
ERRORS = Topic("demo/errors", "std_msgs/msg/String", "demo", ("recorder",))  # one per error of the run

VIRTUAL_CLOCKS = _state("demo/virtual_board/dvfs_state", "DvfsState", "demo", "perception")

TOPICS = tuple(topic for topic in list(vars().values()) if isinstance(topic, Topic))
MANAGER_INPUTS = tuple(topic for topic in TOPICS if "manager" in topic.receivers)


def camera_frame_id(app: str) -> str:
    """frame_id of the images that the demo's camera generates for `app`."""
    return f"{app}_camera"


def root_namespace(namespace: str) -> str:
    """Root of the user's namespace, without a trailing slash except for `/` itself.

    namespace: of a node: `/robot1/perception` or `/robot1` -> `/robot1`, `/dynofa` -> `/`. So the nodes of a
    robot that is called `dynofa`, `perception`, `language` or `demo` must be one level below its name, as
    launched.
    """
    parts = _parts(namespace)
    return "/" + "/".join(parts[:-1] if parts and parts[-1] in (PERCEPTION, LANGUAGE, CORE, DEMO) else parts)


def absolute(namespace: str, relative: str) -> str:
    """Full name of a topic given relative to the root; absolute names unchanged.

    namespace: of the node that asks, e.g. `/robot1/perception`.
    """
    if relative.startswith("/"):
        return relative
    return "/" + "/".join([*_parts(root_namespace(namespace)), *_parts(relative)])


def relative_to_root(namespace: str, full: str) -> str | None:
    """Inverse of `absolute`: the part below the root, None if the topic is elsewhere."""
    root, parts = _parts(root_namespace(namespace)), _parts(full)
    return "/".join(parts[len(root) :]) if parts[: len(root)] == root and len(parts) > len(root) else None


def app_of(namespace: str, full: str, topic: Topic) -> str | None:
    """The application whose topic a full name is, None if it is another topic or of another robot.

    app_of("/robot1/dynofa", "/robot1/perception/front/targets", TARGETS) = "front"
    """
    relative = relative_to_root(namespace, full)
    return topic.match(relative) if relative else None


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part]


@lru_cache(maxsize=100)
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("(?P<root>.*)/" + re.escape(name).replace(re.escape("{app}"), "(?P<app>[^/]+)"))
