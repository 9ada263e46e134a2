"""Every module says in one sentence what it holds, fits on a few pages and uses the words of the field."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    path for path in (ROOT / "dynofa_ros").rglob("*.py") if path.name != "__init__.py" or path.read_text()
)
PAGES = [  # interfaces.md quotes messages and help
    path
    for pattern in ("*.md", "docs/*.md", "tools/*", "launch/*")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file() and path.name != "interfaces.md"
]
MAX_LINES = 400
LONGER = {  # modules that may be longer, with the reason
    "dynofa_ros/messages.py": "one dataclass per message, all in one place",
    "dynofa_ros/ros/node.py": "the base of all nodes, from start to exit",
}
# Words that a reader has to guess, or that say nothing precise, and what to write instead.
PUZZLES = {
    r"told": "observed, reported, sent",
    r"deaf": "unresponsive",
    r"shaved": "reduced margin",
    r"g[ai]v(e|es|en|ing)([ _](the |its )?(clocks|them|it))?[ _]back|giveback": "restore, reclaim",
    r"reckons?": "assume, expect, use",
    r"in vain": "without effect",
    r"lives": "is, is kept",
    r"the left": "what is left out",
    r"happenings?": "event, timeline",
    r"insight": "ground truth",
    r"takeover": "bumpless start",
    r"sacrifice": "ladder, oracle_solver",
}
WORD = {re.compile(rf"(?<![a-z])(?:{word})(?![a-z])", re.IGNORECASE): say for word, say in PUZZLES.items()}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def puzzles(text: str) -> list[str]:
    """ "12: deaf: better unresponsive" for every line of the text that has such a word."""
    return [
        f"{number}: {match[0]}: better {say}"
        for number, line in enumerate(text.splitlines(), 1)
        for word, say in WORD.items()
        for match in word.finditer(line)
    ]


def first_line_problem(module: Path) -> str:
    """What is wrong with the first line; empty if nothing is."""
    text = ast.get_docstring(ast.parse(module.read_text()))
    if not text:
        return "no docstring: what does this module hold?"
    first, _, rest = text.partition("\n")
    if not re.fullmatch(r"[A-Za-z0-9`].*[.?]", first):
        return f"not one sentence on one line: {first}"
    return "an empty line must follow the first" if rest and not rest.startswith("\n") else ""


def test_first_line_is_one_sentence() -> None:
    problems = {name(module): first_line_problem(module) for module in MODULES}
    assert {module: problem for module, problem in problems.items() if problem} == {}


def test_no_module_is_too_long() -> None:
    lines = {name(module): len(module.read_text().splitlines()) for module in MODULES}
    assert {module: n for module, n in lines.items() if n > MAX_LINES and module not in LONGER} == {}


def test_words_are_plain() -> None:
    found = {name(path): puzzles(path.read_text()) for path in [*MODULES, *PAGES]}
    assert {module: words for module, words in found.items() if words} == {}


def test_puzzle_words_are_found() -> None:
    found = puzzles("The left_hz is fine.\nIt was _told_hz, GIVEN BACK in vain.\nuntold olives are not found")
    assert found == [
        "1: The left: better what is left out",
        "2: told: better observed, reported, sent",
        "2: GIVEN BACK: better restore, reclaim",
        "2: in vain: better without effect",
    ]
