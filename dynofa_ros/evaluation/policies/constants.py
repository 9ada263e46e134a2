"""Every number of the baselines that could be tuned, and the one knob of each policy that is swept.

They were settled on S1 to S12 and on drawn scenes of the practice stream, and are frozen: none is changed for
a scene of the held-out stream (`evaluation.drawn`). Where they come from is said where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass

# --- B6: Dynamic-OFA ---
LEVELS = 6
START_LEVEL = 4
WARM_FRAMES = 21
WINDOW = 20
PATIENCE_FRAMES = 51
CLIMB_FRAMES = 21
CEILING = 1.5  # x constraint


# --- B9: ALERT ---
@dataclass(frozen=True)
class Constants:
    """R and Q0 of the slow-down filter."""

    measurement_noise: float = 1e-3
    process_noise: float = 0.1


REMEMBERED = Constants()
TUNED = Constants(1e-3, 1e-4)
TUNED_CONTENDED = Constants(0.0144, 1e-4)
FORGETTING = 0.3  # a
GAIN_START, MEAN_START, VARIANCE_START = 0.5, 1.0, 0.1
IDLE_START, IDLE_VARIANCE, IDLE_PROCESS, IDLE_NOISE = 0.0, 0.01, 1e-4, 1e-3  # phi, M, S, V
OVERHEAD_FRAMES = 20
OVERHEAD_START_MS = 3.0

# --- B10: POET ---
PROCESS_NOISE, MEASUREMENT_NOISE = 1e-5, 1e-2
BASE_START, BASE_VARIANCE_START = 0.2, 1.0
PERIOD, SLOW_PERIOD, SLOW_HZ = 10, 5, 5.0
MARGIN, MARGIN_CONTENDED = 1.15, 1.35
PENALTY_J = 1000.0  # per unit of accuracy that is missing
OVERHEAD_MS = 3.0

# --- sweeps: the keyword of a policy that is its knob, what it means, its values from thrifty to careful ---
_MARGINS = (0.9, 1.0, 1.08, 1.16, 1.25, 1.4, 1.7)
_FLOORS = (0.0, 0.25, 0.5, 0.75, 1.0)
KNOBS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "ours": ("aim", "miss_tolerance of the manager / that of the application", (4.0, 2.0, 1.0, 0.5, 0.2)),
    "B3": ("floor", "lowest clock / top clock", _FLOORS),
    "B4": ("floor", "lowest clock / top clock", _FLOORS),
    "B6": ("margin", "deadline / constraint", (1.0, 1.1, 1.25, 1.5)),
    "B9": ("margin", "deadline / deadline of the rule", _MARGINS),
    "B9_tuned": ("margin", "deadline / deadline of the rule", _MARGINS),
    "B10": ("margin", "deadline / goal of the law", _MARGINS),
    "O1m": ("price_j", "price of a late frame (J)", (0.2, 0.6, 2.0, 6.0, 20.0, 60.0)),
    "O1m_rest": ("price_j", "price of a late frame (J)", (0.6, 2.0, 6.0, 20.0)),
}
DEFAULT = {"ours": 1.0, "B3": 0.0, "B4": 0.0, "B6": 1.0, "B9": 1.0, "B9_tuned": 1.0, "B10": 1.16}
