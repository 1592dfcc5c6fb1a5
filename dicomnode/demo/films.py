"""Where the demo's films come from: drawn ones of nobody, or the user's own folder; DICOM files in a folder out."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.errors import DicomNodeError
from encoder.phantoms import draw

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
FIRST_STUDY = datetime.date(2024, 1, 3)
Report = Callable[[str, int, int, str], None]


def drawn(folder: Path, count: int, report: Report) -> list[Path]:
    """`count` films of nobody, each of another made-up patient, written to `folder` as DX instances."""
    model = draw.load()
    paths = []
    for seed in range(count):
        phantom = draw.draw(model, seed)
        path = folder / f"film-{seed:03d}.dcm"
        dx_dataset(phantom.pixels, _facts(seed)).save_as(path, enforce_file_format=True)
        paths.append(path)
        report("drawing films", seed + 1, count, "")
    return paths


def own(folder: Path, into: Path, report: Report) -> list[Path]:
    """Every DICOM file below a folder as it is, and every picture there wrapped as a DX instance of its own patient."""
    if not folder.is_dir():
        raise DicomNodeError(f"no such folder: {folder}")
    paths = client.dicom_files([folder])
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    for number, picture in enumerate(pictures):
        path = into / f"film-{number:05d}.dcm"
        facts = FilmFacts(f"FILM{number:05d}", f"Film^{number:05d}", "O", "", "20240101", seed=str(picture))
        dx_dataset(_grey(picture), facts, bits_stored=16).save_as(path, enforce_file_format=True)
        paths.append(path)
        report("reading films", number + 1, len(pictures), "")
    if not paths:
        raise DicomNodeError(f"no DICOM files and no pictures in {folder}")
    return paths


def _facts(seed: int) -> FilmFacts:
    day = FIRST_STUDY + datetime.timedelta(days=5 * seed)
    return FilmFacts(
        patient_id=f"NOBODY{seed:03d}",
        patient_name=f"Nobody^Number {seed}",
        patient_sex="FM"[seed % 2],
        patient_birth_date=f"{1940 + seed % 60}0101",
        study_date=f"{day:%Y%m%d}",
        accession_number=f"A{seed:04d}",
        seed=f"demo {seed}",
    )


def _grey(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    with Image.open(path) as picture:
        if picture.mode in {"I", "I;16", "F"}:
            values = np.asarray(picture, dtype=np.float64)
        else:
            values = np.asarray(picture.convert("L"), dtype=np.float64) * 257.0
    return np.clip(values, 0, 65535).astype(np.uint16)


def sop_instance_uids(paths: list[Path]) -> Iterator[tuple[str, Path]]:
    """(SOP Instance UID, file) of each film, to find a hit's picture again."""
    from pydicom import dcmread

    for path in paths:
        yield str(dcmread(path, stop_before_pixels=True).SOPInstanceUID), path
