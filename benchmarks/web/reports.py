"""A film and a box in, an SR as OHIF writes one out: an Enhanced SR, the box below its measured area."""

import datetime
from io import BytesIO
from typing import Any, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedSRStorage, ImplicitVRLittleEndian

from dicomnode import codes
from dicomnode.codes import Code, code_item
from dicomnode.sr.writer import corners
from dicomnode.uids import new_uid
from encoder.boxes import Box

_TITLE: Final = Code("126000", "DCM", "Imaging Measurement Report")
_MEASUREMENTS: Final = Code("126010", "DCM", "Imaging Measurements")
_AREA: Final = Code("42798000", "SCT", "Area")
_UNIT: Final = Code("mm2", "UCUM", "mm2")
_TAKEN_OVER: Final = (
    "SpecificCharacterSet", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def report(image: Dataset, box: Box) -> bytes:
    """A Part 10 file with UIDs of its own. `image`: the film's header; `box`: in its pixels."""
    now = datetime.datetime.now(datetime.UTC)
    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = EnhancedSRStorage
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = new_uid()
    for keyword in _TAKEN_OVER:
        setattr(document, keyword, image.get(keyword, ""))
    document.SeriesInstanceUID, document.SeriesNumber, document.InstanceNumber = new_uid(), 3001, 1
    document.Modality, document.SeriesDescription = "SR", "Create Report"
    document.ContentDate, document.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    document.CompletionFlag, document.VerificationFlag = "COMPLETE", "UNVERIFIED"
    document.update(_item("", "CONTAINER", _TITLE, _item("CONTAINS", "CONTAINER", _MEASUREMENTS, _group(image, box))))
    written = BytesIO()
    document.save_as(written, enforce_file_format=True)
    return written.getvalue()


def _group(image: Dataset, box: Box) -> Dataset:
    tracking = _item("HAS OBS CONTEXT", "TEXT", codes.TRACKING_IDENTIFIER, TextValue="RectangleROI")
    unique = _item("HAS OBS CONTEXT", "UIDREF", codes.TRACKING_UID, UID=new_uid())
    return _item("CONTAINS", "CONTAINER", codes.MEASUREMENT_GROUP, tracking, unique, _area(image, box))


def _area(image: Dataset, box: Box) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    seen = _item("SELECTED FROM", "IMAGE", None, ReferencedSOPSequence=[reference])
    places = [coordinate for corner in corners(box) for coordinate in corner]
    outline = _item("INFERRED FROM", "SCOORD", None, seen, GraphicType="POLYLINE", GraphicData=places)
    value = Dataset()
    value.NumericValue, value.MeasurementUnitsCodeSequence = f"{box.area:.1f}", [code_item(_UNIT)]
    return _item("CONTAINS", "NUM", _AREA, outline, MeasuredValueSequence=[value])


def _item(relationship: str, value_type: str, concept: Code | None, *children: Dataset, **elements: Any) -> Dataset:
    """A content item, PS3.3 C.17.3; the root has no relationship."""
    item = Dataset()
    item.ValueType = value_type
    if relationship:
        item.RelationshipType = relationship
    if concept is not None:
        item.ConceptNameCodeSequence = [code_item(concept)]
    if value_type == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    if children:
        item.ContentSequence = list(children)
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
