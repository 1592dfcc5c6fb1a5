"""Where the elements of an encoded data set lie, and what is refused before anybody reads it."""

import struct

import pytest

from dicomnode.attributes.extents import MAXIMUM_DEPTH, Encoding, check, extents
from dicomnode.errors import DecodeError
from tests.encoded import ITEM, SEQUENCE_END, UNDEFINED, element, implicit, nested, wide

EXPLICIT, IMPLICIT = Encoding(implicit_vr=False), Encoding(implicit_vr=True)
NAME = element(0x00100010, b"PN", b"A^B ")
PIXELS = element(0x7FE00010, b"OW", bytes(8))


def found(encoded: bytes, encoding: Encoding = EXPLICIT, **options) -> list[tuple[int, int | None]]:
    return [(each.tag, each.heads) for each in extents(encoded, 0, encoding, **options)]


def test_each_element_with_all_that_it_holds():
    encoded = NAME + nested(2) + wide(3) + PIXELS
    assert found(encoded) == [(0x00100010, 1), (0x0040A730, 8), (0x0040A730, 5), (0x7FE00010, 1)]
    assert found(encoded, until={0x7FE00010}) == found(encoded)[:-1]
    assert [each.end for each in extents(encoded, 0, EXPLICIT)][-1] == len(encoded)


def test_the_same_in_implicit_vr_and_big_endian():
    assert found(implicit(0x00100010, b"A^B ") + nested(2, explicit=False), IMPLICIT)[1] == (0x0040A730, 8)
    big = struct.pack(">HH2sH", 0x0010, 0x0010, b"PN", 4) + b"A^B "
    assert found(big, Encoding(implicit_vr=False, little_endian=False)) == [(0x00100010, 1)]


def test_what_shows_in_the_first_element_wins_over_what_was_negotiated():
    assert found(NAME, IMPLICIT) == [(0x00100010, 1)]
    assert found(implicit(0x00100010, b"A^B "), EXPLICIT) == [(0x00100010, 1)]


def test_a_long_element_is_stepped_over_without_looking_into_it():
    long = element(0x00400275, b"SQ", implicit(ITEM, NAME * 100))
    assert found(long + NAME, looked_into=1000) == [(0x00400275, None), (0x00100010, 1)]
    assert found(long + NAME) == [(0x00400275, 102), (0x00100010, 1)]


def test_a_sequence_that_is_malformed_inside_ends_where_its_length_says():
    broken = element(0x00400275, b"SQ", implicit(ITEM, b"", 0x7000))
    assert found(broken + NAME, looked_into=1000) == [(0x00400275, None), (0x00100010, 1)]


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (NAME[:-1], "ends inside"),
        (NAME + b"abc", "ends inside"),
        (element(0x0040A730, b"SQ", b"", UNDEFINED), "ends inside"),
        (element(0x0040A730, b"SQ", NAME, UNDEFINED), "no item"),
        (nested(MAXIMUM_DEPTH + 1), "too deeply"),
        (nested(MAXIMUM_DEPTH + 1, defined=True), "too deeply"),
        (nested(5000), "too deeply"),
        (wide(1000), "too many"),
        (element(0x0040A730, b"SQ", implicit(ITEM, NAME, 6) + implicit(SEQUENCE_END), UNDEFINED), "beyond"),
    ],
)
def test_what_no_reader_should_be_given(encoded, words):
    with pytest.raises(DecodeError, match=words):
        check(encoded, EXPLICIT, 500)


def test_padding_zeros_and_a_missing_item_delimiter_are_forgiven():
    assert found(NAME + bytes(3)) == [(0x00100010, 1)]
    body = implicit(ITEM, NAME, UNDEFINED) + implicit(SEQUENCE_END)
    assert found(element(0x0040A730, b"SQ", body, UNDEFINED) + NAME)[-1] == (0x00100010, 1)
