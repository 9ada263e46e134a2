"""The files that let the members of one group set clocks, and what puts them in force."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dynofa_ros.device.linux.clock_backup import SYSTEM_FOLDER
from dynofa_ros.errors import one_line
from dynofa_ros.paths import PACKAGE, share_file

GROUP = "dynofa"
RESTORE_UNIT = "dynofa-restore.service"
PLACES = {
    "70-dynofa-clocks.rules": "/etc/udev/rules.d",
    "dynofa.conf": "/etc/tmpfiles.d",
    RESTORE_UNIT: "/etc/systemd/system",
    # Not a unit's until its user copies it there.
    "dynofa-device.conf": "/usr/local/share/dynofa_ros",
}
COMMANDS = (
    ("groupadd", "--system", "--force", GROUP),
    ("systemd-tmpfiles", "--create", "dynofa.conf"),
    ("udevadm", "control", "--reload"),
    ("udevadm", "trigger", "--subsystem-match=cpu", "--subsystem-match=devfreq"),
    ("systemctl", "daemon-reload"),
    ("systemctl", "enable", RESTORE_UNIT),
)
COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Shipped:
    """One file: where it belongs and its text."""

    path: str
    text: str


def shipped_files() -> tuple[Shipped, ...]:
    """The files with this installation filled in. Raises OSError if one is not part of the package."""
    package = Path(__file__).resolve().parents[2]
    values = {
        "@PYTHON@": sys.executable,
        "@PYTHONPATH@": _import_path(package.parent),
        "@USER@": _owner(package),
    }
    for value in values.values():  # in quotes in the files of systemd, where % and $ have a meaning
        if not value.isprintable() or set(value) & set("\"'\\%$"):
            raise ValueError(
                f"{one_line(value)}: a path in a unit must not hold quotes, \\, %, $ or controls"
            )
    files = []
    for name, folder in PLACES.items():
        text = share_file("config", "permissions", name).read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(key, value)
        files.append(Shipped(f"{folder}/{name}", text))
    return tuple(files)


def install(destination: Path | None = None) -> tuple[str, ...]:
    """Put the files where they belong and in force; the paths written.

    With a destination, e.g. the root of an image, they are only put below it. Raises PermissionError without
    root where it is needed, OSError if a file cannot be written, RuntimeError for a command that failed,
    ValueError for a path that a unit cannot name, or a destination whose links lead out of it.
    """
    if destination is None and os.geteuid() != 0:
        raise PermissionError(f"needs root: {root_command()}")
    written = []
    for file in shipped_files():
        path = Path(file.path) if destination is None else destination / file.path[1:]
        _check_inside(path, destination or Path("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
        path.chmod(0o644)
        written.append(str(path))
    if destination is None:
        for command in COMMANDS:
            _run(command)
    return tuple(written)


def _check_inside(path: Path, destination: Path) -> None:
    """Raises ValueError if a link in the image leads out of it."""
    if not path.resolve().is_relative_to(destination.resolve()):
        raise ValueError(f"{path}: leads to {path.resolve()}, which is not below {destination}")


def root_command() -> str:
    """What to type: sudo keeps neither the path of a workspace nor Python's."""
    package = Path(__file__).resolve().parents[2]
    path = _import_path(package.parent)
    return f"sudo env PYTHONPATH={path} {sys.executable} -m {PACKAGE}.cli.main device permissions --install"


def next_steps() -> str:
    """For the user, after the installation."""
    return (
        f"now put the user of the device node into the group: sudo usermod --append --groups {GROUP} USER, "
        f"and log in again; clocks found are kept in {SYSTEM_FOLDER}"
    )


def _run(command: tuple[str, ...]) -> None:
    text = " ".join(command)
    if shutil.which(command[0]) is None:
        raise RuntimeError(
            f"the files are in place, but this computer has no {command[0]}, needed for: {text}"
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the files are in place, but `{text}` did not end") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(
            f"the files are in place, but `{text}` failed: {said[-1] if said else 'no message'}"
        )


def _import_path(first: Path) -> str:
    others = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(first)
    ]
    return os.pathsep.join([str(first), *others])


def _owner(package: Path) -> str:
    """The owner of the code, who runs it at boot: a change of the code gains nobody root."""
    number = package.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
