"""The hits of a stored question in, the Comprehensive 3D SR that answers it out (PS3.16 TID 1500).

One TID 1410 group for each hit, best first. It never names another patient: a hit of one is drawn as the asking ROI on
the asker's own image, with the hit's anatomy and an opaque name that only the node can resolve. A hit of the same
patient is drawn where it is.

A hit's region stands twice in its group: once as its Image Region, which template readers and the first look of OHIF
go by, and once below the score that was measured of it (TID 320), the only place where `@cornerstonejs/adapters` looks
when OHIF turns the SR into measurements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom.dataset import Dataset

from dicomnode import __version__, codes
from dicomnode.codes import Code
from dicomnode.sr.tree import walk
from dicomnode.sr.writer import completed, corners, finding_site
from dicomnode.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derived_uid
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box

ALGORITHM: Final = "dicomnode region search"
SERIES_DESCRIPTION: Final = "Similar regions"
SERIES_NUMBER: Final = 9001  # far behind a modality's own
SIMILARITY: Final = Code("SIMILARITY", codes.SCHEME, "Similarity score")
NO_UNITS: Final = Code("1", "UCUM", "no units")
NOTHING: Final = "no similar region"
ALGORITHM_NAME: Final = Code("111001", "DCM", "Algorithm Name")
_PROCEDURE: Final = Code("363679005", "SCT", "Imaging procedure")
DEVICE: Final = Code("121007", "DCM", "Device")
_SOURCE_OF_MEASUREMENT: Final = Code("121112", "DCM", "Source of Measurement")
_TOKEN: Final = 12  # hexadecimal digits of a hit's name that people see


@dataclass(frozen=True)
class Place:
    """A rectangle on a stored image."""

    image_uid: str
    frame: int | None  # counted from 1; None: the image as a whole
    box: Box  # in its pixels, inside it


@dataclass(frozen=True)
class ResultHit:
    """One hit as it may be told to the asker."""

    rank: int
    score: float  # cosine
    anatomy: int
    place: Place  # the asking ROI; of the same patient the region that was found
    tracking_uid: str  # 2.25., of a random UUID

    @property
    def name(self) -> str:
        """Rank, anatomy and an opaque token. LO of 64 characters is what viewers show."""
        token = f"{int(self.tracking_uid.rpartition('.')[2]):032x}"[:_TOKEN]
        return f"#{self.rank} {VOCABULARY[self.anatomy].name} {token}"[:64]

    @property
    def label(self) -> str:
        """What a viewer writes beside the box."""
        return f"#{self.rank} {VOCABULARY[self.anatomy].name} {self.score:.3f}"


@dataclass(frozen=True)
class Facts:
    """What a result object says of itself."""

    sop_instance_uid: str
    question_uid: str  # of the SR that it answers: what repeats is derived from it
    model: str  # the index generation
    at: datetime  # local time


def result_sr(images: Mapping[str, Dataset], asked: Place, hits: Sequence[ResultHit], facts: Facts) -> Dataset:
    """The SR, complete: `save_as` writes a Part 10 file. The same arguments make the same bytes.

    `images`: the headers of all images that hits lie on, by SOP Instance UID, the asking one first: its patient and
    study are the SR's. Without hits there is one group without a score, at the ROI that was asked about.
    """
    from highdicom.sr import Comprehensive3DSR  # 0.3 s that only who writes an SR pays

    sources = {uid: completed(image) for uid, image in images.items()}
    first = next(iter(sources.values()))
    document: Dataset = Comprehensive3DSR(
        evidence=list(sources.values()),
        content=_report(sources, _groups(sources, asked, hits, facts))[0],
        series_instance_uid=derived_uid("result series", facts.question_uid),
        series_number=SERIES_NUMBER,
        sop_instance_uid=facts.sop_instance_uid,
        instance_number=1,
        is_complete=True,
        is_final=False,
        **EQUIPMENT,
        series_description=SERIES_DESCRIPTION,
    )
    document.CodingSchemeIdentificationSequence = [codes.scheme_identification()]
    dated(document, first, facts.at)
    return document


# PS3.3 C.7.5.1, C.7.5.2. The serial number is what tells installations apart: there is none yet.
EQUIPMENT: Final[dict[str, str]] = {
    "manufacturer": "dicomnode",
    "manufacturer_model_name": "dicomnode",
    "software_versions": __version__,
    "device_serial_number": "0",
}


def dated(document: Dataset, source: Dataset, at: datetime) -> None:
    """The character set of the source, times, and this implementation's names, on an object of the node's own."""
    document.SpecificCharacterSet = source.get("SpecificCharacterSet") or "ISO_IR 192"
    date, time = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    document.InstanceCreationDate = document.ContentDate = document.SeriesDate = date
    document.InstanceCreationTime = document.ContentTime = document.SeriesTime = time
    for item in document.get("ContributingEquipmentSequence", ()):  # highdicom names itself there, and the present time
        item.ContributionDateTime = date + time
    document.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    document.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def is_result(document: Dataset) -> bool:
    """Whether an SR is an answer of this program, whatever archive it has been through. RoiError past a cap."""
    return any(
        node.concept is not None
        and node.concept.key == ALGORITHM_NAME.key
        and str(node.item.get("TextValue") or "").strip() == ALGORITHM
        for node in walk(document)
        if node.value_type == "TEXT"
    )


def _report(images: Mapping[str, Dataset], groups: list[Any]) -> Any:
    """TID 1500 Measurement Report."""
    from highdicom.sr import (
        CodedConcept,
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )

    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", "dicomnode"),
        name="dicomnode",
        manufacturer_name="dicomnode",
        model_name=f"dicomnode {__version__}",
    )
    observer = ObserverContext(observer_type=CodedConcept(*DEVICE), observer_identifying_attributes=device)
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept(*_PROCEDURE),
        imaging_measurements=groups,
        referenced_images=list(images.values()),
    )


def _groups(images: Mapping[str, Dataset], asked: Place, hits: Sequence[ResultHit], facts: Facts) -> list[Any]:
    """TID 1500 wants one at least."""
    if not hits:
        tracking = (NOTHING, derived_uid("nothing", facts.question_uid))
        return [_group(images[asked.image_uid], asked, tracking, NOTHING, facts)]
    return [_hit_group(images[hit.place.image_uid], hit, facts) for hit in hits]


def _hit_group(image: Dataset, hit: ResultHit, facts: Facts) -> Any:
    score = _similarity(hit.score)
    group = _group(
        image,
        hit.place,
        (hit.name, hit.tracking_uid),
        hit.label,
        facts,
        finding_sites=[finding_site(VOCABULARY[hit.anatomy])],
        measurements=[score],
    )
    score[0].ContentSequence = [_measured(image, hit.place)]  # afterwards: highdicom refuses it in such a group
    return group


def _group(image: Dataset, place: Place, tracking: tuple[str, str], label: str, facts: Facts, **said: Any) -> Any:
    """TID 1410 Planar ROI Measurements and Qualitative Evaluations, with a Comment that viewers show as its label."""
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        ImageRegion,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        RelationshipTypeValues,
        TextContentItem,
        TrackingIdentifier,
    )

    name, uid = tracking
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier=name),
        referenced_region=ImageRegion(**_outline(image, place)),
        geometric_purpose=CodedConcept(*codes.BOUNDED_BY),
        algorithm_id=AlgorithmIdentification(
            name=ALGORITHM, version=__version__, parameters=[f"index generation {facts.model}"]
        ),
        **said,
    )
    comment = TextContentItem(CodedConcept(*codes.COMMENT), label, RelationshipTypeValues.CONTAINS)
    group[0].ContentSequence.append(comment)
    return group


def _similarity(score: float) -> Any:
    from highdicom.sr import CodedConcept, Measurement

    return Measurement(name=CodedConcept(*SIMILARITY), value=round(score, 6), unit=CodedConcept(*NO_UNITS))


def _measured(image: Dataset, place: Place) -> Any:
    """What a score was measured of (TID 320). TID 1419 has no such row; it is extensible."""
    from highdicom.sr import CodedConcept, CoordinatesForMeasurement

    return CoordinatesForMeasurement(**_outline(image, place), purpose=CodedConcept(*_SOURCE_OF_MEASUREMENT))


def _outline(image: Dataset, place: Place) -> dict[str, Any]:
    """What highdicom's SCOORD items are made of."""
    import numpy as np
    from highdicom.sr import SourceImageForRegion

    frames = [place.frame] if place.frame is not None and int(image.get("NumberOfFrames") or 1) > 1 else None
    return {
        "graphic_type": "POLYLINE",
        "graphic_data": np.array(corners(place.box), np.float64),
        "source_image": SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, frames),
    }
