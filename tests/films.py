"""The open films as DX instances, as several hospitals would store them."""

import datetime
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import JPEG2000Lossless

from dicomnode.demo.dx import FilmFacts, dx_dataset
from encoder.boxes import Box

ANNOTATED = ("right lung", "left lung", "cardiac silhouette", "right clavicle", "left clavicle")
FIRST_STUDY = datetime.date(2020, 1, 1)
PAIRED = 40  # the first films are of 20 patients with two films each, two years apart


@dataclass(frozen=True)
class Film:
    """One film of the archive, with what is known of it."""

    number: int
    record: dict[str, Any]
    facts: FilmFacts
    inverted: bool
    syntax: str  # "raw", "jpeg" (lossless), "j2k"
    dataset: FileDataset

    @property
    def uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)

    def boxes(self) -> dict[str, Box]:
        return {name: Box(*box) for name, box in self.record["boxes"].items() if name in ANNOTATED}


def open_films(data: Path, most: int | None = None) -> list[Film]:
    """Every film of data/cxr, or the first ones."""
    records = json.loads((data / "cxr" / "regions.json").read_text())[:most]
    return [_film(number, record, data / "cxr" / "images") for number, record in enumerate(records)]


def _film(number: int, record: dict[str, Any], images: Path) -> Film:
    with Image.open(images / record["file"]) as picture:
        eight = np.asarray(picture.convert("L"), dtype=np.uint16)
    patient = number // 2 if number < PAIRED else number
    day = FIRST_STUDY + datetime.timedelta(days=3 * number + (730 if number < PAIRED and number % 2 else 0))
    facts = FilmFacts(
        patient_id=f"CXR{patient:04d}",
        patient_name=f"Film^Number {patient}",
        patient_sex={"Male": "M", "Female": "F"}.get(record.get("sex", ""), "FM"[patient % 2]),
        patient_birth_date="19500101",
        study_date=f"{day:%Y%m%d}",
        accession_number=f"X{number:05d}",
        seed=f"cxr {number}",
    )
    inverted = number % 5 == 3
    syntax = {1: "jpeg", 4: "j2k"}.get(number % 10, "raw")
    dataset = dx_dataset(eight * 16 + eight // 16, facts, inverted=inverted)
    return Film(number, record, facts, inverted, syntax, dataset)


def write(films: list[Film], folder: Path, dcmcjpeg: str) -> list[Path]:
    """One file a film, compressed as its syntax says."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(film, folder / f"{film.number:04d}.dcm", dcmcjpeg) for film in films]


def _written(film: Film, path: Path, dcmcjpeg: str) -> Path:
    if film.syntax == "j2k":
        film.dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    film.dataset.save_as(path, enforce_file_format=True)
    if film.syntax == "jpeg":
        subprocess.run([dcmcjpeg, "+e1", str(path), str(path)], check=True, capture_output=True)
    return path
