"""`dynofa weights fetch|check|label`: checkpoints, downloaded once, pinned, checked against a space."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.cli.arguments import Commands, Results, add_run
from dynofa_ros.cli.common import OK
from dynofa_ros.cli.work import bars
from dynofa_ros.errors import UsageError
from dynofa_ros.paths import cache_folder, share_file

if TYPE_CHECKING:
    from dynofa_ros.supernet.zoo import Checked, Listed, Progress

LIST = ("config", "checkpoints.yaml")
SUFFIX = ".safetensors"


def add_parser(commands: Commands) -> None:
    """Add `weights` with its two subcommands."""
    parser = commands.add_parser(
        "weights",
        help="download and check the checkpoints of the official supernets",
        description="Downloads and checks checkpoints, and writes them as memory-mappable safetensors.",
        epilog="example: dynofa weights fetch ofa_mbv3_w1.2",
    )
    subcommands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    _add_fetch(subcommands)
    _add_check(subcommands)
    _add_label(subcommands)


def _add_fetch(subcommands: Commands) -> None:
    parser = subcommands.add_parser(
        "fetch",
        help="download checkpoints",
        description="Downloads checkpoints, goes on after a cut, pins the SHA-256 of the first download, "
        "checks that each fits its space, and writes NAME.safetensors. NAMEs of config/checkpoints.yaml: "
        "ofa_mbv3_w1.0, ofa_mbv3_w1.2, ofa_proxyless_w1.3, ofa_resnet50.",
        epilog="example: dynofa weights fetch ofa_mbv3_w1.2 --out weights",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="of the list")
    parser.add_argument("--out", type=Path, metavar="DIR", help="target folder (default: the user's cache)")
    parser.add_argument("--url", metavar="URL", help="take it from here; one NAME only")
    parser.add_argument("--urls", type=Path, metavar="FILE", help="another list than config/checkpoints.yaml")
    add_run(parser, _fetch)


def _add_check(subcommands: Commands) -> None:
    parser = subcommands.add_parser(
        "check",
        help="check a checkpoint, convert it",
        description="Checks that a checkpoint fits a space and prints its classes, parameters and digests.",
        epilog="example: dynofa weights check ofa_mbv3_w1.2.pth --out ofa_mbv3_w1.2.safetensors",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a torch checkpoint or .safetensors")
    parser.add_argument("--space", help="the space it must fit (default: the known one it agrees with most)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"also write it here as {SUFFIX}")
    add_run(parser, _check)


def _add_label(subcommands: Commands) -> None:
    parser = subcommands.add_parser(
        "label",
        help="write names of the classes into weights",
        description="Writes weights with names of their classes, in the order of the class layer: what the "
        "node publishes, and what the folders of --images are found by.",
        epilog="example: dynofa weights label mine.pth --labels names.txt --out mine.safetensors",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a torch checkpoint or .safetensors")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="one name per line")
    parser.add_argument("--space", help="the space it must fit (default: the known one it agrees with most)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"weights to write ({SUFFIX})"
    )
    add_run(parser, _label)


def _fetch(options: argparse.Namespace) -> Results:
    from dynofa_ros.supernet import zoo as checkpoints

    listed = checkpoints.load_list(options.urls or share_file(*LIST))
    chosen = _chosen(listed, options.names, options.url)
    folder = options.out or cache_folder("weights")
    results = []
    for name, checkpoint in chosen.items():
        with _bar(name, checkpoint.size_mb) as progress:
            checked, mapped = checkpoints.fetch(name, checkpoint, folder, progress)
        _print(name, checked)
        print(f"  written: {mapped}")
        results.append({"name": name, **_summary(checked), "safetensors": str(mapped)})
    return OK, results


def _chosen(listed: dict[str, Listed], names: list[str], url: str | None) -> dict[str, Listed]:
    """The listed checkpoints of ``names``, each once. Raises UsageError."""
    import msgspec

    from dynofa_ros.supernet.zoo import check_url

    unknown = [name for name in names if name not in listed]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not in the list: it has {', '.join(listed)}")
    if url is None:
        return {name: listed[name] for name in names}
    if len(names) > 1:
        raise UsageError("--url takes one NAME: fetch the others without it")
    try:
        return {names[0]: msgspec.structs.replace(listed[names[0]], url=check_url(url))}
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None


def _checked(options: argparse.Namespace) -> Checked:
    """The weights of FILE, of the space that is named or found. Raises ValueError in one line."""
    if options.out is not None and options.out.suffix != SUFFIX:
        raise UsageError(f"--out {options.out}: the name must end in {SUFFIX}")
    from dynofa_ros.supernet import zoo as checkpoints
    from dynofa_ros.supernet.registry import load_space

    try:
        space = load_space(options.space) if options.space else None
    except ValueError as error:
        raise UsageError(f"--space: {error}") from None
    known = checkpoints.known_spaces(checkpoints.load_list(share_file(*LIST)))
    return checkpoints.check(options.file, space or known)


def _label(options: argparse.Namespace) -> Results:
    from dynofa_ros.datasets.reader import read_names
    from dynofa_ros.supernet.weights import save_weights

    checked, labels = _checked(options), read_names(options.labels)
    classes = checked.weights.classes
    if len(labels) != classes:
        raise ValueError(f"{options.labels} has {len(labels)} names, {options.file} {classes} classes")
    save_weights(options.out, checked.weights.with_labels(labels))
    print(f"{options.file}: {checked.space.name}, {classes} classes: {', '.join(labels[:3])}, ...")
    print(f"written: {options.out}")
    return OK, {**_summary(checked), "labels": labels, "safetensors": str(options.out)}


def _check(options: argparse.Namespace) -> Results:
    from dynofa_ros.supernet.weights import save_weights

    checked = _checked(options)
    if options.out is not None:
        save_weights(options.out, checked.weights)
    _print(str(options.file), checked)
    if options.out is not None:
        print(f"  written: {options.out}")
    return OK, _summary(checked)


def _summary(checked: Checked) -> dict[str, Any]:
    return {
        "file": str(checked.file),
        "space": checked.space.name,
        "classes": checked.weights.classes,
        "parameters": checked.weights.parameters,
        "digest": checked.weights.digest,
        "sha256": checked.sha256,
    }


def _print(title: str, checked: Checked) -> None:
    weights = checked.weights
    print(f"{title}: fits {checked.space.name}, {weights.classes} classes, {weights.parameters:,} parameters")
    print(f"  digest of the weights: {weights.digest}")
    print(f"  sha256 of the file:    {checked.sha256}")


@contextmanager
def _bar(name: str, size_mb: float) -> Iterator[Progress]:
    """A bar of a download. Yields what takes the bytes so far and in all, 0 = unknown."""
    from rich.progress import DownloadColumn, TimeRemainingColumn

    expected = size_mb * 1e6
    with bars(DownloadColumn(), TimeRemainingColumn()) as shown:
        task = shown.add_task(name, total=expected)
        yield lambda done, total: shown.update(task, completed=done, total=total or max(expected, done))
