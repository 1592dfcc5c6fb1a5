"""codes: the vocabulary survives the way out and back; peers' ways of saying the same are read."""

import pytest
from pydicom.dataset import Dataset

from dicomnode import codes
from dicomnode.attributes import plain
from dicomnode.codes import Code, code_item, coded_content
from encoder.anatomy import VOCABULARY, Anatomy


def _site(value: str, scheme: str, *modifiers: Dataset) -> Dataset:
    item = plain.dataset(coded_content(codes.FINDING_SITE, Code(value, scheme, "site"), "CONTAINS"))
    if modifiers:
        item.ContentSequence = list(modifiers)
    return item


def _side(value: str, scheme: str = "SCT", concept: Code = codes.LATERALITY) -> Dataset:
    return plain.dataset(coded_content(concept, Code(value, scheme, "side"), "HAS CONCEPT MOD"))


def _names(entries: tuple[Anatomy, ...]) -> list[str]:
    return [entry.name for entry in entries]


@pytest.mark.parametrize("entry", VOCABULARY.entries, ids=VOCABULARY.names)
def test_every_entry_comes_back_from_both_forms(entry: Anatomy) -> None:
    assert codes.read_site(plain.dataset(codes.site_content(entry))) == (entry,)
    assert codes.read_site(codes.region_item(entry)) == (entry,)


def test_only_current_schemes_are_written() -> None:
    assert {
        plain.dataset(codes.site_content(entry)).ConceptCodeSequence[0].CodingSchemeDesignator
        for entry in VOCABULARY.entries
    } == {
        "SCT",
        codes.SCHEME,
    }


def test_a_paired_site_without_side_means_both() -> None:
    assert _names(codes.read_site(_site("39607008", "SCT"))) == ["right lung", "left lung"]


@pytest.mark.parametrize(
    ("item", "names"),
    [
        (_site("T-28100", "SRT"), ["right lung"]),
        (_site("T-28500", "SRT"), ["left lung"]),
        (_site("T-28500", "SNM3"), ["left lung"]),
        (_site("T-28500", "99SDM"), ["left lung"]),
        (_site("3341006", "SCT"), ["right lung"]),
        (_site("44029006", "sct "), ["left lung"]),
        (_site("113345001", "SCT"), ["abdomen"]),
        (_site("T-28000", "SRT", _side("G-A100", "SRT")), ["right lung"]),
        (_site("T-28000", "SRT", _side("G-A101", "SRT", Code("G-C171", "SRT", "Laterality"))), ["left lung"]),
        (_site("39607008", "SCT", _side("51440002")), ["right lung", "left lung"]),  # bilateral
        (_site("72410000", "SCT"), ["mediastinum"]),
        (_site("72410000", "SCT", _side("264217000", "SCT", codes.TOPOGRAPHICAL_MODIFIER)), ["upper mediastinum"]),
        (_site("T-C5300", "SRT"), []),
        (_site("39607008", "DCM"), []),
    ],
)
def test_read(item: Dataset, names: list[str]) -> None:
    assert _names(codes.read_site(item)) == names


def test_side_beside_the_site() -> None:
    assert _names(codes.read_site(_site("39607008", "SCT"), beside=[_side("7771000")])) == ["left lung"]


def test_two_sides_are_no_side() -> None:
    item = _site("39607008", "SCT", _side("7771000"), _side("24028007"))
    assert len(codes.read_site(item)) == 2


@pytest.mark.parametrize(
    ("keyword", "value"), [("Laterality", "L"), ("ImageLaterality", "L"), ("FrameLaterality", "L ")]
)
def test_plain_laterality_element(keyword: str, value: str) -> None:
    item = code_item(Code("39607008", "SCT", "Lung"))
    setattr(item, keyword, value)
    assert _names(codes.read_site(item)) == ["left lung"]


@pytest.mark.parametrize(
    "elements",
    [
        {"LongCodeValue": "80891009", "CodingSchemeDesignator": "SCT"},
        {"URNCodeValue": "http://snomed.info/id/80891009"},
        {"URNCodeValue": "urn:oid:2.16.840.1.113883.6.96.80891009"},
        {"URNCodeValue": "80891009", "CodingSchemeDesignator": "SCT"},
    ],
)
def test_long_and_urn_code_values(elements: dict[str, str]) -> None:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    assert _names(codes.read_site(item)) == ["cardiac silhouette"]


def test_no_code_is_no_site() -> None:
    assert codes.read_site(Dataset()) == ()
    assert codes.read_code(Dataset()) is None


def test_retired_concepts_are_brought_up_to_date() -> None:
    code = codes.read_code(code_item(Code("G-C0E3", "SRT", "Finding Site")))
    assert code is not None
    assert code.key == codes.FINDING_SITE.key


def test_scheme_is_declared() -> None:
    item = codes.scheme_identification()
    assert item.CodingSchemeDesignator == "99RMIR"
    assert item.CodingSchemeUID.is_valid
