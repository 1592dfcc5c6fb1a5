"""Small ROIs measured: a pipeline whose map marks the pasted thing is right, one that sees nothing is at chance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.boxes import Box
from encoder.data import Film, Listed, Pictures
from encoder.evaluate import local
from encoder.evaluate.local import ZONES, Located
from encoder.evaluate.tables import tables
from encoder.local import LocalMap
from encoder.pipeline import Analysis, Embedding, Region
from encoder.train.pasted import Thing

SIDE, CELL = 320, 2  # pixels
UPPER, MID, LOWER = ZONES[:3]
BOXES = {UPPER: Box(20, 20, 140, 120), MID: Box(20, 120, 140, 220), LOWER: Box(20, 220, 140, 310)}
GREY = 100.0


def films(folder: Path, count: int, lesions: Sequence[Box | None] = ()) -> list[Film]:
    """Grey with a slope, which has a range: nothing is on them."""
    slope = np.tile(np.linspace(0, 4, SIDE), (SIDE, 1)) + GREY
    Image.fromarray(slope.astype(np.uint8)).save(folder / "film.png")
    places = [*lesions, *[None] * count][:count]
    return [
        Film(
            id=f"F{number}",
            patient=f"P{number}",
            split="",
            path=folder / "film.png",
            size=(SIDE, SIDE),
            listed=BOXES,
            labels=Listed(tuple(BOXES.items())),
            pictures=Pictures(),
            lesion=lesion,
        )
        for number, lesion in enumerate(places)
    ]


def cells_of(marked: np.ndarray) -> LocalMap:
    """(rows, columns) of the film -> a map that says what each cell is: 1 0 where marked, else 0 1."""
    grid = marked.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL).all(axis=(1, 3))
    features = np.where(grid[..., None], np.array([127, 0]), np.array([0, 127])).astype(np.int8)
    return LocalMap(features, Box(0, 0, SIDE, SIDE))


class Marking:
    """A pipeline whose local map shows where the film is not as it was; or one that shows the same everywhere."""

    def __init__(self, plain: np.ndarray, blind: bool = False, headless: bool = False) -> None:
        self._plain, self._blind, self._headless = plain, blind, headless
        self.embedded = 0

    def embed(self, image: np.ndarray, boxes: Sequence[Box]) -> Embedding:
        self.embedded += 1
        rng = np.random.default_rng(self.embedded)
        shown = cells_of(image != self._plain)
        if self._blind:
            shown = LocalMap(rng.integers(-90, 90, shown.features.shape).astype(np.int8), shown.area)
        vectors = {"anatomy": np.ones((len(boxes), 1), np.float32)}
        return Embedding(vectors, np.ones((len(boxes), 29), np.float32), None if self._headless else shown)


# --- control --------------------------------------------------------------------------------------------------------


def controlled(shown: Sequence[Film], **how: bool) -> tuple[Any, Marking]:
    pipeline = Marking(shown[0].image, **how)
    return local.control(shown, pipeline), pipeline  # type: ignore[arg-type]


def solid(film: np.ndarray, what: Thing, x: float, y: float, span: float) -> np.ndarray:
    """A thing of which every pixel can be seen."""
    half = what.side * SIDE / 2
    out = film.copy()
    out[max(0, round(y - half)) : round(y + half), max(0, round(x - half)) : round(x + half)] += span
    return out


@pytest.fixture(autouse=True)
def _solid_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "paste", solid)


@pytest.fixture
def shown(tmp_path: Path) -> list[Film]:
    return films(tmp_path, 6)


def test_a_map_that_marks_the_thing_is_always_right(shown: list[Film]) -> None:
    found, pipeline = controlled(shown)
    assert found["hit"] == 1.0
    assert found["n"] == local.ASKED * local.ANSWERING
    assert 0.0 < found["chance"] < 0.15
    assert pipeline.embedded == local.ASKED * (local.ANSWERING + 1)  # what it costs, however many films there are
    assert controlled(shown)[0] == found


def test_a_map_that_sees_nothing_is_near_chance(shown: list[Film], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ASKED", 40)
    found, _ = controlled(shown, blind=True)
    assert found["hit"] == pytest.approx(found["chance"], abs=0.06)
    assert found["hit"] < 0.15


def test_without_a_local_head_or_a_second_film_there_is_no_control(shown: list[Film]) -> None:
    assert controlled(shown, headless=True)[0] is None
    found, pipeline = controlled(shown[:1])
    assert (found, pipeline.embedded) == (None, 0)


def test_only_zones_that_two_films_show_are_asked_for(shown: list[Film]) -> None:
    few = {MID: BOXES[MID]}
    some = [replace(film, listed=few, labels=Listed(tuple(few.items()))) for film in shown]
    assert controlled([*some[:2], shown[2]])[0]["hit"] == 1.0  # the other zones are in one film only
    outside = {**few, UPPER: Box(SIDE, 0, SIDE + 80, 60)}
    past = [replace(film, listed=outside, labels=Listed(tuple(outside.items()))) for film in shown]
    assert controlled(past)[0]["hit"] == 1.0
    none = [replace(film, listed={0: BOXES[MID]}, labels=Listed(((0, BOXES[MID]),))) for film in shown]
    assert controlled(none)[0] is None


# --- nodules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a film's map shows, and how like the others its region is."""

    marked: Box | None
    vector: tuple[float, float] = (1.0, 0.0)


def located(film: Film, told: Told) -> Located:
    marks = np.zeros((SIDE, SIDE), bool)
    if told.marked:
        x1, y1, x2, y2 = (int(edge) for edge in told.marked)
        marks[y1:y2, x1:x2] = True
    regions = tuple(Region(anatomy, box, 0.9, 0.8) for anatomy, box in BOXES.items())
    vectors = np.tile(np.array(told.vector, np.float32), (len(regions), 1))
    return Located(film, Analysis(regions, {"anatomy": vectors}, cells_of(marks)))


NODULES = [Box(x, 160, x + 16, 176) for x in (40, 104, 48, 112, 56, 96, 88)]


@pytest.fixture
def sick(tmp_path: Path) -> list[Film]:
    """Seven with a nodule in the middle zone, none at the place of another's; three without."""
    return films(tmp_path, 10, NODULES)


def test_nodules_are_found_by_a_map_that_marks_them(sick: list[Film]) -> None:
    found: Any = local.nodules([located(film, Told(film.lesion)) for film in sick], 0)
    assert (found["queries"], found["films_with_nodule"]) == (7, 7)
    assert found["on_a_nodule@5"] == 1.0
    assert found["ci95"] == [1.0, 1.0]
    # A box of 16 by 16 anywhere in a zone of 120 by 100 meets another, in 6 of the 9 others.
    assert found["chance"] == pytest.approx(6 / 9 * (32 / 120) * (32 / 100), abs=0.015)
    # The place carried over, to whichever five: by hand.
    assert found["region_vectors_alone"] == pytest.approx(carried(sick), abs=1e-3)


def carried(sick: Sequence[Film]) -> float:
    """All regions are equally alike, so the first five by name answer."""
    shares = []
    for film in sick:
        if film.lesion:
            others = [other for other in sick if other is not film][:5]
            meets = [other.lesion is not None and film.lesion.intersection(other.lesion).area > 0 for other in others]
            shares.append(np.mean(meets))
    return float(np.mean(shares))


def test_a_map_that_marks_other_places_finds_none(sick: list[Film]) -> None:
    wrong = [located(film, Told(Box(120, 200, 136, 216) if film.lesion is None else film.lesion)) for film in sick]
    only = [wrong[0], *(each for each in wrong if each.film.lesion is None), *map(healthy, wrong[1:4])]
    lost: Any = local.nodules(only, 0)
    assert (lost["on_a_nodule@5"], lost["queries"], lost["films_with_nodule"], lost["chance"]) == (0.0, 1, 1, 0.0)


def healthy(each: Located) -> Located:
    return Located(replace(each.film, lesion=None), each.analysis)


def test_the_asking_patient_does_not_answer(sick: list[Film]) -> None:
    own = [replace(film, patient="P") for film in sick]
    assert local.nodules([located(film, Told(film.lesion)) for film in own], 0) is None
    two = [*own[:2], *sick[2:]]
    found: Any = local.nodules([located(film, Told(film.lesion)) for film in two], 0)
    assert found["queries"] == 7


def test_region_vectors_choose_whom_to_look_at_where_there_is_no_map_to_do_it(sick: list[Film]) -> None:
    """Those whose region is alike have the nodule at the same place; the map marks nothing at all."""
    there = Box(48, 160, 64, 176)
    moved = [replace(film, lesion=there if number < 6 else None) for number, film in enumerate(sick)]
    rows = [located(film, Told(None, (1.0, 0.0) if number < 6 else (0.0, 1.0))) for number, film in enumerate(moved)]
    found: Any = local.nodules(rows, 0)
    assert found["region_vectors_alone"] == 1.0
    assert found["on_a_nodule@5"] < 1.0


def test_no_nodules_no_map_or_too_few_answers_measure_nothing(sick: list[Film], shown: list[Film]) -> None:
    assert local.nodules([located(film, Told(None)) for film in shown], 0) is None
    rows = [located(film, Told(film.lesion)) for film in sick]
    blank = [Located(row.film, replace(row.analysis, local=None)) for row in rows]
    assert local.nodules(blank, 0) is None
    assert local.nodules(rows[:5], 0) is None  # four others
    assert local.nodules([], 0) is None


# --- what evaluation tells -------------------------------------------------------------------------------------------


def test_both_are_told_in_one_table(sick: list[Film]) -> None:
    rows = [located(film, Told(film.lesion)) for film in sick]
    found = local.summary(rows, Marking(sick[0].image), 0)  # type: ignore[arg-type]
    assert set(found) == {"control", "nodules"}
    (table,) = tables({"local": found})
    assert [row[0] for row in table.rows] == [
        "made-up things: match on them",
        "of these, plain to see",
        "nodules: first 5 on one",
    ]
    assert [row[1] for row in table.rows] == [1.0, 1.0, 1.0]
    everything, plain, nodules = (row[-1] for row in table.rows)
    assert (everything, nodules) == (local.ASKED * local.ANSWERING, 7)
    assert 0 < plain < everything
    assert table.note == "7 films with a nodule"


def test_what_cannot_be_measured_is_a_note(sick: list[Film]) -> None:
    rows = [located(film, Told(film.lesion)) for film in sick]
    blank = [Located(row.film, replace(row.analysis, local=None)) for row in rows]
    pipeline: Any = Marking(sick[0].image)
    assert local.summary(blank, pipeline, 0) == {"note": local.NO_MAP}
    assert local.summary([healthy(rows[0])], pipeline, 0) == {"note": local.TOO_FEW}
    assert pipeline.embedded == 0
    well = [healthy(row) for row in rows]
    assert set(local.summary(well, pipeline, 0)) == {"control"}
    (table,) = tables({"local": {"note": local.NO_MAP}})
    assert (table.rows, table.note) == ((), local.NO_MAP)
