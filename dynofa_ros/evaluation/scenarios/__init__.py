"""The scenarios S1 to S13: scenes on the committed libraries of the simulated board.

They are declared in config/scenarios.yaml. Some have several scenes: the scenario itself, and variants whose
names begin with its own ("S1 D70").
"""

from __future__ import annotations

from collections.abc import Sequence

from dynofa_ros.device.board import Board
from dynofa_ros.evaluation.scenarios.declarations import declared, make_scene
from dynofa_ros.evaluation.scenarios.parts import default_board
from dynofa_ros.simulation.scene import Scene

SCENARIOS = tuple(declared())


def scenes(names: Sequence[str], board: Board | None = None) -> list[Scene]:
    """All scenes of the named scenarios, in the order of SCENARIOS. Raises ValueError for an unknown name."""
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise ValueError(f"unknown scenario {', '.join(unknown)} (known: {', '.join(SCENARIOS)})")
    known = default_board() if board is None else board
    wanted = [one for name in SCENARIOS if name in names for one in declared()[name]]
    return [make_scene(one, known) for one in wanted]


def scenario_of(scene: str) -> str:
    """S1 for the scene "S1 D70"."""
    return scene.split()[0]
