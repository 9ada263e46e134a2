#!/usr/bin/env python3
"""Take the results of a whole run of `dynofa evaluate` over into docs/evaluation.md and its pictures.

    dynofa evaluate --out /tmp/evaluation
    python tools/publish_evaluation.py /tmp/evaluation

Replaces what is between the marks <!-- name --> and <!-- end name --> and copies three pictures; all else in
the page is written by hand.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "evaluation.md"
SECTIONS = {
    "goals": "Goals",
    "paper": "Beside the paper's figures",
    "settling": "Settling beside Dynamic-OFA's stepper (S3)",
    "gaps": "Gap to the oracles",
    "sweep": "Sensitivity to the power model",
    "decisions": "Time of decisions",
}
PICTURES = {
    "timeline_s3.png": "evaluation_s3.png",
    "energy.png": "evaluation_energy.png",
    "decomposition.png": "evaluation_decomposition.png",
}


def section(report: str, title: str) -> str:
    """The text under a heading of the report, without pictures. Raises ValueError if it is not there."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", report, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"report.md has no section '{title}': it is not of a run of everything")
    return re.sub(r"^!\[.*\n+", "", found[1].strip(), flags=re.MULTILINE)


def head(report: str) -> str:
    """Seeds and policies: all between the title's note and the goals."""
    return report.split("\n## Goals\n")[0].split("\n\n", 2)[2].strip()


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="what `dynofa evaluate --out` wrote")
    folder = parser.parse_args().folder
    report, page = (folder / "report.md").read_text(), PAGE.read_text()
    texts = {"policies": head(report)} | {name: section(report, title) for name, title in SECTIONS.items()}
    for name, text in texts.items():
        marks = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, rest = page.split(marks[0])
        page = f"{before}{marks[0]}\n{text}\n{marks[1]}{rest.split(marks[1])[1]}"
    for source, target in PICTURES.items():
        shutil.copyfile(folder / source, DOCS / target)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
