#!/usr/bin/env python3
"""Make the pictures of a demo's run that README.md and docs/views.md show.

    make demo                                   # on an idle machine: what else it does shows as late frames
    .venv/bin/python tools/retake_pictures.py out

Writes docs/demo.jpg, scenes with their boxes above the timeline, and docs/report.png, the report with a
decision under the power cap chosen, as a browser without a window (chromium) shows it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

DOCS = Path(__file__).resolve().parents[1] / "docs"
ONE_ROW = 0.52  # of the height of detections.png: its title and the upper one of its two rows
WINDOW = (1500, 1180)


def demo_picture(out: Path) -> None:
    scenes, timeline = (cv2.imread(str(out / name)) for name in ("detections.png", "timeline.png"))
    if scenes is None or timeline is None:
        raise SystemExit(f"{out} has no detections.png and timeline.png: run `make demo` first")
    row = scenes[: round(ONE_ROW * len(scenes))]
    size = timeline.shape[1], round(len(row) * timeline.shape[1] / row.shape[1])
    picture = np.vstack([cv2.resize(row, size, interpolation=cv2.INTER_AREA), timeline])
    cv2.imwrite(str(DOCS / "demo.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])


def report_picture(page: Path) -> None:
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    decisions = json.loads(data[1])["decisions"] if data else []
    under_cap = [d for d in decisions if d["binding_constraint"] == "power_cap" and d["alternatives"]]
    if not under_cap:
        raise SystemExit(f"{page} shows no decision under a power cap")
    chosen = max(under_cap, key=lambda d: (d["feasible"], d["changed"], len(d["alternatives"])))
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    size = "--window-size={},{}".format(*WINDOW)
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", size, "--virtual-time-budget=3000"]
    address = f"{page.resolve().as_uri()}#step={chosen['step_number']}"
    subprocess.run([browser, *options, f"--screenshot={DOCS / 'report.png'}", address], check=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    demo_picture(folder)
    report_picture(folder / "report.html")
