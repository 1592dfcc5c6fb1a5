"""Vectors of one anatomy and whose they are go in; how far each lies from the others, and how far is unusual, come out.

The idea of ACIR: the distance of an ROI is the mean cosine distance to its 5 nearest of the same anatomy in other
patients; over the 95th percentile of the archive's own distances, each patient left out, it is unlike the archive.
numpy only: the node asks this without any model.
"""

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 5
PERCENTILE = 95.0
LEAST = 20  # distances from which a 95th percentile can be told
BLOCK = 512  # rows of a score matrix at once

Vectors = NDArray[np.float32]
Distances = NDArray[np.float64]


def distances(asked: Vectors, patients: NDArray[np.int64], among: Vectors, theirs: NDArray[np.int64]) -> Distances:
    """(Q, D), (Q,), (N, D), (N,) -> (Q,) distance to the nearest of other patients; NaN where there are too few."""
    found = np.full(len(asked), np.nan)
    for start in range(0, len(asked), BLOCK):
        rows = slice(start, start + BLOCK)
        other = patients[rows, None] != theirs[None, :]
        scores = np.where(other, asked[rows] @ among.T, -np.inf)
        enough = other.sum(axis=1) >= NEIGHBOURS
        if enough.any():
            nearest = -np.partition(-scores[enough], NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
            found[np.flatnonzero(enough) + start] = 1.0 - nearest.mean(axis=1)
    return found


def left_out(vectors: Vectors, patients: NDArray[np.int64]) -> Distances:
    """(N, D), (N,) -> (N,): each vector to those of other patients."""
    return distances(vectors, patients, vectors, patients)


def threshold(values: Distances) -> float | None:
    """The distance that is unusual; None where too few are known to tell.

    The percentile of the next one to come (Weibull's plotting position), not of those seen: with 25 films the 95th
    percentile of those seen is passed by one newcomer in twelve.
    """
    known = values[~np.isnan(values)]
    return float(np.percentile(known, PERCENTILE, method="weibull")) if len(known) >= LEAST else None
