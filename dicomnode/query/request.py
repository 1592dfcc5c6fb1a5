"""The asking side: an ROI and conditions in, a query identifier out; a response identifier in, a hit out."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dicomnode import codes, private
from dicomnode.errors import IdentifierError, ImageNotStored
from dicomnode.private import PatientScope, QueryKeys
from dicomnode.sr import reader, writer
from encoder.anatomy import Anatomy
from encoder.boxes import Box

# What the command asks back, beside the private block.
RETURNED = (
    "PatientID", "PatientName", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "AccessionNumber",
    "Modality", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID",
)  # fmt: skip
SR_CONTENT = ("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentSequence")


@dataclass(frozen=True)
class Keys:
    """Conditions of a query."""

    anatomy: Anatomy | None = None
    matches: int | None = 10  # None: what the node's settings say
    scope: str = "OTHER"
    minimum_score: float | None = None
    standard: Mapping[str, str] = field(default_factory=dict)  # keyword -> value, matched before ranking


@dataclass(frozen=True)
class ReadHit:
    """One response, as a person or a script wants it."""

    rank: int
    score: float
    anatomy: str
    box: tuple[float, float, float, float]  # x1, y1, x2, y2, pixels of the stored image
    patient_id: str
    patient_name: str
    patient_sex: str
    study_date: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    generation: str
    roi: str  # tracking identifier of the ROI it answers
    warning: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def is_keyword(keyword: str) -> bool:
    """Whether it is a keyword of the data dictionary (PS3.6)."""
    return tag_for_keyword(keyword) is not None


def by_box(image_uid: str, sop_class_uid: str, box: Box, keys: Keys, frame: int | None = None) -> Dataset:
    """The identifier of a query with a rectangle on a stored image; `frame`: counted from 1, of an image of several."""
    roi = writer.query_roi_item(
        sop_class_uid=sop_class_uid, sop_instance_uid=image_uid, frame=frame, box=box, anatomy=None, tracking="ROI 1"
    )
    return _identifier([roi], keys)


def by_sr(document: Dataset, keys: Keys) -> Dataset:
    """The identifier of a query with every ROI of a Structured Report. RoiError when it holds none."""
    reader.rois(document)
    content = Dataset()
    for keyword in SR_CONTENT:
        if keyword in document:
            content[keyword] = document[keyword]
    identifier = _identifier([content], keys)
    if "SpecificCharacterSet" in document:
        identifier.SpecificCharacterSet = document.SpecificCharacterSet
    return identifier


def by_stored_sr(sr_uid: str, keys: Keys) -> Dataset:
    """The identifier of a query with every ROI of a Structured Report that the node holds."""
    return _identifier([], keys, sr_uid)


def sop_class_of(image_uid: str, find: Callable[[Dataset], Iterable[Dataset]]) -> str:
    """The SOP class of a stored image, asked of the node by plain relational C-FIND. ImageNotStored when unknown."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.SOPInstanceUID = image_uid
    identifier.SOPClassUID = ""
    for match in find(identifier):
        return str(match.get("SOPClassUID", "") or DigitalXRayImageStorageForPresentation)
    raise ImageNotStored("image not stored: send it first")


def read_hit(match: Dataset) -> ReadHit:
    """One Pending identifier. IdentifierError when it carries no hit: the peer is no region archive."""
    block = private.read_response(match)
    if block is None:
        raise IdentifierError("the peer answered without the private block: it knows no region queries")
    roi = reader.rois(block.matched_roi)[0]
    return ReadHit(
        rank=block.rank,
        score=block.score,
        anatomy=roi.sites[0].name if roi.sites else "",
        box=(roi.box.x1, roi.box.y1, roi.box.x2, roi.box.y2),
        patient_id=str(match.get("PatientID", "")),
        patient_name=str(match.get("PatientName", "")),
        patient_sex=str(match.get("PatientSex", "")),
        study_date=str(match.get("StudyDate", "")),
        study_instance_uid=str(match.get("StudyInstanceUID", "")),
        series_instance_uid=str(match.get("SeriesInstanceUID", "")),
        sop_instance_uid=str(match.get("SOPInstanceUID", "")),
        generation=block.generation,
        roi=roi.tracking_identifier or "",
        warning=block.warning,
    )


def _identifier(rois: list[Dataset], keys: Keys, sr_uid: str | None = None) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    for keyword in RETURNED:
        setattr(identifier, keyword, "")
    for keyword, value in keys.standard.items():
        setattr(identifier, keyword, value)
    private.write_request(
        identifier,
        QueryKeys(
            sr_instance_uid=sr_uid,
            rois=tuple(rois),
            scope=PatientScope(keys.scope),
            maximum_matches=keys.matches,
            minimum_score=keys.minimum_score,
        ),
        codes.region_item(keys.anatomy) if keys.anatomy is not None else None,
    )
    return identifier
