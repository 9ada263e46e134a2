"""What the documentation names exists: files, links, targets of make."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
# `manager/ladder.py` or `config/boards/`, in code quotes
NAMED = re.compile(r"`((?:[\w.-]+/)*(?:[\w-]+\.(?:py|md|yaml|txt|toml|xml)|[\w-]+/))`")
MADE = (
    "out/",
    "my_robot.yaml",
    "fitted_power.yaml",
)  # by commands or users, not part of the repository
PACKAGE = ROOT / "dynofa_ros"
PLACES = (ROOT, ROOT / "docs", PACKAGE, *(PACKAGE / room for room in ("device", "evaluation", "supernet")))


def test_links_lead_somewhere() -> None:
    broken = [
        f"{document.name}: {target}"
        for document in DOCUMENTS
        for target in LINK.findall(document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_files_named_in_the_text_exist() -> None:
    missing = [
        f"{document.name}: {name}"
        for document in DOCUMENTS
        for name in NAMED.findall(document.read_text())
        if not name.startswith(MADE) and not any((place / name).exists() for place in PLACES)
    ]
    assert missing == []


def test_make_has_the_targets_that_are_named() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        t for d in DOCUMENTS for t in re.findall(r"\bmake ([a-z][a-z-]+)\b(?= *[`#;A-Z\n])", d.read_text())
    }
    assert {"demo", "test"} <= named
    assert named <= known
