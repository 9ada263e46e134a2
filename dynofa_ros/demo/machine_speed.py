"""Measures sub-networks of the demo on this machine, in a process of its own.

`python -m dynofa_ros.demo.machine_speed SPACE LIBRARY FILE ...`: writes the library of that name with the
latencies of this machine to FILE, and prints for each the latency of its largest sub-network in milliseconds.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from dynofa_ros.application.networks import demo_library, demo_weights
from dynofa_ros.errors import one_line
from dynofa_ros.library.library import load_library, load_statistics, save_library
from dynofa_ros.library.profiling import UNDISTURBED, Runs, profile
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import load_weights

ROUNDS = 20
PAUSE_S = 0.02  # as between two frames of a camera


def measure_demo(space_name: str, library_name: str, out: Path) -> float:
    """Write the measured library; returns the largest sub-network's latency in milliseconds.

    Latencies are those of undisturbed rounds: what else starts now makes the emulated device no faster.

    Raises LibraryError, WeightsError, EngineError or FileNotFoundError in one line.
    """
    source = share_file(*demo_library(library_name))
    library = load_library(source)
    space = load_space(space_name)
    supernet = Supernet(space, load_weights(space, share_file(*demo_weights(space_name))))
    statistics = load_statistics(source, library)
    measured = profile(
        library,
        supernet,
        Runs(rounds=ROUNDS, pause_s=PAUSE_S),
        clock=time.thread_time_ns,  # what the perception node stretches
        statistics=statistics,
        quantile=UNDISTURBED,
    )
    if library.bn_statistics is not None:
        shutil.copyfile(source.parent / library.bn_statistics.file, out.parent / library.bn_statistics.file)
    save_library(out, measured)
    return measured.entries[-1].latency_ms.median


def main() -> int:
    """Entry point."""
    given = iter(sys.argv[1:])
    try:
        for space, library, file in zip(given, given, given, strict=True):
            print(measure_demo(space, library, Path(file)))
    except (ValueError, RuntimeError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
