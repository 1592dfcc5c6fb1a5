"""Codes: the anatomy vocabulary as DICOM code items, and whatever a peer codes a site with as the vocabulary.

Written: SCT and 99RMIR only. Read: SCT, the retired SNOMED-RT designators, long and URN code values (PS3.3 8.8).
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.attributes import plain
from dicomnode.attributes.plain import Element, Item, element, sequence
from encoder.anatomy import VOCABULARY, Anatomy, Laterality


class Code(NamedTuple):
    """One coded entry (PS3.3 8.8). Equality includes the meaning: compare `key` instead."""

    value: str
    scheme: str
    meaning: str

    @property
    def key(self) -> tuple[str, str]:
        return (self.scheme, self.value)


# PS3.16 TID 1500 Measurement Report, TID 1410 Planar ROI Measurements and Qualitative Evaluations
MEASUREMENT_GROUP: Final = Code("125007", "DCM", "Measurement Group")
TRACKING_IDENTIFIER: Final = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID: Final = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING: Final = Code("121071", "DCM", "Finding")
FINDING_SITE: Final = Code("363698007", "SCT", "Finding Site")
LATERALITY: Final = Code("272741003", "SCT", "Laterality")
TOPOGRAPHICAL_MODIFIER: Final = Code("106233006", "SCT", "Topographical Modifier")
SITE_MODIFIERS: Final = (LATERALITY, TOPOGRAPHICAL_MODIFIER)
IMAGE_REGION: Final = Code("111030", "DCM", "Image Region")
SOURCE: Final = Code("260753009", "SCT", "Source")
GEOMETRIC_PURPOSE: Final = Code("130400", "DCM", "Geometric purpose of region")
BOUNDED_BY: Final = Code("75958009", "SCT", "Bounded by")
COMMENT: Final = Code("121106", "DCM", "Comment")
REFERENCED_SEGMENTATION_FRAME: Final = Code("121214", "DCM", "Referenced Segmentation Frame")
REFERENCED_SEGMENT: Final = Code("121191", "DCM", "Referenced Segment")  # TID 1411 row 7
SOURCE_IMAGE_FOR_SEGMENTATION: Final = Code("121233", "DCM", "Source image for segmentation")

# PS3.16 CID 244 Laterality; the SRT twins are PS3.16 Annex O.
RIGHT: Final = Code("24028007", "SCT", "Right")
LEFT: Final = Code("7771000", "SCT", "Left")
SUPERIOR: Final = Code("264217000", "SCT", "Superior")

# PS3.16 8: designators that mean SNOMED RT codes, and ways peers spell SNOMED CT.
_SCHEME_ALIASES: Final = {"SNM3": "SRT", "99SDM": "SRT", "SNOMED": "SCT", "SNOMED-CT": "SCT", "SNOMED CT": "SCT"}

# SNOMED RT codes of concepts and modifiers, PS3.16 Annex O; sites have theirs in the vocabulary's table.
_RETIRED: Final = {
    "G-C0E3": FINDING_SITE.value,
    "G-C171": LATERALITY.value,
    "G-A1F8": TOPOGRAPHICAL_MODIFIER.value,
    "G-A100": RIGHT.value,
    "G-A101": LEFT.value,
    "R-42191": SUPERIOR.value,
}
_SIDES: Final[dict[tuple[str, str], Laterality]] = {RIGHT.key: "R", LEFT.key: "L"}
_SIDE_CODES: Final = {"R": RIGHT, "L": LEFT}
_TOPOGRAPHIES: Final = {SUPERIOR.key: "Superior", ("SCT", "261183002"): "Superior"}  # the second: "Upper"
_TOPOGRAPHY_CODES: Final = {"Superior": SUPERIOR}

# PS3.6 Table A-3: SNOMED CT's own UID, met as prefix of a URN code value.
_SNOMED_URN_PREFIXES: Final = ("http://snomed.info/id/", "http://snomed.info/sct/", "urn:oid:2.16.840.1.113883.6.96.")

SCHEME: Final = "99RMIR"
_SCHEME_UID: Final = "2.25.108343780304381895315964210593878340224"


@lru_cache(maxsize=1024)
def coded(code: Code) -> Item:
    """The code as an item of a code sequence (PS3.3 8.8 Code Sequence Macro)."""
    return (
        element("CodeValue", code.value),
        element("CodingSchemeDesignator", code.scheme),
        element("CodeMeaning", code.meaning),
    )


def code_item(code: Code) -> Dataset:
    """`coded` as pydicom holds it."""
    return plain.dataset(coded(code))


def read_code(item: Dataset) -> Code | None:
    """The code in a code item, with retired designators brought up to date; None when it holds no code."""
    value = _text(item, "CodeValue") or _text(item, "LongCodeValue")
    scheme = _text(item, "CodingSchemeDesignator").upper()
    if not value and (urn := _text(item, "URNCodeValue")):
        scheme, value = _from_urn(urn, scheme)
    if not value:
        return None
    scheme = _SCHEME_ALIASES.get(scheme, scheme)
    if scheme == "SRT" and value in _RETIRED:
        scheme, value = "SCT", _RETIRED[value]
    return Code(value, scheme, _text(item, "CodeMeaning"))


def first_code(item: Dataset, keyword: str) -> Code | None:
    """The first readable code of a code sequence; None when there is none."""
    return next(codes_in(item, keyword), None)


def codes_in(item: Dataset, keyword: str) -> Iterator[Code]:
    """Every readable code of a code sequence."""
    for entry in items_of(item, keyword):
        if (code := read_code(entry)) is not None:
            yield code


def items_of(item: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence element; none when it is absent or no sequence."""
    value = item.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def anatomy_code(anatomy: Anatomy) -> Code:
    return Code(anatomy.code, anatomy.scheme, anatomy.meaning)


def laterality_code(anatomy: Anatomy) -> Code | None:
    return _SIDE_CODES.get(anatomy.laterality)


def topography_code(anatomy: Anatomy) -> Code | None:
    return _TOPOGRAPHY_CODES.get(anatomy.topography)


def region_item(anatomy: Anatomy) -> Dataset:
    """An Anatomic Region Sequence item (PS3.3 10.5): the code, with laterality and topography as modifiers."""
    item = code_item(anatomy_code(anatomy))
    modifiers = [code_item(value) for _, value in _modifiers(anatomy)]
    if modifiers:
        item.AnatomicRegionModifierSequence = modifiers
    return item


def content(relationship: str, value_type: str, concept: Code, *more: Element) -> Item:
    """A content item (PS3.3 C.17.3) with the elements of its value."""
    return plain.item(
        element("RelationshipType", relationship),
        element("ValueType", value_type),
        sequence("ConceptNameCodeSequence", coded(concept)),
        *more,
    )


@lru_cache(maxsize=256)
def coded_content(concept: Code, value: Code, relationship: str, *below: Item) -> Item:
    """A CODE content item (PS3.3 C.17.3), and the content items below it."""
    children = [sequence("ContentSequence", *below)] if below else []
    return content(relationship, "CODE", concept, sequence("ConceptCodeSequence", coded(value)), *children)


def site_content(anatomy: Anatomy) -> Item:
    """A Finding Site content item: CODE by HAS CONCEPT MOD, with laterality and topography below (TID 1410)."""
    modifiers = (coded_content(concept, value, "HAS CONCEPT MOD") for concept, value in _modifiers(anatomy))
    return coded_content(FINDING_SITE, anatomy_code(anatomy), "HAS CONCEPT MOD", *modifiers)


def read_site(item: Dataset, beside: Iterable[Dataset] = ()) -> tuple[Anatomy, ...]:
    """Every entry of the vocabulary that a coded site can mean; empty when the code is not in it.

    `item` is a code item, an Anatomic Region item or a Finding Site content item. Laterality and topography are read
    from its modifier sequences, its child content items, its Laterality element and the content items `beside` it.
    """
    code = first_code(item, "ConceptCodeSequence") or read_code(item)
    if code is None:
        return ()
    modifiers = list(_read_modifiers(item, beside))
    sides = {_SIDES[key] for key in modifiers if key in _SIDES} | _plain_sides(item)
    topography = next((_TOPOGRAPHIES[key] for key in modifiers if key in _TOPOGRAPHIES), "")
    return VOCABULARY.coded(code.scheme, code.value, sides.pop() if len(sides) == 1 else "", topography)


def in_order(entries: Iterable[Anatomy]) -> tuple[Anatomy, ...]:
    """The entries, each once, in vocabulary order."""
    return tuple(sorted(set(entries), key=lambda entry: entry.index))


def scheme_identification() -> Dataset:
    """The Coding Scheme Identification item that declares 99RMIR (PS3.3 C.12.1.1.1, SOP Common)."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeUID = _SCHEME_UID
    item.CodingSchemeName = "Region retrieval anatomy"
    item.CodingSchemeResponsibleOrganization = "dicomnode"
    return item


def _modifiers(anatomy: Anatomy) -> list[tuple[Code, Code]]:
    """Concept and value of each modifier the entry needs beside its code."""
    pairs = (LATERALITY, laterality_code(anatomy)), (TOPOGRAPHICAL_MODIFIER, topography_code(anatomy))
    return [(concept, value) for concept, value in pairs if value is not None]


def _read_modifiers(item: Dataset, beside: Iterable[Dataset]) -> Iterator[tuple[str, str]]:
    for keyword in ("AnatomicRegionModifierSequence", "ModifierCodeSequence"):
        yield from (code.key for code in codes_in(item, keyword))
    for content in (*items_of(item, "ContentSequence"), *beside):
        concept = first_code(content, "ConceptNameCodeSequence")
        if concept is not None and concept.key in {LATERALITY.key, TOPOGRAPHICAL_MODIFIER.key}:
            yield from (code.key for code in codes_in(content, "ConceptCodeSequence"))


def _plain_sides(item: Dataset) -> set[Laterality]:
    spelled: dict[str, Laterality] = {"R": "R", "L": "L"}
    texts = (_text(item, keyword).upper() for keyword in ("Laterality", "ImageLaterality", "FrameLaterality"))
    return {spelled[text] for text in texts if text in spelled}


def _from_urn(urn: str, scheme: str) -> tuple[str, str]:
    for prefix in _SNOMED_URN_PREFIXES:
        if urn.lower().startswith(prefix):
            return "SCT", urn[len(prefix) :]
    return scheme, urn


def _text(item: Dataset, keyword: str) -> str:
    value = item.get(keyword)
    return str(value).strip(" \0") if value is not None else ""
