"""Films as files: what every benchmark sends and encodes. Drawn ones of nobody, or a folder of the user's."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from pydicom import dcmread

from dicomnode import uids
from dicomnode.demo import films

COUNT = 24
CUT = 0.06  # of a side, at most: what a view of a film may lose at each edge


@cache
def drawn(count: int = COUNT) -> tuple[Path, ...]:
    """DX files of 512 x 512, drawn once a run."""
    folder = Path(mkdtemp(prefix="bench-films-"))
    return tuple(films.drawn(folder, count, lambda *_: None))


def many(folder: Path, count: int) -> list[Path]:
    """`count` DX files of as many patients: views of the drawn films, each cut differently."""
    folder.mkdir(parents=True)
    return [_view(folder / f"{number:05d}.dcm", number) for number in range(count)]


def given(source: Path, folder: Path) -> list[Path]:
    """The DICOM files below a folder, and its pictures as DX files of a patient each."""
    folder.mkdir(parents=True)
    return films.own(source, folder, lambda *_: None)


def _view(path: Path, number: int) -> Path:
    dataset = dcmread(drawn()[number % COUNT])
    height, width = int(dataset.Rows), int(dataset.Columns)
    cuts = np.random.default_rng(number).uniform(0, CUT, 4) * (height, height, width, width)
    top, bottom, left, right = cuts.astype(int)
    pixels = np.frombuffer(dataset.PixelData, np.uint16).reshape(height, width)
    part = np.ascontiguousarray(pixels[top : height - bottom, left : width - right])
    dataset.Rows, dataset.Columns = part.shape
    dataset.PixelData = part.tobytes()
    dataset.PatientID, dataset.PatientName = f"VIEW{number:05d}", f"View^Number {number}"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, keyword, uids.derived_uid("bench view", keyword, str(number)))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path
