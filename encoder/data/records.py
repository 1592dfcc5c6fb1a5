"""What both readers hand on: labelled films, what was left out of them and why, and the ways to divide them."""

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box
from encoder.data.pictures import Pictures, Size
from encoder.errors import TrainingDataError
from encoder.rules import derive, derive_from_outlines

TRAIN, HELD, TEST, GOLD = "dev_train", "dev_val", "test", "gold"
HELD_SHARE = 8  # one patient of eight is held out where the records name no split

Affine = NDArray[np.float64]  # (2, 3): pixels of the film -> pixels of the moved film
STILL: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
Regions = dict[int, Box]  # vocabulary index -> box, not clipped
Findings = Mapping[int, frozenset[str]]  # vocabulary index -> findings present; a region not spoken of has no entry


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
    """One labelled film. Its pixels stay in their file until they are asked for."""

    id: str
    patient: str
    split: str  # as its record says; empty where it says nothing
    path: Path
    size: Size  # rows, columns
    listed: Regions  # the boxes its record names: what evaluation compares with
    labels: Labels  # what training moves about
    pictures: Pictures  # what opens `path`
    source: str = ""  # which collection it is of: `dataset` of its record
    findings: Findings | None = None  # None: nobody said what the film shows
    lesion: Box | None = None
    diagnosis: str = ""

    @cached_property
    def regions(self) -> Regions:
        """Every labelled region where the film lies: the listed boxes, and by the rules what they lack."""
        if isinstance(self.labels, Listed):
            return self.listed
        return dict(sorted({**self.labels.moved(STILL), **self.listed}.items()))

    @property
    def image(self) -> NDArray[np.float32]:
        """(rows, columns), high = bright. ImageError when the file is no grey picture."""
        return self.pictures.read(self.path)


class Reason(StrEnum):
    """Why a record, or a part of one, was not taken as it stands."""

    NO_RECORD = "record without file or patient"
    DUPLICATE = "film id seen before"
    NO_IMAGE = "image missing"
    UNREADABLE = "image unreadable"
    NO_REGION = "film without a usable box"
    NOT_A_BOX = "box is not four finite numbers"
    NO_AREA = "box without area"
    OUTSIDE = "box outside the image"
    CLIPPED = "box past the edge: clipped"
    UNKNOWN_NAME = "region name unknown"
    CONTOUR = "contour unreadable: boxes used"
    AVOIDED = "gold patient: not for train and valid"
    NO_GRAPH = "split row without scene graph"
    NO_SPLIT = "scene graph in no split"
    GRAPH = "scene graph unreadable"
    NOT_FRONTAL = "view is not frontal"
    SWAPPED = "right and left swapped"
    PADDED_FRAME = "box from the 224-pixel frame"


@dataclass(frozen=True)
class Skipped:
    """One line of what a reader did not take as it stands: the film or a box was left out, or the box was mended."""

    record: str
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.record}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Collection:
    """The films of a folder, and a line for everything that was not taken as it stood."""

    films: tuple[Film, ...]
    left_out: tuple[Skipped, ...] = ()

    @property
    def skipped(self) -> dict[str, int]:
        """Lines of `left_out` by reason."""
        return dict(sorted(Counter(str(line.reason) for line in self.left_out).items()))

    def of_source(self, source: str | None) -> "Collection":
        """The films of one source; all without one. TrainingDataError when it has none."""
        return replace(self, films=tuple(of_source(self.films, source)))

    def plain(self) -> dict[str, object]:
        """For a run folder: what was read, and every line of what was not."""
        return {
            "fingerprint": fingerprint(self.films),
            "films": len(self.films),
            "patients": len({film.patient for film in self.films}),
            "skipped": self.skipped,
            "left_out": [str(line) for line in self.left_out],
        }


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
    crc = zlib.crc32(b"[")
    for number, film in enumerate(films):  # one film at a time: the text of all would be larger than the films
        boxes = sorted((index, tuple(map(float, box))) for index, box in film.listed.items())
        row = json.dumps((film.id, film.patient, film.split, boxes))
        crc = zlib.crc32(f"{', ' if number else ''}{row}".encode(), crc)
    return f"{len(films)} films, crc32 {zlib.crc32(b']', crc):08x}"


def _divided(patient: str) -> str:
    return HELD if zlib.crc32(patient.encode()) % HELD_SHARE == 0 else TRAIN
