#!/usr/bin/env python3
"""Time of a network at every size of its input, as a share of that at one of them, on random weights.

    python tools/measure_inputs.py rfdetr_nano --reference 384

All else is as in the largest sub-network of the space, or in its native one where it has one. The sizes are
measured in turn within every round, so that a slow spell of the machine hits all alike: shares are more exact
than times. With one thread it is CPU time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from dynofa_ros.library.profiling import Job, Runs, measure_subnets
from dynofa_ros.supernet.masked import initial_weights
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import load_weights


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time of a network at every size of its input.")
    parser.add_argument("space")
    parser.add_argument("--reference", type=int, help="input size that counts 1 (default: the largest)")
    parser.add_argument("--sizes", type=int, nargs="+", help="default: all of the space")
    parser.add_argument("--classes", type=int, default=91)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    space = load_space(options.space)
    sizes = options.sizes or list(space.input_sizes)
    reference = options.reference or sizes[-1]
    supernet = Supernet(space, load_weights(space, initial_weights(space, options.classes)))
    base = getattr(space, "native", space.largest)
    jobs = {
        str(size): Job(space.resized(base, **{space.size_entry: size}), options.threads)
        for size in sorted({*sizes, reference})
    }
    runs = Runs(threads=options.threads, rounds=options.rounds)
    # of one thread its own time: what others do on the machine does not count
    clock = time.thread_time_ns if options.threads == 1 else time.perf_counter_ns
    times = measure_subnets(supernet, jobs, runs, seed=0, clock=clock)
    rows: list[dict[str, Any]] = []
    for size, job in jobs.items():
        shares = times[size] / times[str(reference)]
        macs = supernet.plan(job.config).macs / 1e9
        rows.append({"px": int(size), "gmacs": macs, "ms": float(np.median(times[size]))})
        rows[-1] |= {
            "share": float(np.median(shares)),
            "quartiles": np.quantile(shares, (0.25, 0.75)).tolist(),
        }
    print(f"{space.name}, {options.threads} thread(s), {options.rounds} rounds, reference {reference} px")
    print(f"{'px':>6} {'GMAC':>8} {'share':>7} {'quartiles':>13} {'ms':>8}")
    for row in rows:
        low, high = row["quartiles"]
        spread = f"{low:.2f} to {high:.2f}"
        print(f"{row['px']:6} {row['gmacs']:8.1f} {row['share']:7.2f} {spread:>13} {row['ms']:8.0f}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
