"""Diagnostics of an application: plain functions from an application to a status."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from dynofa_ros.application.application import Application
from dynofa_ros.application.commands import placement
from dynofa_ros.application.threads import cpu_list
from dynofa_ros.messages import SubnetCondition
from dynofa_ros.ros.arrivals import Arrivals
from dynofa_ros.ros.diagnostics import Level, Status

SILENT_S = 2.0  # without an image for so long something is wrong with the camera, the topic or its QoS
SILENT_PERIODS = 3.0  # of the rate asked for, or of the latency, where these are longer
RECENT_S = 3.0  # a fault that did not come again for so long has ended
LOST_WARN, FEWEST_LOST = 0.02, 3
MISS_WARN, MISS_ERROR = 0.05, 0.20
INACTIVE = Status(Level.OK, "inactive")


def images(
    application: Application,
    advice: Callable[[], str],
    arrivals: Arrivals | None = None,
    reliable: bool = False,
    cameras: Sequence[str] = (),
) -> Status:
    """Whether images come, all of them, and are images.

    advice: asked for if none come. reliable: as subscribed. cameras: nodes that publish them.
    """
    status = _came(application, "dropped", "dropped")
    facts = dict(status.values)
    if not _age_s(application.counters.last_ns) < _silent_s(application):
        return Status(Level.WARN, f"no images: {advice()}", facts)
    if status.level != Level.OK:
        return status
    lost, due = arrivals.lost(application.targets.rate_hz) if arrivals else (0, 0)
    link = "reliable" if reliable else "best effort"
    facts |= {"due in 10 s": due, "lost on the way": lost, "reliability": link}
    if len(cameras) > 1:
        text = f"{len(cameras)} publishers on one topic ({', '.join(cameras)}): their images may be mixed"
        return Status(Level.WARN, f"{text}; each camera needs a topic of its own", facts)
    if lost >= FEWEST_LOST and lost > LOST_WARN * due:
        text = (
            f"{lost / due:.0%} of the due images never reach this node ({lost} of {due}, {link}): "
            "large images without shared memory, a slow network or a busy computer; the Fast DDS profile "
            "config/fastdds_camera.xml for the camera's process helps"
        )
        return Status(
            Level.WARN, text + ("" if reliable else ", and a camera that publishes reliably"), facts
        )
    return Status(Level.OK, "images arrive", facts)


def requests(application: Application) -> Status:
    """Requests that came. None is no fault: texts come irregularly."""
    return _came(application, "refused by a full queue", "refused")


def _came(application: Application, lost: str, verb: str) -> Status:
    """What came and was malformed. lost: what one is that gets no answer; verb: what becomes of malformed."""
    counters, request = application.counters, application.task.request
    problem = counters.problems.get(True)
    facts: dict[str, object] = {
        f"age of the last {request}, s": _age_s(counters.last_ns),
        "answered": counters.answered,
        lost: counters.dropped,
        "malformed": counters.malformed,
        "last malformed": problem.reason if problem else "none",
    }
    if problem and _age_s(problem.at_ns) < RECENT_S:
        text = f"{counters.malformed} malformed {request}s {verb}, last: {problem.reason}"
        return Status(Level.WARN, text, facts)
    return Status(Level.OK, f"{request}s are taken", facts)


def answers(application: Application) -> Status:
    """Whether the images or texts that come are answered."""
    counters, requests = application.counters, f"{application.task.request}s"
    problem = counters.problems.get(False)
    facts = {
        "answered": counters.answered,
        "failed": counters.failed,
        "last failure": problem.reason if problem else "none",
    }
    waiting_s = _age_s(counters.unanswered_ns)
    if problem and _age_s(problem.at_ns) < RECENT_S:
        return Status(Level.ERROR, f"{counters.failed} {requests} failed, last: {problem.reason}", facts)
    patience_s = max(SILENT_S, SILENT_PERIODS * 1e-3 * application.targets.latency_target_ms)
    if waiting_s > patience_s and _age_s(counters.last_ns) < _silent_s(application):
        return Status(Level.ERROR, f"{requests} arrive, but none was answered for {waiting_s:.0f} s", facts)
    return Status(Level.OK, f"{requests} are answered" if counters.answered else f"no {requests} yet", facts)


def deadlines(application: Application) -> Status:
    """How many of the recent due images, or texts, missed their target."""
    requests = f"{application.task.request}s"
    misses = list(application.counters.recent_misses)
    if not misses:
        return Status(Level.OK, f"no {requests} yet")
    share = sum(misses) / len(misses)
    level = Level.ERROR if share > MISS_ERROR else Level.WARN if share > MISS_WARN else Level.OK
    return Status(level, f"{share:.1%} of the last {len(misses)} due {requests} missed the target")


def subnet(application: Application) -> Status:
    """What runs where, and whether that is what was commanded."""
    network, command, mapping = application.current, application.command, application.mapping
    assert network is not None
    key, networks = network.key, application.networks
    entry = networks.entry(key.processor, key.subnet_id, *placement(command.order, key, networks))
    facts: dict[str, object] = {
        "sub-network": key.subnet_id,
        "processor": key.processor,
        "decision": command.order.decision_id,
        f"expected {application.networks.accuracy_metric}": entry.accuracy if entry else math.nan,
        **_placement(application),
        "threads asked for": key.threads,
        "CPUs asked for": cpu_list(mapping.asked) or "any",
    }
    for thread in mapping.threads():
        where = f"CPUs {cpu_list(thread.cpus)}, last on {thread.last_cpu}"
        facts[f"thread {thread.tid}, {thread.name}"] = where
    if command.condition == SubnetCondition.REJECTED:
        return Status(Level.ERROR, command.message, facts)
    if mapping.reason:
        return Status(Level.WARN, mapping.reason, facts)
    return Status(Level.OK, command.message or "as commanded", facts)


def _placement(application: Application) -> dict[str, object]:
    """The prepared sub-networks that are resident, the one in use among them."""
    assert application.current is not None
    current, copies = application.current.key, application.resident
    same = {c.key.processor for c in copies if c.key.subnet_id == current.subnet_id}
    elsewhere = ", ".join(sorted(same - {current.processor}))
    copy = f"a copy stays on {elsewhere}" if elsewhere else "no copy elsewhere"
    return {
        "placement": f"on {current.processor}, {copy}",
        "cached, MB": sum(c.nbytes for c in copies) / 1e6,
        "cache budget, MB": application.settings.cache_mb * 2**20 / 1e6,
    } | {
        f"copy on {c.key.processor}: {c.key.subnet_id}, threads {c.key.threads}": f"{c.nbytes / 1e6:.3g} MB"
        for c in copies
    }


def _silent_s(application: Application) -> float:
    """Time without an image after which something is wrong."""
    return max(SILENT_S, SILENT_PERIODS / application.targets.rate_hz)


def _age_s(at_ns: int | None) -> float:
    """Time since a time of the steady clock; NaN if there was none."""
    return math.nan if at_ns is None else (time.perf_counter_ns() - at_ns) / 1e9
