"""Where a library entry runs: on a whole processor or on one of its clusters, and with how many threads.

The allocation problem has one processor per place. A place is a processor (``gpu``) or, where the CPU is
used by clusters, the clock domain of one of them (``cpu0``). The whole CPU and one of its clusters are never
places at the same time: an entry that was measured on no cluster in particular may use any of them, so that
what it costs others there is not known (see `State.arrange`).
"""

from __future__ import annotations

from typing import TypeAlias

from dynofa_ros.latency import CLUSTERED
from dynofa_ros.messages import InferenceMonitor, SubnetCommand, SubnetEntry, SubnetState

Key = tuple[str, str, str, int]  # sub-network, processor, cluster, threads
PlacedSubnet: TypeAlias = SubnetCommand | SubnetState | InferenceMonitor
Placed: TypeAlias = SubnetEntry | PlacedSubnet


def place_of(placed: Placed) -> str:
    """The processor of the allocation problem that it takes."""
    return placed.cluster or placed.processor


def on_whole_cpu(placed: Placed) -> bool:
    """Whether it runs on the CPU, on no cluster in particular."""
    return placed.processor == CLUSTERED and not placed.cluster


def entry_key(entry: SubnetEntry) -> Key:
    """What names an entry within a library."""
    return entry.id, entry.processor, entry.cluster, entry.threads


def subnet_key(message: PlacedSubnet) -> Key:
    """Key of the entry that a message names."""
    return message.subnet_id, message.processor, message.cluster, message.threads
