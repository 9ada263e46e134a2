"""Takes back single degradations of the ladder that turn out not to be needed.

The most important application first, with objective `throughput` the one whose frames take least: deadlines,
then rates, then accuracies, one application after the other, each as far as the demands of all others allow.
"""

from __future__ import annotations

from dynofa_ros.manager.alone import Alone
from dynofa_ros.manager.few import Few
from dynofa_ros.manager.grid import Asked, Grid, Indices
from dynofa_ros.manager.problem import DIVIDERS, Problem
from dynofa_ros.manager.solver import best_for, known_mappings


class Reclaim:
    """Demands ``wanted``, changed in place; ``few``: the mappings that can give them, if they are few."""

    def __init__(self, problem: Problem, grid: Grid, wanted: Asked, few: Few | None) -> None:
        self.few, self._wanted, self._grid, self._looked = few, wanted, grid, b""
        self._only: Alone | None = None
        ranked = sorted(range(len(problem.apps)), key=lambda i: (problem.apps[i].priority, i))
        self._ranked, self._problem = ranked, problem

    def frames(self) -> None:
        """Takes back deadlines, then rates."""
        wanted, problem = self._wanted, self._problem
        for app in self._ranked:
            if wanted.relaxed[app]:
                wanted.relaxed[app] = self._best(app, rate=False) is None
                if wanted.relaxed[app]:  # if the deadline cannot be had, the rate
                    found = self._best(app, relaxed=True)
                    wanted.divider[app] = found[0] if found else wanted.divider[app]
        due = self._due()
        for app in sorted(due, key=lambda i: problem.apps[i].frame_cost_ms) if problem.most_frames else due:
            if wanted.divider[app] > 1:
                found = self._best(app)
                wanted.divider[app] = found[0] if found else wanted.divider[app]

    def accuracies(self, first: Indices) -> None:
        """Takes back accuracies, none above the levels ``first``. An application that keeps missing its
        deadline stays at its floor: a larger network would be later."""
        wanted = self._wanted
        for app in self._due():
            if wanted.level[app] > first[app]:
                found = self._best(app, rate=False)
                level = max(found[1], first[app]) if found else wanted.level[app]
                wanted.level[app] = min(level, wanted.level[app])

    def _due(self) -> list[int]:
        return [app for app in self._ranked if not self._wanted.relaxed[app]]

    def _best(self, app: int, *, relaxed: bool = False, rate: bool = True) -> tuple[float, int] | None:
        grid, wanted = self._grid, self._wanted
        divider = float(wanted.divider[app])
        dividers = [d for d in DIVIDERS if d <= divider] if rate else [divider]
        if self.few is None and self._looked != wanted.key():
            self._looked, self.few = wanted.key(), known_mappings(grid, wanted)
        if self.few is None:
            return best_for(grid, wanted, app, dividers, relaxed=relaxed)
        if self._only is None and len(self.few.homes) == 1 and len(grid.base_w) == len(grid.slices):
            self._only = Alone(self.few, wanted)
        return (self._only or self.few).best(wanted, app, dividers, relaxed=relaxed)
