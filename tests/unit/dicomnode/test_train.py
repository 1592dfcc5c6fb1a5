"""`dicomnode train` on a made-up Chest ImaGenome with DICOM pictures: the folder says which reader it needs."""

import json
from pathlib import Path

import numpy as np
import pytest

from dicomnode.cli import main
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.pixels.labelled import LabelledFilms
from encoder.data import read
from encoder.errors import ImageError
from tests.unit.encoder import imagenomes, small

FACTS = FilmFacts("P1", "Made^Up", "O", "19700101", "20260101")


def save(pixels: imagenomes.Pixels, path: Path) -> None:
    """As MONOCHROME1: what is bright on the film is stored low."""
    dx_dataset(pixels.astype(np.uint16) * 16, FACTS, inverted=True).save_as(path, enforce_file_format=True)


@pytest.fixture
def films() -> list[imagenomes.Made]:
    made = imagenomes.made(6)
    made[1].picture = False
    return made


@pytest.fixture
def data(tmp_path: Path, films: list[imagenomes.Made]) -> Path:
    return imagenomes.write(tmp_path / "data", films, zipped=True)


@pytest.fixture
def images(tmp_path: Path, films: list[imagenomes.Made]) -> Path:
    return imagenomes.draw(tmp_path / "images", films, ".dcm", save=save)


def test_dicom_pictures_are_read_high_bright(data: Path, images: Path, films: list[imagenomes.Made]) -> None:
    film = read(data, images, LabelledFilms()).films[0]
    assert film.size == film.image.shape == films[0].pixels.shape
    assert np.corrcoef(film.image.ravel(), films[0].pixels.ravel())[0, 1] > 0.99


def test_a_damaged_dicom_file_is_an_image_error(images: Path, films: list[imagenomes.Made]) -> None:
    path = images / films[0].path
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match=path.name):
        LabelledFilms().pixels(path)
    path.write_bytes(b"no DICOM at all")
    with pytest.raises(ImageError, match=path.name):
        LabelledFilms().size(path)


def test_one_epoch_on_chest_imagenome(
    data: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("encoder.train.detector.DetectorShape", lambda: small.DETECTOR)
    out = tmp_path / "out"
    command = ("train", "detector", "--data", str(data), "--images", str(images), "--epochs", "1", "--out", str(out))
    assert main.run(command) == 0
    written = json.loads((out / "runs/detector/data.json").read_text())
    assert written["skipped"] == {"image missing": 1}
    assert written["left_out"] == ["00000001-0000: image missing"]
    assert (written["train"], written["held"]) == (3, 1)
    assert json.loads((out / "runs/detector/config.json").read_text())["images"] == "images"
    assert "skipped, image missing: 1 (00000001-0000)" in capsys.readouterr().err
    assert (out / "detector.safetensors").exists()


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(("train", "detector", "--data", str(tmp_path), "--out", str(tmp_path / "out"))) != 0
    said = capsys.readouterr().err.strip()
    assert said.startswith("dicomnode: cannot read the data folder")
    assert "\n" not in said
