#!/usr/bin/env python3
"""Draw pictures of the demo's 25 signs, a folder per class, as own images to try `dynofa train` on.

    python tools/draw_own_classes.py own
    dynofa train --task classification --images own --out own.safetensors

The classes are named "own 00", "own 01", ...: a training begins without the demo's class layer.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import count
from pathlib import Path

import cv2

from dynofa_ros.demo.signs import CLASS_NAMES, render_sample


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=24, help="of each class (default 24)")
    parser.add_argument("--seed", type=int, default=777, help="default 777; others are other pictures")
    args = parser.parse_args()
    drawn: Counter[int] = Counter()
    for index in count():
        if sum(drawn.values()) == args.images * len(CLASS_NAMES):
            break
        image, label = render_sample(args.seed, index)
        if drawn[label] < args.images:
            drawn[label] += 1
            folder = args.folder / f"own {label:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{index}.png"), image[..., ::-1])


if __name__ == "__main__":
    main()
