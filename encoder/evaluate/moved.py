"""A labelled film goes in, the same film as it should not have been taken comes out, with labels that followed.

Shifted, scaled, cut, faint, inverted, tilted: what a detector trained on well-placed films has to stand.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from encoder.boxes import Box
from encoder.data import STILL, Affine, Film
from encoder.evaluate.detection import THERE
from encoder.evaluate.evaluation import rounded
from encoder.metrics import by_label, macro
from encoder.pipeline import Analysis

PLAIN = "plain"
SHIFT = 0.10  # of the film's sides
CROP = 0.80  # of the film's sides, kept
FAINT = 26  # grey levels that a low-contrast film has left: a tenth of 8 bits
TILT = 15.0  # degrees

Size = tuple[int, int]  # rows, columns
Moving = Callable[[Size], tuple[Affine, Size]]
Picture = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """A moved film."""

    kind: str
    image: Picture
    truth: Mapping[int, Box]  # regions of which at least half is visible, clipped


@dataclass(frozen=True)
class Placed:
    """One region of one view."""

    kind: str
    anatomy: int
    iou: float  # 0 when the detector says that it is absent


def views(film: Film, kinds: Container[str] | None = None) -> Iterator[View]:
    """The film as it is, then every kind of view; only those of `kinds` where these are given."""
    image = film.image
    for kind in (PLAIN, *MOVINGS, *TONES):
        if kinds is not None and kind not in kinds:
            continue
        if kind in MOVINGS:
            affine, size = MOVINGS[kind](film.size)
            yield View(kind, warped(image, affine, size), visible(film, affine, size))
        else:
            yield View(kind, TONES[kind](image) if kind in TONES else image, visible(film, STILL, film.size))


def placed(view: View, analysis: Analysis) -> list[Placed]:
    """The detector's IoU with each visible region."""
    found = {region.anatomy: region.box for region in analysis.regions}
    return [
        Placed(view.kind, anatomy, box.iou(found[anatomy]) if anatomy in found else 0.0)
        for anatomy, box in view.truth.items()
    ]


def summary(rows: Sequence[Placed], films: int) -> dict[str, object]:
    """The `detector.moved` object: mIoU of each kind, macro over regions, and how many regions were judged."""
    kinds = dict.fromkeys(row.kind for row in rows)
    return {
        "films": films,
        "miou": {kind: _miou([row for row in rows if row.kind == kind]) for kind in kinds},
        "regions": {kind: sum(row.kind == kind for row in rows) for kind in kinds},
    }


def _miou(rows: Sequence[Placed]) -> float:
    return rounded(macro(by_label(np.array([row.iou for row in rows]), np.array([row.anatomy for row in rows]))))


def visible(film: Film, affine: Affine, size: Size) -> dict[int, Box]:
    """Labelled regions of which at least half is on the moved film, clipped to it."""
    rows, columns = size
    boxes = {anatomy: box for anatomy, box in film.labels.moved(affine).items() if box.area > 0}
    clipped = {anatomy: box.clipped(columns, rows) for anatomy, box in boxes.items()}
    return {anatomy: box for anatomy, box in clipped.items() if box.area >= THERE * boxes[anatomy].area}


def warped(image: Picture, affine: Affine, size: Size) -> Picture:
    """The film after `affine` (x, y with the corner as origin) on a canvas of `size`; what is bare is black."""
    inverse = np.linalg.inv(np.vstack([affine, [0.0, 0.0, 1.0]]))
    linear = inverse[:2, :2]
    offset = linear @ (0.5, 0.5) + inverse[:2, 2] - 0.5  # pixel i is sampled at its centre, i + 0.5
    return np.asarray(
        affine_transform(image, linear[::-1, ::-1], offset[::-1], output_shape=size, order=1, cval=float(image.min())),
        dtype=np.float32,
    )


def _shifted(size: Size) -> tuple[Affine, Size]:
    """Down and to the picture's right."""
    rows, columns = size
    return np.array([[1.0, 0.0, SHIFT * columns], [0.0, 1.0, SHIFT * rows]]), size


def _scaled(factor: float, turn: float = 0.0) -> Moving:
    """About the film's centre, on a film of the same size."""

    def moving(size: Size) -> tuple[Affine, Size]:
        centre = np.array([size[1], size[0]]) / 2
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        linear = factor * np.array([[cos, -sin], [sin, cos]])
        return np.column_stack([linear, centre - linear @ centre]), size

    return moving


def _cropped(size: Size) -> tuple[Affine, Size]:
    """The lower part, to the picture's left: an apex and a side are lost."""
    rows, columns = (round(CROP * side) for side in size)
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, float(rows - size[0])]]), (rows, columns)


def _faint(image: Picture) -> Picture:
    low, high = float(image.min()), float(image.max())
    return np.round((image - low) / max(high - low, 1e-9) * (FAINT - 1)).astype(np.float32)


def _inverted(image: Picture) -> Picture:
    return np.asarray(image.max() + image.min() - image, dtype=np.float32)


MOVINGS: dict[str, Moving] = {
    "shifted": _shifted,
    "scaled_0.8": _scaled(0.8),
    "scaled_1.25": _scaled(1.25),
    "cropped": _cropped,
    "tilted_15": _scaled(1.0, TILT),
    "tilted_-15": _scaled(1.0, -TILT),
}
TONES: dict[str, Callable[[Picture], Picture]] = {"low_contrast": _faint, "inverted": _inverted}
