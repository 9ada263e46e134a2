"""Names that the demo publishes under, relative to the root of the user's namespace."""

from __future__ import annotations

GROUND_TRUTH = "demo/camera/ground_truth"  # dynofa_ros/Classification, one per published frame
PHASE = "demo/phase"  # std_msgs/String, the name of a phase at its start
PHASE_END = "end"  # closes the last phase
MANAGER_CPU = "demo/manager_cpu_percent"  # std_msgs/Float64, 1 Hz, 100 = one core
ERRORS = "demo/errors"  # std_msgs/String, one per error of the run
CAMERA_FINISHED = "demo/camera/finished"  # std_msgs/Empty, when a bag was played to its end


def camera_frame_id(app: str) -> str:
    """frame_id of the images that the demo's camera generates for `app`."""
    return f"{app}_camera"
