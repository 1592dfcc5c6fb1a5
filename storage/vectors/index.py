"""What an index of vectors is: ids and unit vectors in, the nearest ids with their inner products out.

An index is a cache of SQL's rows. Its scores choose candidates; what is answered is computed by scoring.py.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]  # (n,) region ids
Vectors = NDArray[np.float32]  # (n, dim), unit norm
Scores = NDArray[np.float32]  # (n,) inner products, -1..1

MARGIN = 1e-5  # an index's float32 score is this near to the exact one, with room to spare


class VectorIndex(Protocol):
    """Vectors of one generation, projection and anatomy. Safe for threads."""

    dim: int

    def __len__(self) -> int: ...

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Take in vectors whose ids are not there yet. VectorError when they are not of this dimension."""

    def remove(self, ids: Ids) -> None:
        """Forget these; ids that are not there are ignored."""

    def search(self, vector: NDArray[np.float32], k: int) -> tuple[Ids, Scores]:
        """The k nearest (all of them when there are fewer), best first, ties by id; possibly some more.

        `vector`: (dim,) float32, unit norm. VectorError when it is not of this dimension.
        """


class SavedIndex(VectorIndex, Protocol):
    """One that lives in memory, and in a file between two runs."""

    def save(self, path: Path) -> None:
        """Write a file that is complete or absent. StorageFull, FileError."""

    def load(self, path: Path) -> None:
        """Take the content of a file whose checksum is right. SnapshotDamaged when it is not this index's."""


def nearest(scores: Scores, k: int) -> NDArray[np.intp]:
    """Positions of the k best scores and all within MARGIN of the k-th: (n,) -> (m,), m >= min(k, n), in no order."""
    if k < 1:
        return np.empty(0, np.intp)
    if len(scores) <= k:
        return np.arange(len(scores))
    worst = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= worst - np.float32(MARGIN))


def ranked(ids: Ids, scores: Scores) -> tuple[Ids, Scores]:
    """Best first, ties by id."""
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]
