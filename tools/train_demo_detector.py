#!/usr/bin/env python3
"""Train the demo detector on drawn scenes: sandwich rule, in-place distillation.

The body begins with the weights of the demo classifier, which knows the same signs. A run that is killed goes
on where it was when it is started again with the same arguments.

    OMP_WAIT_POLICY=PASSIVE python tools/train_demo_detector.py --folder data/detector
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from dynofa_ros.demo.signs import (
    CLASS_NAMES,
    SCENES_HELD_OUT_SEED,
    SCENES_TRAIN_SEED,
    render_scene,
)
from dynofa_ros.supernet.families.detector import ASPECT
from dynofa_ros.supernet.masked import initial_weights
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space
from dynofa_ros.supernet.weights import BUFFERS, load_weights, save_weights
from dynofa_ros.training.detection import Detection, Example, begun
from dynofa_ros.training.loop import Settings, State, Training

SPACE = f"{DEMO_SPACE}_detector"
CLASSIFIER = Path(__file__).resolve().parents[1] / "config" / "weights" / f"{DEMO_SPACE}.safetensors"
TRAINED_PX = (288, 512)  # of a scene; those held out are larger


def drawn(seed: int, index: int, *size: int) -> Example:
    scene = render_scene(seed, index, *size)
    return Example(np.ascontiguousarray(scene.image[..., ::-1]), scene.boxes, scene.labels)


class DrawnScenes(Detection):
    """As many scenes as are asked for: none is seen twice."""

    labels = CLASS_NAMES
    aspect = ASPECT

    def __init__(self, held_out: int) -> None:
        self.space = load_space(SPACE)  # type: ignore[assignment]
        self._held_out = held_out

    def example(self, rng: np.random.Generator) -> Example:
        return drawn(SCENES_TRAIN_SEED, int(rng.integers(2**31)), *TRAINED_PX)

    @cache  # noqa: B019, one object per process
    def held_out(self) -> Sequence[Example]:
        return [drawn(SCENES_HELD_OUT_SEED, index) for index in range(self._held_out)]


def first_weights(seed: int) -> dict[str, Tensor]:
    space = load_space(SPACE)
    weights = begun(initial_weights(space, len(CLASS_NAMES), seed))
    body = load_weights(load_space(DEMO_SPACE), CLASSIFIER)
    return weights | {name: torch.from_numpy(a.copy()) for name, a in body.items() if name in weights}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("data/detector"), help="checkpoint, log, weights")
    parser.add_argument("--images", type=int, default=40_000, help="scenes to train on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--largest-only", type=float, default=0.3, help="first share of the steps")
    parser.add_argument("--score-every", type=int, default=500, help="steps")
    parser.add_argument("--held-out", type=int, default=100, help="scenes of a score")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(
        images=args.images,
        batch=args.batch,
        learning_rate=args.learning_rate,
        largest_only=args.largest_only,
        score_every=args.score_every,
        seed=args.seed,
    )
    scenes = DrawnScenes(args.held_out)
    training = Training(scenes, first_weights(args.seed), settings, args.folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=settings.steps, completed=training.state.step)

        def show(state: State) -> None:
            bar.update(task, completed=state.step, description=f"training, loss {state.loss:.3f}")

        training.run(show)
    arrays = {k: v.detach().cpu() for k, v in training.weights.items() if not k.endswith(BUFFERS[0])}
    out = args.folder / f"{SPACE}.safetensors"
    save_weights(out, load_weights(scenes.space, arrays).with_labels(CLASS_NAMES))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
