"""The objects of the DIMSE benchmark: small ones to be found, CT slices to be retrieved. UIDs repeat each run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicomnode import uids

STUDIES = 1000  # studies of one image: what STUDY level is asked about
SERIES = (1, 100, 1000)  # images of each series of one more study: what IMAGE level is asked about
SMALL, CT = 8, 512  # rows and columns


@dataclass(frozen=True)
class Place:
    """Where an object stands."""

    patient: str
    study: str
    series: str
    number: int

    @property
    def study_uid(self) -> str:
        return uids.derived_uid("bench study", self.study)

    @property
    def series_uid(self) -> str:
        return uids.derived_uid("bench series", self.study, self.series)


def studies(folder: Path, count: int = STUDIES) -> list[Path]:
    """Last patient first: an archive that keeps only the latest studies keeps those that are asked for singly."""
    places = [Place(f"FIND{number:04d}", f"find {number}", "1", 1) for number in reversed(range(count))]
    return written(folder, places, SMALL)


def images(folder: Path) -> list[Path]:
    """One study of three series."""
    return written(folder, [image(count, number + 1) for count in SERIES for number in range(count)], SMALL)


def image(count: int, number: int) -> Place:
    """An image of the series that has `count`."""
    return Place("IMAGES", "images", str(count), number)


def slices(folder: Path, count: int) -> list[Path]:
    """A CT study of `count` slices of half a megabyte."""
    return written(folder, [ct(number + 1) for number in range(count)], CT)


def ct(number: int) -> Place:
    """A slice of the study that is retrieved."""
    return Place("RETRIEVE", "retrieve", "1", number)


def written(folder: Path, places: list[Place], side: int) -> list[Path]:
    """One Part 10 file a place, Explicit VR Little Endian, in the order of the places."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 4096, (side, side), np.uint16)
    paths = []
    for number, place in enumerate(places):
        path = folder / f"{number:05d}.dcm"
        _dataset(place, np.roll(noise, place.number, axis=1)).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _dataset(place: Place, pixels: "np.ndarray[tuple[int, int], np.dtype[np.uint16]]") -> FileDataset:
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    uid = uids.derived_uid("bench instance", place.study, place.series, str(place.number))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = place.study_uid, place.series_uid
    dataset.PatientID, dataset.PatientName = place.patient, f"Bench^{place.patient}"
    dataset.PatientSex, dataset.PatientBirthDate = "O", "19700101"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20240102", "120000", "1"
    dataset.AccessionNumber, dataset.StudyDescription = "A1", "Chest CT"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, place.number
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleIntercept, dataset.RescaleSlope = "-1024", "1"
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset
