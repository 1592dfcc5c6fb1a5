"""Why an SR that asked gets no answer in, the Basic Text SR that tells the asker out (PS3.3 A.35.1).

It lies in the asker's own study, under the series description of results, names the SR that asked, and holds nothing
else of anybody. Like a result it says which program it is of: stored as a question it is known and asks nothing.
"""

from datetime import datetime
from typing import Final

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian

from dicomnode import codes
from dicomnode.attributes import plain
from dicomnode.attributes.plain import element, sequence
from dicomnode.codes import Code, coded_content, content
from dicomnode.sr.panel import TAKEN_OVER
from dicomnode.sr.result import ALGORITHM, ALGORITHM_NAME, DEVICE, EQUIPMENT, SERIES_DESCRIPTION, dated
from dicomnode.sr.writer import completed, reference
from dicomnode.uids import derived_uid

SERIES_NUMBER: Final = 9003
TITLE: Final = Code("NOANSWER", codes.SCHEME, "Search for similar regions without an answer")
_OBSERVER_TYPE: Final = Code("121005", "DCM", "Observer Type")
_OBSERVER_UID: Final = Code("121012", "DCM", "Device Observer UID")
_OBSERVER_NAME: Final = Code("121013", "DCM", "Device Observer Name")


def notice_uid(question_uid: str, reason: str) -> str:
    """SOP Instance UID: the same SR that fails for the same reason again makes no second notice."""
    return derived_uid("notice", question_uid, reason)


def notice(asking: Dataset, reason: str, uid: str, at: datetime) -> Dataset:
    """The SR, complete: `save_as` writes a Part 10 file. `asking`: header of the SR that asked; `at`: local time."""
    source = completed(asking)
    document = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    for keyword in TAKEN_OVER:
        if keyword in source:
            document[keyword] = source[keyword]
    _identify(document, source, uid)
    for keyword, value in _ABOUT.items():
        setattr(document, keyword, value)
    document.ReferencedPerformedProcedureStepSequence = []  # Type 2
    document.PerformedProcedureCodeSequence = []
    document.CodingSchemeIdentificationSequence = [codes.scheme_identification()]
    document.CurrentRequestedProcedureEvidenceSequence = [_evidence(source)]
    _tell(document, source, reason)
    dated(document, source, at)
    return document


_ABOUT: Final[dict[str, str]] = {
    "Modality": "SR",
    "SeriesDescription": SERIES_DESCRIPTION,
    "Manufacturer": EQUIPMENT["manufacturer"],
    "ManufacturerModelName": EQUIPMENT["manufacturer_model_name"],
    "SoftwareVersions": EQUIPMENT["software_versions"],
    "DeviceSerialNumber": EQUIPMENT["device_serial_number"],
    "CompletionFlag": "COMPLETE",
    "VerificationFlag": "UNVERIFIED",
}


def _identify(document: FileDataset, source: Dataset, uid: str) -> None:
    meta = document.file_meta
    meta.MediaStorageSOPClassUID = document.SOPClassUID = BasicTextSRStorage
    meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.SeriesInstanceUID = derived_uid("notice series", str(source.SOPInstanceUID))
    document.SeriesNumber, document.InstanceNumber = str(SERIES_NUMBER), "1"


def _evidence(source: Dataset) -> Dataset:
    """Where the SR that asked is. PS3.3 C.17.2.3."""
    study, series = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = source.SeriesInstanceUID, [_reference(source)]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = source.StudyInstanceUID, [series]
    return study


def _reference(source: Dataset) -> Dataset:
    return plain.dataset(_reference_to(source))


def _reference_to(source: Dataset) -> plain.Item:
    return reference(source.SOPClassUID, source.SOPInstanceUID)


def _tell(document: Dataset, source: Dataset, reason: str) -> None:
    """PS3.3 A.35.1.3: a container of texts; PS3.16 TID 1002, 1004: its author is a device."""
    document.ValueType, document.ContinuityOfContent = "CONTAINER", "SEPARATE"
    document.ConceptNameCodeSequence = [codes.code_item(TITLE)]
    document.ContentSequence = [
        plain.dataset(each)
        for each in (
            coded_content(_OBSERVER_TYPE, DEVICE, "HAS OBS CONTEXT"),
            content("HAS OBS CONTEXT", "UIDREF", _OBSERVER_UID, element("UID", derived_uid("device", "dicomnode"))),
            content("HAS OBS CONTEXT", "TEXT", _OBSERVER_NAME, element("TextValue", "dicomnode")),
            content("CONTAINS", "TEXT", codes.COMMENT, element("TextValue", f"No answer: {reason}")),
            content("CONTAINS", "COMPOSITE", codes.SOURCE, sequence("ReferencedSOPSequence", _reference_to(source))),
            content("CONTAINS", "TEXT", ALGORITHM_NAME, element("TextValue", ALGORITHM)),
        )
    ]
