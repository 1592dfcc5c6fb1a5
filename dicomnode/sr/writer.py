"""SR writer: boxes on stored images in; content items for a query's block, or a whole SR that asks, out.

Written strictly: PS3.16 TID 1410 groups, SCT and 99RMIR codes only, boxes as closed 5-point POLYLINE in pixels with
corner origin (PS3.3 C.18.6.1.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom.dataset import Dataset

from dicomnode import __version__, codes
from dicomnode.attributes import plain
from dicomnode.attributes.plain import Element, Item, element, sequence
from dicomnode.codes import Code, coded_content, content
from dicomnode.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, new_uid
from encoder.anatomy import Anatomy
from encoder.boxes import Box

_SERIES_NUMBER: Final = 99
_ROOT_ELEMENTS: Final = (  # Type 2 of the patient and study modules that an image header may lack
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Marking:
    """A rectangle a user drew."""

    box: Box
    anatomy: Anatomy | None = None  # the Finding Site; None: not said
    tracking: str = "ROI 1"


def query_roi_item(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    frame: int | None,
    box: Box,
    anatomy: Anatomy | None,
    tracking: str,
    tracking_uid: str | None = None,
) -> Dataset:
    """The item of a Query ROI element (xx20): one TID 1410 planar ROI group.

    `frame` counts from 1; None refers to the image as a whole. Without `tracking_uid` a fresh one is made.
    """
    image = reference(sop_class_uid, sop_instance_uid, frame)
    return plain.dataset(_group(image, box, anatomy, (tracking, tracking_uid or new_uid())))


def matched_roi(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    frame: int | None,
    box: Box,
    anatomy: Anatomy,
    tracking: str = "",
    tracking_uid: str = "",
) -> Item:
    """The item of a Matched ROI element (xx21): the same kind of group, so that an answer can be asked in turn.

    `tracking` is the identifier of the asking ROI; `tracking_uid` names the hit in a result SR where there is one. No
    UID is made: the same query answers the same bytes.
    """
    return _group(reference(sop_class_uid, sop_instance_uid, frame), box, anatomy, (tracking, tracking_uid))


def query_sr(
    image: Dataset, markings: Sequence[Marking], at: datetime, make_uid: Callable[[], str] = new_uid
) -> Dataset:
    """A Comprehensive 3D SR (TID 1500) with one TID 1410 group for each marking on `image`, ready to be stored.

    `image` is a header with patient, study and series. It is Part 10 complete: `save_as` writes a file.
    """
    from highdicom.sr import Comprehensive3DSR  # 0.3 s that only who writes an SR pays

    source = completed(image)
    document: Dataset = Comprehensive3DSR(
        evidence=[source],
        content=_report(source, markings, make_uid)[0],
        series_instance_uid=make_uid(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=make_uid(),
        instance_number=1,
        manufacturer="dicomnode",
        manufacturer_model_name="dicomnode",
        software_versions=__version__,
        series_description="Region query",
    )
    document.SpecificCharacterSet = source.get("SpecificCharacterSet") or "ISO_IR 192"
    document.ContentDate, document.ContentTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    if any(marking.anatomy is not None and marking.anatomy.scheme == codes.SCHEME for marking in markings):
        document.CodingSchemeIdentificationSequence = [codes.scheme_identification()]
    document.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    document.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return document


def _group(image: Item, box: Box, anatomy: Anatomy | None, tracking: tuple[str, str]) -> Item:
    """TID 1410 Planar ROI Measurements and Qualitative Evaluations. `image`: the reference to it."""
    identifier, uid = tracking
    children = [
        *([_text("TEXT", codes.TRACKING_IDENTIFIER, element("TextValue", identifier))] if identifier else []),
        *([_text("UIDREF", codes.TRACKING_UID, element("UID", uid))] if uid else []),
        *([codes.site_content(anatomy)] if anatomy is not None else []),
        coded_content(codes.GEOMETRIC_PURPOSE, codes.BOUNDED_BY, "CONTAINS"),
        _outline(box, image),
    ]
    return content(
        "CONTAINS",
        "CONTAINER",
        codes.MEASUREMENT_GROUP,
        element("ContinuityOfContent", "SEPARATE"),
        sequence("ContentTemplateSequence", _TEMPLATE),
        sequence("ContentSequence", *children),
    )


_TEMPLATE: Final = (element("MappingResource", "DCMR"), element("TemplateIdentifier", "1410"))


def _text(value_type: str, concept: Code, value: Element) -> Item:
    return content("HAS OBS CONTEXT", value_type, concept, value)


def _outline(box: Box, image: Item) -> Item:
    """SCOORD: the box as a closed polyline."""
    coordinates = (repr(coordinate) for corner in corners(box) for coordinate in corner)
    return content(
        "CONTAINS",
        "SCOORD",
        codes.IMAGE_REGION,
        element("GraphicData", *coordinates),
        element("GraphicType", "POLYLINE"),
        sequence("ContentSequence", content("SELECTED FROM", "IMAGE", codes.SOURCE, sequence(_REFERENCES, image))),
    )


_REFERENCES: Final = "ReferencedSOPSequence"


def corners(box: Box) -> tuple[tuple[float, float], ...]:
    """The box as a closed polyline of five points, column and row, clockwise from its top-left corner."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return (x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)


def reference(sop_class_uid: str, sop_instance_uid: str, frame: int | None = None) -> Item:
    """An item of a Referenced SOP Sequence (PS3.3 10.8)."""
    frames = () if frame is None else (element("ReferencedFrameNumber", str(frame)),)
    named = element("ReferencedSOPClassUID", sop_class_uid), element("ReferencedSOPInstanceUID", sop_instance_uid)
    return *named, *frames


def completed(image: Dataset) -> Dataset:
    """The header with every element that an SR takes over from it, empty where the image has none."""
    source = Dataset()
    source.update({element.tag: element for element in image if element.tag.group < 0x7FE0})
    for keyword in _ROOT_ELEMENTS:
        if keyword not in source:
            setattr(source, keyword, "")
    return source


def _report(image: Dataset, markings: Sequence[Marking], make_uid: Callable[[], str]) -> Any:
    """TID 1500 Measurement Report."""
    from highdicom.sr import (
        CodedConcept,
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )

    observer = ObserverContext(
        observer_type=CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(uid=make_uid(), name="dicomnode"),
    )
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=[_planar_roi(image, marking, make_uid) for marking in markings],
    )


def _planar_roi(image: Dataset, marking: Marking, make_uid: Callable[[], str]) -> Any:
    import numpy as np
    from highdicom.sr import (
        CodedConcept,
        ImageRegion,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        SourceImageForRegion,
        TrackingIdentifier,
    )

    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=make_uid(), identifier=marking.tracking),
        referenced_region=ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=np.array(corners(marking.box), np.float64),
            source_image=SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
        ),
        finding_sites=[finding_site(marking.anatomy)] if marking.anatomy is not None else None,
        geometric_purpose=CodedConcept(*codes.BOUNDED_BY),
    )


def finding_site(anatomy: Anatomy) -> Any:
    """highdicom's Finding Site of an entry, with the modifiers that it needs."""
    from highdicom.sr import CodedConcept, FindingSite

    laterality, topography = codes.laterality_code(anatomy), codes.topography_code(anatomy)
    return FindingSite(
        anatomic_location=CodedConcept(*codes.anatomy_code(anatomy)),
        laterality=CodedConcept(*laterality) if laterality else None,
        topographical_modifier=CodedConcept(*topography) if topography else None,
    )
