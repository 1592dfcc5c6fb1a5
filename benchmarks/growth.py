"""Measurements at several sizes in, one picture of how queries, starting, memory and disk grow out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Sizes = Sequence[Mapping[str, Any]]
DPI = 110
PANELS: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "ms, whole node",
        {
            "drawn ROI to first answer": "first_ms",
            "eight at once, p50": "p50_ms",
            "eight at once, p99": "p99_ms",
            "search alone": "search_ms",
        },
    ),
    (
        "s",
        {
            "start to first answer": "first_answer_s",
            "index from snapshot": "from_snapshot_s",
            "index from SQL": "from_sql_s",
        },
    ),
    (
        "MiB",
        {"process with the index (PSS)": "node_mib", "snapshot": "snapshot_mib", "database": "database_mib"},
    ),
)
ENGINES = (
    ("ms a query, one anatomy", "query_ms"),
    ("s to build, one anatomy", "build_s"),
    ("bytes, one anatomy", "size"),
)


def draw(sizes: Sizes, path: Path) -> None:
    """Six panels against the number of regions, both axes logarithmic, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 3)
    for axes, (label, lines) in zip(above, PANELS, strict=True):
        _panel(axes, label, sizes, {name: [size[key] for size in sizes] for name, key in lines.items()})
    for axes, (label, key) in zip(below, ENGINES, strict=True):
        lines = {name: [size["engines"][name][key] for size in sizes] for name in sizes[0]["engines"]}
        _panel(axes, label, sizes, lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _panel(axes: "Axes", label: str, sizes: Sizes, lines: Mapping[str, Sequence[float]]) -> None:
    for name, values in lines.items():
        axes.plot([size["regions"] for size in sizes], values, "o-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="regions in the archive", ylabel=label)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
