"""A received data set in; what the catalogue keeps of it out: key values as plain text, and a trimmed header.

Tolerant of everything but the three UIDs that make an instance: a value that cannot be read is absent.
"""

from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag

from dicomnode.attributes.charsets import UNDECLARED, Charset
from dicomnode.attributes.elements import explicit, item
from dicomnode.attributes.names import name_key
from dicomnode.attributes.values import (
    CHARSET_VRS,
    SPECIFIC_CHARACTER_SET,
    TEXT_VRS,
    UNREADABLE,
    charset_of,
    decoded_texts,
    items,
    texts_of,
    vr_of,
)
from dicomnode.errors import InvalidInstance
from dicomnode.uids import is_uid
from storage.records import NewInstance, NewPatient, NewSeries, NewStudy

MAXIMUM_VALUE = 4096  # bytes; longer values are no keys and would make the catalogue as large as the archive
MAXIMUM_TEXT = 1024  # characters of one column
MAXIMUM_DEPTH = 16  # nested sequences kept in a header
_BULK = frozenset(
    Tag(tag_for_keyword(keyword) or 0)
    for keyword in (
        "PixelData", "FloatPixelData", "DoubleFloatPixelData", "EncapsulatedDocument", "WaveformSequence",
        "WaveformData", "SpectroscopyData", "DataSetTrailingPadding", "DigitalSignaturesSequence",
        "PixelDataProviderURL", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    )
)  # fmt: skip


def new_instance(dataset: Dataset, transfer_syntax_uid: str, source_ae: str | None = None) -> NewInstance:
    """What storage keeps of one received data set, which may have been read without its pixel data.

    Raises InvalidInstance, naming the attribute, when SOP Instance, SOP Class, Study or Series Instance UID is missing
    or no UID.
    """
    fields = _Fields(dataset)
    sop_instance_uid = fields.uid("SOPInstanceUID")
    sop_class_uid = fields.uid("SOPClassUID")
    study, series = _study(fields), _series(fields)
    return NewInstance(
        patient=_patient(fields, study.study_instance_uid),
        study=study,
        series=series,
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        instance_number=fields.text("InstanceNumber"),
        content_date=fields.text("ContentDate"),
        content_time=fields.text("ContentTime"),
        rows=fields.whole("Rows"),
        columns=fields.whole("Columns"),
        frames=fields.whole("NumberOfFrames"),
        source_ae=source_ae,
        header=trimmed(dataset),
    )


def trimmed(dataset: Dataset) -> bytes:
    """The data set in Explicit VR Little Endian without bulk: pixels, overlays, waveforms, documents, private, long.

    Text keeps its bytes and its Specific Character Set (as known terms).
    """
    return b"".join(_encoded(dataset, UNDECLARED, depth=0))


def read_header(header: bytes) -> Dataset:
    """The data set that `trimmed` wrote."""
    return read_dataset(BytesIO(header), is_implicit_VR=False, is_little_endian=True)


@cache  # some forty keywords, for each instance
def _tag(keyword: str) -> BaseTag:
    return Tag(tag_for_keyword(keyword) or 0)


class _Fields:
    """Reads columns from a data set by keyword."""

    def __init__(self, dataset: Dataset) -> None:
        self._held = dict(dataset.items())
        self._charset = charset_of(dataset)

    def text(self, keyword: str) -> str | None:
        value = next(filter(None, self._texts(keyword)), None)
        return value[:MAXIMUM_TEXT] if value else None

    def _texts(self, keyword: str) -> tuple[str, ...]:
        return texts_of(self._held.get(_tag(keyword)), self._charset)

    def whole(self, keyword: str) -> int | None:
        value = self.text(keyword)
        # A 32 bit column; a larger count is damage.
        return int(value) if value and value.isdecimal() and int(value) < 2**31 else None

    def uid(self, keyword: str) -> str:
        value = self.text(keyword)
        if value is None:
            raise InvalidInstance(f"{keyword} is missing")
        if not is_uid(value) or sum(map(bool, self._texts(keyword))) != 1:
            raise InvalidInstance(f"{keyword} is not a UID")
        return value

    def key(self, keyword: str) -> str | None:
        value = self.text(keyword)
        return name_key(value) if value else None


def _patient(fields: _Fields, study_instance_uid: str) -> NewPatient:
    patient_id = fields.text("PatientID") or ""
    return NewPatient(
        patient_id=patient_id,
        issuer=fields.text("IssuerOfPatientID") or "",
        # Two studies without a Patient ID are never taken for one patient.
        anonymous_key="" if patient_id else study_instance_uid,
        patient_name=fields.text("PatientName"),
        patient_name_key=fields.key("PatientName"),
        patient_birth_date=fields.text("PatientBirthDate"),
        patient_sex=fields.text("PatientSex"),
    )


def _study(fields: _Fields) -> NewStudy:
    return NewStudy(
        study_instance_uid=fields.uid("StudyInstanceUID"),
        study_date=fields.text("StudyDate"),
        study_time=fields.text("StudyTime"),
        accession_number=fields.text("AccessionNumber"),
        study_id=fields.text("StudyID"),
        study_description=fields.text("StudyDescription"),
        referring_physician_name=fields.text("ReferringPhysicianName"),
        referring_physician_name_key=fields.key("ReferringPhysicianName"),
    )


def _series(fields: _Fields) -> NewSeries:
    return NewSeries(
        series_instance_uid=fields.uid("SeriesInstanceUID"),
        modality=fields.text("Modality"),
        series_number=fields.text("SeriesNumber"),
        series_date=fields.text("SeriesDate"),
        series_time=fields.text("SeriesTime"),
        series_description=fields.text("SeriesDescription"),
        body_part_examined=fields.text("BodyPartExamined"),
        laterality=fields.text("Laterality"),
        protocol_name=fields.text("ProtocolName"),
        station_name=fields.text("StationName"),
        manufacturer=fields.text("Manufacturer"),
    )


def _encoded(dataset: Dataset, inherited: Charset, depth: int) -> Iterator[bytes]:
    """Each kept element, encoded; sequences with their items."""
    charset = charset_of(dataset, inherited)
    for tag, element in sorted(dataset.items(), key=_number):
        if _is_bulk(tag):
            continue
        try:
            yield _element(dataset, element, charset, depth)
        except UNREADABLE:
            continue  # absent from the header; the file itself is kept as received


def _is_bulk(tag: BaseTag) -> bool:
    """Group length, file meta, private, curve and overlay groups (PS3.5 7.6, 7.8), pixels and what is as large."""
    group, element = tag >> 16, tag & 0xFFFF
    return bool(
        element == 0
        or group < 0x0008
        or group & 1
        or group >= 0x7F00
        or group & 0xFF00 in {0x5000, 0x6000}
        or tag in _BULK
    )


def _number(held: tuple[BaseTag, Any]) -> int:
    return int(held[0])


def _element(dataset: Dataset, element: Any, charset: Charset, depth: int) -> bytes:
    tag = element.tag
    vr = vr_of(element)
    if vr == "SQ":
        return _sequence(dataset, tag, charset, depth)
    if tag == SPECIFIC_CHARACTER_SET:
        return explicit(tag, "CS", "\\".join(charset.terms).encode("ascii")) if charset.terms else b""
    value = _value(element, vr, charset)
    if value is None or len(value) > MAXIMUM_VALUE or vr == "UN":
        return b""
    return explicit(tag, vr, value)


def _sequence(dataset: Dataset, tag: BaseTag, charset: Charset, depth: int) -> bytes:
    held = dataset.get_item(tag)
    if depth == MAXIMUM_DEPTH or (isinstance(held.value, bytes) and len(held.value) > MAXIMUM_VALUE):
        return b""
    value = b""
    for each in items(dataset, tag):
        value += item(b"".join(_encoded(each, charset, depth + 1)))
        if len(value) > MAXIMUM_VALUE:  # thousands of frames or of SR content items: none is a key
            return b""
    return explicit(tag, "SQ", value)


def _value(element: Any, vr: str, charset: Charset) -> bytes | None:
    """Little endian bytes of an element; None when they cannot be had. Raises one of UNREADABLE."""
    value = element.value
    if value is None:
        return None if getattr(element, "length", 0) else b""  # a long value that was not read
    if not isinstance(value, bytes):
        return _written(element, vr, charset)
    if vr in TEXT_VRS or getattr(element, "is_little_endian", True):
        return value
    return _swapped(value, vr)


def _swapped(value: bytes, vr: str) -> bytes | None:
    width = {"US": 2, "SS": 2, "AT": 2, "OW": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "UV": 8, "SV": 8}.get(vr)
    if width is None or len(value) % width:
        return value if vr == "OB" else None
    return b"".join(value[at : at + width][::-1] for at in range(0, len(value), width))


def _written(element: Any, vr: str, charset: Charset) -> bytes:
    """The bytes of an element that was set in Python."""
    if vr in CHARSET_VRS:
        text = "\\".join(decoded_texts(element, vr))
        return charset.encode(text) if charset.carries([text]) else text.encode("ascii", errors="replace")
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element)
    return bytes(buffer.getvalue()[8:])
