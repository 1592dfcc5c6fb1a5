"""An image in, regions and vectors made of its bytes out: a pipeline that loads in no time, for storms of restarts.

What is under fire is what keeps and finds vectors, not what makes them. Same pixels, same vectors, in every process.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box
from encoder.checkpoint import ModelCard, describe
from encoder.local import LocalMap
from encoder.pipeline import Analysis, Embedding, Region

SHOWN = (0, 8, 24, 27)  # right lung, left lung, heart, carina
SHARES = {0: (0.1, 0.1, 0.45, 0.8), 8: (0.55, 0.1, 0.9, 0.8), 24: (0.35, 0.4, 0.7, 0.8), 27: (0.4, 0.2, 0.6, 0.5)}
CELLS, CHANNELS = 8, 16  # of the local map


class QuickPipeline:
    """Stands for `encoder.pipeline.Pipeline`."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    @classmethod
    def load(cls, folder: Path, *_: Any) -> "QuickPipeline":
        """The card alone. CheckpointError as the real one."""
        return cls(describe(folder))

    def analyse(self, image: NDArray[np.generic], spacing_mm: tuple[float, float] | None = None) -> Analysis:
        """Four regions at fixed shares of the image."""
        height, width = image.shape
        boxes = [Box(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in SHARES.values()]
        regions = tuple(Region(anatomy, box, 0.9, 0.8) for anatomy, box in zip(SHOWN, boxes, strict=True))
        vectors = self._vectors(image, [(anatomy,) for anatomy in SHOWN])
        return Analysis(regions, vectors, _map(image))

    def embed(
        self, image: NDArray[np.generic], boxes: Sequence[Box], spacing_mm: tuple[float, float] | None = None
    ) -> Embedding:
        """A vector for each box, every anatomy as likely as the next."""
        probability = np.full((len(boxes), len(self.card.regions)), 1 / len(self.card.regions), np.float32)
        return Embedding(
            self._vectors(image, [tuple(int(side) for side in box) for box in boxes]), probability, _map(image)
        )

    def _vectors(self, image: NDArray[np.generic], seeds: list[tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
        found = {}
        for place, projection in enumerate(self.card.projections):
            rows = [_rng(image, place, *seed).standard_normal(self.card.dim).astype(np.float32) for seed in seeds]
            found[projection] = np.stack([row / np.linalg.norm(row) for row in rows])
        return found


def _rng(image: NDArray[np.generic], *seed: int) -> np.random.Generator:
    digest = hashlib.sha256(np.ascontiguousarray(image)).digest()
    return np.random.default_rng([*digest[:8], *seed])


def _map(image: NDArray[np.generic]) -> LocalMap:
    cells = _rng(image).integers(-127, 127, (CELLS, CELLS, CHANNELS)).astype(np.int8)
    height, width = image.shape
    return LocalMap(cells, Box(0, 0, width, height))
