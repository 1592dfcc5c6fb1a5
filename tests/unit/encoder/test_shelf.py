"""Shelved films come back as they were, and what could not be read is counted in the run folder."""

import json
from pathlib import Path

import pytest
import torch

from encoder.data import Reason, read
from encoder.errors import TrainingDataError
from encoder.train.augment import cached
from encoder.train.films import prepare, spread
from encoder.train.loop import TrainOptions
from encoder.train.shelf import Shelf
from tests.unit.encoder import chests

SIZE = 64


def test_a_film_comes_back_as_it_was(tmp_path: Path) -> None:
    films = [cached(film, SIZE) for film in read(chests.write(tmp_path / "cxr", 4, 1)).films]
    shelf = Shelf(tmp_path)
    for film in films:
        shelf.add(film)
    assert [each.film.id for each in shelf] == [film.film.id for film in films]
    assert shelf.films == [film.film for film in films]
    for before, after in zip(films, shelf, strict=True):
        assert after.scale == before.scale
        torch.testing.assert_close(after.pixels, before.pixels, atol=1e-5, rtol=0)
        torch.testing.assert_close(after.ranks, before.ranks, atol=1e-5, rtol=0)
    assert [each.film.id for each in shelf[-2:]] == [film.film.id for film in films[-2:]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cxr"]  # the scratch file has no name


def test_what_was_left_out_is_reported_and_written(tmp_path: Path) -> None:
    data = chests.write(tmp_path / "cxr", 12, 1)
    for number in range(4):
        (data / "images" / f"P{number}.png").unlink()
    whole = (data / "images" / "P4.png").read_bytes()
    (data / "images" / "P4.png").write_bytes(whole[: len(whole) // 2])  # the header is whole
    said: dict[str, str] = {}

    def report(stage: str, done: int, total: int, text: str) -> None:
        said[stage] = text

    ready = prepare(TrainOptions(data=data, out=tmp_path / "out"), "detector", SIZE, report)
    assert (len(ready.kept), len(ready.held), len(ready.films)) == (3, 4, 7)
    assert said["skipped, image missing"] == "4 (made/P0, made/P1, made/P2 and 1 more, see data.json)"
    assert said["skipped, image unreadable"] == "1 (made/P4)"
    written = json.loads((tmp_path / "out/runs/detector/data.json").read_text())
    assert written["skipped"] == {Reason.NO_IMAGE: 4, Reason.UNREADABLE: 1}
    assert len(written["left_out"]) == 5
    assert written["fingerprint"] == ready.fingerprint
    assert (written["train"], written["held"]) == (3, 4)


def test_one_patient_cannot_be_divided(tmp_path: Path) -> None:
    data = chests.write(tmp_path / "cxr", 4, 1)
    records = json.loads((data / "regions.json").read_text())
    (data / "regions.json").write_text(json.dumps([{**record, "patient": "P0"} for record in records]))
    with pytest.raises(TrainingDataError, match="all films are of patient P0"):
        prepare(TrainOptions(data=data, out=tmp_path / "out"), "detector", SIZE, lambda *_: None)


def test_films_are_spread_evenly() -> None:
    assert spread(range(10), 20) == list(range(10))
    assert spread(range(10), 4) == [0, 2, 5, 7]
