"""Scenes of a run of the demo with the boxes that the detector found in them, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dynofa_ros.demo.camera_sources import scene_picture
from dynofa_ros.plots import INK, MUTED, finish, new_figure
from dynofa_ros.recording.metrics import phases
from dynofa_ros.recording.run import Label, Monitor, Run
from dynofa_ros.recording.scoring import PRECISION, Box
from dynofa_ros.recording.status import SHOWN_SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS, COLUMNS = 2, 3
SIZE_IN = (12.0, 5.2)
FOUND, TRUE = "#ffd33d", "#ffffff"
SAME_PLACE = 0.6  # intersection over union


def plot_scenes(run: Run, seed: int, path: Path) -> None:
    """Draw some scenes of the run to a PNG file, evenly over its time; nothing where none was answered.

    seed: of the camera, which shows scene 0 after the first mark, then scene 1 and so on.
    """
    scenes = enumerate(truth for truth in run.truths if truth.metric == PRECISION)
    answers = {answer.frame: answer for answer in run.results}
    monitors = {monitor.frame: monitor for monitor in run.monitors}
    answered = [(i, t) for i, t in scenes if t.frame in answers and t.frame in monitors]
    if not answered:
        return
    number = min(ROWS * COLUMNS, len(answered))
    figure, grid = new_figure(ROWS, COLUMNS, SIZE_IN)
    for axis in grid.flat:
        axis.set_axis_off()
    for place, axis in zip(range(number), grid.flat, strict=False):
        index, truth = answered[(2 * place + 1) * len(answered) // (2 * number)]
        axis.imshow(scene_picture(seed, index).rgb)
        _draw(axis, truth, answers[truth.frame])
        axis.set_title(_caption(run, monitors[truth.frame]), fontsize=8.5, color=MUTED)
    title = "dynofa: boxes found (yellow, with class and score) and true ones (white, dashed)"
    finish(figure, path, title)


def _draw(axis: Axes, truth: Label, answer: Label) -> None:
    from matplotlib.patches import Rectangle

    for boxes, colour, line in ((truth.value, TRUE, "--"), (_shown(answer.value), FOUND, "-")):
        for name, score, left, top, right, bottom in boxes:
            corner, sides = (left, top), (right - left, bottom - top)
            axis.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, ls=line, lw=1.3))
            if colour == FOUND:
                label = {"facecolor": FOUND, "edgecolor": "none", "pad": 0.8}
                axis.text(left, top - 3, f"{name} {score:.2f}", fontsize=6.5, color=INK, bbox=label)


def _shown(boxes: Sequence[Box]) -> list[Box]:
    """Those that are sure enough; of several classes in one place the surest."""
    sides = [(left, top, right - left, bottom - top) for _, _, left, top, right, bottom in boxes]
    scores = [score for _, score, *_ in boxes]
    kept = cv2.dnn.NMSBoxes(sides, scores, SHOWN_SCORE, SAME_PLACE) if boxes else ()
    return [boxes[index] for index in np.array(kept, int).reshape(-1)]


def _caption(run: Run, monitor: Monitor) -> str:
    phase = next((p.name for p in phases(run) if p.start_ns <= monitor.time_ns < p.end_ns), "")
    return f"{phase.replace('_', ' ')}: {monitor.subnet_id}, {monitor.latency_ms:.0f} ms"
