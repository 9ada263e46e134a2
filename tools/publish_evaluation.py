#!/usr/bin/env python3
"""Take the results of a run of `dynofa evaluate` over into docs/evaluation.md and its pictures.

    dynofa evaluate --out evaluation
    python tools/publish_evaluation.py evaluation

Replaces what is between the marks <!-- name --> and <!-- end name --> by the sections that the report has,
each with the commit of the source tree, and copies its pictures. What a run of `--held-out` alone lacks
stays as it is, with its own commit. All else in the page is written by hand.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "evaluation.md"
SECTIONS = {
    "fair": "The fair comparison",
    "goals": "Goals",
    "paper": "Beside the paper's figures",
    "settling": "Settling beside Dynamic-OFA's stepper (S3)",
    "sweep": "Sensitivity to the power model",
    "decisions": "Time of decisions",
}
PICTURES = {
    "timeline_s3.png": "evaluation_s3.png",
    "energy.png": "evaluation_energy.png",
    "decomposition.png": "evaluation_decomposition.png",
}


def section(report: str, title: str) -> str:
    """The text under a heading of the report, without pictures; empty if it is not there."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", report, re.MULTILINE | re.DOTALL)
    return re.sub(r"^!\[.*\n+", "", found[1].strip(), flags=re.MULTILINE) if found else ""


def head(report: str) -> str:
    """Seeds and policies: all between the title's note and the first section."""
    return report.split("\n## ")[0].split("\n\n", 2)[2].strip()


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="what `dynofa evaluate --out` wrote")
    folder = parser.parse_args().folder
    report, page = (folder / "report.md").read_text(), PAGE.read_text()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=DOCS, check=True, capture_output=True, text=True
    ).stdout.strip()
    texts = {name: section(report, title) for name, title in SECTIONS.items()}
    if not texts["settling"]:
        texts["goals"] = ""  # most of them would not be measured
    texts["policies"] = head(report) if texts["settling"] else ""
    for name, text in texts.items():
        if not text:
            print(f"not in this run, left as it is: {SECTIONS.get(name, name)}")
            continue
        marks = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, rest = page.split(marks[0])
        run = "" if name == "policies" else f"_Commit {commit}._\n\n"
        page = f"{before}{marks[0]}\n{run}{text}\n{marks[1]}{rest.split(marks[1])[1]}"
    for source, target in PICTURES.items():
        if (folder / source).exists():
            shutil.copyfile(folder / source, DOCS / target)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
