"""The way in: an image goes in, its regions and their vectors come out; an image with drawn boxes, their vectors.

Importing this module costs nothing: torch and monai come with `Pipeline.load`. `describe` reads manifests alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box
from encoder.checkpoint import SHIPPED, ModelCard, describe, home
from encoder.local import LocalMap, patch
from encoder.occlusion import Grid

if TYPE_CHECKING:
    from encoder.protocol import Encoder
    from encoder.runtime import DetectorRuntime

__all__ = ["SHIPPED", "Analysis", "Embedding", "ModelCard", "Occluded", "Pipeline", "Region", "describe"]


@dataclass(frozen=True)
class Region:
    """An anatomical region found in an image."""

    anatomy: int  # index in the vocabulary
    box: Box  # pixels of the stored image
    presence: float  # 0..1
    certainty: float  # 0..1: the IoU with the true region that the box is likely to have


@dataclass(frozen=True, eq=False)
class Analysis:
    """All regions found in one image, each anatomy at most once, in vocabulary order."""

    regions: tuple[Region, ...]
    vectors: Mapping[str, NDArray[np.float32]]  # projection -> (N, dim), rows in the order of `regions`, unit norm
    local: LocalMap | None = None  # None when the model set has no local features


@dataclass(frozen=True, eq=False)
class Embedding:
    """Given boxes of one image, encoded."""

    vectors: Mapping[str, NDArray[np.float32]]  # projection -> (N, dim), rows in the order of the boxes, unit norm
    anatomy_probability: NDArray[np.float32]  # (N, 29): which anatomy each box looks like
    local: LocalMap | None = None  # of the whole image; None when the model set has no local features


@dataclass(frozen=True, eq=False)
class Occluded:
    """A region encoded again and again, part by part of it covered: a row for each cover, in the grid's order."""

    grid: Grid
    vectors: Mapping[str, NDArray[np.float32]]  # projection -> (N, dim), unit norm
    cells: NDArray[np.float32] | None  # (N, h, w, channels): the local map's under the box; None without local features


class Pipeline:
    """A model set, loaded. On a CPU two films never meet in a batch: what is encoded before changes nothing.

    Memory bound: one film at a time, about 80 MB beside the models whatever the film's size, and the film itself. On a
    GPU, that many films at a time as `analyse_many` is given.
    """

    def __init__(self, card: ModelCard, detector: "DetectorRuntime", encoder: "Encoder") -> None:
        self.card = card
        self._detector = detector
        self._encoder = encoder
        self._size = max(detector.size, encoder.size)

    @classmethod
    def load(
        cls, folder: Path = SHIPPED, device: str = "cpu", threads: int | None = None, runtime: str = "auto"
    ) -> "Pipeline":
        """Check and load a model set. CheckpointError when any part of it is missing, damaged or of another format.

        `threads` is torch's number of threads for the whole process; None leaves it. `runtime`: "torch", "openvino",
        or "auto" for OpenVINO where it is installed and `device` is "cpu".
        """
        from encoder.plugin import load_encoder
        from encoder.runtime import DetectorRuntime, steady

        steady(threads)
        detector = DetectorRuntime.load(home(folder, "detector"), device, runtime, threads)
        return cls(describe(folder), detector, load_encoder(folder, device, runtime, threads))

    def analyse(self, image: NDArray[np.generic], spacing_mm: tuple[float, float] | None = None) -> Analysis:
        """Find every region of a (H, W) image, high = bright, and encode all of them in one pass of the trunk.

        `spacing_mm`: between rows, between columns; None for square pixels. ImageError when it is no picture.
        """
        return self.analyse_many([image], [spacing_mm])[0]

    def analyse_many(
        self,
        images: Sequence[NDArray[np.generic]],
        spacings_mm: Sequence[tuple[float, float] | None] | None = None,
    ) -> list[Analysis]:
        """`analyse` for each image: in one batch on a GPU, one after the other on a CPU, where they never meet.

        ImageError when one is no picture: then none is analysed.
        """
        import torch

        from encoder.runtime import picture

        spacings = spacings_mm or [None] * len(images)
        with torch.inference_mode():
            films = [picture(image, each, self._size) for image, each in zip(images, spacings, strict=True)]
            found = self._detector.find_many(films, spacings)
            boxes = [[each.box for each in regions] for regions in found]
            encoded = self._encoder.encode_many(films, boxes, spacings)
        return [
            Analysis(tuple(Region(*row) for row in regions), vectors, local)
            for regions, (vectors, _, local) in zip(found, encoded, strict=True)
        ]

    def embed(
        self, image: NDArray[np.generic], boxes: Sequence[Box], spacing_mm: tuple[float, float] | None = None
    ) -> Embedding:
        """Encode given boxes (pixels of the stored image, clipped to it). ImageError when one lies outside."""
        import torch

        from encoder.runtime import inside, picture

        with torch.inference_mode():
            film = picture(image, spacing_mm, self._size)
            within = inside(boxes, film.image_height, film.image_width)
            vectors, probability, local = self._encoder.encode(film, within, spacing_mm)
        return Embedding(vectors, probability, local)

    def occlude(
        self,
        image: NDArray[np.generic],
        box: Box,
        cells: int,
        numbers: tuple[int, int],
        spacing_mm: tuple[float, float] | None = None,
    ) -> Occluded:
        """Encode a box of an image with parts of it hidden behind the mean of what lies in it: some covers of its grid.

        `cells` along the box's longer side; `numbers`: the first cover wanted and the one behind the last, of
        `Grid.count`. Each is a pass of its own over the covered film. ImageError when the box lies outside.
        """
        import torch

        from encoder.runtime import covered, inside, picture

        with torch.inference_mode():
            film = picture(image, spacing_mm, self._size)
            (within,) = inside([box], film.image_height, film.image_width)
            grid = Grid.over(within, cells, film.told_apart)
            covers = [grid.cover(number) for number in range(numbers[0], min(numbers[1], grid.count))]
            films = [covered(film, within, cover) for cover in covers]
            encoded = self._encoder.encode_many(films, [[within]] * len(films), [spacing_mm] * len(films))
        vectors = {
            name: np.concatenate([vectors[name] for vectors, _, _ in encoded]) for name in self._encoder.projections
        }
        maps = [local for _, _, local in encoded if local is not None]
        under = np.stack([patch(local, box).features for local in maps]) if maps else None
        return Occluded(grid, vectors, under)
