"""Films shrunk to working size go in, the same films come out by number: they lie in a scratch file in between.

Memory bound: none of a film's pixels stay here. Disk: 4 bytes a working pixel, 0.4 MB a film for a frame of 256 and
0.9 MB for one of 384; while there is memory to spare the system keeps the file in it. The file has no name and is gone
when the run ends, however it ends.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import overload
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from encoder.data import Film
from encoder.train.augment import Cached

TOP = 65535  # the stored value of 1.0


class Shelf(Sequence[Cached]):
    """Grows at its end."""

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        finalize(self, self._file.close)
        self._end = 0  # bytes
        self._places: list[tuple[Film, int, tuple[int, int], tuple[float, float]]] = []  # film, offset, shape, scale

    def add(self, film: Cached) -> None:
        content = b"".join(_stored(pixels) for pixels in (film.pixels, film.ranks))
        self._file.write(content)
        self._file.flush()
        rows, columns = film.pixels.shape
        self._places.append((film.film, self._end, (rows, columns), film.scale))
        self._end += len(content)

    @property
    def films(self) -> list[Film]:
        return [film for film, *_ in self._places]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Cached: ...

    @overload
    def __getitem__(self, index: slice) -> list[Cached]: ...

    def __getitem__(self, index: int | slice) -> Cached | list[Cached]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        film, offset, shape, scale = self._places[index]
        pixels, ranks = self._read(offset, shape)
        return Cached(film, pixels, ranks, scale)

    def _read(self, offset: int, shape: tuple[int, int]) -> Tensor:
        """(2, h, w) float32: pixels and ranks, 0..1."""
        rows, columns = shape
        content = os.pread(self._file.fileno(), 4 * rows * columns, offset)
        stored = np.frombuffer(content, "<u2").reshape(2, rows, columns)
        return torch.from_numpy(stored.astype(np.float32) / TOP)


def _stored(pixels: Tensor) -> bytes:
    return (pixels.clamp(0.0, 1.0) * TOP).round().numpy().astype("<u2").tobytes()
