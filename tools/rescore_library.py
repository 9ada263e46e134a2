#!/usr/bin/env python3
"""Measure the accuracies of a library of sentences anew, for other weights of the same networks.

    python tools/rescore_library.py LIBRARY.yaml --weights W.safetensors --pairs dev.tsv --target de

Latencies stay: they follow from the networks, not from the values of their weights. What is no longer on the
front of latency and accuracy goes. The file is written in place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from dynofa_ros.library.library import load_library, pareto_front, save_library
from dynofa_ros.library.sentences import METRICS, MeasuredSentences, read_pairs
from dynofa_ros.supernet.supernet import load_supernet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="a sentence, a tab, its reference per line")
    parser.add_argument("--target", default="de")
    parser.add_argument("--metric", choices=tuple(METRICS), default="bleu")
    parser.add_argument("--count", type=int, default=1000, help="sentences, at most")
    options = parser.parse_args()
    library, net = load_library(options.library), load_supernet("seq2seq_demo", options.weights)
    pairs = read_pairs(options.pairs, options.count, 0)
    measured = MeasuredSentences(net, pairs, options.target, options.metric)
    entries = []
    for entry in library.entries:
        accuracy = round(measured.score(library.config(entry)), 5)
        print(f"{entry.id}: {entry.accuracy:.5f} -> {accuracy:.5f}", flush=True)
        entries.append(msgspec.structs.replace(entry, accuracy=accuracy))
    kept = pareto_front(entries)
    note = (
        f"accuracy: measured anew by tools/rescore_library.py on {len(pairs)} pairs of {options.pairs.name}"
    )
    notes = (*(n for n in library.notes if not n.startswith("accuracy: measured anew")), note)
    changed = {"entries": kept, "weights_sha256": net.weights.digest, "notes": notes}
    save_library(options.library, msgspec.structs.replace(library, **changed))
    print(f"{options.library}: {len(kept)} of {len(entries)} sub-networks are on the front")


if __name__ == "__main__":
    main()
