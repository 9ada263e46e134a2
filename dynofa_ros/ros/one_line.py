"""Exceptions in one line."""

from __future__ import annotations

import traceback
from pathlib import Path

from rclpy.exceptions import ParameterException

from dynofa_ros import errors
from dynofa_ros.ros.parameters import ParameterError

_EXPLAINED = (ParameterError, ParameterException, ValueError, OSError, RuntimeError)  # the text says enough


def one_line(error: BaseException) -> str:
    """An exception for a user: its text; the type and place too where it is a fault of the program."""
    text = errors.one_line(error) if str(error) else ""
    if text and isinstance(error, _EXPLAINED):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(frame[0].filename).name}:{frame[0].lineno})" if frame else ""
    return f"{type(error).__name__}: {text}{place}"
