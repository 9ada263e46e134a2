"""Takes back single degradations of the ladder that turn out not to be needed.

The most important application first, with objective `throughput` the one whose frames take least: deadlines,
then rates, then accuracies, one application after the other, each as far as the demands of all others allow.
"""

from __future__ import annotations

from dynofa_ros.manager.grid import Asked, Grid, Indices
from dynofa_ros.manager.problem import DIVIDERS, Problem
from dynofa_ros.manager.solver import best_for


def reclaim(problem: Problem, grid: Grid, start: Asked, first: Indices) -> Asked:
    """Demands without the losses that are not needed; ``first``: levels of which nobody gets a better one.

    An application that keeps missing its deadline stays at its floor: a larger network would be later.
    """
    wanted = start.copy()
    ranked = sorted(range(len(problem.apps)), key=lambda i: (problem.apps[i].priority, i))
    for app in ranked:
        if wanted.relaxed[app]:
            _deadline(grid, wanted, app)
    due = [app for app in ranked if not wanted.relaxed[app]]
    for app in sorted(due, key=lambda i: problem.apps[i].frame_cost_ms) if problem.most_frames else due:
        if wanted.divider[app] > 1:
            found = best_for(grid, wanted, app, _up_to(int(wanted.divider[app])))
            wanted.divider[app] = found[0] if found else wanted.divider[app]
    for app in due:
        if wanted.level[app] > first[app]:
            found = best_for(grid, wanted, app, (int(wanted.divider[app]),))
            level = max(found[1], first[app]) if found else wanted.level[app]
            wanted.level[app] = min(level, wanted.level[app])
    return wanted


def _deadline(grid: Grid, wanted: Asked, app: int) -> None:
    """The deadline of an application; if it cannot be had, the rate."""
    divider = int(wanted.divider[app])
    wanted.relaxed[app] = best_for(grid, wanted, app, (divider,)) is None
    if wanted.relaxed[app]:
        found = best_for(grid, wanted, app, _up_to(divider), relaxed=True)
        wanted.divider[app] = found[0] if found else divider


def _up_to(divider: int) -> tuple[int, ...]:
    return tuple(d for d in DIVIDERS if d <= divider)
