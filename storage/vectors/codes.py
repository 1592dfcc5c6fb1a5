"""Unit vectors in, a byte for each coordinate out; a scan of the bytes, and by how much it can be wrong.

The regions of one anatomy are much alike: their cosines differ in the third decimal. So what is coded is how a vector
differs from the centre of all of them: vector = centre + scale x code + rest. With a query taken apart in the same way
a product of codes misses the cosine by no more than |query's difference| |rest| and |query's rest| |code| (Cauchy and
Schwarz), whose lengths are kept beside the code: a scan says which rows cannot be among the best, never wrongly.
Products of bytes are whole numbers, the same on every processor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simsimd
from numpy.typing import NDArray

from storage.vectors.index import Scores, Vectors

LARGEST = 127  # of a code; -128 is left out, as processors' fastest products of bytes want it
ROUNDING = 2e-6  # what float32 may add to all that, with room to spare
PIECE = 16_384  # rows multiplied or coded at once: other threads get their turn, and little is held as float32

Codes = NDArray[np.int8]  # (n, dim)


@dataclass(frozen=True)
class Coded:
    """Aligned: n vectors as bytes around a centre, (dim,) float32."""

    codes: Codes  # (n, dim)
    scales: Scores  # (n,) what one step of a code is
    offsets: Scores  # (n,) product of the centre and the difference from it, exactly
    rests: Scores  # (n,) length of what the codes leave out
    lengths: Scores  # (n,) length of what the codes say


def centre(rows: int, vectors: Callable[[slice], Vectors]) -> NDArray[np.float32]:
    """The mean of as many unit vectors, asked for piece by piece."""
    total = sum(vectors(piece).sum(axis=0, dtype=np.float64) for piece in pieces(rows))
    return np.asarray(total / max(rows, 1), np.float32)


def coded(vectors: Vectors, around: NDArray[np.float32]) -> Coded:
    """(n, dim) float32, unit norm -> its codes around a centre. The centre itself has codes of zero."""
    differences: Vectors = vectors - around
    scales = np.abs(differences).max(axis=1, initial=np.finfo(np.float32).tiny) / np.float32(LARGEST)
    codes = np.rint(differences / scales[:, None]).astype(np.int8)
    said = codes * scales[:, None]
    offsets: Scores = differences @ around
    return Coded(codes, scales, offsets, _lengths(differences - said), _lengths(said))


def pieces(rows: int) -> list[slice]:
    """Slices of PIECE rows that make up all; an empty one for none."""
    return [slice(start, min(start + PIECE, rows)) for start in range(0, max(rows, 1), PIECE)]


def _lengths(rows: Vectors) -> Scores:
    found: Scores = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return found


class Probe:
    """One query, (dim,) float32 of unit norm, as a scan of codes around a centre takes it."""

    def __init__(self, vector: NDArray[np.float32], around: NDArray[np.float32]) -> None:
        own = coded(vector[None], around)
        self._codes, self._scale, self._rest = own.codes, own.scales[0], own.rests[0]
        self._length = np.float32(np.linalg.norm(vector - around))
        self._base = np.float32(vector @ around)

    def products(self, codes: Codes) -> Scores:
        """Codes by codes: (n, dim), n >= 1 -> (n,), whole numbers."""
        found = np.empty(len(codes), np.float32)
        for piece in pieces(len(codes)):
            found[piece] = np.asarray(simsimd.cdist(self._codes, codes[piece], "dot"))[0]
        return found

    def scores(self, products: Scores, scales: Scores, offsets: Scores) -> Scores:
        """What the cosine is about: (n,)."""
        about: Scores = products * (scales * self._scale) + (offsets + self._base)
        return about

    def margins(self, rests: Scores, lengths: Scores) -> Scores:
        """By how much the cosine may be less or more than `scores` says: (n,)."""
        margins: Scores = rests * self._length + lengths * self._rest + np.float32(ROUNDING)
        return margins
