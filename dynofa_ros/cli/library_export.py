"""`dynofa library export`: a sub-network of a library as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from dynofa_ros.cli.arguments import Commands, Results, add_run
from dynofa_ros.cli.common import OK, check_outputs


def add_parser(commands: Commands) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write a sub-network as an ONNX file",
        description="Writes one sub-network of a library, with its own BN statistics folded in, as an ONNX "
        "file that stands alone: input images, float32 (1, 3, H, W); output logits. A translator has one "
        "file per graph: FILE with the name of the graph.",
        epilog="example: dynofa library export cpu.yaml s03_r176 --weights w1.2.safetensors --onnx s03.onnx",
    )
    parser.add_argument("library", type=Path, metavar="LIBRARY", help="a library file (YAML)")
    parser.add_argument("subnet", metavar="ID", help="of its entries")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="checkpoint of its space")
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="file to write")
    add_run(parser, _run)


def _run(options: argparse.Namespace) -> Results:
    from dynofa_ros.files import write_atomically
    from dynofa_ros.library.files import open_library
    from dynofa_ros.supernet.engines.onnx_graph import build_graph, for_one_row, with_weights

    check_outputs(options.onnx)
    opened = open_library(options.library, options.weights)
    entry = opened.library.find(options.subnet)
    if entry is None:
        known = ", ".join(dict.fromkeys(e.id for e in opened.library))
        raise ValueError(f"{options.subnet!r} is not in {options.library}: it has {known}")
    config = opened.library.config(entry)
    subnet = opened.supernet.materialise(config, opened.statistics.get(entry.id))
    written = []
    for name, graph in subnet.graphs.items():
        built, path = build_graph(graph), options.onnx
        if len(subnet.graphs) > 1:
            path = path.with_name(f"{path.stem}_{name}{path.suffix}")
        else:  # engines need fixed shapes to be at their best
            built = for_one_row(built)
        model = with_weights(built)
        labels = opened.supernet.weights.labels
        if labels:
            model.metadata_props.add(key="names", value=repr(dict(enumerate(labels))))
        write_atomically(path, model.SerializeToString())
        written.append(path)
    for path in written:
        print(f"written: {path}")
    return OK, {"subnet": entry.id, "files": list(map(str, written))}
