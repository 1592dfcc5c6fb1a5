"""Sections of plain blocks in, Markdown with numbers and contents out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DEEPEST = 6  # levels of heading that Markdown has


@dataclass(frozen=True)
class Paragraph:
    """Words."""

    text: str

    def lines(self) -> Iterator[str]:
        yield self.text
        yield ""


@dataclass(frozen=True)
class Bullets:
    """One line each."""

    items: Sequence[str]

    def lines(self) -> Iterator[str]:
        yield from (f"- {item}" for item in self.items)
        yield ""


@dataclass(frozen=True)
class Table:
    """Columns and rows of text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        yield f"| {' | '.join(self.columns)} |"
        yield f"|{'|'.join(' --- ' for _ in self.columns)}|"
        yield from (f"| {' | '.join(map(_cell, row))} |" for row in self.rows)
        yield ""


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    blocks: "Sequence[Paragraph | Bullets | Table | Section]" = ()


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The whole document, its sections numbered from 1."""
    lines = [f"# {title}", "", *_contents(sections), ""]
    for number, section in enumerate(sections, start=1):
        lines += _section(section, str(number), 2)
    return "\n".join(lines).rstrip() + "\n"


def _contents(sections: Sequence[Section]) -> Iterator[str]:
    for number, section in enumerate(sections, start=1):
        yield f"- {number} {section.title}"
        inner = [block for block in section.blocks if isinstance(block, Section)]
        yield from (f"  - {number}.{below} {each.title}" for below, each in enumerate(inner, start=1))


def _section(section: Section, number: str, level: int) -> Iterator[str]:
    yield f"{'#' * min(level, DEEPEST)} {number} {section.title}"
    yield ""
    below = 0
    for block in section.blocks:
        if isinstance(block, Section):
            below += 1
            yield from _section(block, f"{number}.{below}", level + 1)
        else:
            yield from block.lines()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
