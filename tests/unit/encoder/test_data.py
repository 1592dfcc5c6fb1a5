"""Reading a data folder: labels of each kind, splits by patient, and errors that name what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.errors import TrainingDataError
from encoder.train.data import Landmarks, Listed, Outlines, fingerprint, read_films, split
from tests.unit.encoder import chests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return chests.write(tmp_path / "cxr", 8, 1)


def test_each_film_has_the_best_labels_it_can_have(folder: Path) -> None:
    kinds = [type(film.labels) for film in read_films(folder)]
    assert kinds[:4] == [Landmarks, Landmarks, Outlines, Listed]
    counts = [len(film.regions) for film in read_films(folder)]
    assert counts[0] == len(VOCABULARY) > counts[2] > counts[3] == 2


def test_splits_come_from_the_record(folder: Path) -> None:
    films = read_films(folder)
    assert (len(split(films, "dev_train")), len(split(films, "dev_val"))) == (4, 4)


def test_without_a_split_patients_are_divided_the_same_way_each_time(folder: Path) -> None:
    _change(folder, lambda record: record.pop("split"))
    films = read_films(folder)
    parts = [{film.patient for film in split(films, name)} for name in ("dev_train", "dev_val")]
    assert parts == [{film.patient for film in split(read_films(folder), name)} for name in ("dev_train", "dev_val")]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == len(films)
    assert {film.split for film in films} == {""}


def test_a_bare_record_is_enough(folder: Path) -> None:
    _change(folder, lambda record: [record.pop(key) for key in ("split", "id")])
    assert read_films(folder)[0].id == "P0.png"


def test_names_outside_the_vocabulary_are_left_out(folder: Path) -> None:
    _change(folder, lambda record: record["boxes"].update({"left cardiophrenic angle": [0, 0, 5, 5]}))
    assert len(read_films(folder)[3].listed) == 2


def test_an_annotated_box_wins_over_a_derived_one(folder: Path) -> None:
    _change(folder, lambda record: record.update(derived={"left lung": [0, 0, 1, 1], "spine": [1, 1, 2, 9]}))
    film = read_films(folder)[3]
    assert film.regions[VOCABULARY.named("spine").index] == Box(1, 1, 2, 9)
    assert film.regions[VOCABULARY.named("left lung").index] != Box(0, 0, 1, 1)


def test_the_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    same = chests.write(tmp_path / "elsewhere", 8, 1)
    other = chests.write(tmp_path / "other", 8, 2)
    assert fingerprint(read_films(folder)) == fingerprint(read_films(same))
    assert fingerprint(read_films(folder)) != fingerprint(read_films(other))


def test_a_turned_box_keeps_its_size_about() -> None:
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0]])
    moved = Listed(((0, Box(40, 40, 60, 60)),)).moved(turn)[0]
    assert moved.area == pytest.approx(400)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "cannot read"), ("{}", "not a list"), ('[{"file": "a.png"}]', "not a list"), (None, "cannot read")],
)
def test_a_folder_of_another_layout_is_said(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "regions.json").write_text(content)
    with pytest.raises(TrainingDataError, match=reason):
        read_films(tmp_path)


def test_a_listed_film_must_be_there(folder: Path) -> None:
    (folder / "images" / "P0.png").unlink()
    with pytest.raises(TrainingDataError, match=r"P0\.png"):
        read_films(folder)


def test_a_film_that_is_no_picture_is_said(folder: Path) -> None:
    (folder / "images" / "P0.png").write_bytes(b"not a png")
    with pytest.raises(TrainingDataError, match="no readable picture"):
        _ = read_films(folder)[0].image


def _change(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    records = json.loads((folder / "regions.json").read_text())
    for record in records:
        change(record)
    (folder / "regions.json").write_text(json.dumps(records))
