"""Films with true boxes and a pipeline go in, how well regions are found comes out, beside the mean box.

The trivial row matters: lungs lie at much the same place in every film, and a constant box already overlaps them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.pipeline import Analysis
from encoder.rules import CONTOURED
from encoder.train.data import Film

GONE, THERE = 0.25, 0.50  # visible share of a region in a crop: under it is absent, over it present, between not judged

Crop = tuple[int, int, int, int]  # x1, y1, x2, y2


@dataclass(frozen=True)
class Overlap:
    """One labelled region of one film."""

    anatomy: int
    iou: float  # 0 when the detector says that it is absent
    mean_box_iou: float | None  # None when the training films had no such region


@dataclass(frozen=True)
class Presence:
    """Counts of said and true presence."""

    right: int = 0
    said: int = 0
    wanted: int = 0

    def __add__(self, other: "Presence") -> "Presence":
        return Presence(self.right + other.right, self.said + other.said, self.wanted + other.wanted)

    @property
    def f1(self) -> float:
        return 2 * self.right / max(self.said + self.wanted, 1)


def overlaps(film: Film, analysis: Analysis, mean_boxes: Mapping[int, Sequence[float]]) -> list[Overlap]:
    """The detector's and the mean box's IoU with each labelled region that lies in the film."""
    height, width = film.image.shape
    found = {region.anatomy: region.box for region in analysis.regions}
    scale = (width, height, width, height)
    rows = []
    for anatomy, box in film.regions.items():
        truth = box.clipped(width, height)
        if truth.area > 0:
            iou = truth.iou(found[anatomy]) if anatomy in found else 0.0
            mean = mean_boxes.get(anatomy)
            mean_iou = truth.iou(Box(*(a * b for a, b in zip(mean, scale, strict=True)))) if mean else None
            rows.append(Overlap(anatomy, iou, mean_iou))
    return rows


def presence(film: Film, analyse: Callable[[NDArray[np.float32]], Analysis], whole: Analysis) -> Presence:
    """The whole film, and crops that lose regions: what is cut away must not be said to be there."""
    height, width = film.image.shape
    counted = _judged(film, (0, 0, width, height), whole)
    for x1, y1, x2, y2 in _crops(height, width):
        counted += _judged(film, (x1, y1, x2, y2), analyse(film.image[y1:y2, x1:x2]))
    return counted


def _crops(height: int, width: int) -> tuple[Crop, ...]:
    """The upper half, the lower half, and the patient's right side."""
    return (0, 0, width, height // 2), (0, height // 2, width, height), (0, 0, width // 2, height)


def _judged(film: Film, crop: Crop, analysis: Analysis) -> Presence:
    said = {region.anatomy for region in analysis.regions}
    shares = {anatomy: box.intersection(Box(*crop)).area / box.area for anatomy, box in film.regions.items()}
    there = {anatomy for anatomy, share in shares.items() if share >= THERE}
    judged = there | {anatomy for anatomy, share in shares.items() if share < GONE}
    return Presence(len(said & there), len(said & judged), len(there))


def summary(rows: Sequence[Overlap], counted: Presence) -> dict[str, object]:
    """The `detector` object: macro means over regions, each region's own row, and the contoured five by themselves."""
    regions = {
        VOCABULARY.names[anatomy]: _row([row for row in rows if row.anatomy == anatomy])
        for anatomy in sorted({row.anatomy for row in rows})
    }
    contoured = {name: row for name, row in regions.items() if name in CONTOURED}
    return {
        "miou": _macro(regions, "iou"),
        "mean_box_miou": _macro(regions, "mean_box_iou"),
        "ap50": _rounded([float(row.iou >= 0.5) for row in rows]),
        "contoured": {"miou": _macro(contoured, "iou"), "mean_box_miou": _macro(contoured, "mean_box_iou")},
        "per_region": regions,
        "presence_f1": round(counted.f1, 4),
    }


def _row(rows: Sequence[Overlap]) -> dict[str, float | None]:
    trivial = [row.mean_box_iou for row in rows if row.mean_box_iou is not None]
    return {"iou": _rounded([row.iou for row in rows]), "mean_box_iou": _rounded(trivial), "n": len(rows)}


def _macro(regions: Mapping[str, Mapping[str, float | None]], key: str) -> float | None:
    return _rounded([value for row in regions.values() if (value := row[key]) is not None])


def _rounded(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
