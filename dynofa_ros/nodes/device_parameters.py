"""Parameters of the device node."""

from __future__ import annotations

from dynofa_ros.device.open import BACKENDS
from dynofa_ros.ros.parameters import ParameterSpec

PARAMETERS = (
    ParameterSpec(
        "backend",
        "auto",
        "where the device is: 'sysfs' = what the kernel of this computer shows, 'simulated' = a board in "
        "software, 'auto' = sysfs, without an error where it shows neither clock nor sensor: sub-networks "
        "are then managed, clocks are not",
        choices=BACKENDS,
        dynamic=False,
    ),
    ParameterSpec(
        "board",
        "xavier_nx",
        "board of the simulated backend: a name in config/boards or the path of a YAML file",
        dynamic=False,
    ),
    ParameterSpec(
        "power_file",
        "",
        "power model for the manager: path of the power file that `dynofa characterise` wrote on this board, "
        "or of a board description; empty = the description that matches this computer, or that is simulated",
        dynamic=False,
    ),
    ParameterSpec(
        "simulated_mode",
        "",
        "nvpmodel mode of the simulated board, by its name in the board file; empty = all clocks. "
        "Refused unless the backend is simulated",
    ),
    ParameterSpec(
        "sysfs_root",
        "/sys",
        "folder in which the sysfs backend looks, named sys or holding one; "
        "without effect in the simulated backend",
        dynamic=False,
    ),
    ParameterSpec(
        "telemetry_rate_hz", 10.0, "rate of dynofa/device/telemetry", unit="Hz", minimum=1.0, maximum=50.0
    ),
    ParameterSpec(
        "allow_writes",
        False,
        "whether real clocks may be changed; those found are restored in the end. Without effect in the "
        "simulated backend, which always may",
        dynamic=False,
    ),
    ParameterSpec(
        "override_jetson_clocks",
        False,
        "whether clocks may be changed that were found pinned the way jetson_clocks does it",
        dynamic=False,
    ),
    ParameterSpec(
        "command_timeout_s",
        5.0,
        "a DVFS command that is not repeated for so long lapses and the clocks found at start return, "
        "whatever its own valid_for_s; 0 = only valid_for_s counts, shorter than 2 s is refused: the manager "
        "repeats its commands every 1 to 1.75 s",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
    ),
)
