#!/usr/bin/env python3
"""Train the demo supernet on the sign pictograms: sandwich rule, in-place distillation.

The first part of the schedule trains the largest sub-network alone; after that every step trains the
largest on the labels, and the smallest and random ones on the largest's prediction (Yu and Huang,
ICCV 2019). Deterministic: every random choice follows from (seed, step), so a cut run that is started
again with the same arguments ends with the same weights. About an hour on two cores, minutes on a GPU.

    python tools/train_demo_supernet.py --data data --out data/demo.safetensors

The shipped weights: 2000 steps with the other defaults, on two cores; the schedule was set up for 3600
steps, then 2600 (from step 1200), 2200 (from 1400) and 2000 (from 1500), so that a run that plans 2000 from
the start ends close to them, not at them.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track
from safetensors.torch import save_file
from torch import Tensor

from dynofa_ros.demo.signs import CLASS_NAMES, TRAIN_SEED, render_sample
from dynofa_ros.supernet.masked import batch_statistics, initial_weights, masked_forward
from dynofa_ros.supernet.preprocess import MEAN, STD
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space
from dynofa_ros.supernet.space import SearchSpace, SubnetConfig
from dynofa_ros.supernet.weights import BUFFERS

SOURCE_PX = 128
LABEL_SMOOTHING = 0.05


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of the rendered images and checkpoints"
    )
    parser.add_argument("--out", type=Path, default=Path("data/demo.safetensors"))
    parser.add_argument("--images", type=int, default=48_000, help="rendered training images")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--largest-only", type=float, default=0.3, help="first share of the steps")
    parser.add_argument(
        "--random-subnets", type=int, default=1, help="per step, beside the largest and the smallest"
    )
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _render(index: int) -> tuple[np.ndarray, int]:
    return render_sample(TRAIN_SEED, index, SOURCE_PX)


def training_images(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rendered once, kept in ``folder``: uint8 (count, 128, 128, 3) and labels (count,)."""
    folder.mkdir(parents=True, exist_ok=True)
    images_file, labels_file = folder / f"train_{count}.npy", folder / f"train_{count}_labels.npy"
    if not labels_file.exists():
        images = np.lib.format.open_memmap(images_file, "w+", np.uint8, (count, SOURCE_PX, SOURCE_PX, 3))
        labels = np.zeros(count, np.int64)
        with ProcessPoolExecutor() as pool:
            rendered = pool.map(_render, range(count), chunksize=256)
            for i, (image, label) in enumerate(track(rendered, "rendering", count)):
                images[i], labels[i] = image, label
        images.flush()
        np.save(labels_file, labels)  # last, so that a cut rendering starts again
    return np.load(images_file, mmap_mode="r"), np.load(labels_file)


def augment(images: np.ndarray, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Shift, colour gain; uint8 (N, H, W, 3) -> normalised float32 (N, 3, H, W)."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    x = torch.roll(x, tuple(int(v) for v in rng.integers(-6, 7, 2)), (2, 3))
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(x), 3, 1, 1)).astype(np.float32)).to(device)
    x = (x * gain).clamp(0, 1)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


def resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] != side:
        images = functional.interpolate(
            images, (side, side), mode="bilinear", antialias=True, align_corners=False
        )
    return images.contiguous(memory_format=torch.channels_last)


def learning_rate(step: int, steps: int, peak: float) -> float:
    warm_up = min(200, max(1, steps // 10))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train_step(
    space: SearchSpace,
    weights: dict[str, Tensor],
    images: Tensor,
    labels: Tensor,
    students: list[SubnetConfig],
    side: int,
) -> float:
    """Accumulate gradients: the largest sub-network's (on labels), its students' (on its prediction)."""

    def forward(config: SubnetConfig) -> Tensor:
        normalise = batch_statistics(weights, space.bn_epsilon, 0.1)
        return masked_forward(
            space.plan(config, len(CLASS_NAMES)), weights, resized(images, config.resolution), normalise
        )

    logits = forward(space.config(resolution=side))
    loss = functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
    loss.backward()
    soft = functional.softmax(logits.detach(), 1)
    for config in students:
        functional.cross_entropy(forward(config), soft).backward()
    return float(loss.detach())


def main() -> None:
    args = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = training_images(args.data, args.images)
    space = load_space(DEMO_SPACE)
    weights = {k: v.to(device) for k, v in initial_weights(space, len(CLASS_NAMES), args.seed).items()}
    trained = {k: v.requires_grad_() for k, v in weights.items() if not k.endswith(BUFFERS)}
    decayed = [v for v in trained.values() if v.ndim > 1]
    others = [v for v in trained.values() if v.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
    )
    checkpoint, first = args.out.with_suffix(".checkpoint.pt"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        first = state["step"]
        optimiser.load_state_dict(state["optimiser"])
        with torch.no_grad():
            for key, value in state["weights"].items():
                weights[key].copy_(value)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=args.steps, completed=first)
        average = math.nan
        for step in range(first, args.steps):
            rng = np.random.default_rng([args.seed, step])
            chosen = np.sort(rng.choice(len(images), args.batch, replace=False))
            batch = augment(images[chosen], rng, device)
            students: list[SubnetConfig] = []
            if step >= args.largest_only * args.steps:
                small = space.config(
                    kernel_sizes=3,
                    expand_ratios=3,
                    depths=2,
                    resolution=int(rng.choice(space.input_sizes[:5])),
                )
                students = [small] + [space.random(rng) for _ in range(args.random_subnets)]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, args.steps, args.learning_rate)
            optimiser.zero_grad(set_to_none=True)
            side = int(rng.choice(space.input_sizes[len(space.input_sizes) // 2 :]))
            loss = train_step(
                space, weights, batch, torch.from_numpy(labels[chosen]).to(device), students, side
            )
            torch.nn.utils.clip_grad_norm_(trained.values(), 5.0)
            optimiser.step()
            average = loss if math.isnan(average) else 0.98 * average + 0.02 * loss
            progress.update(task, advance=1, description=f"training, loss {average:.3f}")
            if (step + 1) % 50 == 0 or step + 1 == args.steps:
                state = {"step": step + 1, "weights": weights, "optimiser": optimiser.state_dict()}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                progress.console.print(f"step {step + 1}: loss {average:.3f}")
    arrays = {
        k: v.detach().float().contiguous().cpu()
        for k, v in weights.items()
        if not k.endswith("batches_tracked")
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, args.out, metadata={"space": DEMO_SPACE, "labels": ",".join(CLASS_NAMES)})
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
