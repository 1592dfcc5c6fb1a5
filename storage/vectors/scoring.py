"""Stored fp16 vectors and a query in, cosines out that are the same on every machine and in every company.

A product of an fp16 and an fp32 number is exact in float64, and math.fsum rounds the exact sum once. So a score does
not depend on the number of rows, their order, BLAS or its threads, as a matrix product's last digits do.
"""

from collections.abc import Sequence
from math import fsum, sqrt

import numpy as np
from numpy.typing import NDArray

from storage.errors import VectorError

DECIMALS = 6  # of a score: what is answered, compared and tied


def unit(vector: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The query as indexes take it: (dim,) float32, unit norm. VectorError when it has no direction."""
    if vector.shape != (dim,):
        raise VectorError(f"a query of shape {vector.shape} where the generation has ({dim},)")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < norm < float("inf"):
        raise VectorError("a query that is zero or not finite has no direction")
    return (vector / norm).astype(np.float32)


def units(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    """Stored rows as indexes take them: (n, dim) fp16 -> (n, dim) float32, unit norm (fp16 misses it by 5e-4)."""
    wide = stored.astype(np.float32)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return wide


def cosines(query: NDArray[np.float32], stored: NDArray[np.float16]) -> list[float]:
    """Cosine of the query (dim,) with each stored row (n, dim), rounded to DECIMALS."""
    wide = query.astype(np.float64)
    rows = stored.astype(np.float64)
    length = sqrt(fsum((wide * wide).tolist()))
    dots: Sequence[float] = [fsum(row) for row in (rows * wide).tolist()]
    lengths: Sequence[float] = [sqrt(fsum(row)) for row in (rows * rows).tolist()]
    return [round(dot / (length * other), DECIMALS) for dot, other in zip(dots, lengths, strict=True)]
