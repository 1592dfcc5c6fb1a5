"""A model folder goes in, models that run on films come out: the torch below `encoder.pipeline`.

On a CPU two films never meet in a batch; on a GPU those that are given together are one.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder import engine
from encoder.boxes import Box
from encoder.checkpoint import Manifest, read_manifest, read_weights
from encoder.choice import chosen
from encoder.detector import Detector, DetectorShape, Slots
from encoder.errors import CheckpointError, ImageError
from encoder.local import SCALE, LocalMap
from encoder.preprocess import SETTINGS, Placement, checked, framed, placement, resized
from encoder.roi_encoder import Encoded, EncoderShape, RoiEncoder
from encoder.trunk import TrunkShape

Spacing = tuple[float, float] | None  # mm between rows, between columns; None for square pixels
Encoding = tuple[dict[str, NDArray[np.float32]], NDArray[np.float32], LocalMap | None]
WHOLE = Box(0.0, 0.0, 1.0, 1.0)  # what stands where a film of a batch has fewer boxes than another
HUNDREDTHS = 2  # decimals of a found box, in stored pixels: finer is noise, and a stored box must be the encoded one


@dataclass(frozen=True, eq=False)
class Picture:
    """A checked image, shrunk once; each model takes its own frame from it."""

    pixels: Tensor  # (h, w) float32, 0..1
    image_height: int
    image_width: int

    @property
    def told_apart(self) -> tuple[float, float]:
        """Width and height, in stored pixels, of what is told apart: two of these pixels each way."""
        height, width = self.pixels.shape
        return 2 * self.image_width / width, 2 * self.image_height / height

    def frame(self, spacing_mm: Spacing, size: int) -> tuple[Tensor, Placement]:
        """(2, size, size) and where the image lies in it."""
        placed = placement(self.image_height, self.image_width, spacing_mm, size)
        return framed(resized(self.pixels, placed.height, placed.width), placed), placed


def picture(image: NDArray[np.generic], spacing_mm: Spacing, size: int) -> Picture:
    """Shrunk to the largest frame that any model takes. ImageError when it is no picture."""
    pixels = torch.from_numpy(checked(image))
    height, width = pixels.shape
    placed = placement(height, width, spacing_mm, size)
    return Picture(resized(pixels, placed.height, placed.width), height, width)


def covered(film: Picture, region: Box, cover: Box | None) -> Picture:
    """The same film with `cover` hidden behind the mean of the region. Boxes: pixels of the stored image, inside it."""
    if cover is None:
        return film
    pixels = film.pixels.clone()
    pixels[_pixels_of(film, cover)] = film.pixels[_pixels_of(film, region)].mean()
    return Picture(pixels, film.image_height, film.image_width)


def _pixels_of(film: Picture, box: Box) -> tuple[slice, slice]:
    """Rows and columns of the shrunk film that a box covers, at least one each."""
    height, width = film.pixels.shape
    down, across = height / film.image_height, width / film.image_width
    return _span(box.y1 * down, box.y2 * down, height), _span(box.x1 * across, box.x2 * across, width)


def _span(low: float, high: float, length: int) -> slice:
    first = min(round(low), length - 1)
    return slice(first, max(round(high), first + 1))


class Found(NamedTuple):
    """A region that the detector says is there."""

    anatomy: int  # slot: index in the vocabulary
    box: Box  # stored pixels
    presence: float  # 0..1
    certainty: float  # 0..1: the IoU that the box is likely to have


@dataclass(frozen=True, eq=False)
class DetectorRuntime:
    """A trained detector: `find` says where each region is."""

    model: Detector
    manifest: Manifest
    device: str
    run: Callable[[Tensor], Slots]  # the model's forward, by torch or by another runtime

    @classmethod
    def load(cls, folder: Path, device: str, runtime: str = "torch", threads: int | None = None) -> "DetectorRuntime":
        manifest = _manifest(folder, "detector")
        if manifest.presence is None:
            raise CheckpointError("detector.json: no presence threshold")
        model = Detector(_shape(DetectorShape, manifest.architecture, "detector.json"))
        model = _filled(model, folder, manifest, device)
        other = chosen(runtime, device) == "openvino"
        return cls(model, manifest, device, engine.detector(model, threads) if other else model)

    @property
    def size(self) -> int:
        return self.model.shape.size

    def find(self, film: Picture, spacing_mm: Spacing) -> list[Found]:
        """Each region that is there, in slot order."""
        return self._batch([film], [spacing_mm])[0]

    def find_many(self, films: Sequence[Picture], spacings_mm: Sequence[Spacing]) -> list[list[Found]]:
        """`find` for each film."""
        if self.device == "cpu" or not films:
            return [self.find(*each) for each in zip(films, spacings_mm, strict=True)]
        return self._batch(films, spacings_mm)

    def _batch(self, films: Sequence[Picture], spacings_mm: Sequence[Spacing]) -> list[list[Found]]:
        frames, placed = _stacked(films, spacings_mm, self.size)
        slots = self.run(frames.to(self.device))
        rows = zip(
            *(each.cpu() for each in (slots.boxes, slots.presence.sigmoid(), slots.certainty.sigmoid())), strict=True
        )
        return [self._found(where, *row) for where, row in zip(placed, rows, strict=True)]

    def _found(self, placed: Placement, boxes: Tensor, presence: Tensor, certainty: Tensor) -> list[Found]:
        """(K, 4), (K) and (K) of one film -> its regions."""
        where = [_rounded(placed.to_image(Box(*row))) for row in boxes.tolist()]
        least = self.manifest.presence or 0.0
        slots = zip(range(len(where)), where, presence.tolist(), certainty.tolist(), strict=True)
        return [each for each in (Found(*row) for row in slots) if each.presence >= least and each.box.area > 0]


@dataclass(frozen=True, eq=False)
class EncoderRuntime:
    """A trained encoder: `encode` turns boxes of one film into vectors, in one pass of the trunk."""

    model: RoiEncoder
    manifest: Manifest
    device: str
    run: Callable[[Tensor, Tensor], Encoded]  # the model's forward, by torch or by another runtime

    @classmethod
    def load(cls, folder: Path, device: str, runtime: str = "torch", threads: int | None = None) -> "EncoderRuntime":
        manifest = _manifest(folder, "encoder")
        model = RoiEncoder(_shape(EncoderShape, manifest.architecture, "encoder.json"))
        model = _filled(model, folder, manifest, device)
        other = chosen(runtime, device) == "openvino"
        return cls(model, manifest, device, engine.encoder(model, threads) if other else model)

    @property
    def size(self) -> int:
        return self.model.shape.size

    @property
    def model_id(self) -> str:
        return self.manifest.model_id

    @property
    def dim(self) -> int:
        return self.model.shape.dim

    @property
    def projections(self) -> tuple[str, ...]:
        return tuple(name for name, trained in self.manifest.projections.items() if trained)

    def encode(self, film: Picture, boxes: Sequence[Box], spacing_mm: Spacing) -> Encoding:
        """Vectors (N, dim) of each trained projection, anatomy probabilities (N, classes), and the film's local map."""
        return self._batch([film], [boxes], [spacing_mm])[0]

    def encode_many(
        self, films: Sequence[Picture], boxes: Sequence[Sequence[Box]], spacings_mm: Sequence[Spacing]
    ) -> list[Encoding]:
        """`encode` for each film and its boxes."""
        if self.device == "cpu" or not films:
            return [self.encode(*each) for each in zip(films, boxes, spacings_mm, strict=True)]
        return self._batch(films, boxes, spacings_mm)

    def _batch(
        self, films: Sequence[Picture], boxes: Sequence[Sequence[Box]], spacings_mm: Sequence[Spacing]
    ) -> list[Encoding]:
        most = max(len(each) for each in boxes)
        if not most:
            return [self._nothing() for _ in films]
        frames, placed = _stacked(films, spacings_mm, self.size)
        shares = [[where.to_frame(box) for box in each] for where, each in zip(placed, boxes, strict=True)]
        padded = torch.tensor([each + [WHOLE] * (most - len(each)) for each in shares], dtype=torch.float32)
        encoded = self.run(frames.to(self.device), padded.to(self.device))
        vectors = {name: encoded.vectors[name].float().cpu().numpy() for name in self.projections}
        anatomy = encoded.anatomy.float().softmax(-1).cpu().numpy()
        maps = in_whole_numbers(encoded.local) if self.manifest.local else None
        encodings: list[Encoding] = []
        for number, (where, each) in enumerate(zip(placed, boxes, strict=True)):
            own = {name: rows[number, : len(each)] for name, rows in vectors.items()}
            local = LocalMap(maps[number], where.area) if maps is not None else None
            encodings.append((own, anatomy[number, : len(each)], local) if each else self._nothing())
        return encodings

    def _nothing(self) -> Encoding:
        """Of a film without boxes."""
        empty = {name: np.zeros((0, self.model.shape.dim), np.float32) for name in self.projections}
        return empty, np.zeros((0, self.model.shape.classes), np.float32), None


def _stacked(
    films: Sequence[Picture], spacings_mm: Sequence[Spacing], size: int
) -> tuple[Tensor, tuple[Placement, ...]]:
    """(B, 2, size, size) and where each image lies in its frame."""
    frames, placed = zip(*(film.frame(each, size) for film, each in zip(films, spacings_mm, strict=True)), strict=True)
    return torch.stack(frames), placed


def in_whole_numbers(maps: Tensor) -> NDArray[np.int8]:
    """(B, C, h, w) unit vectors -> (B, h, w, C) as a local map keeps them."""
    cells: NDArray[np.int8] = (maps.float() * SCALE).round().to(torch.int8).permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(cells)


def inside(boxes: Sequence[Box], height: int, width: int) -> list[Box]:
    """Boxes clipped to the image. ImageError for one that does not meet it."""
    clipped = [box.clipped(width, height) for box in boxes]
    for box, part in zip(boxes, clipped, strict=True):
        if not part.area > 0:
            raise ImageError(f"box {tuple(round(v, 1) for v in box)} has no area inside the {width} x {height} image")
    return clipped


def steady(threads: int | None) -> None:
    """The same film gives the same bytes: deterministic kernels only, and a fixed number of threads if given."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA's matrix products are refused
    # What use_deterministic_algorithms(True) does without importing torch's compiler: a fifth of a process's start.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a tenth
    if threads:
        torch.set_num_threads(threads)


def _manifest(folder: Path, part: Any) -> Manifest:
    manifest = read_manifest(folder, part)
    if manifest.preprocessing != SETTINGS:
        raise CheckpointError(f"{part}.json: trained with other preprocessing than this program does")
    return manifest


def _shape(kind: Any, architecture: dict[str, Any], name: str) -> Any:
    try:
        trunk = architecture["trunk"]
        return kind(**{**architecture, "trunk": TrunkShape(**{**trunk, "stages": tuple(trunk["stages"])})})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: an architecture that this program does not know ({error})") from error


def _filled(model: Any, folder: Path, manifest: Manifest, device: str) -> Any:
    try:
        model.load_state_dict(read_weights(folder, manifest))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{manifest.part}.safetensors: does not fit its architecture: {first}") from error
    return model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def _rounded(box: Box) -> Box:
    return Box(*(round(value, HUNDREDTHS) for value in box))
