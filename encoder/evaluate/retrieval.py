"""Vectors of labelled regions go in, retrieval numbers come out, beside raw pixels and chance.

Each region asks once; the gallery is every region of the other patients. Relevant is the same anatomy. The boxes are
the detector's: a labelled region that it misses is a query with AP and P@5 of 0, and is missing from every other
query's list while it still counts in R.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.metrics import (
    Gallery,
    Ranking,
    average_precisions,
    bootstrap_interval,
    by_label,
    chance_at,
    knn_accuracy,
    macro,
    precisions_at,
    rank_all,
)

RAW = 16  # pixels a side of the trivial encoder


@dataclass(frozen=True, eq=False)
class Entry:
    """One labelled region; no vectors when the detector missed it."""

    id: str  # of the film
    patient: str
    anatomy: int
    vector: NDArray[np.float32] | None
    raw: NDArray[np.float32] | None


def raw_pixels(image: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """The box at 16 x 16, mean 0 and norm 1: (256,). What any learned encoder has to beat."""
    height, width = image.shape
    x = np.clip(np.linspace(box.x1, box.x2, RAW + 1)[:-1] + box.width / RAW / 2, 0, width - 1).astype(int)
    y = np.clip(np.linspace(box.y1, box.y2, RAW + 1)[:-1] + box.height / RAW / 2, 0, height - 1).astype(int)
    cut = image[np.ix_(y, x)].astype(np.float64).ravel()
    centred = cut - cut.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-9), dtype=np.float32)


def summary(entries: Sequence[Entry], seed: int) -> dict[str, object]:
    """The `retrieval.anatomy` object."""
    found = [entry for entry in entries if entry.vector is not None and entry.raw is not None]
    if len({entry.patient for entry in found}) < 2:
        return {"gallery": len(found), "queries": 0, "note": "fewer than two patients: nothing to retrieve"}
    ranking = _ranking(found, [entry.vector for entry in found])
    missed = [entry for entry in entries if entry.vector is None]
    precision, labels, patients = _scored(ranking, _whole_precisions(ranking, entries), missed)
    first, _, _ = _scored(ranking, precisions_at(ranking, 5), missed)
    five = by_label(first, labels)
    worst = min(five, key=lambda anatomy: (five[anatomy], anatomy))
    raw = _ranking(found, [entry.raw for entry in found])
    raw_precision, _, _ = _scored(raw, _whole_precisions(raw, entries), missed)
    low, high = bootstrap_interval(precision, labels, patients, seed)
    per_region = by_label(precision, labels)
    return {
        "map": round(macro(per_region), 4),
        "p@5": round(macro(five), 4),
        "worst_region": VOCABULARY.names[worst],
        "worst_p@5": round(five[worst], 4),
        "knn_accuracy": round(knn_accuracy(ranking), 4),
        "raw_pixels_map": round(macro(by_label(raw_precision, labels)), 4),
        "gallery": len(found),
        "queries": len(entries),
        "queries_without_positives": int(np.isnan(precision).sum()),
        "missed_by_detector": len(missed),
        "chance_p@5": round(chance_at(ranking), 4),
        "ci95": [round(low, 4), round(high, 4)],
        "per_region": {VOCABULARY.names[anatomy]: round(value, 4) for anatomy, value in per_region.items()},
    }


def _ranking(found: Sequence[Entry], vectors: Sequence[NDArray[np.float32] | None]) -> Ranking:
    rows = np.stack([vector for vector in vectors if vector is not None])
    return rank_all(Gallery.of([e.id for e in found], rows, [e.anatomy for e in found], [e.patient for e in found]))


def _whole_precisions(ranking: Ranking, entries: Sequence[Entry]) -> NDArray[np.float64]:
    """AP over the R of all labelled regions, the missed ones among them."""
    total = Counter(entry.anatomy for entry in entries)
    reached = Counter(ranking.query.tolist())
    share = {anatomy: max(reached[anatomy] - 1, 0) / max(total[anatomy] - 1, 1) for anatomy in total}
    return np.asarray(average_precisions(ranking) * [share[int(label)] for label in ranking.query])


def _scored(
    ranking: Ranking, values: NDArray[np.float64], missed: Sequence[Entry]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Values, labels and patients of all queries; a missed region scores 0."""
    scored = np.concatenate([values, np.zeros(len(missed))])
    labels = np.concatenate([ranking.query, np.array([e.anatomy for e in missed], dtype=np.int64)])
    # A missed region is a resampling unit of its own: numbers after those of the ranking.
    own = np.arange(len(missed), dtype=np.int64) + int(ranking.patient.max()) + 1
    return scored, labels, np.concatenate([ranking.patient, own])
