"""`dynofa library profile`: the latency of a library's sub-networks on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_run, number, whole
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.tables import print_entries
from dynofa_ros.cli.work import progress

if TYPE_CHECKING:
    from dynofa_ros.library.library import Library
    from dynofa_ros.library.profiling import Runs

HERE = "host"  # name of a board that nobody named
MOST_THREADS = 255


def add_parser(commands: Commands) -> None:
    """Add `profile`."""
    parser = commands.add_parser(
        "profile",
        help="measure a library's latencies on this machine",
        description="Measures every sub-network of a library here, interleaved, the way a perception node "
        "runs them, and writes a library with these latencies. Entries that another one beats now leave it. "
        "With --threads every sub-network has one entry per number of threads, among which the manager "
        "chooses; without it they are measured with one thread and the manager leaves that knob alone. "
        "Without LIBRARY it is the one that was made for the weights, in this folder or the package.",
        epilog="example: dynofa library profile cpu.yaml --weights w1.2.safetensors --threads 1,2,4 "
        "--out mine.yaml",
    )
    parser.add_argument("library", type=Path, nargs="?", metavar="LIBRARY", help="a library file (YAML)")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="checkpoint of its space")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="library to write")
    parser.add_argument(
        "--board", metavar="NAME", default=HERE, help=f"what to call this machine (default {HERE})"
    )
    add_engine(parser, several=True)
    parser.add_argument("--processor", choices=("cpu", "gpu", "npu"), help="default: the library's")
    add_rounds(parser, 60)
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="order of the rounds (default 0)")
    add_run(parser, _run)


def add_engine(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Options that say how an inference runs; ``several``: with one or more numbers of threads."""
    parser.add_argument("--engine", default="onnxruntime", help="default onnxruntime")
    parser.add_argument(
        "--threads",
        type=thread_list if several else whole(1, MOST_THREADS),
        default=() if several else 1,
        metavar="N,N" if several else "N",
        help="e.g. 1,2,4 (default: 1, not named in the entries)" if several else "default 1",
    )
    parser.add_argument(
        "--affinity", type=cpu_list, default=(), metavar="CPUS", help="e.g. 0,1: CPUs of the inference thread"
    )


def add_rounds(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Options that say how often, and after which pauses, sub-networks are measured."""
    parser.add_argument(
        "--rounds",
        type=whole(5, 10_000),
        default=rounds,
        help=f"inferences of each (default {rounds})",
    )
    parser.add_argument(
        "--pause-ms",
        type=number(0, 10_000, "ms"),
        default=20.0,
        help="idle time before each inference, as between camera frames (default 20)",
    )


def runs_of(options: argparse.Namespace) -> Runs:
    """How inferences are run, of the options of `add_engine` and `add_rounds`."""
    from dynofa_ros.library.profiling import Runs

    return Runs(
        engine=options.engine,
        threads=options.threads,
        processor=options.processor or "cpu",
        affinity=options.affinity,
        rounds=options.rounds,
        pause_s=options.pause_ms / 1e3,
    )


def cpu_list(text: str) -> tuple[int, ...]:
    """Argument type: CPU numbers separated by commas."""
    numbers = text.split(",")
    if not all(n.strip().isdecimal() for n in numbers):
        raise argparse.ArgumentTypeError(f"must be CPU numbers such as 0,1, got {text!r}")
    return tuple(sorted({int(n) for n in numbers}))


def thread_list(text: str) -> tuple[int, ...]:
    """Argument type: numbers of threads separated by commas."""
    one = whole(1, MOST_THREADS)
    return tuple(sorted({one(n.strip()) for n in text.split(",")}))


def described_threads(threads: tuple[int, ...]) -> str:
    """Numbers of threads in words: "1 thread", "1, 2 and 4 threads"."""
    numbers = threads or (1,)
    text = " and ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))
    return f"{text} thread{'' if numbers == (1,) else 's'}"


def _run(options: argparse.Namespace) -> Results:
    from dynofa_ros.library.files import open_library, require_writable, save_with_statistics
    from dynofa_ros.library.profiling import Runs, profile

    with progress("measuring") as step:
        require_writable(options.out)
        opened = open_library(options.library, options.weights)
        processor, pause_s = options.processor or opened.library.processor, options.pause_ms / 1e3
        measured = profile(
            opened.library,
            opened.supernet,
            Runs(options.engine, 1, processor, options.affinity, options.rounds, pause_s),
            threads=options.threads,
            seed=options.seed,
            statistics=opened.statistics,
            on_round=step,
        )
        written = save_with_statistics(
            options.out, _described(measured, opened.library, options), opened.statistics
        )
    results = _results(opened.library, written, options)
    print(f"{opened.path}, {options.engine}, {described_threads(options.threads)}:")
    print_entries(written)
    if results["dropped"]:
        print(f"no longer on the front here, so left out: {', '.join(results['dropped'])}")
    print(f"written: {options.out}")
    return OK, results


def _described(measured: Library, before: Library, options: argparse.Namespace) -> Library:
    """The measured library with its board and notes; clocks of another machine are not this one's."""
    import msgspec

    from dynofa_ros.library.files import renewed_notes

    same = options.board == before.board and measured.processor == before.processor
    cpus = f", CPUs {','.join(map(str, options.affinity))}" if options.affinity else ""
    note = (
        f"latency: measured on {options.board} by dynofa library profile, {options.engine}, "
        f"{described_threads(options.threads)}{cpus}, {options.rounds} rounds, "
        f"{options.pause_ms:g} ms between inferences; alpha and beta keep their earlier shares"
    )
    outdated = ("latency:",) if same else ("latency:", "reference frequencies:", "energy:")
    return msgspec.structs.replace(
        measured,
        board=options.board,
        reference_frequencies_hz=before.reference_frequencies_hz if same else {},
        notes=renewed_notes(before.notes, note, outdated),
    )


def _results(before: Library, after: Library, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "library": str(options.out),
        "board": after.board,
        "processor": after.processor,
        "engine": options.engine,
        "threads": list(options.threads) if len(options.threads) > 1 else max(options.threads, default=1),
        "affinity": list(options.affinity),
        "rounds": options.rounds,
        "pause_ms": options.pause_ms,
        "entries": [
            {
                "id": e.id,
                "threads": e.threads or 1,
                "accuracy": e.accuracy,
                "median_ms": e.latency_ms.median,
                "p95_ms": e.latency_ms.p95,
            }
            for e in after
        ],
        "dropped": [e.id for e in before if after.find(e.id) is None],
    }
