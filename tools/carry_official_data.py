#!/usr/bin/env python3
"""Carry data of the once-for-all and Dynamic-OFA projects over into config/: predictor and latency tables.

    python tools/carry_official_data.py --predictor acc_predictor.pth --gpu-table DIR --cpu-table DIR

The predictor is the `acc_predictor.pth` of the once-for-all project, a table a folder of the
`<resolution>_lookup_table.json` files that Dynamic-OFA published for the Jetson Xavier NX.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.numpy import save

from dynofa_ros.files import write_atomically
from dynofa_ros.library.latency_table import FIXED, Row, official_rows

SPACE = "ofa_mbv3_w1.2"
ORIGIN = "acc_predictor.pth of once-for-all, https://github.com/mit-han-lab/once-for-all"
COMMON = (
    "mean latency in ms of each layer alone, rounded to six digits, from the Dynamic-OFA project "
    "(Lou et al., 2021), whose authors measured it on the Jetson Xavier NX"
)
GPU_NOTES = (
    COMMON,
    "the six fixed entries are not Jetson measurements: they equal the once-for-all project's table of a "
    "Samsung Note10 phone digit by digit; only the 90 block entries per resolution are the GPU's",
    "blocks at 160 px are often slower than at 224 px: another session or clock",
    "the sum is 0.44 to 0.58 of the latency that the same authors measured for whole networks",
)
CPU_NOTES = (
    COMMON,
    "the fixed entry blocks.0 (about 2 ms) equals the once-for-all project's table of a Samsung Note10 phone",
    "noisy: the median of std / mean over the entries is 34 %",
    "the sum is larger than what the same authors measured for whole networks: no network sums to less than "
    "0.73 s, their fastest took 0.5 s",
)


def table_text(board: str, processor: str, notes: Sequence[str], rows: Sequence[Row]) -> str:
    """The compact file of a table: six significant digits, a line per input size and position."""

    def line(values: Sequence[float]) -> str:
        return f"[{', '.join(f'{v:.6g}' for v in values)}]"

    lines = [f"space: {SPACE}", f"board: {board}", f"processor: {processor}", "notes:"]
    lines += [f"- {json.dumps(note)}" for note in notes]
    lines += [f"fixed: [{', '.join(FIXED)}]", "rows:"]
    for row in rows:
        lines += [
            f"- resolution: {row.px}",
            f"  fixed_ms: {line(row.fixed_ms)}",
            "  block_ms:",
        ]
        lines += [f"  - {line(values)}" for values in row.block_ms]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictor", type=Path, required=True, metavar="FILE")
    parser.add_argument("--gpu-table", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cpu-table", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("config"), metavar="DIR")
    options = parser.parse_args()

    state = torch.load(options.predictor, map_location="cpu", weights_only=True)
    notice = (options.out / "predictors" / "LICENSE").read_text()
    metadata = {"license": f"{ORIGIN}\n\n{notice}"}  # one entry: their order in the file is random
    data = save({key: tensor.numpy() for key, tensor in state.items()}, metadata)
    write_atomically(options.out / "predictors" / f"{SPACE}.safetensors", data)
    for processor, folder, notes in (
        ("gpu", options.gpu_table, GPU_NOTES),
        ("cpu", options.cpu_table, CPU_NOTES),
    ):
        text = table_text("xavier_nx", processor, notes, official_rows(folder)[0])
        write_atomically(options.out / "latency_tables" / f"xavier_nx_{processor}.yaml", text.encode())


if __name__ == "__main__":
    main()
