"""The REGIONMIR 1.0 block: private elements of a region query's identifier in, typed keys out; and the answer's back.

The wire contract is one table. The block may be reserved at any of (0099,0010)-(0099,00FF) (PS3.5 7.8.1), and an
element may arrive as UN where the peer did not know its VR (PS3.5 6.2.2): it is then read again with the table's VR.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple, TypeVar

from pydicom.charset import convert_encodings
from pydicom.datadict import add_private_dict_entries
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.values import convert_value

from dicomnode.attributes import plain
from dicomnode.codes import in_order, read_site
from dicomnode.errors import IdentifierError, RoiError
from dicomnode.quiet import quiet_pydicom
from dicomnode.uids import is_uid
from encoder.anatomy import Anatomy

CREATOR: Final = "REGIONMIR 1.0"
GROUP: Final = 0x0099
FIRST_BLOCK: Final = 0x10  # that an answer reserves

_Choice = TypeVar("_Choice", bound=StrEnum)


class Element(IntEnum):
    """Element offsets inside the block."""

    SIMILARITY_SCORE = 0x10
    RANK = 0x11
    MAXIMUM_MATCHES = 0x12
    QUERY_SR = 0x13
    ANATOMIC_REGION = 0x14
    PATIENT_SCOPE = 0x15
    GENERATION = 0x16
    MINIMUM_SCORE = 0x17
    PROFILE = 0x18
    QUERY_ROI = 0x20
    MATCHED_ROI = 0x21
    WARNING = 0x22


class Definition(NamedTuple):
    """One row of the contract; the conformance statement prints it."""

    vr: str
    name: str
    in_request: bool
    in_response: bool
    meaning: str


def _asked(vr: str, name: str, meaning: str) -> Definition:
    return Definition(vr, name, True, False, meaning)


def _told(vr: str, name: str, meaning: str) -> Definition:
    return Definition(vr, name, False, True, meaning)


TABLE: Final = {
    Element.SIMILARITY_SCORE: _told("FD", "Similarity Score", "cosine, -1 to 1"),
    Element.RANK: _told("IS", "Rank", "1 is the best"),
    Element.MAXIMUM_MATCHES: _asked("IS", "Maximum Matches", "hits wanted, of all ROIs together; default 10"),
    Element.QUERY_SR: _asked(
        "UI", "Query SR SOP Instance UID", "a stored SR whose ROIs are the question, or its result SR; or Query ROI"
    ),
    Element.ANATOMIC_REGION: _asked(
        "SQ", "Anatomic Region", "code items with Laterality as modifier: only these regions are searched"
    ),
    Element.PATIENT_SCOPE: _asked("CS", "Patient Scope", "whose regions answer: OTHER (default), ANY or SAME"),
    Element.GENERATION: _told("LO", "Index Generation", "the models that the answer comes from"),
    Element.MINIMUM_SCORE: _asked("FD", "Minimum Score", "least Similarity Score of a hit"),
    Element.PROFILE: _asked(
        "CS", "Profile", "ANATOMY (default) or FINDING: what ranks; one that the models do not offer is 0xA900"
    ),
    Element.QUERY_ROI: _asked(
        "SQ", "Query ROI", "items of SR content: a TID 1410 group, or a bare SCOORD with its IMAGE child"
    ),
    Element.MATCHED_ROI: _told(
        "SQ", "Matched ROI", "SCOORD, a closed POLYLINE of five points, with its IMAGE, Finding Site and Laterality"
    ),
    Element.WARNING: _told(
        "LO", "Query Warning", "what to know of the answer or the hit; see Standard Extended SOP classes"
    ),
}


class PatientScope(StrEnum):
    """Whose regions may be answered."""

    ANY = "ANY"
    OTHER = "OTHER"  # every patient but the asking image's
    SAME = "SAME"


class Profile(StrEnum):
    """Which projection ranks."""

    ANATOMY = "ANATOMY"
    FINDING = "FINDING"


@dataclass(frozen=True)
class QueryKeys:
    """What a request's block says. Exactly one of `sr_instance_uid` and `rois` is given."""

    sr_instance_uid: str | None
    rois: tuple[Dataset, ...]  # each holds SR content: a TID 1410 group, or a bare SCOORD with its IMAGE child
    anatomy: tuple[Anatomy, ...] = ()  # empty: no filter
    scope: PatientScope = PatientScope.OTHER
    maximum_matches: int | None = None  # None: the configured default
    minimum_score: float | None = None  # cosine, -1..1
    profile: Profile = Profile.ANATOMY


@dataclass(frozen=True)
class ResponseKeys:
    """What the block of one answer says."""

    score: float  # cosine, -1..1
    rank: int  # 1 = best
    generation: str
    matched_roi: Dataset
    warning: str = ""  # empty: no such element


def register() -> None:
    """Teach pydicom the block, so that its elements get their VR; doing it twice changes nothing."""
    first_block = (GROUP << 16) | 0x1000  # pydicom matches any block of the creator
    add_private_dict_entries(
        CREATOR, {first_block | element: (row.vr, "1", row.name) for element, row in TABLE.items()}
    )


def carries_query(identifier: Dataset) -> bool:
    """Whether an identifier is a region query: the creator, and a Query ROI or Query SR element even if empty.

    An empty one is a question badly put, to be answered with an error; as a plain C-FIND it would list the archive.
    """
    block = _block(identifier)
    return block is not None and any(
        _tag(block, element) in identifier for element in (Element.QUERY_SR, Element.QUERY_ROI)
    )


def read_request(identifier: Dataset) -> QueryKeys:
    """The typed keys of a region query. IdentifierError where a value is malformed, RoiError without a usable ROI."""
    block = _block(identifier)
    if block is None:
        raise IdentifierError(f"no {CREATOR} block in the identifier")
    values = {element: _value(identifier, block, element) for element, row in TABLE.items() if row.in_request}
    return QueryKeys(
        sr_instance_uid=_sr_uid(values),
        rois=tuple(values[Element.QUERY_ROI] or ()),
        anatomy=_anatomy(values[Element.ANATOMIC_REGION]),
        scope=_choice(PatientScope, values[Element.PATIENT_SCOPE], PatientScope.OTHER, "Patient Scope"),
        maximum_matches=_count(values[Element.MAXIMUM_MATCHES]),
        minimum_score=_score(values[Element.MINIMUM_SCORE]),
        profile=_choice(Profile, values[Element.PROFILE], Profile.ANATOMY, "Profile"),
    )


def write_request(identifier: Dataset, keys: QueryKeys, anatomic_region: Dataset | None = None) -> None:
    """Reserve the block in `identifier` and put the keys in; `anatomic_region` is the filter's code item."""
    values: dict[Element, Any] = {
        Element.MAXIMUM_MATCHES: keys.maximum_matches,
        Element.QUERY_SR: keys.sr_instance_uid,
        Element.ANATOMIC_REGION: [anatomic_region] if anatomic_region is not None else None,
        Element.PATIENT_SCOPE: keys.scope.value,
        Element.MINIMUM_SCORE: keys.minimum_score,
        Element.PROFILE: keys.profile.value,
        Element.QUERY_ROI: list(keys.rois) or None,
    }
    _write(identifier, values)


def response(*, score: float, rank: int, generation: str, matched_roi: plain.Item, warning: str = "") -> plain.Item:
    """The block of one answer, as `ResponseKeys` says; no warning is no element."""
    values: dict[Element, str] = {
        Element.SIMILARITY_SCORE: repr(float(score)),
        Element.RANK: str(rank),
        Element.GENERATION: generation,
    }
    told = [_told_as(element, (value,)) for element, value in values.items()]
    told.append(_told_as(Element.MATCHED_ROI, (), (matched_roi,)))
    if warning:
        told.append(_told_as(Element.WARNING, (warning,)))
    return plain.Element(Tag(GROUP, FIRST_BLOCK), "LO", (CREATOR,)), *told


def _told_as(element: Element, values: tuple[str, ...], items: tuple[plain.Item, ...] = ()) -> plain.Element:
    return plain.Element(_tag(FIRST_BLOCK, element), TABLE[element].vr, values, items)


def read_response(identifier: Dataset) -> ResponseKeys | None:
    """The block of one answer, for the asking side; None where the answer carries no rank or no matched ROI."""
    block = _block(identifier)
    if block is None:
        return None
    values = {element: _value(identifier, block, element) for element, row in TABLE.items() if row.in_response}
    if values[Element.RANK] is None or not values[Element.MATCHED_ROI]:
        return None
    return ResponseKeys(
        score=float(values[Element.SIMILARITY_SCORE]),
        rank=int(values[Element.RANK]),
        generation=str(values[Element.GENERATION] or ""),
        matched_roi=values[Element.MATCHED_ROI][0],
        warning=str(values[Element.WARNING] or ""),
    )


def _write(identifier: Dataset, values: dict[Element, Any]) -> None:
    block = identifier.private_block(GROUP, CREATOR, create=True)
    for element, value in values.items():
        if value is not None:
            block.add_new(element, TABLE[element].vr, value)


def _block(identifier: Dataset) -> int | None:
    """The number the creator reserved, 0x10..0xFF (PS3.5 7.8.1); None when it reserved none."""
    creators = identifier[Tag(GROUP, 0x0010) : Tag(GROUP, 0x0100)]
    return next((element.tag.element for element in creators if _plain_text(element.value) == CREATOR), None)


def _tag(block: int, element: Element) -> BaseTag:
    return Tag(GROUP, (block << 8) | element)


def _value(identifier: Dataset, block: int, element: Element) -> Any:
    """The element's value by the table's VR, its first where several came; None when absent or empty."""
    tag = _tag(block, element)
    if tag not in identifier:
        return None
    row = TABLE[element]
    try:
        with quiet_pydicom():
            value = _typed(identifier, identifier[tag], row.vr)
    except (ValueError, TypeError, NotImplementedError, AttributeError, EOFError, BytesLengthException) as wrong:
        raise IdentifierError(f"{row.name} is malformed") from wrong
    if row.vr == "SQ":
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        value = next(iter(value), None)
    return None if value is None or value == "" else value


def _typed(identifier: Dataset, element: DataElement, vr: str) -> Any:
    """The element's value; one that came as UN bytes is read with the table's VR.

    UN holds Implicit VR Little Endian for a sequence and little endian for the rest (PS3.5 6.2.2).
    """
    value = element.value
    if not isinstance(value, bytes):
        return _checked(value, vr)
    if not value:
        return None
    encodings = convert_encodings(identifier.get("SpecificCharacterSet") or "ISO_IR 6")
    raw = RawDataElement(element.tag, vr, len(value), value, 0, True, True)
    return _checked(convert_value(vr, raw, encodings), vr)


def _checked(value: Any, vr: str) -> Any:
    """ValueError where a sequence stands for a value or a value for a sequence."""
    if value is not None and isinstance(value, Sequence) != (vr == "SQ"):
        raise ValueError(vr)
    return value


def _sr_uid(values: dict[Element, Any]) -> str | None:
    uid, rois = values[Element.QUERY_SR], values[Element.QUERY_ROI]
    if uid and rois:
        raise IdentifierError("give Query ROI or Query SR UID, not both")
    if not uid and not rois:
        raise RoiError("Query ROI is empty")
    if uid and not is_uid(str(uid)):
        raise IdentifierError("Query SR SOP Instance UID is no UID")
    return str(uid) if uid else None


def _anatomy(region: Sequence | None) -> tuple[Anatomy, ...]:
    """Entries named by the filter, in vocabulary order; none without a filter."""
    found = in_order(entry for item in region or () for entry in read_site(item))
    if region and not found:
        raise IdentifierError("anatomic region is not in the vocabulary")
    return found


def _choice(kind: type[_Choice], value: Any, default: _Choice, name: str) -> _Choice:
    if value is None:
        return default
    try:
        return kind(str(value).strip().upper())
    except ValueError as unknown:
        raise IdentifierError(f"{name} must be one of {', '.join(kind)}") from unknown


def _count(value: Any) -> int | None:
    if value is None:
        return None
    try:
        count = int(value)
    except ValueError as malformed:
        raise IdentifierError("Maximum Matches is malformed") from malformed
    if count < 1:
        raise IdentifierError("Maximum Matches must be 1 or more")
    return count


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, float) or not abs(value) <= 1:  # also turns NaN away
        raise IdentifierError("Minimum Score must lie between -1 and 1")
    return float(value)


def _plain_text(value: Any) -> str:
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")
