"""`dynofa library compile`: everything that a node would have to compile, ahead of time."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from dynofa_ros.cli.arguments import Commands, Results, add_run
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.library_profile import add_engine
from dynofa_ros.cli.work import progress


def add_parser(commands: Commands) -> None:
    """Add `compile`."""
    parser = commands.add_parser(
        "compile",
        help="compile a library's sub-networks for this machine ahead of time",
        description="Prepares every sub-network of a library once, so that what takes long is on disk when a "
        "node asks for it: the engines of TensorRT for a GPU or NPU, which a node does not build itself, and "
        "the optimised networks of ONNX Runtime for the CPU. Run it as the user who runs the node, and again "
        "after an update of the board, of ONNX Runtime or of the library.",
        epilog="example: dynofa library compile gpu.yaml --weights w1.2.safetensors",
    )
    parser.add_argument("library", type=Path, nargs="?", metavar="LIBRARY", help="a library file (YAML)")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="checkpoint of its space")
    parser.add_argument("--processor", choices=("cpu", "gpu", "npu"), help="default: the library's")
    add_engine(parser)
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    from dynofa_ros.library.files import open_library
    from dynofa_ros.supernet.registry import EngineError, load_engine, require_processor

    results: dict[str, Any] = {"engine": options.engine, "entries": []}
    with progress("compiling") as step:
        opened = open_library(options.library, options.weights)
        engine, processor = load_engine(options.engine), options.processor or opened.library.processor
        if not engine.keeps_files:
            raise EngineError(f"engine {options.engine} keeps nothing on disk: there is nothing to compile")
        require_processor(options.engine, processor)
        entries = {entry.id: entry for entry in opened.library}
        for entry in entries.values():
            start, own = time.perf_counter(), opened.statistics.get(entry.id)
            subnet = opened.supernet.materialise(opened.library.config(entry), own)
            before = engine.is_compiled(subnet, processor)
            engine.prepare(subnet, options.threads, processor)
            seconds = round(time.perf_counter() - start, 3)
            results["entries"].append({"id": entry.id, "seconds": seconds, "was_compiled": before})
            step(len(entries))
    results |= {"library": str(opened.path), "processor": processor}
    total = sum(entry["seconds"] for entry in results["entries"])
    print(
        f"{opened.path}: {len(entries)} sub-networks ready for {processor} ({options.engine}), {total:.1f} s"
    )
    return OK, results
