"""A measurement in, one HTML file out: tables and plots in it, nothing fetched from anywhere, all text escaped."""

import base64
import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from encoder.evaluate import plots
from encoder.evaluate.evaluation import Evaluation
from encoder.evaluate.tables import Table, tables, text
from encoder.evaluate.unlike import UPRIGHT

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #666; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .7rem; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
p.note, figcaption { color: var(--quiet); font-size: .9rem; }
figure { margin: .8rem 0; } img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
@media (prefers-color-scheme: dark) { :root { --quiet: #aaa; } }
"""
MOST_LINES = 500  # of what was left out: a large collection clips thousands of boxes
DISCLAIMER = "Not for diagnostic use. Numbers hold for the films measured and for no others."


def write(path: Path, evaluation: Evaluation) -> None:
    """Write the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(evaluation), encoding="utf-8")


def render(evaluation: Evaluation) -> str:
    """The report as one HTML document."""
    title = f"dicomnode evaluate {evaluation.title}"
    parts = [_table(table) for table in tables(evaluation.summary)]
    parts += [part for section in SECTIONS for part in section(evaluation)]
    parts.append(_left_out(evaluation.summary))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>"
        f'<p class="note">{html.escape(DISCLAIMER)}</p>\n' + "\n".join(parts) + "\n</body></html>\n"
    )


def _heading(title: str, note: str = "") -> str:
    said = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<h2>{html.escape(title[:1].upper() + title[1:])}</h2>{said}"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    shown = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if table.rows else ""
    return _heading(table.title, table.note) + shown


def _cell(cell: str | float | None) -> str:
    kind = ' class="number"' if isinstance(cell, int | float) else ""
    return f"<td{kind}>{html.escape(text(cell))}</td>"


def _figure(png: bytes, about: str) -> str:
    data = base64.b64encode(png).decode()
    said = html.escape(about)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{said}"><figcaption>{said}</figcaption></figure>'


def _bars(evaluation: Evaluation) -> Iterator[str]:
    summary: Any = evaluation.summary
    ranks = summary.get("retrieval", {}).get("anatomy", {}).get("per_region")
    boxes = summary.get("detector", {}).get("per_region")
    if ranks or boxes:
        yield _heading("Regions, with 95 % intervals over patients")
    if ranks:
        about = "Mean average precision of each region's retrieval, best first from below."
        yield _figure(plots.bars(ranks, "map", None, "mAP"), about)
    if boxes:
        about = "Overlap of found and true box of each region; the grey mark is what a constant mean box reaches."
        yield _figure(plots.bars(boxes, "iou", "mean_box_iou", "IoU"), about)


def _confusion(evaluation: Evaluation) -> Iterator[str]:
    summary: Any = evaluation.summary
    counts = summary.get("retrieval", {}).get("anatomy", {}).get("confusion")
    if counts:
        yield _heading("Confusion of the first answer")
        yield _figure(plots.confusion(counts), "Share of each region's queries by the anatomy of the first answer.")


def _overlays(evaluation: Evaluation) -> Iterator[str]:
    films = evaluation.material.overlays
    if films:
        yield _heading("True and found boxes")
        about = (
            "The films with the worst boxes and those in the middle: true boxes solid yellow, found ones dashed blue."
        )
        yield _figure(plots.overlays(films), about)


def _roc(evaluation: Evaluation) -> Iterator[str]:
    ratios = evaluation.material.ratios
    if len(ratios) > 1 and UPRIGHT in ratios:
        yield _heading("Receiver operating characteristic of the unlike-archive warning")
        yield _figure(plots.roc(ratios), "One line for each kind of unusual region; the dot is the stored threshold.")


def _projection(evaluation: Evaluation) -> Iterator[str]:
    vectors, anatomy = evaluation.material.vectors, evaluation.material.anatomy
    if len(vectors) > 2:
        yield _heading("Projection map")
        about = f"{len(vectors)} anatomy vectors on their first two principal components, coloured by anatomy."
        yield _figure(plots.projection(vectors, anatomy), about)


def _left_out(summary: dict[str, object]) -> str:
    lines = summary.get("left_out")
    if not isinstance(lines, list) or not lines:
        return _heading("Left out, by name", "Nothing was left out.")
    items = "".join(f"<li>{html.escape(str(line))}</li>" for line in lines[:MOST_LINES])
    more = f"The first {MOST_LINES} of {len(lines)}." if len(lines) > MOST_LINES else ""
    return _heading("Left out, by name", more) + f"<ul>{items}</ul>"


SECTIONS: tuple[Callable[[Evaluation], Iterator[str]], ...] = (_bars, _confusion, _overlays, _roc, _projection)
