"""The scenarios S1 to S12 as declarations, on the committed libraries of the simulated board.

Some have several scenes: the scenario itself, and variants whose names begin with its own ("S1 D70").
Where the source of a scenario leaves something open it was chosen here, and a note of the scene says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.scenarios import shared, steady
from dynofa_ros.evaluation.scenarios.parts import default_board
from dynofa_ros.simulation.scene import Scene

MAKERS: dict[str, Callable[[Board], list[Scene]]] = {
    "S1": steady.s1,
    "S2": shared.s2,
    "S3": steady.s3,
    "S4": shared.s4,
    "S5": shared.s5,
    "S6": steady.s6,
    "S7": shared.s7,
    "S8": steady.s8,
    "S9": shared.s9,
    "S10": shared.s10,
    "S11": shared.s11,
    "S12": shared.s12,
}
SCENARIOS = tuple(MAKERS)


def scenes(names: Sequence[str], board: Board | None = None) -> list[Scene]:
    """All scenes of the named scenarios, in the order of SCENARIOS. Raises ValueError for an unknown name."""
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise ValueError(f"unknown scenario {', '.join(unknown)} (known: {', '.join(SCENARIOS)})")
    known = default_board() if board is None else board
    return [scene for name in SCENARIOS if name in names for scene in MAKERS[name](known)]


def scenario_of(scene: str) -> str:
    """S1 for the scene "S1 D70"."""
    return scene.split()[0]
