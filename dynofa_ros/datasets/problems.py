"""Collects the problems of a data set, so that all of them are reported at once."""

from __future__ import annotations

SHOWN = 20  # problems that are listed before their number


class DataError(ValueError):
    """A data set that cannot be used; ``problems``: all that is wrong with it, one line each."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        rest = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        self.shown = [*problems[:SHOWN], *rest]
        super().__init__("\n".join(self.shown))
