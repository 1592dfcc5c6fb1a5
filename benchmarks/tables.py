"""What a benchmark found, as a table: printed, written as Markdown, or kept as values for scripts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as Printed


@dataclass(frozen=True)
class Table:
    """Columns and rows of text, with what a reader has to know below them; `values`: the same for scripts."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    values: Any = None

    @classmethod
    def of(cls, measures: Mapping[str, str]) -> "Table":
        """Two columns."""
        return cls(("measure", "value"), tuple(measures.items()), values=dict(measures))

    def show(self, title: str) -> None:
        """On standard output, as wide as it needs to be where that is no terminal."""
        console = Console()
        if not console.is_terminal:
            console = Console(width=240)
        printed = Printed(title=title, title_justify="left")
        for number, column in enumerate(self.columns):
            printed.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            printed.add_row(*row)
        console.print(printed)
        for note in self.notes:
            console.print(note, highlight=False)

    def markdown(self) -> str:
        """A Markdown table, the notes as a list."""
        lines = [self.columns, ("---", *("---:" for _ in self.columns[1:])), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([table, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"
