"""Measures the demo's sub-networks on this machine, in a process of its own.

`python -m dynofa_ros.demo.machine_speed LIBRARY`: writes the library with the latencies of this machine
to LIBRARY and prints the latency of its largest sub-network in milliseconds.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from dynofa_ros.application.networks import DEMO_LIBRARY, DEMO_WEIGHTS
from dynofa_ros.errors import one_line
from dynofa_ros.library.library import load_library, load_statistics, save_library
from dynofa_ros.library.profiling import profile
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import load_weights

ENGINE = "onnxruntime"
ROUNDS = 20
PAUSE_S = 0.02  # as between two frames of a camera


def measure_demo(out: Path) -> float:
    """Write the measured library; returns the largest sub-network's median in milliseconds.

    Raises LibraryError, WeightsError or EngineError in one line.
    """
    source = share_file(*DEMO_LIBRARY)
    library = load_library(source)
    space = load_space(library.space)
    supernet = Supernet(space, load_weights(space, share_file(*DEMO_WEIGHTS)))
    statistics = load_statistics(source, library)
    measured = profile(
        library,
        supernet,
        ENGINE,
        rounds=ROUNDS,
        pause_s=PAUSE_S,
        clock=time.thread_time_ns,  # what the perception node stretches
        statistics=statistics,
    )
    if library.bn_statistics is not None:
        shutil.copyfile(source.parent / library.bn_statistics.file, out.parent / library.bn_statistics.file)
    save_library(out, measured)
    return measured.entries[-1].latency_ms.median


def main() -> int:
    """Entry point."""
    try:
        print(measure_demo(Path(sys.argv[1])))
    except (ValueError, RuntimeError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
