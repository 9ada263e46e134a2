"""`dynofa device restore|permissions`: restore clocks after a crash, and let a group set them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dynofa_ros.cli.arguments import Commands, Results, add_run
from dynofa_ros.cli.common import FAILED, OK
from dynofa_ros.errors import UsageError

if TYPE_CHECKING:
    from dynofa_ros.messages import DomainState


def add_parser(commands: Commands) -> None:
    """Add `device` with its two subcommands."""
    parser = commands.add_parser(
        "device",
        help="restore clocks after a crash, set permissions for clocks",
        description="What the device node may need from outside: to have clocks restored that a killed "
        "process left changed, and the permission to set them without root.",
        epilog="example: dynofa device restore",
    )
    subcommands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    _add_restore(subcommands)
    _add_permissions(subcommands)


def _add_restore(subcommands: Commands) -> None:
    parser = subcommands.add_parser(
        "restore",
        help="restore the clocks that a killed process left changed",
        description="Restores the clock limits that were found before a process that is gone changed them. "
        "Does nothing if there is none; fails while such a process is alive. The next start of the device "
        "node with allow_writes does the same.",
        epilog="example: dynofa device restore",
    )
    parser.add_argument(
        "--sysfs-root", type=Path, default=Path("/"), metavar="DIR", help="folder that holds sys (default /)"
    )
    add_run(parser, _restore)


def _add_permissions(subcommands: Commands) -> None:
    parser = subcommands.add_parser(
        "permissions",
        help="let the members of the group dynofa set clocks",
        description="Prints the files that let the group dynofa write the minimum and maximum of cpufreq and "
        "devfreq, and nothing else, also of clocks that appear late; --install installs them, as root. "
        "One of them is a unit that restores clocks at boot.",
        epilog="example: sudo dynofa device permissions --install",
    )
    parser.add_argument("--install", action="store_true", help="install them, needs root")
    parser.add_argument(
        "--destination", type=Path, metavar="DIR", help="with --install: put them below DIR, start nothing"
    )
    add_run(parser, _permissions)


def _restore(options: argparse.Namespace) -> Results:
    from dynofa_ros.device.linux.clock_backup import ClockBackup, restore_saved
    from dynofa_ros.device.linux.discovery import discover
    from dynofa_ros.device.linux.sysfs import SysFiles
    from dynofa_ros.device.open import kernel_root

    try:
        root = kernel_root(options.sysfs_root)
    except ValueError as error:
        raise UsageError(str(error)) from error
    files = SysFiles(root)
    returned: tuple[DomainState, ...] = ()
    backup = ClockBackup(files)
    if backup.left_over():
        backup.acquire()
        try:
            returned = restore_saved(files, backup, discover(files).power_mode)
        finally:
            backup.release()
    _print_returned(returned, backup.path)
    done = all(clock.done for clock in returned)
    return OK if done else FAILED, _returned_json(returned, root, backup.path)


def _print_returned(returned: tuple[DomainState, ...], path: Path) -> None:
    if not returned:
        print(f"nothing to restore ({path} does not exist)")
    for clock in returned:
        low_hz, high_hz = clock.requested_min_hz, clock.requested_max_hz
        band = f"{low_hz / 1e6:g} to {high_hz / 1e6:g} MHz" if high_hz else "no limit"
        if clock.done:
            print(f"{clock.domain}: {clock.reason or f'restored, {band}'}")
        else:
            print(f"{clock.domain}: NOT restored ({band}): {clock.reason}")


def _returned_json(returned: tuple[DomainState, ...], root: Path, path: Path) -> dict[str, object]:
    return {
        "sysfs_root": str(root),
        "state_file": str(path),
        "clocks": [
            {
                "domain": clock.domain,
                "min_hz": clock.requested_min_hz,
                "max_hz": clock.requested_max_hz,
                "restored": clock.done,
                "reason": clock.reason,
            }
            for clock in returned
        ],
    }


def _permissions(options: argparse.Namespace) -> Results:
    from dynofa_ros.device.linux import permissions

    if options.destination is not None and not options.install:
        raise UsageError("--destination needs --install")
    files = permissions.shipped_files()
    written: tuple[str, ...] = ()
    if options.install:
        written = permissions.install(options.destination)
        for path in written:
            print(f"installed: {path}")
        print(permissions.next_steps())
    else:
        for file in files:
            print(f"### {file.path}\n{file.text}")
        print(f"### install them with: {permissions.root_command()}")
    shown = [{"path": file.path, "text": file.text} for file in files]
    return OK, {"files": shown, "installed": list(written)}
