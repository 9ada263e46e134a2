"""nvpmodel modes as data: what each mode of a board description leaves of its cores and clocks.

A mode caps clocks, not watts, and takes cores offline from the highest number down. The modes themselves
stand in the board files; ids differ between boards, so a mode is best named.
"""

from __future__ import annotations

from dynofa_ros.device.board import Board, cluster_cpus, floor_frequency
from dynofa_ros.latency import PROCESSORS, processor_of
from dynofa_ros.messages import DomainCapability


def find_mode(board: Board, mode: str | int) -> str:
    """Name of a mode given by name or id. Raises ValueError, naming the modes that the board has."""
    for name, entry in board.modes.items():
        if mode in (name, entry.id):
            return name
    known = ", ".join(f"{entry.id} {name}" for name, entry in board.modes.items()) or "none"
    raise ValueError(f"board {board.name} has no mode {mode!r} (it has {known})")


def mode_limits(board: Board, mode: str | int | None) -> dict[str, DomainCapability]:
    """What a mode leaves of every domain, the cap rounded down to the table; None = no mode, everything.

    ``cpus`` are those online; a domain that the mode switches off keeps its clocks but cannot be written.
    Raises ValueError for a mode that the board does not have.
    """
    name = find_mode(board, mode) if mode is not None else None
    entry = board.modes[name] if name is not None else None
    left = entry.cores if entry else None
    limits: dict[str, DomainCapability] = {}
    for domain, cpus in {**dict.fromkeys(board.domains, ()), **cluster_cpus(board)}.items():
        table, processor = board.domains[domain].frequencies_hz, processor_of(domain)
        if left is not None and processor == PROCESSORS[0]:
            cpus, left = cpus[:left], left - len(cpus[:left])
        caps = entry.caps_hz if entry else {}
        cap_hz = min([table[-1], *(caps[key] for key in (domain, processor) if key in caps)])
        on = bool(cpus) or processor != PROCESSORS[0]
        clocks = table[: table.index(floor_frequency(table, cap_hz)) + 1]
        reason = "" if on else f"{domain}: offline in mode {name}"
        limits[domain] = DomainCapability(domain, clocks, cpus=cpus, can_write=on, reason=reason)
    return limits
