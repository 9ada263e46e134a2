"""`dynofa train`: a supernet for own classes or own boxes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_run, number, whole
from dynofa_ros.cli.common import OK, check_outputs
from dynofa_ros.cli.work import stages
from dynofa_ros.errors import UsageError
from dynofa_ros.paths import share_file

if TYPE_CHECKING:
    from dynofa_ros.supernet.space import SearchSpace

DEMO = "ofa_mbv3_demo"
SPACES = {"classification": DEMO, "detection": f"{DEMO}_detector"}
SUFFIX = ".safetensors"
PASSES = {"classification": 20.0, "detection": 8.0}
SCORES = 5  # in a training
EVALUATIONS, POINTS = 60, 16  # of the library


def add_parser(commands: Commands) -> None:
    """Add `train`."""
    parser = commands.add_parser(
        "train",
        help="train a supernet on your own images",
        description="Trains every sub-network of a supernet on your images: sandwich rule, in-place "
        "distillation. A training that was killed goes on when the same command is given again. "
        "Classification takes one folder of images per class, detection boxes in the layout of COCO, YOLO "
        "or Pascal VOC, which it finds out by itself. A share of the images is held out and scored. With "
        "--library a measured library is built as well: all that a perception node needs.",
        epilog="example: dynofa train --task detection --data signs --out s.safetensors --library cpu.yaml",
    )
    parser.add_argument("--task", required=True, choices=tuple(SPACES))
    parser.add_argument("--images", type=Path, metavar="DIR", help="classification: a folder per class")
    parser.add_argument("--data", type=Path, metavar="DIR", help="detection: images with boxes")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"weights to write ({SUFFIX})"
    )
    parser.add_argument(
        "--library",
        type=Path,
        metavar="FILE",
        help="then also build a library for this machine, its accuracy measured on the images held out",
    )
    parser.add_argument("--space", metavar="NAME", help="default: " + ", ".join(SPACES.values()))
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="checkpoint to begin with; its class layer is replaced (default: the demo's weights for its "
        "spaces, else random ones)",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="checkpoint and log (default: FILE.training)"
    )
    parser.add_argument(
        "--passes", type=number(0.01, 1e4), help="over the images (default: detection 8, classification 20)"
    )
    parser.add_argument("--batch", type=whole(2, 1024), default=16, help="images per step (default 16)")
    parser.add_argument("--learning-rate", type=number(1e-7, 1), default=1.5e-3, help="default 0.0015")
    parser.add_argument(
        "--freeze",
        type=number(0, 0.99),
        default=0.0,
        metavar="SHARE",
        help="share of the layers, from the input on, that keep their weights (default 0)",
    )
    parser.add_argument("--held-out", type=number(0.01, 0.9), default=0.2, help="share (default 0.2)")
    parser.add_argument("--threads", type=whole(1, 1024), help="default: the physical cores")
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="default 0")
    parser.add_argument(
        "--evaluations",
        type=whole(1, 10**6),
        default=EVALUATIONS,
        help=f"sub-networks measured for --library (default {EVALUATIONS})",
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave broken images and boxes out")
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    detection = options.task == "detection"
    folder = options.data if detection else options.images
    if folder is None or (options.images if detection else options.data) is not None:
        raise UsageError(
            f"--task {options.task} takes its images from {'--data' if detection else '--images'} DIR"
        )
    if options.out.suffix != SUFFIX:
        raise UsageError(f"--out {options.out}: the name must end in {SUFFIX}")
    check_outputs(options.out, options.library)
    work = options.folder or options.out.with_suffix(".training")
    with stages("checking images", "training") as step:
        if options.library is not None:
            from dynofa_ros.library.files import require_writable

            require_writable(options.library)
        from dynofa_ros.library.calibration import use_threads
        from dynofa_ros.supernet.registry import load_space
        from dynofa_ros.training.loop import Settings
        from dynofa_ros.training.own_data import first_weights, is_trainable, read_data, train

        use_threads(options.threads)
        space = load_space(options.space or SPACES[options.task])
        if space.task != options.task:
            raise UsageError(f"--space {space.name} is for the task {space.task}")
        if not is_trainable(space):
            raise UsageError(f"--space {space.name} is trained elsewhere: train one of another family")
        init = first_checkpoint(options.init, space)
        if options.freeze and init is None:
            raise UsageError(
                f"--freeze keeps the weights of a checkpoint, and {space.name} has none: give --init"
            )
        data = read_data(
            space,
            folder,
            options.held_out,
            options.seed,
            options.skip_broken,
            lambda total: step("checking images", total),
        )
        if options.library is not None and not data.scored:
            raise ValueError(
                f"{folder}: no image is left to measure a library on: at least two of a class or with boxes "
                "are needed"
            )
        passes = options.passes or PASSES[options.task]
        images = max(options.batch, round(passes * data.trained))
        settings = Settings(
            images=images,
            batch=options.batch,
            learning_rate=options.learning_rate,
            largest_only=0.25,
            frozen=options.freeze,
            seed=options.seed,
            score_every=max(1, -(-images // options.batch) // SCORES),
            origin=f"{data.digest} from {'random weights' if init is None else init.name}",
        )
        weights = first_weights(space, data.objective.labels, init, options.seed)
        last = train(
            data, weights, settings, work, options.out, lambda state: step("training", settings.steps)
        )
    for note in data.notes:
        print(note)
    if not data.scored:
        print("no image is held out that could be scored: how good the weights are is not known")
    scores = {
        name: round(value, 4) for name, value in last.items() if name.startswith(("smallest", "largest"))
    }
    held_out = len(data.held_out)
    print(f"{len(data.objective.labels)} classes, {data.trained} images trained on, {held_out} held out")
    print(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items()))
    print(f"written: {options.out} and {options.out.with_suffix('.png')}; {work} is no longer needed")
    document: dict[str, Any] = {
        "weights": str(options.out),
        "space": space.name,
        "labels": list(data.objective.labels),
        "trained_images": data.trained,
        "held_out_images": held_out,
        "steps": settings.steps,
        "seconds": round(last["elapsed_s"], 1),
        "scores": scores,
        "notes": list(data.notes),
    }
    if options.library is not None:
        document |= _library(options, space.name, data.held_out)
    return OK, document


def _library(options: argparse.Namespace, space: str, held_out: frozenset[Path]) -> dict[str, Any]:
    """Build the library of the new weights; what the results say of it."""
    from dynofa_ros.cli.library_build import show
    from dynofa_ros.library.accuracy_source import Request
    from dynofa_ros.library.build import build
    from dynofa_ros.library.files import save_with_statistics

    began = time.monotonic()
    with stages() as step:
        request = Request(
            space=space,
            evaluations=options.evaluations,
            weights=options.out,
            images=options.images,
            data=options.data,
            held_out=held_out,
            skip_broken=options.skip_broken,
            points=POINTS,
            seed=options.seed,
        )
        built = build(request, step)
        library = save_with_statistics(options.library, built.library, built.statistics)
    show(library, options.library, time.monotonic() - began)
    return {"library": str(options.library), "points": len(library.entries)}


def first_checkpoint(asked: Path | None, space: SearchSpace) -> Path | None:
    """What to begin with: what was asked for, else the demo's weights of its spaces."""
    if asked is not None or space.name not in SPACES.values():
        return asked
    return share_file("config", "weights", f"{space.name}{SUFFIX}")
