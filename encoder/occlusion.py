"""A region goes in, the parts of it that are covered in turn come out; what each cost goes in, a map comes out.

Occlusion sensitivity (Zeiler and Fergus 2014, arXiv 1311.2901) of a similarity: a square slides over the region, and
how much less alike the covered film is says what the square lay on. As for retrieval in Dong, Collins and Hoogs,
"Explainability for content-based image retrieval" (CVPR workshops 2019), squares overlap and each place is told the
mean of those that lay on it. What is below zero, where covering makes it more alike, is kept here. numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box

WINDOW = 2  # cells along each side of what is covered: it moves by one, so each cell but the outer ones has four
FEWEST = 4  # cells along the shorter side of a long region, where there are pixels for them
WHOLE = 2  # covers that are no window: nothing, and all of the region


@dataclass(frozen=True)
class Grid:
    """A region cut into cells that are about square. Row 0, column 0 is its top left corner."""

    box: Box  # the region, pixels of the stored image, inside it
    rows: int
    columns: int

    @classmethod
    def over(cls, box: Box, cells: int, least: tuple[float, float]) -> "Grid":
        """`cells`: along the longer side; `least`: width and height of the smallest cell, stored pixels."""
        width, height = box.width / least[0], box.height / least[1]  # in pixels of the model
        longer = max(width, height)
        columns, rows = (_along(cells, side, longer) for side in (width, height))
        return cls(box, rows, columns)

    @property
    def count(self) -> int:
        """How many covers there are."""
        down, across = self._places
        return WHOLE + down * across

    def cover(self, number: int) -> Box | None:
        """What the cover hides, stored pixels: 0 is none, 1 the whole region, then the windows in row order."""
        if number < WHOLE:
            return self.box if number else None
        row, column = divmod(number - WHOLE, self._places[1])
        width, height = self.box.width / self.columns, self.box.height / self.rows
        left, top = self.box.x1 + column * width, self.box.y1 + row * height
        high, wide = self._window
        return Box(left, top, left + wide * width, top + high * height)

    def spread(self, costs: Sequence[float]) -> NDArray[np.float32]:
        """(rows, columns): the mean of what the windows over each cell cost. `costs`: a window each, in their order."""
        (down, across), (high, wide) = self._places, self._window
        sums, counts = np.zeros((self.rows, self.columns)), np.zeros((self.rows, self.columns))
        for number, cost in enumerate(costs):
            row, column = divmod(number, across)
            sums[row : row + high, column : column + wide] += cost
            counts[row : row + high, column : column + wide] += 1
        assert len(costs) == down * across
        return np.asarray(sums / counts, dtype=np.float32)

    @property
    def _window(self) -> tuple[int, int]:
        return min(WINDOW, self.rows), min(WINDOW, self.columns)

    @property
    def _places(self) -> tuple[int, int]:
        """Rows and columns that a window can begin at."""
        high, wide = self._window
        return self.rows - high + 1, self.columns - wide + 1


def _along(cells: int, side: float, longer: float) -> int:
    """Cells along a side of so many pixels of the model."""
    wanted = max(round(cells * side / longer), min(FEWEST, cells))
    return max(1, min(wanted, int(side)))
