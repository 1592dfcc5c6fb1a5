"""Films with true boxes and a pipeline go in, how well regions are found comes out, beside the mean box.

The trivial row matters: lungs lie at much the same place in every film, and a constant box already overlaps them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data import Film
from encoder.evaluate.evaluation import interval, rounded
from encoder.metrics import average_precision, bootstrap_interval
from encoder.pipeline import Analysis
from encoder.rules import CONTOURED

GONE, THERE = 0.25, 0.50  # visible share of a region in a crop: under it is absent, over it present, between not judged
GOOD = 0.5  # IoU from which a box counts as right

Crop = tuple[int, int, int, int]  # x1, y1, x2, y2


@dataclass(frozen=True)
class Overlap:
    """One labelled region of one film."""

    patient: str
    anatomy: int
    iou: float  # 0 when the detector says that it is absent
    mean_box_iou: float | None  # None when the training films had no such region
    presence: float | None = None  # the detector's, None when it says that it is absent
    certainty: float | None = None
    swapped: bool = False  # the found box overlaps the other side's true region more than its own


@dataclass(frozen=True)
class Presence:
    """Counts of said and true presence."""

    right: int = 0
    said: int = 0
    wanted: int = 0
    gone: int = 0  # regions that a crop has lost

    def __add__(self, other: "Presence") -> "Presence":
        return Presence(
            self.right + other.right, self.said + other.said, self.wanted + other.wanted, self.gone + other.gone
        )

    @property
    def f1(self) -> float:
        return 2 * self.right / max(self.said + self.wanted, 1)

    @property
    def false_positive_rate(self) -> float | None:
        return (self.said - self.right) / self.gone if self.gone else None


def overlaps(film: Film, analysis: Analysis, mean_boxes: Mapping[int, Sequence[float]]) -> list[Overlap]:
    """The detector's and the mean box's IoU with each labelled region that lies in the film."""
    height, width = film.size
    truths = {anatomy: box.clipped(width, height) for anatomy, box in film.regions.items()}
    return [
        _overlap(film.patient, anatomy, truths, analysis, _mean_box(mean_boxes.get(anatomy), width, height))
        for anatomy, truth in truths.items()
        if truth.area > 0
    ]


def _mean_box(shares: Sequence[float] | None, width: int, height: int) -> Box | None:
    scale = (width, height, width, height)
    return Box(*(a * b for a, b in zip(shares, scale, strict=True))) if shares else None


def _overlap(patient: str, anatomy: int, truths: Mapping[int, Box], analysis: Analysis, mean: Box | None) -> Overlap:
    truth = truths[anatomy]
    mean_iou = truth.iou(mean) if mean else None
    found = next((region for region in analysis.regions if region.anatomy == anatomy), None)
    if found is None:
        return Overlap(patient, anatomy, 0.0, mean_iou)
    iou, twin = truth.iou(found.box), truths.get(VOCABULARY.twins.get(anatomy, -1))
    swapped = twin is not None and twin.iou(found.box) > iou
    return Overlap(patient, anatomy, iou, mean_iou, found.presence, found.certainty, swapped)


def presence(film: Film, analyse: Callable[[NDArray[np.float32]], Analysis], whole: Analysis) -> Presence:
    """The whole film, and crops that lose regions: what is cut away must not be said to be there."""
    height, width = film.size
    counted, image = _judged(film, (0, 0, width, height), whole), film.image
    for x1, y1, x2, y2 in _crops(height, width):
        counted += _judged(film, (x1, y1, x2, y2), analyse(image[y1:y2, x1:x2]))
    return counted


def _crops(height: int, width: int) -> tuple[Crop, ...]:
    """The upper half, the lower half, and the patient's right side."""
    return (0, 0, width, height // 2), (0, height // 2, width, height), (0, 0, width // 2, height)


def _judged(film: Film, crop: Crop, analysis: Analysis) -> Presence:
    said = {region.anatomy for region in analysis.regions}
    shares = {anatomy: box.intersection(Box(*crop)).area / box.area for anatomy, box in film.regions.items()}
    there = {anatomy for anatomy, share in shares.items() if share >= THERE}
    gone = {anatomy for anatomy, share in shares.items() if share < GONE}
    return Presence(len(said & there), len(said & (there | gone)), len(there), len(gone))


def summary(rows: Sequence[Overlap], counted: Presence | None, seed: int) -> dict[str, object]:
    """The `detector` object: macro means over regions, each region's own row, and the contoured five by themselves.

    `counted` is None where presence cannot be told: a region that nobody drew is not absent.
    """
    regions = {
        VOCABULARY.names[anatomy]: _row([row for row in rows if row.anatomy == anatomy], seed)
        for anatomy in sorted({row.anatomy for row in rows})
    }
    contoured = {name: row for name, row in regions.items() if name in CONTOURED}
    miou, mean = _macro(regions, "iou"), _macro(regions, "mean_box_iou")
    said = {
        "presence_f1": rounded(counted.f1),
        "presence": {
            "f1": rounded(counted.f1),
            "false_positive_rate": _printed(counted.false_positive_rate),
            "gone": counted.gone,
        },
    } if counted else {}  # fmt: skip
    return {
        "miou": miou,
        "mean_box_miou": mean,
        "over_mean_box": None if miou is None or mean is None else rounded(miou - mean),
        "ci95": _interval(rows, seed),
        "ap50": _average_precision(rows),
        "over_50": _mean([float(row.iou >= GOOD) for row in rows]),
        "mean_box_over_50": _mean([float(row.mean_box_iou >= GOOD) for row in rows if row.mean_box_iou is not None]),
        "contoured": {"miou": _macro(contoured, "iou"), "mean_box_miou": _macro(contoured, "mean_box_iou")},
        **said,
        "laterality_swaps": sum(row.swapped for row in rows),
        "certainty": certainty(rows),
        "per_region": regions,
    }


def certainty(rows: Sequence[Overlap]) -> dict[str, object]:
    """Whether the detector knows its bad boxes: how many of them are among the tenth that it is least sure of."""
    found = sorted((row for row in rows if row.certainty is not None), key=lambda row: (row.certainty, row.iou))
    if not found:
        return {"boxes": 0, "bad_boxes": None, "share_in_low_tenth": None}
    low = found[: len(found) // 10]
    bad = sum(row.iou < GOOD for row in found)
    caught = sum(row.iou < GOOD for row in low)
    return {"bad_boxes": bad, "share_in_low_tenth": rounded(caught / bad) if bad else None, "boxes": len(found)}


def _average_precision(rows: Sequence[Overlap]) -> float | None:
    """AP50: the boxes of a region over all films, surest first, right from IoU .5; macro over regions."""
    values = []
    for anatomy in sorted({row.anatomy for row in rows}):
        own = [row for row in rows if row.anatomy == anatomy]
        found = sorted((row for row in own if row.presence is not None), key=_confidence, reverse=True)
        values.append(average_precision(np.array([row.iou >= GOOD for row in found], np.bool_), len(own)))
    return _mean(values)


def _confidence(row: Overlap) -> float:
    return (row.presence or 0.0) * (row.certainty if row.certainty is not None else 1.0)


def _row(rows: Sequence[Overlap], seed: int) -> dict[str, object]:
    trivial = [row.mean_box_iou for row in rows if row.mean_box_iou is not None]
    values = {"iou": _mean([row.iou for row in rows]), "mean_box_iou": _mean(trivial)}
    return {**values, "n": len(rows), "ci95": _interval(rows, seed)}


def _interval(rows: Sequence[Overlap], seed: int) -> list[float] | None:
    if not rows:
        return None
    values, anatomy = np.array([row.iou for row in rows]), np.array([row.anatomy for row in rows])
    _, patient = np.unique([row.patient for row in rows], return_inverse=True)
    return interval(bootstrap_interval(values, anatomy, patient.astype(np.int64), seed))


def _macro(regions: Mapping[str, Mapping[str, object]], key: str) -> float | None:
    return _mean([value for row in regions.values() if isinstance(value := row[key], float)])


def _mean(values: Sequence[float]) -> float | None:
    return rounded(float(np.mean(values))) if values else None


def _printed(value: float | None) -> float | None:
    return None if value is None else rounded(value)
