"""Names of nodes and topics, relative to the namespace that the user gave.

Nodes live one level down (`perception/front`, `dynofa/manager`), so the root of the user's namespace
is the node's namespace without its last part: `/robot1/perception` -> `/robot1`.
"""

from __future__ import annotations

PERCEPTION_NAMESPACE = "perception"
CORE_NAMESPACE = "dynofa"

TELEMETRY = "dynofa/device/telemetry"
CAPABILITIES = "dynofa/device/capabilities"
POWER_MODEL = "dynofa/device/power_model"
DVFS_STATE = "dynofa/device/dvfs_state"
DVFS_COMMAND = "dynofa/device/dvfs_command"
SIMULATED_LOAD = "dynofa/device/simulated_load"
DECISION = "dynofa/manager/decision"
DIAGNOSTICS = "/diagnostics"  # absolute by convention


def root_namespace(namespace: str) -> str:
    """Root of the user's namespace, without a trailing slash except for `/` itself.

    namespace: of a node, e.g. `/robot1/perception` (-> `/robot1`) or `/perception` (-> `/`).
    """
    return "/" + "/".join(_parts(namespace)[:-1])


def topic(namespace: str, relative: str) -> str:
    """Full name of a topic given relative to the root of the user's namespace; absolute names unchanged.

    namespace: of the node that asks, e.g. `/robot1/perception`.
    """
    if relative.startswith("/"):
        return relative
    return "/" + "/".join([*_parts(root_namespace(namespace)), *_parts(relative)])


def relative_topic(namespace: str, full: str) -> str | None:
    """Inverse of `topic`: the part below the root of the user's namespace, None if it lies elsewhere."""
    root = _parts(root_namespace(namespace))
    parts = _parts(full)
    return "/".join(parts[len(root) :]) if parts[: len(root)] == root and len(parts) > len(root) else None


def app_topic(app: str, name: str) -> str:
    """Topic of an application, relative to the root: `perception/<app>/<name>`."""
    return f"{PERCEPTION_NAMESPACE}/{app}/{name}"


def app_of_topic(namespace: str, full: str, name: str) -> str | None:
    """The application that a full topic name belongs to, None if it is not that topic of an application here.

    app_of_topic("/robot1/dynofa", "/robot1/perception/front/targets", "targets") = "front"
    """
    parts = (relative_topic(namespace, full) or "").split("/")
    return parts[1] if len(parts) == 3 and [parts[0], parts[2]] == [PERCEPTION_NAMESPACE, name] else None


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part]
