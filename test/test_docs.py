"""What the documentation names exists: files, links with their headings, tests, targets of make, commands."""

from __future__ import annotations

import re
import subprocess
from argparse import _SubParsersAction
from pathlib import Path

import pytest

from dynofa_ros.cli.main import make_parser

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
MKDOCS = ROOT / "build" / "docs-env" / "bin" / "mkdocs"  # of `make docs`
ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
# `manager/ladder.py` or `config/boards/`, in code quotes
NAMED = re.compile(r"`((?:[\w.-]+/)*(?:[\w-]+\.(?:py|md|yaml|txt|toml|xml)|[\w-]+/))`")
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")  # relative to test/
# by commands or users, or of another computer; not part of the repository
MADE = (
    "out/",
    "bag/",
    "logs/",
    "my_robot.yaml",
    "mine",
    "names.txt",
    "cpu_networks.yaml",
    "fitted_power.yaml",
    "sys/",
    "proc/",
    "etc/",
)
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


def headings(text: str) -> set[str]:
    """Their anchors, as GitHub and the site make them; a # in a block of code is none."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().strip().replace(" ", "-") for title in titles}


def test_links_lead_to_headings() -> None:
    broken = [
        f"{document.name}: {target}#{anchor}"
        for document in DOCUMENTS
        for target, anchor in ANCHOR.findall(document.read_text())
        if anchor not in headings((document.parent / target if target else document).read_text())
    ]
    assert broken == []


@pytest.mark.skipif(not MKDOCS.exists(), reason="`make docs` brings mkdocs")
def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    build = [MKDOCS, "build", "--strict", "--site-dir", tmp_path / "site"]
    run = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "site" / "contributing.html").exists()


def test_files_named_in_the_text_exist() -> None:
    missing = [
        f"{document.name}: {name}"
        for document in DOCUMENTS
        for name in NAMED.findall(document.read_text())
        if not name.startswith(MADE) and not any((place / name).exists() for place in PLACES)
    ]
    assert missing == []


def test_tests_named_in_the_text_exist() -> None:
    named = [(d.name, *names) for d in DOCUMENTS for names in TEST.findall(d.read_text())]
    files = {file: ROOT / "test" / file for _, file, _ in named}
    texts = {file: path.read_text() if path.is_file() else "" for file, path in files.items()}
    missing = [f"{page}: {file}::{test}" for page, file, test in named if f"def {test}(" not in texts[file]]
    assert sum(page == "field_tests.md" for page, *_ in named) == (
        ROOT / "docs/field_tests.md"
    ).read_text().count("::")
    assert missing == []


def test_make_has_the_targets_that_are_named() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        t for d in DOCUMENTS for t in re.findall(r"\bmake ([a-z][a-z-]+)\b(?= *[`#;A-Z\n])", d.read_text())
    }
    assert {"demo", "test"} <= named
    assert named <= known


def code(text: str) -> list[str]:
    """Lines of its blocks of code without comments, continued ones joined, and what stands in backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"(^|\s)#.*", "", line) for line in lines] + re.findall(r"`([^`\n]+)`", text)


def unknown_parts(arguments: str) -> list[str]:
    """The subcommands and options of `dynofa` that there are not."""
    parser, unknown = make_parser(), []
    for word in arguments.split():
        known = next((a.choices for a in parser._actions if isinstance(a, _SubParsersAction)), None)
        if known is not None and not word.startswith("-"):
            if word not in known:
                return [word]
            parser = known[word]
        elif word.startswith("--") and word.partition("=")[0] not in parser._option_string_actions:
            unknown.append(word)
    return unknown


def test_commands_in_the_text_exist() -> None:
    found = {
        (document.name, *match.groups())
        for document in DOCUMENTS
        if document.name != "interfaces.md"  # generated from the parser
        for line in code(document.read_text())
        for match in re.finditer(r"(?:^|[/ ])dynofa ([a-z-][^|&;)]*)", line)
    }
    found |= {
        (document.name, f"demo {arguments}")
        for document in DOCUMENTS
        for arguments in re.findall(r'make demo ARGS="([^"]+)"', document.read_text())
    }
    unknown = {f"{name}: dynofa {text}": unknown_parts(text) for name, text in found}
    assert len(found) > 60
    assert {command: parts for command, parts in unknown.items() if parts} == {}


def test_unknown_commands_are_found() -> None:
    assert unknown_parts("library profile x.yaml --out y --wieghts z") == ["--wieghts"]
    assert unknown_parts("librarian profile") == ["librarian"]
