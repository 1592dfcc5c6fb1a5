"""Numbers of a measurement in, PNG pictures of them out. matplotlib is imported when the first one is drawn."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.evaluate.evaluation import Overlay
from encoder.evaluate.unlike import UPRIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE, FOUND, TRIVIAL = "#ffd23f", "#3fd2ff", "#9a9a9a"  # readable on film, and for the colour-blind
BARS = "#2f6f9f"
DPI = 90
ACROSS = 4  # films in a row

Rows = Mapping[str, Mapping[str, object]]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def bars(rows: Rows, value: str, trivial: str | None, label: str) -> bytes:
    """One bar for each region with its 95 % interval, a tick for the trivial row; worst at the top."""
    known = sorted(
        ((n, r) for n, r in rows.items() if r.get(value) is not None), key=lambda row: -_number(row[1], value)
    )
    figure = _figure(10.5, 0.26 * len(known) + 0.9)
    axes = figure.add_subplot()
    heights, at = np.array([_number(row, value) for _, row in known]), np.arange(len(known))
    spread = np.array([_interval(row) for _, row in known]).T  # (2, n)
    errors = np.clip(np.stack([heights - spread[0], spread[1] - heights]), 0.0, None)
    axes.barh(at, heights, xerr=errors, color=BARS, ecolor="black", capsize=2, height=0.7)
    if trivial:
        marks = [(at[i], _number(row, trivial)) for i, (_, row) in enumerate(known) if row.get(trivial) is not None]
        axes.plot([x for _, x in marks], [y for y, _ in marks], "|", color=TRIVIAL, ms=12, mew=3, label="mean box")
        axes.legend(loc="lower right")
    axes.set_yticks(at, [name for name, _ in known])
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _number(row: Mapping[str, object], key: str) -> float:
    value = row[key]
    assert isinstance(value, int | float)
    return float(value)


def _interval(row: Mapping[str, object]) -> tuple[float, float]:
    pair = row["ci95"]
    assert isinstance(pair, list)
    return float(pair[0]), float(pair[1])


def confusion(counts: Sequence[Sequence[int]]) -> bytes:
    """Rows sum to 1: what the first answer is, for each region asked for."""
    table = np.array(counts, np.float64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    figure = _figure(10.5, 9.5)
    axes = figure.add_subplot()
    shown = axes.imshow(shares, cmap="magma_r", vmin=0, vmax=1)
    at = np.arange(len(VOCABULARY))
    axes.set_xticks(at, VOCABULARY.names, rotation=90, fontsize=7)
    axes.set_yticks(at, VOCABULARY.names, fontsize=7)
    axes.set_xlabel("first answer")
    axes.set_ylabel("asked for")
    figure.colorbar(shown, shrink=0.6, label="share of the queries")
    return _png(figure)


def overlays(films: Sequence[Overlay]) -> bytes:
    """True boxes solid, found ones dashed."""
    rows = -(-len(films) // ACROSS)
    figure = _figure(2.65 * ACROSS, 2.95 * rows)
    for number, film in enumerate(films):
        axes = figure.add_subplot(rows, ACROSS, number + 1)
        low, high = np.percentile(film.image, (0.5, 99.5))
        axes.imshow(film.image, cmap="gray", vmin=low, vmax=max(float(high), float(low) + 1e-6))
        for box in film.truth.values():
            _box(axes, box, TRUE, "solid")
        for box in film.found.values():
            _box(axes, box, FOUND, "dashed")
        axes.set_title(film.title, fontsize=7, parse_math=False)
        axes.set_axis_off()
    return _png(figure)


def _box(axes: "Axes", box: Box, colour: str, style: str) -> None:
    from matplotlib.patches import Rectangle

    outline = Rectangle((box.x1, box.y1), box.width, box.height, fill=False, edgecolor=colour, linestyle=style, lw=0.8)
    axes.add_patch(outline)


def roc(ratios: Mapping[str, NDArray[np.float64]]) -> bytes:
    """The warning at every threshold, one line a kind; the dots are the stored threshold."""
    figure = _figure(6.0, 5.4)
    axes = figure.add_subplot()
    usual = ratios[UPRIGHT]
    for kind, values in ratios.items():
        if kind != UPRIGHT:
            limits = np.unique(np.concatenate([usual, values]))[::-1]
            false = [0.0, *(float((usual >= limit).mean()) for limit in limits)]
            true = [0.0, *(float((values >= limit).mean()) for limit in limits)]
            (line,) = axes.plot(false, true, label=kind.replace("_", " "))
            axes.plot([(usual > 1.0).mean()], [(values > 1.0).mean()], "o", color=line.get_color())
    axes.plot([0, 1], [0, 1], ":", color=TRIVIAL)
    axes.set_xlabel("share of usual regions warned about")
    axes.set_ylabel("share of unusual regions warned about")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return _png(figure)


def projection(vectors: NDArray[np.float32], anatomy: NDArray[np.int64]) -> bytes:
    """The first two principal components, coloured and numbered by anatomy."""
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    _, strength, axes_of = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes_of[:2].T  # (N, 2); (N, 1) where a vector has one number
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    share = strength**2 / max(float((strength**2).sum()), 1e-12)
    figure = _figure(10.5, 6.4)
    axes = figure.add_subplot()
    for number, index in enumerate(np.unique(anatomy)):
        own = flat[anatomy == index]
        colour = f"C{number % 10}"
        marker = "os^"[number // 10 % 3]
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=9,
            color=colour,
            marker=marker,
            alpha=0.6,
            label=f"{index} {VOCABULARY.names[index]}",
        )
        axes.annotate(str(index), own.mean(axis=0), fontsize=8, weight="bold")
    axes.set_xlabel(f"first component, {share[0]:.0%} of the variance")
    axes.set_ylabel(f"second component, {share[1] if len(share) > 1 else 0.0:.0%} of the variance")
    figure.legend(loc="outside right upper", fontsize=7)
    return _png(figure)
