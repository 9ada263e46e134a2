"""What all pictures share: colours, the style of axes, title, footer and file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynofa_ros.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, MISS = "#24292f", "#6e7781", "#d8dee4", "#cf222e"
APP_COLOURS = ("#0969da", "#8250df", "#1a7f37", "#bf8700", "#953800", "#1b7c83", "#6639ba", "#57606a")
DPI = 110


def new_figure(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    sharex: bool = False,
    sharey: str | bool = False,
    ratios: Sequence[float] | None = None,
) -> tuple[Figure, Any]:
    """A figure (inches) and its axes (rows x columns)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.edgecolor": GRID, "axes.labelcolor": INK, "text.color": INK})
    heights = {"height_ratios": ratios}  # an argument of its own only from Matplotlib 3.6
    shared: dict[str, Any] = {"sharex": sharex, "sharey": sharey, "gridspec_kw": heights}
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **shared)


def style(axis: Axes, *, hidden: Sequence[str] = ("top", "right"), grid: str = "both") -> None:
    """Grid ("x", "y" or "both"), ticks, and spines that are left out."""
    axis.grid(axis=grid, color=GRID, linewidth=0.6)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    axis.tick_params(colors=MUTED, labelsize=8)
    for side in hidden:
        axis.spines[side].set_visible(False)


def finish(figure: Figure, path: Path, title: str = "", footer: str = "") -> None:
    """Title and footer; the PNG file, written atomically. Raises OSError."""
    import matplotlib.pyplot as plt

    if title:
        figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
    if footer:
        figure.supxlabel(footer, fontsize=7.5, color=MUTED, x=0.01, ha="left")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    plt.close(figure)
    write_atomically(path, image.getvalue())
