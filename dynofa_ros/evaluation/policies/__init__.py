"""The managers that are compared: ours, whole and restricted, baselines B1 to B10, oracles O1q, O1f, O2."""

from __future__ import annotations

from collections.abc import Callable

from dynofa_ros.evaluation.policies.alert import AlertPolicy
from dynofa_ros.evaluation.policies.dynamic_ofa import DynamicOfaPolicy
from dynofa_ros.evaluation.policies.governors import (
    JETSON,
    MODE_10W,
    MODE_15W,
    ONDEMAND,
    PERFORMANCE,
    POWERSAVE,
    StaticPolicy,
)
from dynofa_ros.evaluation.policies.manager import (
    DVFS_ONLY,
    MAPPING_ONLY,
    SUBNET_ONLY,
    SYSTEM_ONLY,
    ManagerPolicy,
)
from dynofa_ros.evaluation.policies.oracles import Oracle
from dynofa_ros.evaluation.policies.poet import PoetPolicy
from dynofa_ros.evaluation.policies.static_oracle import StaticOracle
from dynofa_ros.simulation.policy import Policy

POLICIES: dict[str, Callable[[], Policy]] = {
    "ours": ManagerPolicy,
    "ours_subnet": lambda: ManagerPolicy("ours_subnet", SUBNET_ONLY),
    "ours_dvfs": lambda: ManagerPolicy("ours_dvfs", DVFS_ONLY),
    "ours_mapping": lambda: ManagerPolicy("ours_mapping", MAPPING_ONLY),
    "B1": lambda: StaticPolicy("B1", PERFORMANCE),
    "B2": lambda: StaticPolicy("B2", POWERSAVE),
    "B3": lambda: StaticPolicy("B3", ONDEMAND),
    "B4": lambda: StaticPolicy("B4", JETSON),
    "B5": lambda: StaticPolicy("B5", JETSON, MODE_15W),
    "B5_10w": lambda: StaticPolicy("B5_10w", JETSON, MODE_10W),
    "B6": DynamicOfaPolicy,
    "B6_hold": lambda: DynamicOfaPolicy("B6_hold", hold=True),
    "B7": lambda: ManagerPolicy("B7", SUBNET_ONLY),
    "B8": lambda: ManagerPolicy("B8", SYSTEM_ONLY),
    "B9": AlertPolicy,
    "B9_tuned": lambda: AlertPolicy("B9_tuned", tuned=True),
    "B10": PoetPolicy,
    "O1q": Oracle,
    "O1f": lambda: Oracle("O1f", per_frame=True),
    "O2": StaticOracle,
}

DESCRIPTIONS = {
    "ours": "the runtime manager of this package",
    "ours_subnet": "ours, sub-networks alone; processor fixed, clocks by B4's governors",
    "ours_dvfs": "ours, clocks alone; static sub-network, processor fixed",
    "ours_mapping": "ours, processors alone; static sub-network, clocks by B4's governors",
    "B1": "governor performance, static sub-network",
    "B2": "governor powersave, static sub-network",
    "B3": "governors ondemand (CPU) and simple_ondemand (GPU), static sub-network",
    "B4": "governors schedutil (CPU) and nvhost_podgov (GPU), static sub-network",
    "B5": "B4 in the 15 W mode of nvpmodel",
    "B5_10w": "B4 in the 10 W mode of nvpmodel",
    "B6": "the step manager of Dynamic-OFA, B4's governors",
    "B6_hold": "B6 that does not climb again to a level it fell back from",
    "B7": "app-only: ours with B4's governors and processors fixed",
    "B8": "sys-only: ours with static sub-networks",
    "B9": "ALERT per application, constants as remembered (unconfirmed)",
    "B9_tuned": "ALERT per application, constants re-tuned",
    "B10": "POET per application",
    "O1q": "oracle: true slowdown and noise distribution, no switch cost, every frame",
    "O1f": "oracle: O1q that knows the next frame's noise too",
    "O2": "oracle: best single configuration in hindsight",
}


def make_policy(name: str) -> Policy:
    """A fresh policy by name. Raises ValueError naming those that there are."""
    if name not in POLICIES:
        raise ValueError(f"unknown policy '{name}' (known: {', '.join(POLICIES)})")
    return POLICIES[name]()
