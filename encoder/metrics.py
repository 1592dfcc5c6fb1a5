"""Scores and relevance go in, the retrieval numbers of MODELS.md section 4 come out. numpy only.

The words: a query has R relevant items in the gallery, H_k of them among its first k. Items of the query's own patient
are in neither. Ties are broken by the gallery's order, which the caller sorts by id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ranked = NDArray[np.bool_]  # relevance in rank order, best first
RESAMPLES = 1000


def precision_at(ranked: Ranked, k: int) -> float:
    """H_k / k."""
    return float(ranked[:k].sum()) / k


def hit_at(ranked: Ranked, k: int) -> float:
    """1 if H_k > 0 (elsewhere sold as Recall@k)."""
    return float(ranked[:k].any())


def recall_at(ranked: Ranked, k: int, relevant: int) -> float:
    """H_k / R."""
    return float(ranked[:k].sum()) / relevant


def average_precision(ranked: Ranked, relevant: int) -> float:
    """(1/R) sum of P@i at each relevant rank i, over the whole ranking. R counts relevant items never returned too."""
    ranks = np.flatnonzero(ranked) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / relevant


def average_precision_at(ranked: Ranked, k: int, relevant: int) -> float:
    """(1/min(k, R)) sum of P@i at each relevant rank i <= k. Dividing by H_k instead would print 1.0 for one hit."""
    return average_precision(ranked[:k], min(k, relevant))


def ndcg_at(ranked: Ranked, k: int, relevant: int) -> float:
    """Linear gain / log2(i + 1), over that of an ideal ranking."""
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    first = ranked[:k]
    return float(discount[: len(first)][first].sum() / discount[: min(k, relevant)].sum())


@dataclass(frozen=True, eq=False)
class Gallery:
    """Vectors with what is known about each; rows sorted by id, so that a stable sort breaks ties by it."""

    vectors: NDArray[np.float32]  # (N, D) unit norm
    label: NDArray[np.int64]  # (N,) anatomy
    patient: NDArray[np.int64]  # (N,) number of the patient

    @staticmethod
    def of(ids: Sequence[str], vectors: NDArray[np.float32], label: Sequence[int], patient: Sequence[str]) -> "Gallery":
        order = np.array(sorted(range(len(ids)), key=lambda i: (ids[i], label[i])), dtype=np.int64)
        _, numbers = np.unique(np.array(patient, dtype=object).astype(str), return_inverse=True)
        return Gallery(vectors[order], np.array(label, dtype=np.int64)[order], numbers.astype(np.int64)[order])


@dataclass(frozen=True, eq=False)
class Ranking:
    """For each query the gallery's labels in rank order; -1 after the last item of another patient."""

    label: NDArray[np.int64]  # (Q, N) label at each rank
    item: NDArray[np.int64]  # (Q, N) row of the gallery at each rank, also behind the last item of another patient
    query: NDArray[np.int64]  # (Q,) label asked for
    patient: NDArray[np.int64]  # (Q,)

    @property
    def relevant(self) -> NDArray[np.bool_]:
        return np.asarray(self.label == self.query[:, None])


def rank_all(gallery: Gallery, asking: slice = slice(None)) -> Ranking:
    """Every item, or those of the slice, asks all items of other patients. Memory bound: 40 bytes for each pair."""
    patient = gallery.patient[asking]
    scores = gallery.vectors[asking] @ gallery.vectors.T
    own = patient[:, None] == gallery.patient[None, :]
    scores[own] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    label = np.where(np.take_along_axis(own, order, axis=1), -1, gallery.label[order])
    return Ranking(label, order, gallery.label[asking], patient)


def average_precisions(ranking: Ranking) -> NDArray[np.float64]:
    """(Q,) full-ranking AP; NaN for a query without a relevant item."""
    relevant = ranking.relevant
    hits = relevant.cumsum(axis=1)
    ranks = np.arange(1, relevant.shape[1] + 1)
    total = relevant.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((relevant * hits / ranks).sum(axis=1) / total)


def commonest_labels(ranking: Ranking, k: int = 5) -> NDArray[np.int64]:
    """(Q,) the commonest label of each query's first k, what a k-nearest-neighbour vote says; ties: met first."""
    return np.array([_commonest(row[:k]) for row in ranking.label], dtype=np.int64)


def _commonest(labels: NDArray[np.int64]) -> int:
    values, first, counts = np.unique(labels, return_index=True, return_counts=True)
    return int(values[np.lexsort((first, -counts))[0]])


def chances(ranking: Ranking) -> NDArray[np.float64]:
    """(Q,) P@k of a random order: the share of relevant items among those of other patients."""
    return np.asarray(ranking.relevant.sum(axis=1) / np.maximum((ranking.label >= 0).sum(axis=1), 1))


def by_label(values: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[int, float]:
    """The mean of each label's values, NaN left out; labels without any value are absent."""
    kept = ~np.isnan(values)
    return {int(k): float(values[kept & (labels == k)].mean()) for k in np.unique(labels[kept])}


def macro(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values()))) if values else 0.0


def bootstrap_interval(
    values: NDArray[np.float64], labels: NDArray[np.int64], patients: NDArray[np.int64], seed: int
) -> tuple[float, float]:
    """95 % interval of the macro mean when patients are drawn with replacement; NaN is left out, as its patient is.

    ValueError when no value is left.
    """
    kept = ~np.isnan(values)
    if not kept.any():
        raise ValueError("no values to draw from")
    rng = np.random.default_rng(seed)
    people, number = np.unique(patients[kept], return_inverse=True)
    kinds, kind = np.unique(labels[kept], return_inverse=True)
    total, count = np.zeros((len(people), len(kinds))), np.zeros((len(people), len(kinds)))
    np.add.at(total, (number, kind), values[kept])
    np.add.at(count, (number, kind), 1.0)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(people), len(people))
        seen = count[drawn].sum(axis=0)
        means.append(float((total[drawn].sum(axis=0)[seen > 0] / seen[seen > 0]).mean()))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def auroc(usual: NDArray[np.float64], unusual: NDArray[np.float64]) -> float:
    """How often an unusual value is over a usual one; ties count half. ValueError when either has no values."""
    if not len(usual) or not len(unusual):
        raise ValueError("two sets of values are needed")
    ordered = np.sort(usual)
    below = np.searchsorted(ordered, unusual, "left") + np.searchsorted(ordered, unusual, "right")
    return float(below.mean() / 2 / len(usual))
