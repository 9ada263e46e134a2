"""QoS of rclpy of the topics of `topics`."""

from __future__ import annotations

from functools import lru_cache

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from dynofa_ros.topics import Topic


@lru_cache(maxsize=100)
def qos_of(topic: Topic) -> QoSProfile:
    """For its publisher and its subscribers."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=topic.depth,
        reliability=ReliabilityPolicy.RELIABLE if topic.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
    )
