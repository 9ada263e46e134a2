"""nvpmodel modes as data: what each mode of a board description leaves of its cores and clocks.

A mode caps clocks, not watts, and takes cores offline from the highest number down. The modes themselves
stand in the board files; ids differ between boards, so a mode is best named.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynofa_ros.device.board import Board, floor_frequency
from dynofa_ros.latency import PROCESSORS, processor_of


@dataclass(frozen=True)
class DomainLimit:
    """What a mode leaves of one clock domain; 0 ``online`` cores = the domain is off."""

    online: int
    max_hz: int


def find_mode(board: Board, mode: str | int) -> str:
    """Name of a mode given by name or id. Raises ValueError, naming the modes that the board has."""
    for name, entry in board.modes.items():
        if mode in (name, entry.id):
            return name
    known = ", ".join(f"{entry.id} {name}" for name, entry in board.modes.items()) or "none"
    raise ValueError(f"board {board.name} has no mode {mode!r} (it has {known})")


def mode_limits(board: Board, mode: str | int | None) -> dict[str, DomainLimit]:
    """Limit of every domain in a mode, the cap rounded down to the table; None = no mode, everything allowed.

    Raises ValueError for a mode that the board does not have.
    """
    entry = board.modes[find_mode(board, mode)] if mode is not None else None
    left = entry.cores if entry else None
    limits: dict[str, DomainLimit] = {}
    for name, domain in board.domains.items():
        online, cap_hz = domain.cores, domain.frequencies_hz[-1]
        processor = processor_of(name)
        if processor == PROCESSORS[0] and left is not None:
            online = min(online, left)
            left -= online
        if entry:
            cap_hz = min(
                cap_hz, *(entry.caps_hz[key] for key in (name, processor) if key in entry.caps_hz), cap_hz
            )
        limits[name] = DomainLimit(online, floor_frequency(domain.frequencies_hz, cap_hz))
    return limits
