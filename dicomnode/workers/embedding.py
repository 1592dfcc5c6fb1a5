"""The question put to a query model and its reply, as values; the interface, and a fake that needs no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box
from encoder.local import LocalMap, patch
from encoder.occlusion import Grid


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


@dataclass(frozen=True)
class OcclusionRequest:
    """One box of a frame, to be encoded with parts of it covered, as `encoder.pipeline.Pipeline.occlude` does."""

    model_folder: Path
    file: Path
    frame: int  # counted from 1
    box: tuple[float, float, float, float]  # pixels of the stored image
    cells: int  # along the box's longer side
    numbers: tuple[int, int]  # of the grid's covers: the first, and the one behind the last


@dataclass(frozen=True, eq=False)
class RoiOcclusion:
    """One row a cover. vectors: projection -> (N, dim) float32, unit norm.

    cells: (N, h, w, channels) float32, the local map's under the box; None when the model has no local features.
    """

    grid: Grid
    vectors: dict[str, NDArray[np.float32]]
    cells: NDArray[np.float32] | None


class Encoder(Protocol):
    """Turns ROIs into vectors; `workers.roi.RoiProcess` is the real one."""

    def embed(self, request: RoiRequest) -> RoiEmbedding:
        """Vectors of the boxes. Raises ModelFailure or DecodeError."""


class Occluder(Encoder, Protocol):
    """Covers parts of ROIs, too."""

    def occlude(self, request: OcclusionRequest) -> RoiOcclusion:
        """The box encoded with each of the covers asked for. Raises as `embed`."""


class FakeEncoder:
    """Vectors made of the box alone: equal boxes get equal vectors, near boxes near ones. For tests of what is around.

    The anatomy is the one given for the box, or equally likely for all. The local map is the one given. Of what is
    covered it sees one thing: `sees`, a place; the more of it is hidden, the less the vector is the box's.
    """

    def __init__(
        self,
        dim: int,
        regions: int,
        anatomies: Mapping[tuple[float, ...], int] | None = None,
        local: LocalMap | None = None,
        sees: Box | None = None,
    ) -> None:
        self._projection = np.random.default_rng(0).normal(size=(4, dim))
        self._regions = regions
        self._anatomies = dict(anatomies or {})
        self._local = local
        self._sees = sees
        self.asked: list[RoiRequest] = []
        self.covered: list[OcclusionRequest] = []

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

    def occlude(self, request: OcclusionRequest) -> RoiOcclusion:
        """The box's vector, turned away from itself by as much of `sees` as is covered."""
        self.covered.append(request)
        own = RoiRequest(request.model_folder, request.file, request.frame, (request.box,))
        vector = self.embed(own).vectors["anatomy"][0]
        grid = Grid.over(Box(*request.box), request.cells, (1.0, 1.0))
        covers = [grid.cover(number) for number in range(*request.numbers) if number < grid.count]
        maps = [] if self._local is None else [_blotted(self._local, cover) for cover in covers]
        cells = np.stack([patch(each, Box(*request.box)).features for each in maps]) if maps else None
        return RoiOcclusion(grid, {"anatomy": np.stack([self._turned(vector, cover) for cover in covers])}, cells)

    def _turned(self, vector: NDArray[np.float32], cover: Box | None) -> NDArray[np.float32]:
        if cover is None or self._sees is None:
            return vector
        share = cover.intersection(self._sees).area / self._sees.area
        away = np.roll(vector, 1) - (np.roll(vector, 1) @ vector) * vector  # at a right angle
        turned = (1 - share) * vector + share * away / np.linalg.norm(away)
        return np.asarray(turned / np.linalg.norm(turned), dtype=np.float32)


def _blotted(local: LocalMap, cover: Box | None) -> LocalMap:
    """A map that says nothing of what is covered."""
    if cover is None:
        return local
    (rows, columns, _), (width, height) = local.features.shape, local.cell
    x = local.area.x1 + (np.arange(columns) + 0.5) * width
    y = local.area.y1 + (np.arange(rows) + 0.5) * height
    across, down = (x >= cover.x1) & (x < cover.x2), (y >= cover.y1) & (y < cover.y2)
    return LocalMap(np.where((down[:, None] & across)[..., None], np.int8(0), local.features), local.area)
