"""The managers that are compared: ours, whole and restricted, baselines B1 to B10, the oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dynofa_ros.evaluation.policies import governors as kernel
from dynofa_ros.evaluation.policies import manager
from dynofa_ros.evaluation.policies.alert import AlertPolicy
from dynofa_ros.evaluation.policies.dynamic_ofa import DynamicOfaPolicy
from dynofa_ros.evaluation.policies.governors import StaticPolicy
from dynofa_ros.evaluation.policies.manager import ManagerPolicy
from dynofa_ros.evaluation.policies.oracles import Oracle
from dynofa_ros.evaluation.policies.poet import PoetPolicy
from dynofa_ros.simulation.policy import Policy

POLICIES: dict[str, tuple[Callable[..., Policy], str]] = {  # how each is made, what it is
    "ours": (ManagerPolicy, "the runtime manager of this package"),
    "ours_subnet": (
        partial(ManagerPolicy, freedom=manager.SUBNET_ONLY),
        "ours, sub-networks alone; processor fixed, clocks by B4's governors",
    ),
    "ours_dvfs": (
        partial(ManagerPolicy, freedom=manager.DVFS_ONLY),
        "ours, clocks alone; static sub-network, processor fixed",
    ),
    "ours_mapping": (
        partial(ManagerPolicy, freedom=manager.MAPPING_ONLY),
        "ours, processors alone; static sub-network, clocks by B4's governors",
    ),
    "B1": (partial(StaticPolicy, governors=kernel.PERFORMANCE), "governor performance, static sub-network"),
    "B2": (partial(StaticPolicy, governors=kernel.POWERSAVE), "governor powersave, static sub-network"),
    "B3": (
        partial(StaticPolicy, governors=kernel.ONDEMAND),
        "governors ondemand (CPU) and simple_ondemand (GPU), static sub-network",
    ),
    "B4": (
        partial(StaticPolicy, governors=kernel.JETSON),
        "governors schedutil (CPU) and nvhost_podgov (GPU), static sub-network",
    ),
    "B5": (
        partial(StaticPolicy, governors=kernel.JETSON, mode=kernel.MODE_15W),
        "B4 in the 15 W mode of nvpmodel",
    ),
    "B5_10w": (
        partial(StaticPolicy, governors=kernel.JETSON, mode=kernel.MODE_10W),
        "B4 in the 10 W mode of nvpmodel",
    ),
    "B6": (DynamicOfaPolicy, "the step manager of Dynamic-OFA, B4's governors"),
    "B6_hold": (
        partial(DynamicOfaPolicy, hold=True),
        "B6 that does not climb again to a level it fell back from",
    ),
    "B7": (
        partial(ManagerPolicy, freedom=manager.SUBNET_ONLY),
        "app-only: ours with B4's governors and processors fixed",
    ),
    "B8": (partial(ManagerPolicy, freedom=manager.SYSTEM_ONLY), "sys-only: ours with static sub-networks"),
    "B9": (AlertPolicy, "ALERT per application, constants as remembered (unconfirmed)"),
    "B9_tuned": (partial(AlertPolicy, tuned=True), "ALERT per application, constants re-tuned"),
    "B10": (PoetPolicy, "POET per application"),
    "O1q": (Oracle, "oracle: true library and slowdown, holds the tolerance, no switch cost, every frame"),
    "O1m": (
        partial(Oracle, price_j=3.0),
        "oracle: O1q that mixes operating points so that the mean misses are what is tolerated",
    ),
    "O1m_rest": (
        partial(Oracle, price_j=3.0, lead_s=0.0),
        "O1m with real delays of the clocks, which go to the lowest while a processor has no work",
    ),
}


def make_policy(name: str, **settings: Any) -> Policy:
    """A fresh policy by name, with its knob. Raises ValueError naming those that there are."""
    if name not in POLICIES:
        raise ValueError(f"unknown policy '{name}' (known: {', '.join(POLICIES)})")
    return POLICIES[name][0](name=name, **settings)
