"""Kernel files of a real board as data: config/virtual_boards/*.yaml."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dynofa_ros.device.board import Board, load_board
from dynofa_ros.errors import one_line
from dynofa_ros.files import read_yaml
from dynofa_ros.paths import share_file


class TreeError(ValueError):
    """A tree that cannot be used; the message is one line: file, key, reason."""


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``files``: path -> content. ``links``: path -> target. ``devfreq``: clock domain -> its folder.

    ``board``: description of the simulated SoC behind the files. ``kernel``: its version, which decides how
    limits are checked. ``mode``: the nvpmodel mode that the limits in the files are of; empty = none.
    """

    board: str
    kernel: tuple[int, int]
    files: dict[str, str]
    mode: str = ""
    links: dict[str, str] = {}
    devfreq: dict[str, str] = {}


def tree_names() -> tuple[str, ...]:
    """The trees that come with the package."""
    return tuple(sorted(path.stem for path in share_file("config", "virtual_boards").glob("*.yaml")))


def load_tree(name: str) -> tuple[Tree, Board]:
    """A tree of the package by its name, or any by its path, and the description of its SoC.

    Raises TreeError naming the file and the key, or the names that there are.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        if name not in tree_names():
            raise TreeError(f"there is no virtual board {name!r}; there are: {', '.join(tree_names())}")
        path = share_file("config", "virtual_boards", f"{name}.yaml")
    try:
        tree = read_yaml(path, Tree)
        board = load_board(tree.board)
    except OSError as error:
        raise TreeError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise TreeError(f"{path}: {one_line(error)}") from error
    unknown = sorted(set(tree.devfreq) - set(board.domains))
    if unknown:
        raise TreeError(f"{path}: devfreq: board {board.name} has no clock domain {', '.join(unknown)}")
    return tree, board


def nvpmodel_conf(tree: Tree, board: Board) -> str:
    """The modes of the board description in the format of /etc/nvpmodel.conf."""
    lines = []
    begins = {domain: f"{folder}/scaling_" for domain, folder in cpu_folders(tree, board).items()}
    begins = {domain: f"{folder}/" for domain, folder in tree.devfreq.items()} | begins
    for domain in (name for name in board.domains if name in begins):
        lines.append(f"< PARAM TYPE=FILE NAME={domain.upper()} >")
        lines += [f"{end}_FREQ {begins[domain]}{end.lower()}_freq" for end in ("MIN", "MAX")]
    for name, mode in board.modes.items():
        lines.append(f"< POWER_MODEL ID={mode.id} NAME={name} >")
        for domain, unit, cap_hz in mode_caps(tree, board, name):
            lines.append(f"{domain.upper()} MAX_FREQ {cap_hz // unit}")
    first = min((mode.id for mode in board.modes.values()), default=0)
    return "\n".join([*lines, f"< PM_CONFIG DEFAULT={first} >"])


def mode_caps(tree: Tree, board: Board, mode: str) -> list[tuple[str, int, int]]:
    """(clock domain, Hz of one unit of its files, cap in Hz) of a mode, for the domains with files."""
    caps = board.modes[mode].caps_hz
    folders = cpu_folders(tree, board)
    return [
        (domain, 1000 if domain in folders else 1, caps.get(domain, caps.get(domain.rstrip("0123456789"), 0)))
        for domain in board.domains
        if (domain in folders or domain in tree.devfreq) and (domain in caps or domain[:3] in caps)
    ]


def cpu_folders(tree: Tree, board: Board) -> dict[str, str]:
    """CPU clock domain -> its cpufreq folder."""
    root = "/sys/devices/system/cpu/cpufreq/policy"
    return {
        domain: root + domain[3:]
        for domain in board.domains
        if domain.startswith("cpu") and f"{root}{domain[3:]}/scaling_cur_freq" in tree.files
    }
