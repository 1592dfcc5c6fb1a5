"""Retrieval of regions: by hand, what the detector missed, the wrong side, the region that the film shows anyway."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from encoder.anatomy import VOCABULARY
from encoder.evaluate import finding, retrieval
from encoder.evaluate.entries import RANDOM, RAW_PIXELS, Entry, Questions

RIGHT, LEFT, HEART = (VOCABULARY.named(name).index for name in ("right lung", "left lung", "cardiac silhouette"))


def at(degrees: float) -> dict[str, np.ndarray]:
    angle = np.radians(degrees)
    vector = np.array([np.cos(angle), np.sin(angle)], np.float32)
    return {"anatomy": vector, RAW_PIXELS: vector}


def entries(places: dict[int, tuple[float, float, float]]) -> list[Entry]:
    """Three patients with a film each; degrees of each anatomy's vectors."""
    return [Entry(p, p, label, at(angles[n])) for label, angles in places.items() for n, p in enumerate("abc")]


def test_the_names_of_a_query_are_those_of_the_specification() -> None:
    ranked = np.zeros(60, bool)
    ranked[0] = True
    ranked[20:49] = True
    found = retrieval.of_query(ranked, 30)
    assert found["p@10"] == pytest.approx(0.10)
    assert found["recall@10"] == pytest.approx(0.0333, abs=1e-4)
    assert found["hit@10"] == 1.0
    assert found["map"] == pytest.approx(0.442, abs=5e-4)
    assert found["ap@10"] == pytest.approx(0.10)


def test_regions_apart_are_found_without_error() -> None:
    result: Any = retrieval.summary(entries({RIGHT: (0, 1, 2), HEART: (90, 91, 92)}), 0)
    for name in ("map", "p@1", "hit@5", "recall@5", "recall@10", "ap@10", "ndcg@10", "knn_accuracy"):
        assert result[name] == 1.0, name
    assert result["p@5"] == pytest.approx(2 / 5)  # there are only two
    assert set(retrieval.NAMES) <= set(result)
    assert {f"{name}_ci95" for name in retrieval.NAMES if name != "map"} <= set(result)
    assert result["ci95"] == [1.0, 1.0]
    assert (result["gallery"], result["queries"], result["queries_without_positives"]) == (6, 6, 0)
    assert result["per_region"]["right lung"] == {"map": 1.0, "ci95": [1.0, 1.0], "p@5": 0.4, "n": 3}
    assert result["chance_p@5"] == pytest.approx(0.5)
    assert result["random_map"] < 1.0
    assert result["confusion"][RIGHT][RIGHT] == 3
    assert sum(map(sum, result["confusion"])) == 6


def test_the_other_side_is_counted() -> None:
    crossed = entries({RIGHT: (0, 90, 0), LEFT: (90, 0, 90), HEART: (180, 180, 180)})
    found: Any = retrieval.summary(crossed, 0)["laterality_errors"]
    # b's lungs lie where the others' are on the other side: both its queries err, and both of a, to whom b comes before
    # c in the order of ids. c meets a first, and is right.
    assert found["queries"] == 6
    assert found["first"] == pytest.approx(4 / 6, abs=1e-4)


def test_location_recall_asks_whether_the_film_shows_the_region() -> None:
    shown = entries({RIGHT: (0, 0, 0), HEART: (1, 1, 1)})
    everywhere: Any = retrieval.summary(shown, 0)
    assert everywhere["location_recall@5"] == pytest.approx(4 / 5)  # four answers of two films, all with both regions
    without = [entry for entry in shown if (entry.id, entry.anatomy) != ("b", RIGHT)]
    answered = retrieval.answers(Questions(without), "anatomy", 0)
    asked = Questions(without)
    of_a = next(n for n, e in enumerate(asked.found) if (e.id, e.anatomy) == ("a", RIGHT))
    assert answered.values["location_recall@5"][of_a] == pytest.approx(2 / 5)  # c's two; b shows no right lung


def test_what_the_detector_missed_costs_everyone() -> None:
    whole = entries({RIGHT: (0, 1, 2), HEART: (90, 91, 92)})
    missed = [replace(e, vectors={}) if (e.id, e.anatomy) == ("c", RIGHT) else e for e in whole]
    result: Any = retrieval.summary(missed, 0)
    assert (result["gallery"], result["queries"], result["missed_by_detector"]) == (5, 6, 1)
    assert result["per_region"]["right lung"]["map"] == pytest.approx((0.5 + 0.5 + 0.0) / 3, abs=1e-4)
    assert result["per_region"]["cardiac silhouette"]["map"] == 1.0


def test_one_patient_and_no_positives_are_said() -> None:
    one = [Entry("f1", "a", RIGHT, at(0)), Entry("f2", "a", RIGHT, at(1))]
    assert retrieval.summary(one, 0)["note"] == retrieval.TOO_FEW
    apart = [Entry("a", "a", RIGHT, at(0)), Entry("b", "b", HEART, at(1))]
    result = retrieval.summary(apart, 0)
    assert result["note"] == retrieval.NO_POSITIVES
    assert result["queries_without_positives"] == 2
    assert retrieval.summary([], 0)["note"] == retrieval.TOO_FEW


def test_answers_do_not_depend_on_the_order_given_nor_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    given = entries({RIGHT: (0, 40, 80), LEFT: (20, 60, 100), HEART: (90, 91, 92)})
    whole = retrieval.summary(given, 0)
    monkeypatch.setattr("encoder.evaluate.entries.BLOCK", 2)
    assert retrieval.summary(given[::-1], 0) == whole


def with_findings(shown: str, other: float) -> list[Entry]:
    """Right lungs of six patients: N shows a nodule, . shows nothing, ? nobody said."""
    said = {"N": frozenset({"nodule"}), ".": frozenset[str](), "?": None}
    rows = []
    for number, mark in enumerate(shown):
        angle = 0.0 if mark == "N" else other
        vectors = {**at(angle), "finding": at(angle)["anatomy"], "anatomy": at(0)["anatomy"]}
        rows.append(Entry(str(number), str(number), RIGHT, vectors, said[mark]))
    return rows


def test_findings_are_asked_among_the_same_anatomy() -> None:
    result: Any = finding.summary(with_findings("NN....?", 60.0), 0)
    assert result["vector"] == "finding"
    assert (result["gallery"], result["queries"]) == (6, 2)
    assert result["map"] == 1.0
    assert result["p@5"] == pytest.approx(1 / 5)
    assert result["chance_p@5"] == pytest.approx(1 / 5)
    assert set(result["by_vector"]) == {"anatomy", "finding", RAW_PIXELS}


def test_an_anatomy_vector_may_be_blind_to_a_finding() -> None:
    result: Any = finding.summary(with_findings("..N...N", 60.0), 0)
    assert result["by_vector"]["finding"]["map"] == 1.0
    assert result["by_vector"]["anatomy"]["map"] < 0.6  # all alike: the order is that of ids


def test_nobody_said_and_nobody_shares() -> None:
    assert finding.summary(with_findings("???", 0.0), 0) == {"note": finding.UNKNOWN}
    assert finding.summary(with_findings("N...", 0.0), 0)["note"] == finding.NO_POSITIVES
    assert finding.summary(with_findings("....", 0.0), 0)["note"] == finding.NO_POSITIVES
    assert RANDOM not in finding.summary(with_findings("NN", 0.0), 0)
