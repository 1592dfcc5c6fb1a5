"""A picture and the asking image's header in, a Secondary Capture in the asker's study out (PS3.3 A.8)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicomnode.sr.result import EQUIPMENT, Facts, dated
from dicomnode.sr.writer import completed
from dicomnode.uids import derived_uid

SERIES_DESCRIPTION: Final = "Similar regions, picture"
SERIES_NUMBER: Final = 9002
# Of the asking image, PS3.3 C.7.1.1, C.7.2.1, C.7.2.2: who and which study. Nothing else is taken over.
TAKEN_OVER: Final = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def panel(image: Dataset, picture: NDArray[np.uint8], facts: Facts) -> Dataset:
    """The capture, complete: `save_as` writes a Part 10 file. picture: (rows, columns, 3), RGB."""
    source = completed(image)
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    for keyword in TAKEN_OVER:
        if keyword in source:
            dataset[keyword] = source[keyword]
    _identify(dataset, facts)
    _describe(dataset)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = (int(side) for side in picture.shape)
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    content = picture.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW"  # PS3.5 A.2: Explicit VR, 8 bits in a cell of either
    dated(dataset, source, facts.at)
    return dataset


def _identify(dataset: FileDataset, facts: Facts) -> None:
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = facts.sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SeriesInstanceUID = derived_uid("panel series", facts.question_uid)
    dataset.SeriesNumber, dataset.InstanceNumber = str(SERIES_NUMBER), "1"


def _describe(dataset: FileDataset) -> None:
    """No Body Part Examined: a picture of films is no film, and must not be taken for one."""
    dataset.Modality, dataset.ConversionType = "OT", "WSD"  # PS3.3 C.8.6.1: made by a workstation
    dataset.SeriesDescription = SERIES_DESCRIPTION
    dataset.Manufacturer = EQUIPMENT["manufacturer"]
    dataset.ManufacturerModelName = EQUIPMENT["manufacturer_model_name"]
    dataset.SoftwareVersions = EQUIPMENT["software_versions"]
    dataset.DeviceSerialNumber = EQUIPMENT["device_serial_number"]
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation = dataset.Laterality = ""  # Type 2C, unknown: films of both sides are in it
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
