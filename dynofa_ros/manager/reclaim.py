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


def reclaim(
    problem: Problem, grid: Grid, start: Asked, first: Indices, few: Few | None
) -> tuple[Asked, Few | None]:
    """Demands without the losses that are not needed, and the mappings that can give them, if they are few.

    ``first``: levels of which nobody gets a better one. ``few``: the mappings for ``start``. An application
    that keeps missing its deadline stays at its floor: a larger network would be later.
    """
    wanted, looked = start.copy(), b""
    only: Alone | None = None

    def best(app: int, *, relaxed: bool = False, rate: bool = True) -> tuple[float, int] | None:
        nonlocal few, looked, only
        divider = float(wanted.divider[app])
        dividers = [d for d in DIVIDERS if d <= divider] if rate else [divider]
        if few is None and looked != wanted.key():
            looked, few = wanted.key(), known_mappings(grid, wanted)
        if few is None:
            return best_for(grid, wanted, app, dividers, relaxed=relaxed)
        if only is None and len(few.homes) == 1 and len(grid.base_w) == len(grid.slices):
            only = Alone(few, wanted)
        return (only or few).best(wanted, app, dividers, relaxed=relaxed)

    ranked = sorted(range(len(problem.apps)), key=lambda i: (problem.apps[i].priority, i))
    for app in ranked:
        if wanted.relaxed[app]:
            wanted.relaxed[app] = best(app, rate=False) is None
            if wanted.relaxed[app]:  # if the deadline cannot be had, the rate
                found = best(app, relaxed=True)
                wanted.divider[app] = found[0] if found else wanted.divider[app]
    due = [app for app in ranked if not wanted.relaxed[app]]
    for app in sorted(due, key=lambda i: problem.apps[i].frame_cost_ms) if problem.most_frames else due:
        if wanted.divider[app] > 1:
            found = best(app)
            wanted.divider[app] = found[0] if found else wanted.divider[app]
    for app in due:
        if wanted.level[app] > first[app]:
            found = best(app, rate=False)
            level = max(found[1], first[app]) if found else wanted.level[app]
            wanted.level[app] = min(level, wanted.level[app])
    return wanted, few
