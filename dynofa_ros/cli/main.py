"""The `dynofa` command: one module per subcommand, which imports what it works with only when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dynofa_ros import __version__
from dynofa_ros.cli import (
    bench,
    characterise,
    demo,
    device,
    evaluate,
    library,
    probe,
    replay,
    report,
    top,
    train,
    weights,
)
from dynofa_ros.cli.common import BAD_USAGE, FAILED, check_outputs, write_json
from dynofa_ros.cli.work import one_line_errors
from dynofa_ros.entry_point import interruptible
from dynofa_ros.errors import CliError, UsageError, missing_extra, one_line

COMMANDS = (demo, top, report, replay, probe, device, train, library, characterise, weights, bench, evaluate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns 0 = done, 1 = failed, 2 = bad usage (argparse exits with 2 by itself)."""
    options = make_parser().parse_args(arguments)
    signals: list[int] = []
    try:
        with interruptible() as signals:
            return execute(options)
    except (CliError, ModuleNotFoundError) as error:
        lines = error.args if isinstance(error, CliError) else (missing_extra(error),)
        if lines == (None,):
            raise
        command = " ".join(filter(None, (options.command, getattr(options, "subcommand", None))))
        print(f"dynofa {command}: " + "\n".join(map(one_line, lines)), file=sys.stderr)
        return BAD_USAGE if isinstance(error, UsageError) else FAILED
    except BaseException:
        if signals:  # whatever a library made of the KeyboardInterrupt
            return FAILED
        raise


def execute(options: argparse.Namespace) -> int:
    """Run a subcommand and write its results where they are asked for; its exit code. Raises CliError."""
    check_outputs(options.json)
    with one_line_errors():
        code, results = options.run(options)
    if results is not None:
        write_json(options.json, results)
    return int(code)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; what it returns has ``run``, which takes it."""
    parser = argparse.ArgumentParser(prog="dynofa", description="Dynamic neural networks for ROS 2 robots.")
    parser.add_argument("--version", action="version", version=f"dynofa {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
