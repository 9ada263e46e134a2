"""What a developer settles once: processor and sub-network of an application. And knobs made from that.

Policies without task mapping use ``App.mapping``; so do all rivals that their authors gave no mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynofa_ros.evaluation.policies.distribution import quantile
from dynofa_ros.evaluation.policies.profile_table import Levels, make_levels, offered, times_ms
from dynofa_ros.manager.types import LibraryEntry
from dynofa_ros.simulation.scene import ISOLATED, App, AppView, Command, Knob, Scene

STATIC_QUANTILE = 0.99  # facts: "the most accurate one whose p99 at the top clock meets D"


def on_processor(entries: Sequence[LibraryEntry], processor: str) -> tuple[LibraryEntry, ...]:
    """The entries of one processor, in ascending accuracy."""
    return tuple(sorted((e for e in entries if e.processor == processor), key=lambda e: (e.accuracy, e.id)))


def mapped_levels(scene: Scene, app: App, mode: str | None = None) -> Levels:
    """Levels of the processor that an application is mapped to, in a mode (None = that of the scene)."""
    return make_levels(scene.board, app.mapping, offered(scene.board, mode or scene.mode))


def static_entry(scene: Scene, app: App, mode: str | None = None) -> LibraryEntry:
    """The static sub-network of the baselines B1 to B5 and B8: the one that the scene names, if it does.

    Else, of those that reach the accuracy floor, the most accurate one whose 99th percentile at the top
    clock, measured alone on an idle board, meets the first latency target; the fastest if none does.
    Raises ValueError for a library without an entry for the processor.
    """
    own = on_processor(app.library, app.mapping)
    if not own:
        raise ValueError(f"{app.name}: its library has nothing for '{app.mapping}'")
    named = [e for e in own if e.id == app.start]
    if named:
        return named[0]
    allowed = [e for e in own if e.accuracy >= app.targets.accuracy_floor] or [own[-1]]
    top_ms = times_ms(allowed, mapped_levels(scene, app, mode))[:, -1]
    slowest_ms = top_ms * quantile(ISOLATED, STATIC_QUANTILE) + app.overhead_ms
    fitting = [e for e, ms in zip(allowed, slowest_ms, strict=True) if ms <= app.targets.latency_target_ms]
    return fitting[-1] if fitting else allowed[int(top_ms.argmin())]


def twin(entry: LibraryEntry, entries: Sequence[LibraryEntry]) -> LibraryEntry | None:
    """The entry that stands for another processor's: the same id, else the least at least as accurate,
    else the most accurate; None without entries."""
    same = [e for e in entries if e.id == entry.id]
    ordered = sorted(entries, key=lambda e: (e.accuracy, e.id))
    return next(iter([*same, *[e for e in ordered if e.accuracy >= entry.accuracy], *ordered[-1:]]), None)


def knob_of(entry: LibraryEntry) -> Knob:
    """The knob that runs an entry on every due frame."""
    return Knob(entry.id, entry.processor)


def differing(wanted: Mapping[str, Knob], apps: Mapping[str, AppView]) -> Command | None:
    """Command for the applications that do not run what is wanted; None if all do."""
    knobs = {
        name: knob
        for name, knob in wanted.items()
        if name in apps
        and (apps[name].running.subnet_id, apps[name].running.processor) != (knob.subnet_id, knob.processor)
    }
    return Command(knobs=knobs) if knobs else None
