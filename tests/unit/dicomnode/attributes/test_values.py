"""Values of any data set as normalised text: what is unreadable is absent."""

from io import BytesIO

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from dicomnode.attributes import elements, values
from dicomnode.attributes.charsets import UNDECLARED


@pytest.mark.parametrize(
    ("vr", "text", "normal"),
    [
        ("DA", "20200229", "20200229"),
        ("DA", "1998.01.28", "19980128"),
        ("DA", "1998-01-28", "19980128"),
        ("DA", "20190229", ""),
        ("DA", "unknown", ""),
        ("DA", "202002", ""),
        ("TM", "10", "100000"),
        ("TM", "1015", "101500"),
        ("TM", "10:15:30", "101530"),
        ("TM", "101530.500000", "101530.5"),
        ("TM", "235960", "235960"),
        ("TM", "2515", ""),
        ("IS", " +007 ", "7"),
        ("IS", "12.0", "12"),
        ("IS", "1e3", ""),
        ("DS", "-1.5E2", "-1.5E2"),
        ("DS", "wide", ""),
        ("UI", "1.2.3\0", "1.2.3"),
        ("LO", "  padded\0 ", "padded"),
        ("LT", "  kept\r\nlines  ", "  kept\r\nlines"),
        ("CS", "lower case", "lower case"),
    ],
)
def test_normal_forms(vr: str, text: str, normal: str) -> None:
    assert values.normalised(vr, text) == normal


def test_elements_set_in_python_and_elements_read_from_bytes_say_the_same() -> None:
    made = Dataset()
    made.Rows, made.ImageType, made.KVP = 512, ["ORIGINAL", "PRIMARY"], "120.5"
    made.OffendingElement = 0x00100010
    body = b"".join(
        elements.explicit(Tag(tag), vr, value)
        for tag, vr, value in [
            (0x00080008, "CS", b"ORIGINAL\\PRIMARY "),
            (0x00180060, "DS", b"120.5"),
            (0x00280010, "US", b"\x00\x02"),
        ]
    )
    read = read_dataset(BytesIO(body), is_implicit_VR=False, is_little_endian=True)
    for keyword in ("Rows", "ImageType", "KVP"):
        tag = Tag(keyword)
        assert values.texts(made, tag, UNDECLARED) == values.texts(read, tag, UNDECLARED) != ()
    assert values.texts(made, Tag("OffendingElement"), UNDECLARED) == ("00100010",)


def test_a_value_of_the_wrong_size_is_absent() -> None:
    body = b"\x28\x00\x10\x00US\x03\x00\x01\x02\x03"
    read = read_dataset(BytesIO(body), is_implicit_VR=False, is_little_endian=True)
    assert values.texts(read, Tag("Rows"), UNDECLARED) == ()


def test_big_endian_numbers() -> None:
    body = b"\x00\x28\x00\x10US\x00\x02\x02\x00"
    read = read_dataset(BytesIO(body), is_implicit_VR=False, is_little_endian=False)
    assert values.texts(read, Tag("Rows"), UNDECLARED) == ("512",)


def test_items_inherit_the_character_set() -> None:
    outer, inner = Dataset(), Dataset()
    outer.SpecificCharacterSet = "ISO_IR 144"
    outer.RequestAttributesSequence = [inner]
    inherited = values.charset_of(outer)
    assert values.charset_of(inner, inherited).terms == ("ISO_IR 144",)
    inner.SpecificCharacterSet = "ISO_IR 192"
    assert values.charset_of(inner, inherited).terms == ("ISO_IR 192",)


def test_a_sequence_that_is_text_has_no_items() -> None:
    body = elements.explicit(Tag("RequestAttributesSequence"), "LO", b"no items here")
    read = read_dataset(BytesIO(body), is_implicit_VR=False, is_little_endian=True)
    assert values.items(read, Tag("RequestAttributesSequence")) == ()
    assert values.items(read, Tag("ContentSequence")) == ()


def test_an_empty_element_of_an_unknown_vr_is_absent():
    """pydicom decodes what has no bytes as soon as it is looked at, and knows no such VR. Found by fuzzing."""
    tag = Tag(0x0008, 0x0090)
    dataset = Dataset({tag: RawDataElement(tag, "QN", 0, None, 0, False, True)})
    assert values.texts(dataset, tag, UNDECLARED) == ()


def test_a_character_set_that_is_a_number_of_the_wrong_length_is_none():
    """Never raises: pydicom has an error of its own for it."""
    dataset = Dataset()
    tag = values.SPECIFIC_CHARACTER_SET
    dataset._dict[tag] = RawDataElement(tag, "US", 1, b"\0", 0, False, True)
    assert values.charset_of(dataset) == UNDECLARED
