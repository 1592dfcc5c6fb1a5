"""The question put to a query model and its reply, as values; the interface, and a fake that needs no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.local import LocalMap


@dataclass(frozen=True)
class RoiRequest:
    """Boxes in pixels of the stored image, on one frame (counted from 1) of one file."""

    model_folder: Path
    file: Path
    frame: int
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, eq=False)
class RoiEmbedding:
    """One row a box. vectors: projection -> (N, dim) float32, unit norm; anatomy_probability: (N, regions) float32.

    local: of the whole frame, some tens of KiB; None when the model has no local features.
    """

    vectors: dict[str, NDArray[np.float32]]
    anatomy_probability: NDArray[np.float32]
    local: LocalMap | None = None


class Encoder(Protocol):
    """Turns ROIs into vectors; `workers.roi.RoiProcess` is the real one."""

    def embed(self, request: RoiRequest) -> RoiEmbedding:
        """Vectors of the boxes. Raises ModelFailure or DecodeError."""


class FakeEncoder:
    """Vectors made of the box alone: equal boxes get equal vectors, near boxes near ones. For tests of what is around.

    The anatomy is the one given for the box, or equally likely for all. The local map is the one given.
    """

    def __init__(
        self,
        dim: int,
        regions: int,
        anatomies: Mapping[tuple[float, ...], int] | None = None,
        local: LocalMap | None = None,
    ) -> None:
        self._projection = np.random.default_rng(0).normal(size=(4, dim))
        self._regions = regions
        self._anatomies = dict(anatomies or {})
        self._local = local
        self.asked: list[RoiRequest] = []

    def embed(self, request: RoiRequest) -> RoiEmbedding:
        """Unit vectors of the boxes' coordinates."""
        self.asked.append(request)
        raw = np.asarray(request.boxes, dtype=np.float64) @ self._projection  # (N, 4) @ (4, dim)
        vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        probability = np.full((len(request.boxes), self._regions), 1.0 / self._regions, dtype=np.float32)
        for row, box in enumerate(request.boxes):
            if box in self._anatomies:
                probability[row] = np.eye(self._regions, dtype=np.float32)[self._anatomies[box]]
        return RoiEmbedding({"anatomy": vectors}, probability, self._local)
