"""ROIs of films, and of what is no such film, go in; how well the unlike-archive warning tells them apart comes out.

The distance of an ROI (`encoder.unlike`) is divided by the threshold that a generation of the same films would store:
over 1 the answer would carry the warning.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box
from encoder.data import Film
from encoder.evaluate.entries import ANATOMY, Entry, leading
from encoder.evaluate.evaluation import interval, rounded
from encoder.metrics import auroc, bootstrap_interval
from encoder.pipeline import Pipeline
from encoder.unlike import distances, left_out, threshold

THRESHOLDS = "of these films as an archive, the asking patient left out; the model's where they are too few"
ROIS = 8  # of each film
UPRIGHT, INVERTED, NOISE, ROTATED, OTHER = "film", "inverted", "noise", "rotated_90", "other_body_part"

NOT_JUDGED = "no region with 5 neighbours of other patients and a threshold"

Picture = NDArray[np.float32]
Boxes = Mapping[int, Box]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """One ROI, encoded."""

    kind: str
    anatomy: int
    patient: str  # empty for what is of nobody in the gallery
    vector: NDArray[np.float32]  # (dim,)


def probes(film: Film, pipeline: Pipeline, rng: np.random.Generator) -> list[Probe]:
    """Some labelled regions of a film as it is, and of the same film as it never comes."""
    image, (rows, columns) = film.image, film.size
    inside = {anatomy: box.clipped(columns, rows) for anatomy, box in film.regions.items()}
    boxes = _some({anatomy: box for anatomy, box in inside.items() if box.area > 0}, rng)
    noise = rng.uniform(0.0, 1.0, image.shape).astype(np.float32)
    shown: list[tuple[str, Picture, Boxes]] = [
        (UPRIGHT, image, boxes),
        (INVERTED, image.max() + image.min() - image, boxes),
        (NOISE, noise, boxes),
        (ROTATED, *rotated(image, boxes)),
    ]
    return [probe for kind, picture, at in shown for probe in _encoded(kind, film.patient, picture, at, pipeline)]


def foreign(picture: Picture, pipeline: Pipeline, rng: np.random.Generator) -> list[Probe]:
    """ROIs where a chest film would have its regions, on a picture of something else. ImageError when it is none."""
    rows, columns = picture.shape
    scale = (columns, rows, columns, rows)
    means = pipeline.card.mean_boxes.items()
    boxes = {anatomy: Box(*(a * b for a, b in zip(mean, scale, strict=True))) for anatomy, mean in means}
    return _encoded(OTHER, "", picture, _some(boxes, rng), pipeline)


def rotated(image: Picture, boxes: Boxes) -> tuple[Picture, Boxes]:
    """A quarter turn against the clock."""
    width = image.shape[1]
    turned = {anatomy: Box(box.y1, width - box.x2, box.y2, width - box.x1) for anatomy, box in boxes.items()}
    return np.ascontiguousarray(np.rot90(image)), turned


def _some(boxes: Boxes, rng: np.random.Generator) -> dict[int, Box]:
    chosen = rng.permutation(sorted(boxes))[:ROIS]
    return {int(anatomy): boxes[int(anatomy)] for anatomy in sorted(chosen)}


def _encoded(kind: str, patient: str, picture: Picture, boxes: Boxes, pipeline: Pipeline) -> list[Probe]:
    if not boxes:
        return []
    vectors = pipeline.embed(picture, list(boxes.values())).vectors
    rows = vectors[leading(vectors)]
    return [Probe(kind, anatomy, patient, vector) for anatomy, vector in zip(boxes, rows, strict=True)]


class Neighbours:
    """The vectors that ROIs are compared with, by anatomy: an archive of these films, and its thresholds."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        known: dict[int, list[Entry]] = {}
        for entry in entries:
            if ANATOMY in entry.vectors:
                known.setdefault(entry.anatomy, []).append(entry)
        names = sorted({entry.patient for of in known.values() for entry in of})
        self._number = {name: number for number, name in enumerate(names)}
        self._patients = {anatomy: np.array([self._number[e.patient] for e in of]) for anatomy, of in known.items()}
        self._vectors = {anatomy: np.stack([e.vectors[ANATOMY] for e in of]) for anatomy, of in known.items()}
        self._left_out = {anatomy: left_out(rows, self._patients[anatomy]) for anatomy, rows in self._vectors.items()}
        self.size = sum(map(len, known.values()))

    def distance(self, anatomy: int, vector: NDArray[np.float32], patient: str) -> float:
        """Mean cosine distance to the 5 nearest of other patients; NaN where there are fewer."""
        if anatomy not in self._vectors:
            return float("nan")
        asking = np.array([self._number.get(patient, -1)])
        return float(distances(vector[None], asking, self._vectors[anatomy], self._patients[anatomy])[0])

    def limit(self, anatomy: int, patient: str) -> float | None:
        """The threshold that a generation of these films would store, this patient left out; None with too few."""
        if anatomy not in self._left_out:
            return None
        others = self._patients[anatomy] != self._number.get(patient, -1)
        return threshold(self._left_out[anatomy][others])


def summary(
    asked: Sequence[Probe], neighbours: Neighbours, stored: Mapping[int, float], seed: int, slack: float = 1.0
) -> tuple[dict[str, object], dict[str, Values]]:
    """The `unlike_archive` object, and for each kind its ROIs' distances over the threshold."""
    judged = [(probe, _ratio(probe, neighbours, stored, slack)) for probe in asked]
    judged = [(probe, ratio) for probe, ratio in judged if not np.isnan(ratio)]
    kinds = dict.fromkeys(probe.kind for probe, _ in judged)
    ratios = {kind: np.array([ratio for probe, ratio in judged if probe.kind == kind]) for kind in kinds}
    usual = ratios.get(UPRIGHT)
    if usual is None:
        return {"auroc": {}, "n": 0, "note": NOT_JUDGED}, {}
    people = [probe.patient for probe, _ in judged if probe.kind == UPRIGHT]
    unusual = {kind: values for kind, values in ratios.items() if kind != UPRIGHT}
    return {
        "auroc": {kind: rounded(auroc(usual, values)) for kind, values in unusual.items()},
        "warned": {kind: rounded((values > 1.0).mean()) for kind, values in unusual.items()},
        **false_alarms(usual, people, seed),
        "rois": {kind: len(values) for kind, values in unusual.items()},
        "gallery": neighbours.size,
        "thresholds": THRESHOLDS,
    }, ratios


def _ratio(probe: Probe, neighbours: Neighbours, stored: Mapping[int, float], slack: float) -> float:
    """The distance over the threshold of an archive of these films; over the model's where they are too few."""
    limit = neighbours.limit(probe.anatomy, probe.patient)
    limit = stored.get(probe.anatomy) if limit is None else limit * slack
    distance = neighbours.distance(probe.anatomy, probe.vector, probe.patient)
    return distance / max(limit, 1e-9) if limit is not None else float("nan")


def false_alarms(ratios: Values, patients: Sequence[str], seed: int) -> dict[str, object]:
    """The share of usual ROIs that carry the warning, with its interval over patients."""
    over = (ratios > 1.0).astype(np.float64)
    _, people = np.unique(np.array(patients, object).astype(str), return_inverse=True)
    spread = bootstrap_interval(over, np.zeros(len(over), np.int64), people.astype(np.int64), seed)
    return {"false_alarms": rounded(over.mean()), "false_alarms_ci95": interval(spread), "n": len(over)}
