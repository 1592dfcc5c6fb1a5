"""Reading a data folder: labels of each kind, splits by patient, and errors that name what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data import Landmarks, Listed, Outlines, Reason, fingerprint, read, split
from encoder.errors import ImageError, TrainingDataError
from tests.unit.encoder import chests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return chests.write(tmp_path / "cxr", 8, 1)


def test_each_film_has_the_best_labels_it_can_have(folder: Path) -> None:
    kinds = [type(film.labels) for film in read(folder).films]
    assert kinds[:4] == [Landmarks, Landmarks, Outlines, Listed]
    counts = [len(film.regions) for film in read(folder).films]
    assert counts[0] == len(VOCABULARY) > counts[2] > counts[3] == 2


def test_splits_come_from_the_record(folder: Path) -> None:
    films = read(folder).films
    assert (len(split(films, "dev_train")), len(split(films, "dev_val"))) == (4, 4)


def test_without_a_split_patients_are_divided_the_same_way_each_time(folder: Path) -> None:
    _change(folder, lambda record: record.pop("split"))
    films = read(folder).films
    parts = [{film.patient for film in split(films, name)} for name in ("dev_train", "dev_val")]
    assert parts == [{film.patient for film in split(read(folder).films, name)} for name in ("dev_train", "dev_val")]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == len(films)
    assert {film.split for film in films} == {""}


def test_a_bare_record_is_enough(folder: Path) -> None:
    _change(folder, lambda record: [record.pop(key) for key in ("split", "id")])
    assert read(folder).films[0].id == "P0.png"


def test_names_outside_the_vocabulary_are_left_out(folder: Path) -> None:
    _change(folder, lambda record: record["boxes"].update({"left cardiophrenic angle": [0, 0, 5, 5]}))
    assert len(read(folder).films[3].listed) == 2
    assert read(folder).left_out == ()  # known, and not used


def test_an_annotated_box_wins_over_a_derived_one(folder: Path) -> None:
    _change(folder, lambda record: record.update(derived={"left lung": [0, 0, 1, 1], "spine": [1, 1, 2, 9]}))
    film = read(folder).films[3]
    assert film.regions[VOCABULARY.named("spine").index] == Box(1, 1, 2, 9)
    assert film.regions[VOCABULARY.named("left lung").index] != Box(0, 0, 1, 1)


def test_the_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    same = chests.write(tmp_path / "elsewhere", 8, 1)
    other = chests.write(tmp_path / "other", 8, 2)
    assert fingerprint(read(folder).films) == fingerprint(read(same).films)
    assert fingerprint(read(folder).films) != fingerprint(read(other).films)


def test_a_turned_box_keeps_its_size_about() -> None:
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0]])
    moved = Listed(((0, Box(40, 40, 60, 60)),)).moved(turn)[0]
    assert moved.area == pytest.approx(400)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot read"),
        ("{}", "not a list"),
        ("[]", "lists none"),
        ('[{"file": "a.png"}]', "record without file or patient: 1"),
        (None, "neither regions.json nor silver_dataset"),
    ],
)
def test_a_folder_of_another_layout_is_said(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "regions.json").write_text(content)
    with pytest.raises(TrainingDataError, match=reason):
        read(tmp_path)


def test_landmarks_that_cannot_be_read_are_said(folder: Path) -> None:
    (folder / "landmarks.npz").write_bytes(b"PK no archive")
    with pytest.raises(TrainingDataError, match=r"landmarks\.npz"):
        read(folder)


def test_pictures_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    (folder / "images").rename(tmp_path / "pictures")
    assert len(read(folder, tmp_path / "pictures").films) == 8


def test_a_missing_and_an_unreadable_picture_are_counted_and_named(folder: Path) -> None:
    (folder / "images" / "P0.png").unlink()
    (folder / "images" / "P1.png").write_bytes(b"not a png")
    found = read(folder)
    assert len(found.films) == 6
    assert [(line.record, line.reason) for line in found.left_out] == [
        ("made/P0", Reason.NO_IMAGE),
        ("made/P1", Reason.UNREADABLE),
    ]
    assert str(found.left_out[0]) == "made/P0: image missing (P0.png)"
    assert found.plain()["skipped"] == {"image missing": 1, "image unreadable": 1}


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([200, 10, 210, 20], Reason.OUTSIDE),
        ([-20, 10, 0, 20], Reason.OUTSIDE),
        ([10, 10, 10, 20], Reason.NO_AREA),
        ([20, 10, 10, 20], Reason.NO_AREA),
        ([10, 10, float("nan"), 20], Reason.NOT_A_BOX),
        ([10, 10, float("inf"), 20], Reason.NOT_A_BOX),
        ([10, 10, 20], Reason.NOT_A_BOX),
        ([10, 10, 20, "20"], Reason.NOT_A_BOX),
        ([10, 10, 20, True], Reason.NOT_A_BOX),
        (None, Reason.NOT_A_BOX),
        ({"x1": 1}, Reason.NOT_A_BOX),
    ],
)
def test_a_box_that_is_none_is_counted_and_the_film_is_kept(folder: Path, box: object, reason: Reason) -> None:
    _change(folder, lambda record: record["boxes"].update(spine=box), 3)
    found = read(folder)
    assert len(found.films) == 8
    assert [(line.record, line.reason) for line in found.left_out] == [("made/P3", reason)]
    assert found.left_out[0].detail.startswith("spine")
    assert VOCABULARY.named("spine").index not in found.films[3].regions


def test_a_box_past_the_edge_is_clipped_and_counted(folder: Path) -> None:
    _change(folder, lambda record: record["boxes"].update(spine=[40, -5, 60, 200]), 3)
    found = read(folder)
    assert found.films[3].listed[VOCABULARY.named("spine").index] == Box(40, 0, 60, chests.SIDE)
    assert found.skipped == {Reason.CLIPPED: 1}


def test_a_name_that_nobody_knows_is_counted(folder: Path) -> None:
    _change(folder, lambda record: record["boxes"].update({"left knee": [1, 1, 5, 5], "Spine": [1, 1, 5, 5]}), 3)
    found = read(folder)
    assert found.skipped == {Reason.UNKNOWN_NAME: 1}
    assert VOCABULARY.named("spine").index in found.films[3].listed


def test_boxes_that_are_no_table_are_counted(folder: Path) -> None:
    _change(folder, lambda record: record.update(boxes=[1, 2]), 3)
    assert read(folder).skipped == {Reason.NOT_A_BOX: 1, Reason.NO_REGION: 1}


@pytest.mark.parametrize("change", [{"patient": None}, {"patient": ""}, {"file": None}])
def test_a_record_without_patient_or_file_is_counted(folder: Path, change: dict[str, object]) -> None:
    _change(folder, lambda record: record.update(change), 2)
    found = read(folder)
    assert len(found.films) == 7
    assert [(line.record, line.reason) for line in found.left_out] == [("made/P2", Reason.NO_RECORD)]


def test_a_second_film_of_the_same_id_is_counted(folder: Path) -> None:
    _change(folder, lambda record: record.update(id="made/P0"), 2)
    found = read(folder)
    assert [line.reason for line in found.left_out] == [Reason.DUPLICATE]
    assert len(found.films) == 7


def test_a_damaged_contour_leaves_the_boxes(folder: Path) -> None:
    (folder / "masks" / "P2.png").write_bytes(b"not a png")
    Image.fromarray(np.ones((9, 9), np.uint8)).save(folder / "masks" / "P6.png")
    with np.load(folder / "landmarks.npz") as stored:
        marks = {**stored}
    marks["P0/H"][0] = np.nan
    np.savez(folder / "landmarks.npz", **marks)
    found = read(folder)
    assert [line.record for line in found.left_out] == ["made/P0", "made/P2", "made/P6"]
    assert {line.reason for line in found.left_out} == {Reason.CONTOUR}
    assert {type(found.films[number].labels) for number in (0, 2, 6)} == {Listed}


def test_a_picture_that_fails_when_opened_is_said(folder: Path) -> None:
    film = read(folder).films[0]
    film.path.write_bytes(b"not a png")
    with pytest.raises(ImageError, match="no readable picture"):
        _ = film.image


def test_only_the_last_pictures_are_kept(folder: Path) -> None:
    films = read(folder).films
    first = films[0].image
    assert films[0].image is first
    for film in films:
        assert film.image.shape == film.size
    assert films[0].image is not first


def test_a_nodule_is_shown_by_the_regions_that_hold_its_centre(folder: Path) -> None:
    _change(folder, lambda record: record.update(finding="lung cancer", lesion=[20, 30, 30, 40]), 3)
    _change(folder, lambda record: record.update(finding="non-nodule"), 7)
    _change(folder, lambda record: record.update(finding="lung cancer"), 4)
    films = read(folder).films
    right, left = (VOCABULARY.named(f"{side} lung").index for side in ("right", "left"))
    assert films[3].findings == {right: {"nodule"}, left: frozenset()}
    assert films[3].lesion == Box(20, 30, 30, 40)
    assert films[3].diagnosis == "lung cancer"
    assert films[7].findings == {right: frozenset(), left: frozenset()}
    assert films[4].findings is films[0].findings is None


def _change(folder: Path, change, only: int | None = None) -> None:  # type: ignore[no-untyped-def]
    records = json.loads((folder / "regions.json").read_text())
    for number, record in enumerate(records):
        if only in (None, number):
            change(record)
    (folder / "regions.json").write_text(json.dumps(records))
