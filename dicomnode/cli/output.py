"""What a command prints: one line of complaint, JSON for scripts, tables and progress bars for people."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False)


def complain(text: str) -> None:
    """One line on standard error, whatever the text holds."""
    print(f"dicomnode: {' '.join(text.split())}", file=sys.stderr)


def say(text: str) -> None:
    """A line for people on standard output."""
    OUT.print(text, markup=False)


def as_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; numbers to the right."""
    drawn = Table(title=title, title_justify="left")
    body = [list(row) for row in rows]
    for number, name in enumerate(columns):
        numeric = bool(body) and all(isinstance(row[number], int | float) for row in body)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        drawn.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(highlight=False, width=None if OUT.is_terminal else 160).print(drawn)


class Reporter:
    """Draws one bar a stage from `(stage, done, total, text)` calls, as the encoder package reports its work.

    On standard error, so that standard output stays clean; without a terminal only each bar's last state is left, and
    nothing where nothing was reported. A report with nothing to count, a total of 0, is a line of its own.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        if not total:
            self._line(f"{stage}: {text}")
            return
        if stage not in self._tasks:
            self._bars.start()
            self._tasks[stage] = self._bars.add_task(stage, total=total, note="")
        self._bars.update(self._tasks[stage], completed=done, total=total, note=text)

    def _line(self, text: str) -> None:
        if not self._bars.disable:
            self._bars.console.print(text, markup=False, soft_wrap=True)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Reporter]:
    """Bars for long work."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    bars = Progress(*columns, console=ERR, disable=quiet)
    try:
        yield Reporter(bars)
    finally:
        if bars.live.is_started:
            bars.stop()
