"""The unlike-archive warning on vectors made for it."""

from typing import Any

import numpy as np
import pytest

from encoder.boxes import Box
from encoder.evaluate import unlike
from encoder.evaluate.entries import Entry
from encoder.evaluate.unlike import Neighbours, Probe

DIM = 8


def near(rng: np.random.Generator, centre: int, spread: float) -> np.ndarray:
    vector = np.eye(DIM)[centre] + spread * rng.standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def gallery() -> list[Entry]:
    rng = np.random.default_rng(0)
    return [Entry(str(n), str(n), label, {"anatomy": near(rng, label, 0.1)}) for n in range(30) for label in (0, 1)]


def probe(kind: str, patient: str, vector: np.ndarray, anatomy: int = 0) -> Probe:
    return Probe(kind, anatomy, patient, vector)


def test_distance_is_to_five_of_the_same_anatomy_and_other_patients(gallery: list[Entry]) -> None:
    neighbours = Neighbours(gallery)
    own = gallery[0].vectors["anatomy"]
    others = np.stack([e.vectors["anatomy"] for e in gallery if e.anatomy == 0 and e.patient != "0"])
    expected = 1 - np.sort(others @ own)[-5:].mean()
    assert neighbours.distance(0, own, "0") == pytest.approx(expected, abs=1e-6)
    assert neighbours.distance(0, own, "") < expected  # then it finds itself
    assert np.isnan(neighbours.distance(7, own, ""))
    assert np.isnan(Neighbours(gallery[:8]).distance(0, own, "0"))


def test_what_is_far_is_told_apart(gallery: list[Entry]) -> None:
    rng = np.random.default_rng(1)
    asked = [probe(unlike.UPRIGHT, f"new {n}", near(rng, 0, 0.1)) for n in range(20)]
    asked += [probe(unlike.NOISE, "", near(rng, 5, 0.1)) for _ in range(20)]
    asked += [probe(unlike.INVERTED, "", near(rng, 0, 0.1)) for _ in range(20)]
    result: Any
    result, ratios = unlike.summary(asked, Neighbours(gallery), {0: 0.3}, 0)
    assert result["auroc"][unlike.NOISE] == 1.0
    assert 0.2 < result["auroc"][unlike.INVERTED] < 0.8  # made like the usual ones
    assert result["false_alarms"] <= 0.1
    assert result["n"] == 20
    assert result["warned"][unlike.NOISE] == 1.0
    assert result["thresholds"] == unlike.THRESHOLDS
    assert unlike.OTHER not in result["auroc"]  # no such pictures were given
    assert (ratios[unlike.NOISE] > 1).all()


def test_thresholds_are_those_of_the_films_and_the_models_only_where_they_are_too_few(gallery: list[Entry]) -> None:
    rng = np.random.default_rng(1)
    asked = [probe(unlike.UPRIGHT, f"new {n}", near(rng, 0, 0.1)) for n in range(60)]

    def alarms(films: list[Entry], stored: dict[int, float], slack: float = 1.0) -> Any:
        return unlike.summary(asked, Neighbours(films), stored, 0, slack)[0]

    enough: Any = alarms(gallery, {})
    assert 0.0 < enough["false_alarms"] < 0.3
    low, high = enough["false_alarms_ci95"]
    assert low <= enough["false_alarms"] <= high
    assert alarms(gallery, {0: 1e-6}) == enough
    assert alarms(gallery, {}, slack=3.0)["false_alarms"] == 0.0
    few = [entry for entry in gallery if int(entry.patient) < 19]
    assert alarms(few, {0: 1e-6}, slack=3.0)["false_alarms"] == 1.0  # the model's has its slack already
    assert alarms(few, {0: 2.0})["false_alarms"] == 0.0
    assert alarms(few, {})["n"] == 0


def test_a_patients_own_regions_do_not_set_the_threshold_it_is_judged_by(gallery: list[Entry]) -> None:
    rng = np.random.default_rng(2)
    far = [Entry(f"far {n}", "far", 0, {"anatomy": near(rng, 3, 0.01)}) for n in range(6)]
    neighbours = Neighbours([*gallery, *far])
    own, others = neighbours.limit(0, "far"), neighbours.limit(0, "0")
    assert own is not None
    assert others is not None
    assert own < others
    assert own == pytest.approx(Neighbours(gallery).limit(0, ""))


def test_nothing_to_judge_is_said(gallery: list[Entry]) -> None:
    result, ratios = unlike.summary([], Neighbours(gallery), {}, 0)
    assert (result["n"], ratios) == (0, {})
    assert "note" in result


def test_boxes_turn_with_the_film() -> None:
    image = np.zeros((40, 60), np.float32)
    image[5:15, 30:50] = 1.0
    turned, boxes = unlike.rotated(image, {3: Box(30, 5, 50, 15)})
    x1, y1, x2, y2 = (int(edge) for edge in boxes[3])
    assert turned.shape == (60, 40)
    assert turned[y1:y2, x1:x2].min() == 1.0
    assert turned.sum() == (x2 - x1) * (y2 - y1)
