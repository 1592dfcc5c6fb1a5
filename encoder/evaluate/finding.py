"""Regions with findings and vectors go in, how well likeness of findings is retrieved comes out, beside chance.

A region that shows a finding asks the same anatomy of other patients, as far as its findings are known. Relevant is
one that shows a finding of the query's. Chance is their share: most likeness of anatomy is not likeness of pathology.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.evaluate.entries import ANATOMY, RAW_PIXELS, Entry
from encoder.evaluate.evaluation import interval, rounded
from encoder.metrics import average_precision, bootstrap_interval, by_label, macro, precision_at

UNKNOWN = "no film says what its regions show"
NO_POSITIVES = "no finding is shown by one region of two patients"
OWN = "finding"
NAMES = ("map", "p@5", "chance_p@5")


@dataclass(frozen=True, eq=False)
class Answers:
    """(Q,) each; NaN for a query without positives."""

    values: dict[str, NDArray[np.float64]]
    label: NDArray[np.int64]
    patient: NDArray[np.int64]

    def numbers(self, seed: int) -> dict[str, object]:
        """Macro over anatomies, with 95 % bootstrap over patients."""
        means = {name: rounded(macro(by_label(self.values[name], self.label))) for name in NAMES}
        spread = {
            name: interval(bootstrap_interval(self.values[name], self.label, self.patient, seed)) for name in NAMES[:2]
        }
        return {**means, "ci95": spread["map"], "p@5_ci95": spread["p@5"]}


def summary(entries: Sequence[Entry], seed: int) -> dict[str, object]:
    """The `retrieval.finding` object: of the finding vector where there is one, and every kind beside it."""
    known = sorted((e for e in entries if e.findings is not None), key=lambda entry: (entry.id, entry.anatomy))
    if not known:
        return {"note": UNKNOWN}
    found = [entry for entry in known if entry.vectors]
    asking = [entry for entry in known if entry.findings]
    counts = {"gallery": len(found), "queries": len(asking), "regions_with_finding": len(asking)}
    kinds = [name for name in (ANATOMY, OWN, RAW_PIXELS) if found and all(name in e.vectors for e in found)]
    given = {kind: _answers(known, kind) for kind in kinds}
    if not given or np.isnan(given[kinds[0]].values["map"]).all():
        return {**counts, "note": NO_POSITIVES}
    rows = {kind: of.numbers(seed) for kind, of in given.items()}
    shown = OWN if OWN in rows else kinds[0]
    asked = given[shown]
    return {
        "vector": shown,
        **rows[shown],
        **counts,
        "queries_without_positives": int(np.isnan(asked.values["map"]).sum()),
        "missed_by_detector": sum(not entry.vectors for entry in asking),
        "by_vector": rows,
        "per_region": _per_region(asked),
    }


def _answers(known: Sequence[Entry], kind: str) -> Answers:
    people = {name: number for number, name in enumerate(sorted({entry.patient for entry in known}))}
    rows: list[tuple[dict[str, float], int, int]] = []
    for anatomy in sorted({entry.anatomy for entry in known}):
        same = [entry for entry in known if entry.anatomy == anatomy]
        rows += [(_asked(entry, same, kind), anatomy, people[entry.patient]) for entry in same if entry.findings]
    return Answers(
        values={name: np.array([values[name] for values, _, _ in rows]) for name in NAMES},
        label=np.array([anatomy for _, anatomy, _ in rows], np.int64),
        patient=np.array([patient for _, _, patient in rows], np.int64),
    )


def _asked(query: Entry, same: Sequence[Entry], kind: str) -> dict[str, float]:
    """A query that the detector missed has 0; so has a relevant region that it missed, in every list."""
    others = [entry for entry in same if entry.patient != query.patient]
    shared = [bool(_shown(entry) & _shown(query)) for entry in others]
    if not any(shared):
        return dict.fromkeys(NAMES, float("nan"))
    chance = sum(shared) / len(shared)
    if not query.vectors:
        return {"map": 0.0, "p@5": 0.0, "chance_p@5": chance}
    listed = [number for number, entry in enumerate(others) if entry.vectors]
    scores = np.array([float(others[number].vectors[kind] @ query.vectors[kind]) for number in listed])
    ranked = np.array(shared, np.bool_)[listed][np.argsort(-scores, kind="stable")]
    return {"map": average_precision(ranked, sum(shared)), "p@5": precision_at(ranked, 5), "chance_p@5": chance}


def _shown(entry: Entry) -> frozenset[str]:
    return entry.findings or frozenset()


def _per_region(asked: Answers) -> dict[str, object]:
    means = {name: by_label(asked.values[name], asked.label) for name in NAMES}
    return {
        VOCABULARY.names[anatomy]: {
            **{name: rounded(means[name][anatomy]) for name in NAMES},
            "n": int((asked.label == anatomy).sum()),
        }
        for anatomy in means["map"]
    }
