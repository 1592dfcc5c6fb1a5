"""Made-up films for tests: a smooth picture in, a CR data set of any depth and photometric interpretation out."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicomnode.quiet import quiet_pydicom

ROWS, COLUMNS = 120, 160


def picture(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """(rows, columns) float64 0..1, smooth, with no symmetry and its darkest and brightest value inside."""
    y, x = np.mgrid[:rows, :columns]
    wave = np.sin(x / 17) + np.cos(y / 13) + x / columns
    return (wave - wave.min()) / (wave.max() - wave.min())


def film(bits: int = 12, shown: np.ndarray | None = None, *, inverted: bool = False, **elements: Any) -> Dataset:
    """A CR film whose display shows `shown` (0..1); `inverted` stores it as MONOCHROME1."""
    shown = picture() if shown is None else shown
    allocated = 8 if bits <= 8 else 16 if bits <= 16 else 32
    levels = np.round((1 - shown if inverted else shown) * (2**bits - 1)).astype(f"<u{allocated // 8}")
    dataset = header(SOPInstanceUID="2.25.1001", BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1)
    dataset.Rows, dataset.Columns = levels.shape
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PixelData = levels.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def header(**elements: Any) -> Dataset:
    """The header of an indexable CR film."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    defaults = {
        "SOPClassUID": ComputedRadiographyImageStorage, "SOPInstanceUID": "2.25.1001", "StudyInstanceUID": "2.25.1",
        "SeriesInstanceUID": "2.25.2", "Modality": "CR", "PatientID": "P1", "PatientName": "Made^Up", "Rows": ROWS,
        "Columns": COLUMNS, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
    }  # fmt: skip
    with quiet_pydicom():  # some tests want values that break their VR
        for keyword, value in (defaults | elements).items():
            setattr(dataset, keyword, value)
    return dataset


def stored(dataset: Dataset) -> np.ndarray:
    """The cells of an uncompressed film of one sample, unsigned."""
    cells = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}")
    return cells.reshape(dataset.Rows, dataset.Columns)


def compressed(dataset: Dataset, syntax: str, frame: bytes) -> Dataset:
    """The film with one compressed frame that someone else made."""
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return dataset


def save(dataset: Dataset, folder: Path, name: str = "film.dcm") -> Path:
    path = folder / name
    dataset.save_as(path, enforce_file_format=True)
    return path
