"""Runtime management: `RuntimeManager.step(now_ns, monitors) -> Decision`."""

from dynofa_ros.manager.runtime_manager import RuntimeManager

__all__ = ["RuntimeManager"]
