"""What an application may choose from by itself, request by request: the lower level of the hierarchy.

Where the time of a request depends on its size, the plan names the sub-network that holds the deadline for
all but the largest requests, at clocks where it does. The application is granted the others in the same place
as well: smaller ones down to its accuracy floor, for the largest requests and those that have waited, and
larger ones up to its accuracy target, for small requests.
"""

from __future__ import annotations

from dynofa_ros.manager.app_state import AppState
from dynofa_ros.manager.placement import place_of
from dynofa_ros.manager.plan import Choice, Plan, used_levels
from dynofa_ros.manager.problem import App, Problem

Grant = tuple[tuple[str, float], ...]
ACCURACY_GRAIN = 1e-6


def grant(problem: Problem, plan: Plan, choice: Choice, model: App, app: AppState, slowdown: float) -> Grant:
    """Sub-networks and their expected time at reference size, in ascending accuracy; none without a choice.

    ``slowdown``: of the application in the place that the plan has for it.
    """
    place = place_of(choice.entry)
    clocks = dict(plan.clocks).get(place)
    level = problem.processor(place).level_of(clocks) if clocks is not None else None
    if not app.sized or level is None:
        return ()
    table = model.tables[place]
    unit_ms = table.at(problem.launch_ratio(place, used_levels(problem, plan)))[0][:, level]
    least, most = model.accuracies[-1] - ACCURACY_GRAIN, model.accuracies[0] + ACCURACY_GRAIN
    granted = tuple(
        (entry.id, slowdown * app.shared * float(time_ms))
        for entry, time_ms in zip(table.entries, unit_ms, strict=True)
        if entry.threads == choice.entry.threads and least <= entry.accuracy <= most
    )
    return granted if len(granted) > 1 else ()
