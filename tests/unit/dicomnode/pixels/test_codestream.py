"""codestream: sizes are found without decoding, and junk is survived."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicomnode.pixels.codestream import Claim, claim
from tests.unit.dicomnode import films


def _frame(syntax: str) -> bytes:
    dataset = films.film(12)
    dataset.compress(syntax)
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_size_of_what_codecs_write(syntax: str) -> None:
    assert claim(_frame(syntax)) == Claim(films.ROWS, films.COLUMNS, 1, 12)


def test_rle_claims_nothing() -> None:
    assert claim(_frame(RLELossless)) is None


def test_jpeg_behind_other_segments() -> None:
    """APP0, fill bytes and a Huffman table (DHT is C4, no frame header) before SOF3."""
    head = b"\xff\xd8" + b"\xff\xe0\x00\x04JF" + b"\xff\xff\xc4\x00\x03\x00" + b"\xff\xc3\x00\x0b\x0c"
    assert claim(head + (3000).to_bytes(2, "big") + (2500).to_bytes(2, "big") + b"\x03" + bytes(20)) == Claim(
        3000, 2500, 3, 12
    )


def test_jp2_file_around_the_codestream() -> None:
    boxed = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(30) + _frame(JPEG2000Lossless)
    assert claim(boxed) == Claim(films.ROWS, films.COLUMNS, 1, 12)


@given(st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "]), st.binary(max_size=200))
def test_junk_ends(start: bytes, rest: bytes) -> None:
    found = claim(start + rest)
    assert found is None or isinstance(found, Claim)
