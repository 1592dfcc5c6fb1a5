"""The attributes that a C-FIND can match and return: one row each, the levels they belong to, and how they match.

PS3.4 C.6.1.1 (Patient Root) and C.6.2.1 (Study Root). What the catalogue is asked, what the receiver catalogues, what
a response carries and what the conformance statement says are all read from `KEYS`.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.tag import BaseTag, Tag

from dicomnode.attributes.values import dictionary_vr


class Level(StrEnum):
    """Query/Retrieve Level (0008,0052), top first."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"

    @property
    def depth(self) -> int:
        return _ORDER.index(self)

    @property
    def above(self) -> tuple["Level", ...]:
        """The levels over this one, top first."""
        return _ORDER[: self.depth]


_ORDER: Final = tuple(Level)


class Model(StrEnum):
    """The information model, chosen by the SOP class."""

    PATIENT_ROOT = "PATIENT ROOT"
    STUDY_ROOT = "STUDY ROOT"

    @property
    def levels(self) -> tuple[Level, ...]:
        return _ORDER if self is Model.PATIENT_ROOT else _ORDER[1:]


class Need(StrEnum):
    """Key types of PS3.4 C.2.2.1."""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"


class Matching(StrEnum):
    """What a non-empty value of the key does. PS3.4 C.2.2.2."""

    UID_LIST = "single value, list of UID"
    WILDCARD = "single value, wild card"
    PERSON_NAME = "single value, wild card; case and component group insensitive"
    RANGE = "single value, range"
    NUMBER = "single value"
    SEQUENCE = "sequence"
    ANY_IN_STUDY = "single value, any in the study"
    NONE = "returned only"


# By value representation, PS3.4 C.2.2.2.1 to C.2.2.2.6; what is not here is returned only.
MATCHING_OF_VR: Final = {
    "UI": Matching.UID_LIST,
    "PN": Matching.PERSON_NAME,
    "SQ": Matching.SEQUENCE,
    **dict.fromkeys(("DA", "TM", "DT"), Matching.RANGE),
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), Matching.WILDCARD),
    **dict.fromkeys(("AS", "AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"), Matching.NUMBER),
}


@dataclass(frozen=True)
class Key:
    """One attribute: where it belongs and where its value comes from."""

    keyword: str
    level: Level
    column: str | None  # of the catalogue; None: read from a stored header
    need: Need = Need.OPTIONAL
    match: Matching | None = None  # None: what its value representation says
    search_column: str | None = None  # matched instead of `column`; holds a superset's form, see rules.Name
    is_number: bool = False  # the column is a number, not text

    @cached_property
    def tag(self) -> BaseTag:
        return Tag(tag_for_keyword(self.keyword) or 0)

    @cached_property
    def vr(self) -> str:
        return dictionary_vr(self.tag)

    @property
    def matching(self) -> Matching:
        return self.match or MATCHING_OF_VR.get(self.vr, Matching.NONE)


def _keys(level: Level, *rows: tuple[str, str | None] | tuple[str, str | None, Need]) -> tuple[Key, ...]:
    return tuple(Key(row[0], level, row[1], row[2] if len(row) == 3 else Need.OPTIONAL) for row in rows)


def _counted(level: Level, *rows: tuple[str, str]) -> tuple[Key, ...]:
    return tuple(Key(keyword, level, column, match=Matching.NONE) for keyword, column in rows)


_U, _R = Need.UNIQUE, Need.REQUIRED

PATIENT_KEYS: Final = (  # PS3.4 Table C.6-1
    Key("PatientName", Level.PATIENT, "patient_name", _R, search_column="patient_name_key"),
    *_keys(
        Level.PATIENT,
        ("PatientID", "patient_id", _U),
        ("IssuerOfPatientID", "issuer"),
        ("PatientBirthDate", "patient_birth_date"),
        ("PatientSex", "patient_sex"),
        ("PatientBirthTime", None),
        ("OtherPatientIDs", None),
        ("OtherPatientIDsSequence", None),
        ("OtherPatientNames", None),
        ("EthnicGroup", None),
        ("PatientComments", None),
        ("ReferencedPatientSequence", None),
        ("PatientSpeciesDescription", None),
        ("ResponsiblePerson", None),
    ),
    *_counted(
        Level.PATIENT,
        ("NumberOfPatientRelatedStudies", "number_of_patient_related_studies"),
        ("NumberOfPatientRelatedSeries", "number_of_patient_related_series"),
        ("NumberOfPatientRelatedInstances", "number_of_patient_related_instances"),
    ),
)
STUDY_KEYS: Final = (  # PS3.4 Tables C.6-2 and C.6-5
    *_keys(
        Level.STUDY,
        ("StudyInstanceUID", "study_instance_uid", _U),
        ("StudyDate", "study_date", _R),
        ("StudyTime", "study_time", _R),
        ("AccessionNumber", "accession_number", _R),
        ("StudyID", "study_id", _R),
        ("StudyDescription", "study_description"),
    ),
    Key(
        "ReferringPhysicianName",
        Level.STUDY,
        "referring_physician_name",
        search_column="referring_physician_name_key",
    ),
    *_keys(
        Level.STUDY,
        ("ProcedureCodeSequence", None),
        ("PhysiciansOfRecord", None),
        ("NameOfPhysiciansReadingStudy", None),
        ("AdmittingDiagnosesDescription", None),
        ("PatientAge", None),
        ("PatientSize", None),
        ("PatientWeight", None),
        ("Occupation", None),
        ("AdditionalPatientHistory", None),
        ("ReferencedStudySequence", None),
        ("IssuerOfAccessionNumberSequence", None),
        ("ReasonForPerformedProcedureCodeSequence", None),
    ),
    Key("ModalitiesInStudy", Level.STUDY, "modalities_in_study", match=Matching.ANY_IN_STUDY),
    Key("SOPClassesInStudy", Level.STUDY, "sop_classes_in_study", match=Matching.ANY_IN_STUDY),
    *_counted(
        Level.STUDY,
        ("NumberOfStudyRelatedSeries", "number_of_study_related_series"),
        ("NumberOfStudyRelatedInstances", "number_of_study_related_instances"),
    ),
)
SERIES_KEYS: Final = (  # PS3.4 Table C.6-3
    *_keys(
        Level.SERIES,
        ("SeriesInstanceUID", "series_instance_uid", _U),
        ("Modality", "modality", _R),
        ("SeriesNumber", "series_number", _R),
        ("SeriesDate", "series_date"),
        ("SeriesTime", "series_time"),
        ("SeriesDescription", "series_description"),
        ("BodyPartExamined", "body_part_examined"),
        ("Laterality", "laterality"),
        ("ProtocolName", "protocol_name"),
        ("StationName", "station_name"),
        ("Manufacturer", "manufacturer"),
        ("ManufacturerModelName", None),
        ("InstitutionName", None),
        ("InstitutionalDepartmentName", None),
        ("PerformingPhysicianName", None),
        ("OperatorsName", None),
        ("PatientPosition", None),
        ("PerformedProcedureStepStartDate", None),
        ("PerformedProcedureStepStartTime", None),
        ("PerformedProcedureStepDescription", None),
        ("RequestAttributesSequence", None),
        ("FrameOfReferenceUID", None),
    ),
    *_counted(Level.SERIES, ("NumberOfSeriesRelatedInstances", "number_of_series_related_instances")),
)
IMAGE_KEYS: Final = (  # PS3.4 Table C.6-4
    *_keys(
        Level.IMAGE,
        ("SOPInstanceUID", "sop_instance_uid", _U),
        ("InstanceNumber", "instance_number", _R),
        ("SOPClassUID", "sop_class_uid"),
        ("AvailableTransferSyntaxUID", "transfer_syntax_uid"),
        ("ContentDate", "content_date"),
        ("ContentTime", "content_time"),
    ),
    Key("Rows", Level.IMAGE, "rows", is_number=True),
    Key("Columns", Level.IMAGE, "columns", is_number=True),
    Key("NumberOfFrames", Level.IMAGE, "frames", is_number=True),
    *_keys(
        Level.IMAGE,
        ("AcquisitionDate", None),
        ("AcquisitionTime", None),
        ("AcquisitionDateTime", None),
        ("AcquisitionNumber", None),
        ("BitsAllocated", None),
        ("ConceptNameCodeSequence", None),
        ("ContentTemplateSequence", None),
        ("ImageLaterality", None),
        ("ImageType", None),
        ("PhotometricInterpretation", None),
        ("PresentationIntentType", None),
        ("ViewPosition", None),
    ),
)

KEYS: Final = PATIENT_KEYS + STUDY_KEYS + SERIES_KEYS + IMAGE_KEYS
BY_TAG: Final = {key.tag: key for key in KEYS}
UNIQUE_KEYS: Final = {key.level: key for key in KEYS if key.need is Need.UNIQUE}

# In an identifier, and neither matched nor returned as stored. PS3.4 C.4.1.1.3.
NOT_KEYS: Final = frozenset(
    Tag(tag_for_keyword(keyword) or 0)
    for keyword in (
        "SpecificCharacterSet",
        "QueryRetrieveLevel",
        "QueryRetrieveView",
        "RetrieveAETitle",
        "InstanceAvailability",
        "TimezoneOffsetFromUTC",
    )
)
