"""A query and its hits in, one picture out: each film with its box, score and anatomy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box

QUERY, HIT = "#ffd23f", "#3fd2ff"  # readable on film, and for the colour-blind
COLUMNS = 4


@dataclass(frozen=True, eq=False)
class Panel:
    """One film: display pixels (H, W) float32, high = bright; box in its pixels; two lines of text."""

    pixels: NDArray[np.float32]
    box: Box
    title: str
    subtitle: str


def draw(query: Panel, hits: Sequence[Panel], path: Path) -> None:
    """Write a PNG: the query large on the left, the hits in rank order beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(2, -(-len(hits) // COLUMNS))
    figure = Figure(figsize=(2.0 * rows + 0.6 + 2.2 * COLUMNS, 2.45 * rows), facecolor="#14161a", dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows, COLUMNS + rows, left=0.01, right=0.99, top=0.9, bottom=0.02, wspace=0.06, hspace=0.28
    )
    _panel(figure.add_subplot(grid[:, :rows]), query, QUERY, 13)
    for number, hit in enumerate(hits):
        row, column = divmod(number, COLUMNS)
        _panel(figure.add_subplot(grid[row, rows + column]), hit, HIT, 9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor=figure.get_facecolor())


def _panel(axes: object, panel: Panel, colour: str, size: int) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

    assert isinstance(axes, Axes)
    low, high = np.percentile(panel.pixels, (0.5, 99.5))
    axes.imshow(panel.pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="lanczos")
    axes.add_patch(
        Rectangle((panel.box.x1, panel.box.y1), panel.box.width, panel.box.height, fill=False, edgecolor=colour, lw=1.8)
    )
    axes.set_title(f"{panel.title}\n{panel.subtitle}", color="white", fontsize=size, loc="left", pad=4)
    axes.set_axis_off()
