"""What an encoder is, whoever made it: a film and boxes go in, unit vectors come out; and the checks that say so.

`prove` runs an encoder on two drawn films. One that answers another dimension, another norm, not the same twice, or
the same whatever it is shown, is a CheckpointError that says which.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.errors import CheckpointError
from encoder.runtime import Encoding, Picture, Spacing, picture

UNIT = 1e-3  # how far from 1 a norm may be
ALONE = 0.9999  # least cosine between a box encoded alone and among others: kernels round batches differently
BLIND = 1e-5  # two vectors that nowhere differ by more are one vector
ROWS, COLUMNS = 320, 256  # of a drawn film: not square, so that its place in the frame matters
BOXES = (
    Box(40.0, 60.0, 120.0, 170.0),
    Box(140.0, 60.0, 220.0, 170.0),
    Box(0.0, 250.0, 90.0, 320.0),  # in a corner: its context lies outside the film
    Box(100.5, 20.25, 150.75, 300.5),
    Box(200.0, 290.0, 212.0, 300.0),
)


class Encoder(Protocol):
    """Turns boxes of one film into vectors."""

    @property
    def model_id(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def size(self) -> int:
        """Pixels, side of the frame it takes: films are shrunk to it first."""
        ...

    @property
    def projections(self) -> tuple[str, ...]:
        """The names under which vectors are stored and compared."""
        ...

    def encode(self, film: Picture, boxes: Sequence[Box], spacing_mm: Spacing) -> Encoding:
        """Vectors (N, dim) of each projection, unit norm; anatomy probabilities (N, regions); the film's local map.

        Boxes: pixels of the stored image, inside it. Probabilities are all equal, and the map is None, where the
        encoder knows of none.
        """
        ...

    def encode_many(
        self, films: Sequence[Picture], boxes: Sequence[Sequence[Box]], spacings_mm: Sequence[Spacing]
    ) -> list[Encoding]:
        """`encode` for each film and its boxes."""
        ...


def unit(vectors: NDArray[np.float32], count: int, dim: int) -> NDArray[np.float32]:
    """(count, dim) vectors with what rounding took from their norm given back. CheckpointError when they are others."""
    if vectors.ndim != 2 or len(vectors) != count:
        raise CheckpointError(f"encoder: gives an array of shape {vectors.shape} for {count} boxes")
    if vectors.shape[1] != dim:
        raise CheckpointError(f"encoder: gives vectors of {vectors.shape[1]} numbers, its manifest says {dim}")
    if not np.isfinite(vectors).all():
        raise CheckpointError("encoder: gives numbers that are not finite")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    worst = float(norms.flat[np.abs(norms - 1.0).argmax()]) if count else 1.0
    if abs(worst - 1.0) > UNIT:
        raise CheckpointError(f"encoder: gives a vector of norm {worst:.4g}, expected 1 within {UNIT}")
    return np.asarray(vectors / norms, dtype=np.float32)


def prove(encoder: Encoder, boxes: Sequence[Box] = BOXES) -> None:
    """CheckpointError, in one line, unless the encoder keeps the protocol on drawn films, for these boxes of them."""
    one, other = (picture(_drawn(number), None, encoder.size) for number in (0, 1))
    with torch.inference_mode():
        first, second = _encoded(encoder, one, boxes), _encoded(encoder, other, boxes)
        again = _encoded(encoder, one, boxes)
        alone = [_encoded(encoder, one, (box,)) for box in boxes]
    for name in encoder.projections:
        if first[name].tobytes() != again[name].tobytes():
            raise CheckpointError("encoder: the same film does not give the same bytes twice")
        cosine = min(float(row @ single[name][0]) for row, single in zip(first[name], alone, strict=True))
        if cosine < ALONE:
            raise CheckpointError(f"encoder: a box alone and among others gives other vectors, cosine {cosine:.4f}")
        if float(np.ptp(first[name], axis=0).max()) < BLIND:
            raise CheckpointError("encoder: gives one and the same vector for every box of a film")
        if float(np.abs(first[name] - second[name]).max()) < BLIND:
            raise CheckpointError("encoder: gives the same vectors for another film")


def _encoded(encoder: Encoder, film: Picture, boxes: Sequence[Box]) -> dict[str, NDArray[np.float32]]:
    """Vectors of each projection, as the encoder gave them."""
    try:
        vectors, probability = encoder.encode(film, boxes, None)[:2]
    except RuntimeError as error:  # whatever torch cannot do, its programs included
        raise CheckpointError(f"encoder: fails on a drawn film: {_last_line(error)}") from error
    if tuple(vectors) != encoder.projections:
        raise CheckpointError(f"encoder: gives {', '.join(vectors)} where {', '.join(encoder.projections)} is promised")
    for rows in vectors.values():
        unit(rows, len(boxes), encoder.dim)
    if probability.shape != (len(boxes), len(VOCABULARY)) or not np.allclose(probability.sum(axis=1), 1.0, atol=UNIT):
        raise CheckpointError(f"encoder: gives no probabilities of {len(VOCABULARY)} anatomies for each box")
    return vectors


def _drawn(number: int) -> NDArray[np.float32]:
    """A film of nothing, with waves that differ from place to place and from number to number."""
    y, x = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    waves = np.sin(x / (11 + 6 * number) + number) * np.cos(y / (17 - 8 * number))
    rings = np.sin(x * y / (2500 + 900 * number))
    return np.asarray(waves + rings + x / COLUMNS + 0.5 * y / ROWS, dtype=np.float32)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
