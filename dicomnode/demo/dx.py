"""Pixels and facts in, a Digital X-Ray Image data set out (PS3.3 A.26), as a modality would send it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from dicomnode import uids


@dataclass(frozen=True)
class FilmFacts:
    """Who and when; all made up in the demo. Dates YYYYMMDD, sex M, F or O."""

    patient_id: str
    patient_name: str
    patient_sex: str
    patient_birth_date: str
    study_date: str
    study_time: str = "120000"
    accession_number: str = ""
    spacing_mm: float = 0.7  # of a 512-pixel film, 35.8 cm wide
    seed: str = ""  # UIDs are derived from it; the same seed makes the same instance


def dx_dataset(
    pixels: NDArray[np.uint16], facts: FilmFacts, *, bits_stored: int = 12, inverted: bool = False
) -> FileDataset:
    """A DX For Presentation instance.

    pixels: (H, W) uint16, 0..2**bits_stored-1, high = bright. `inverted` stores it as MONOCHROME1.
    """
    top = (1 << bits_stored) - 1
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    _identify(dataset, facts)
    _describe(dataset, facts)
    dataset.Rows, dataset.Columns = (int(side) for side in pixels.shape)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = str((top + 1) // 2), str(top + 1)
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    stored = (top - pixels if inverted else pixels).astype("<u2")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _identify(dataset: FileDataset, facts: FilmFacts) -> None:
    seed = facts.seed or facts.patient_id
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uids.derived_uid("instance", seed)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    dataset.StudyInstanceUID = uids.derived_uid("study", seed)
    dataset.SeriesInstanceUID = uids.derived_uid("series", seed)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientID, dataset.PatientName = facts.patient_id, facts.patient_name
    dataset.PatientSex, dataset.PatientBirthDate = facts.patient_sex, facts.patient_birth_date


def _describe(dataset: FileDataset, facts: FilmFacts) -> None:
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = facts.study_date
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = facts.study_time
    dataset.AccessionNumber, dataset.StudyID = facts.accession_number, "1"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription, dataset.SeriesDescription = "Chest", "PA"
    dataset.Modality, dataset.PresentationIntentType = "DX", "FOR PRESENTATION"
    dataset.Manufacturer, dataset.ManufacturerModelName = "", ""
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", "PA"
    dataset.ImageLaterality, dataset.PatientOrientation = "U", ["L", "F"]
    dataset.SeriesNumber, dataset.InstanceNumber = "1", "1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.ImagerPixelSpacing = [str(facts.spacing_mm), str(facts.spacing_mm)]
