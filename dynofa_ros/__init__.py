"""Dynamic neural networks and their runtime management for ROS 2 robots."""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynofa_ros.application.levels import Level
    from dynofa_ros.nodes.managed_application import ManagedApplication
    from dynofa_ros.ros.run import run

# The generated messages live in the installed half of this package. When the source tree shadows
# it (a script or `python -m pytest` started in the repository root) both halves must be found.
__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
__all__ = ["Level", "ManagedApplication", "run"]
_PUBLIC = {
    "Level": "application.levels",
    "ManagedApplication": "nodes.managed_application",
    "run": "ros.run",
}


def __getattr__(name: str) -> Any:
    """The public names, read when they are asked for: most of the package needs no rclpy."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
