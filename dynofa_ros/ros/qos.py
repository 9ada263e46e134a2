"""QoS of every topic of the package. Publisher and subscriber of a topic take the same constant.

Commands and states are latched: a node that starts late gets the last one. Images are best effort with
a queue of one: a stale frame is worthless, and such a subscriber receives from any publisher.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


IMAGE = _profile(1, reliable=False)  # perception/<app>/image, .../image/compressed: subscriber
IMAGE_SOURCE = _profile(1)  # a camera of ours: reliable reaches both kinds of subscriber
CLASSIFICATION = _profile(5)  # perception/<app>/classification, .../vision_classification
MONITOR = _profile(5)  # perception/<app>/monitor
APP_STATE = _profile(1, latched=True)  # perception/<app>/targets, .../library, .../subnet_state
SUBNET_COMMAND = _profile(1, latched=True)  # perception/<app>/subnet_command
TELEMETRY = _profile(5)  # dynofa/device/telemetry
DEVICE_STATE = _profile(1, latched=True)  # dynofa/device/capabilities, .../power_model, .../dvfs_state
DVFS_COMMAND = _profile(1, latched=True)  # dynofa/device/dvfs_command
SIMULATED_LOAD = _profile(5)  # dynofa/device/simulated_load
DECISION = _profile(5, latched=True)  # dynofa/manager/decision
DIAGNOSTICS = _profile(1)  # /diagnostics
EVENT = _profile(5)  # demo/phase, demo/camera/ground_truth
