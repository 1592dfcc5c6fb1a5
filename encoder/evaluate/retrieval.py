"""Labelled regions with vectors go in, the retrieval numbers of MODELS.md section 4 come out, beside the trivial rows.

Each region asks once; the gallery is every region of the other patients. Relevant is the same anatomy. The boxes are
the detector's: a labelled region that it misses is a query with 0 in every number, and is missing from every other
query's list while it still counts in R.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.evaluate.entries import ANATOMY, RANDOM, RAW_PIXELS, Entry, Questions
from encoder.evaluate.evaluation import Report, interval, rounded
from encoder.metrics import (
    Ranked,
    Ranking,
    average_precision,
    average_precision_at,
    bootstrap_interval,
    by_label,
    chances,
    commonest_labels,
    hit_at,
    macro,
    ndcg_at,
    precision_at,
    recall_at,
)

TOO_FEW = "fewer than two patients: nothing to retrieve"
NO_POSITIVES = "no region is labelled in two patients: nothing to retrieve"
FIRST = 5  # answers that most people look at
DEPTHS = (5, 10)


def of_query(ranked: Ranked, relevant: int) -> dict[str, float]:
    """Each name of the table for one query with R > 0."""
    return {
        "map": average_precision(ranked, relevant),
        "p@1": precision_at(ranked, 1),
        "p@5": precision_at(ranked, 5),
        "p@10": precision_at(ranked, 10),
        "hit@5": hit_at(ranked, 5),
        "hit@10": hit_at(ranked, 10),
        "recall@5": recall_at(ranked, 5, relevant),
        "recall@10": recall_at(ranked, 10, relevant),
        "ap@10": average_precision_at(ranked, 10, relevant),
        "ndcg@10": ndcg_at(ranked, 10, relevant),
    }


NAMES = (*of_query(np.ones(1, np.bool_), 1), *(f"location_recall@{k}" for k in DEPTHS))


@dataclass(frozen=True, eq=False)
class Answers:
    """What one kind of vector answers. Q queries, of which the first N have vectors."""

    values: dict[str, NDArray[np.float64]]  # name -> (Q,), NaN for a query without positives
    chance: NDArray[np.float64]  # (N,)
    first: NDArray[np.int64]  # (N,) label of the first answer; -1 where there is none
    voted: NDArray[np.int64]  # (N,) label by a vote of the first five
    twins: NDArray[np.float64]  # (N,) share of the first five that is the same region of the other side
    _questions: Questions = field(repr=False)

    def mean(self, name: str) -> float:
        """Macro over anatomies."""
        return macro(by_label(self.values[name], self._questions.label))

    def interval(self, name: str, seed: int, anatomy: int | None = None) -> list[float]:
        """95 % bootstrap over patients, of all or of one anatomy's queries."""
        asked = self._questions
        of = slice(None) if anatomy is None else asked.label == anatomy
        return interval(bootstrap_interval(self.values[name][of], asked.label[of], asked.patient[of], seed))

    @property
    def knn_accuracy(self) -> float:
        return float((self.voted == self._questions.label[: len(self.voted)]).mean())


def answers(questions: Questions, vector: str, seed: int, report: Report | None = None) -> Answers:
    """Every region asks with vectors of that name."""
    relevant = questions.relevant
    size = len(questions.found)
    values = {name: np.where(relevant > 0, 0.0, np.nan) for name in NAMES}
    chance, twins = np.zeros(size), np.zeros(size)
    first, voted = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for rows, ranking in questions.rankings(questions.vectors(vector, seed)):
        if report:
            report(f"ranking, {vector.replace('_', ' ')}", rows.stop, size, "")
        chance[rows], twins[rows] = chances(ranking), _twins(ranking)
        first[rows], voted[rows] = ranking.label[:, 0], commonest_labels(ranking, FIRST)
        located = {f"location_recall@{k}": _located(questions, ranking, k) for k in DEPTHS}
        for row, ranked in enumerate(ranking.relevant):
            at = rows.start + row
            if relevant[at]:
                found = {name: float(each[row]) for name, each in located.items()}
                for name, value in {**of_query(ranked, int(relevant[at])), **found}.items():
                    values[name][at] = value
    return Answers(values, chance, first, voted, twins, questions)


def _located(questions: Questions, ranking: Ranking, k: int) -> NDArray[np.float64]:
    """(Q,) the share of the first k answers whose film shows the region asked for, whatever region was returned."""
    films = questions.film[ranking.item[:, :k]]
    shown = questions.shows[films, ranking.query[:, None]] & (ranking.label[:, :k] >= 0)
    return np.asarray(shown.sum(axis=1) / k)


def _twins(ranking: Ranking) -> NDArray[np.float64]:
    twin = np.array([VOCABULARY.twins.get(int(label), -2) for label in ranking.query])
    return np.asarray((ranking.label[:, :FIRST] == twin[:, None]).mean(axis=1))


def summary(entries: Sequence[Entry], seed: int, report: Report | None = None) -> dict[str, object]:
    """The `retrieval.anatomy` object; `note` instead of numbers where there is nothing to retrieve."""
    questions = Questions(entries)
    counts = {
        "gallery": len(questions.found),
        "queries": len(entries),
        "queries_without_positives": int((questions.relevant == 0).sum()),
        "missed_by_detector": len(questions.missed),
    }
    if questions.people < 2 or len({entry.patient for entry in questions.found}) < 2:
        return {**counts, "note": TOO_FEW}
    if not questions.relevant.any():
        return {**counts, "note": NO_POSITIVES}
    learned = answers(questions, ANATOMY, seed, report)
    numbers = {name: rounded(learned.mean(name)) for name in NAMES}
    intervals = {"ci95" if name == "map" else f"{name}_ci95": learned.interval(name, seed) for name in NAMES}
    return {
        **numbers,
        **_worst(learned, questions),
        "knn_accuracy": rounded(learned.knn_accuracy),
        **_trivial(questions, seed, report),
        **counts,
        "chance_p@5": rounded(macro(by_label(learned.chance, questions.label[: len(learned.chance)]))),
        **intervals,
        "laterality_errors": laterality_errors(learned, questions),
        "per_region": _per_region(learned, questions, seed),
        "confusion": confusion(learned, questions),
    }


def _worst(learned: Answers, questions: Questions) -> dict[str, object]:
    five = by_label(learned.values["p@5"], questions.label)
    worst = min(five, key=lambda anatomy: (five[anatomy], anatomy))
    return {"worst_region": VOCABULARY.names[worst], "worst_p@5": rounded(five[worst])}


def _trivial(questions: Questions, seed: int, report: Report | None) -> dict[str, object]:
    """The same numbers of raw pixels, where there are pixels, and of random vectors."""
    rows: dict[str, object] = {}
    for name in (RAW_PIXELS, RANDOM):
        if name == RANDOM or all(name in entry.vectors for entry in questions.found):
            given = answers(questions, name, seed, report)
            rows |= {f"{name}_{measure}": rounded(given.mean(measure)) for measure in NAMES}
            rows[f"{name}_knn_accuracy"] = rounded(given.knn_accuracy)
    return rows


def laterality_errors(learned: Answers, questions: Questions) -> dict[str, object]:
    """Of the queries about a paired region: the share of first and of first five answers from the other side."""
    label = questions.label[: len(learned.first)]
    paired = np.isin(label, list(VOCABULARY.twins))
    if not paired.any():
        return {"queries": 0}
    twin = np.array([VOCABULARY.twins.get(int(each), -2) for each in label])
    return {
        "first": rounded((learned.first == twin)[paired].mean()),
        "first_five": rounded(learned.twins[paired].mean()),
        "queries": int(paired.sum()),
    }


def _per_region(learned: Answers, questions: Questions, seed: int) -> dict[str, object]:
    precision, five = (by_label(learned.values[name], questions.label) for name in ("map", "p@5"))
    return {
        VOCABULARY.names[anatomy]: {
            "map": rounded(value),
            "ci95": learned.interval("map", seed, anatomy),
            "p@5": rounded(five[anatomy]),
            "n": int((questions.label == anatomy).sum()),
        }
        for anatomy, value in precision.items()
    }


def confusion(learned: Answers, questions: Questions) -> list[list[int]]:
    """29 x 29 counts in vocabulary order: row is the region asked for, column the first answer's."""
    table = np.zeros((len(VOCABULARY), len(VOCABULARY)), np.int64)
    answered = learned.first >= 0
    np.add.at(table, (questions.label[: len(learned.first)][answered], learned.first[answered]), 1)
    return [[int(count) for count in row] for row in table]
