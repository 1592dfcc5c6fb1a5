"""A folder of films goes in, one record for each film comes out: pixels, patient, split, and labels that can be moved.

The layout read here (`regions.json` with `images/`, and optionally `landmarks.npz` and `masks/`):

    regions.json     [{"id", "file", "patient", "boxes": {name: [x1, y1, x2, y2]}, "derived": {...}, "split"}, ...]
    images/<file>    8 or 16 bit PNG, high = bright
    landmarks.npz    <patient>/{RL, LL, H, RCLA, LCLA} (n, 2) x, y in pixels
    masks/<file>     bit 1 right lung, 2 left lung, 4 heart

`boxes`, `derived`, `split` may each be missing. A film with landmarks has all 29 regions by `encoder.rules`; one with
masks has those that lungs and heart place; any other has its listed boxes. Names outside the vocabulary are left out.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.errors import TrainingDataError
from encoder.rules import derive, derive_from_outlines

LANDMARKS = ("RL", "LL", "H", "RCLA", "LCLA")
MASKS = (1, 2, 4)  # right lung, left lung, heart
TRAIN, HELD = "dev_train", "dev_val"
HELD_SHARE = 8  # one patient of eight is held out where the records name no split

Affine = NDArray[np.float64]  # (2, 3): pixels of the film -> pixels of the moved film
STILL: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
Regions = dict[int, Box]  # vocabulary index -> box, not clipped


class Labels(Protocol):
    """Regions of a film that follow when the film is moved."""

    def moved(self, affine: Affine) -> Regions:
        """The regions after `affine`, in the moved film's pixels."""


def move(points: NDArray[np.floating], affine: Affine) -> NDArray[np.float64]:
    """(n, 2) x, y -> (n, 2)."""
    return np.asarray(points @ affine[:, :2].T + affine[:, 2], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Five contours with point correspondence: all regions, derived anew after each move."""

    contours: Mapping[str, NDArray[np.floating]]

    def moved(self, affine: Affine) -> Regions:
        return derive({key: move(points, affine) for key, points in self.contours.items()})


@dataclass(frozen=True, eq=False)
class Outlines:
    """Boundary pixels of right lung, left lung and heart."""

    outlines: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]

    def moved(self, affine: Affine) -> Regions:
        right, left, heart = (move(points, affine) for points in self.outlines)
        return derive_from_outlines(right, left, heart)


@dataclass(frozen=True)
class Listed:
    """Boxes alone. A turned box is that of the ellipse inside it: corners would make it grow with every degree."""

    boxes: tuple[tuple[int, Box], ...]

    def moved(self, affine: Affine) -> Regions:
        return {index: _moved_box(box, affine) for index, box in self.boxes}


def _moved_box(box: Box, affine: Affine) -> Box:
    centre = move(np.array([[(box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2]]), affine)[0]
    half = np.sqrt((affine[:, :2] ** 2) @ np.array([(box.width / 2) ** 2, (box.height / 2) ** 2]))
    return Box(*(float(v) for v in (*(centre - half), *(centre + half))))


@dataclass(frozen=True, eq=False)
class Film:
    """One labelled film."""

    id: str
    patient: str
    split: str  # as its record says; empty where it says nothing
    path: Path
    listed: Regions  # the boxes its record names: what evaluation compares with
    labels: Labels  # what training moves about
    source: str = ""  # which collection it is of: `dataset` of its record

    @cached_property
    def regions(self) -> Regions:
        """Every labelled region where the film lies: the listed boxes, and by the rules what they lack."""
        return dict(sorted({**self.labels.moved(STILL), **self.listed}.items()))

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """(H, W), high = bright. TrainingDataError when the file is no grey picture."""
        try:
            with Image.open(self.path) as picture:
                pixels = np.asarray(picture)
        except OSError as error:
            raise TrainingDataError(f"{self.path.name} is no readable picture: {error}") from error
        if pixels.ndim != 2:
            raise TrainingDataError(f"{self.path.name} has shape {pixels.shape}, expected grey pixels (rows, columns)")
        return pixels.astype(np.float32)


def read_films(folder: Path) -> list[Film]:
    """Every film of the folder in record order. TrainingDataError when it is not in this layout."""
    records = _records(folder)
    marks = folder / "landmarks.npz"
    if not marks.exists():
        return [_film(folder, record, {}) for record in records]
    with np.load(marks) as contours:
        return [_film(folder, record, contours) for record in records]


def split(films: Sequence[Film], name: str) -> list[Film]:
    """The films of one split; patients without a mark are divided here, the same in every run."""
    return [film for film in films if (film.split or _divided(film.patient)) == name]


def of_source(films: Sequence[Film], source: str | None) -> list[Film]:
    """The films of one source; all without one. TrainingDataError when it has none."""
    chosen = [film for film in films if source in (None, film.source)]
    if not chosen:
        known = ", ".join(sorted({film.source for film in films if film.source})) or "none is named"
        raise TrainingDataError(f"no film of source {source}; sources: {known}")
    return chosen


def fingerprint(films: Sequence[Film]) -> str:
    """The identity of a data set for a manifest: films, patients, splits and boxes, not the place they lie in."""
    rows = [(f.id, f.patient, f.split, sorted((k, tuple(map(float, b))) for k, b in f.listed.items())) for f in films]
    return f"{len(rows)} films, crc32 {zlib.crc32(json.dumps(rows).encode()):08x}"


def _records(folder: Path) -> list[dict[str, object]]:
    path = folder / "regions.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingDataError(f"cannot read {path.name} in the data folder: {error}") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) and {"file", "patient"} <= set(r) for r in records):
        raise TrainingDataError(f"{path.name} is not a list of records with at least `file` and `patient`")
    return records


def _film(folder: Path, record: Mapping[str, object], contours: Mapping[str, NDArray[np.floating]]) -> Film:
    patient, file = str(record["patient"]), str(record["file"])
    path = folder / "images" / file
    if not path.is_file():
        raise TrainingDataError(f"film {file} is listed and not in images/")
    listed = _listed(record)
    return Film(
        id=str(record.get("id", file)),
        patient=patient,
        split=str(record.get("split") or ""),
        path=path,
        listed=listed,
        labels=_labels(folder / "masks" / file, patient, contours, listed),
        source=str(record.get("dataset") or ""),
    )


def _divided(patient: str) -> str:
    return HELD if zlib.crc32(patient.encode()) % HELD_SHARE == 0 else TRAIN


def _listed(record: Mapping[str, object]) -> Regions:
    found: Regions = {}
    for key in ("derived", "boxes"):  # an annotated box wins over a derived one of the same name
        part = record.get(key) or {}
        if not isinstance(part, dict):
            raise TrainingDataError(f"`{key}` of {record['file']} is not a table of boxes")
        found |= {VOCABULARY.named(name).index: Box(*box) for name, box in part.items() if name in VOCABULARY.names}
    return dict(sorted(found.items()))


def _labels(mask: Path, patient: str, contours: Mapping[str, NDArray[np.floating]], listed: Regions) -> Labels:
    if all(f"{patient}/{key}" in contours for key in LANDMARKS):
        return Landmarks({key: np.asarray(contours[f"{patient}/{key}"]) for key in LANDMARKS})
    outlines = _outlines(mask) if mask.is_file() else None
    return Outlines(outlines) if outlines else Listed(tuple(listed.items()))


def _outlines(
    mask: Path,
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]] | None:
    """The boundary pixels (n, 2) of the three masks; None when one of them is empty."""
    with Image.open(mask) as picture:
        bits = np.asarray(picture)
    right, left, heart = (_boundary((bits & bit) > 0) for bit in MASKS)
    return (right, left, heart) if len(right) and len(left) and len(heart) else None


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.floating]:
    """x, y of the mask's pixels with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    y, x = np.nonzero(mask & ~inner)
    return np.stack([x, y], axis=1).astype(np.float64)
