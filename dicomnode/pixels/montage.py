"""A question's region and its hits in, one colour picture out: each cut out with its surroundings, boxed and titled.

Nothing is written into the picture but the titles given. A film that says it has text burnt in is not shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from encoder.boxes import Box

ASKED, HIT = "#ffd23f", "#3fd2ff"  # readable on film, and for the colour-blind
_BACKGROUND, _EMPTY, _TEXT, _QUIET = "#14161a", "#24272d", "#ffffff", "#a8b0bd"
COLUMNS: Final = 4
_SIDE: Final = 288  # pixels of a hit's picture
_LINE: Final = 20  # of a line of text
_GAP: Final = 12
_CELL: Final = _SIDE + 2 * _LINE + 2 * _GAP
_SURROUNDINGS: Final = 0.6  # of the box's longer side, on each side of it
_SHOWN: Final = (0.5, 99.5)  # percentiles of what is cut out that become black and white


@dataclass(frozen=True, eq=False)
class Tile:
    """One region. Box: pixels of the picture it is cut out of."""

    pixels: NDArray[np.float32] | None  # (rows, columns), high is bright; None: not shown
    box: Box
    title: str
    subtitle: str


def montage(asked: Tile, hits: Sequence[Tile], heading: str, note: str = "") -> NDArray[np.uint8]:
    """The asking region large on the left, the hits in rank order beside it: (rows, columns, 3), RGB."""
    rows = max(2, -(-len(hits) // COLUMNS))
    columns = min(COLUMNS, max(1, len(hits)))
    large = 2 * _CELL - 2 * _LINE - 2 * _GAP
    size = (_GAP + large + _GAP + columns * (_SIDE + _GAP), _GAP + 2 * _LINE + rows * _CELL)
    picture = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _words(draw, (_GAP, _GAP), heading, _TEXT)
    _words(draw, (_GAP, _GAP + _LINE), note, _QUIET)
    top = _GAP + 2 * _LINE
    _tile(picture, draw, asked, (_GAP, top), large, ASKED)
    for number, hit in enumerate(hits):
        row, column = divmod(number, COLUMNS)
        corner = (_GAP + large + _GAP + column * (_SIDE + _GAP), top + row * _CELL)
        _tile(picture, draw, hit, corner, _SIDE, HIT)
    return np.array(picture, dtype=np.uint8)


def _tile(
    picture: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], side: int, colour: str
) -> None:
    """Two lines of text, below them the cut in the middle of a square."""
    left, top = corner
    _words(draw, (left, top), tile.title, colour)
    _words(draw, (left, top + _LINE), tile.subtitle, _TEXT)
    top += 2 * _LINE + _GAP // 2
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=_EMPTY)
    if tile.pixels is None:
        _words(draw, (left + _GAP, top + side // 2), "not shown: text burnt in", _QUIET)
        return
    cut = surroundings(tile.box, tile.pixels.shape[1], tile.pixels.shape[0])
    shown = Image.fromarray(_levels(tile.pixels[int(cut.y1) : int(cut.y2), int(cut.x1) : int(cut.x2)]))
    scale = side / max(shown.size)
    width, height = (max(1, round(length * scale)) for length in shown.size)
    x, y = left + (side - width) // 2, top + (side - height) // 2
    picture.paste(shown.resize((width, height), Image.Resampling.LANCZOS), (x, y))
    edges = [(tile.box.x1 - cut.x1, tile.box.y1 - cut.y1), (tile.box.x2 - cut.x1, tile.box.y2 - cut.y1)]
    draw.rectangle([(x + column * scale, y + row * scale) for column, row in edges], outline=colour, width=2)


def surroundings(box: Box, columns: int, rows: int) -> Box:
    """Whole pixels around the box with some of what is beside it, inside an image of that size."""
    margin = _SURROUNDINGS * max(box.width, box.height, 8.0)
    x1, y1 = max(0, int(box.x1 - margin)), max(0, int(box.y1 - margin))
    x2, y2 = min(columns, int(box.x2 + margin) + 1), min(rows, int(box.y2 + margin) + 1)
    return Box(min(x1, columns - 1), min(y1, rows - 1), max(x2, x1 + 1), max(y2, y1 + 1))


def _levels(cut: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = np.percentile(cut, _SHOWN)
    stretched = (cut - low) / max(high - low, 1e-6)
    levels: NDArray[np.uint8] = (np.clip(stretched, 0.0, 1.0) * 255).astype(np.uint8)
    return levels


def _words(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, colour: str) -> None:
    draw.text(corner, text, fill=colour, font=ImageFont.load_default(_LINE - 5))
