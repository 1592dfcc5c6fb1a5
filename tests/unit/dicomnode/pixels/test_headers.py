"""What the receiver reads of a file: the same as a whole reading for what it keeps, and bounded."""

import struct
import zlib
from contextlib import suppress
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicomnode.attributes import part10
from dicomnode.attributes.header import new_instance, read_header
from dicomnode.dimse import client
from dicomnode.errors import DecodeError, InvalidInstance
from dicomnode.pixels import headers
from dicomnode.quiet import quiet_pydicom
from tests.encoded import element, instance, nested, wide
from tests.raw import even

PIXELS = element(0x7FE00010, b"OW", bytes(64))


def file_of(tmp_path, data_set: bytes, syntax: str = ExplicitVRLittleEndian):
    """A Part 10 file with no more file meta information than a reader needs."""
    meta = element(0x00020010, b"UI", even(syntax))
    path = tmp_path / "made.dcm"
    head = element(0x00020000, b"UL", len(meta).to_bytes(4, "little")) + meta
    path.write_bytes(bytes(128) + b"DICM" + head + data_set)
    return path


@pytest.mark.data
def test_the_catalogue_keeps_the_same_of_every_object_as_of_a_whole_reading(data_dir):
    """But for what is left of a sequence without its own large sequences: that is no key."""
    compared = 0
    for path in client.dicom_files([data_dir / "dicom", data_dir / "sr"]):
        with quiet_pydicom():
            whole = dcmread(path)
        syntax = str(whole.file_meta.TransferSyntaxUID)
        with suppress(InvalidInstance):
            expected, kept = (new_instance(each, syntax) for each in (whole, headers.header(path)))
            assert replace(kept, header=b"") == replace(expected, header=b""), path.name
            before, after = read_header(expected.header), read_header(kept.header)
            assert all(before[tag] == after[tag] for tag in after.keys()), path.name  # noqa: SIM118
            assert {before[tag].VR for tag in set(before.keys()) - set(after.keys())} <= {"SQ"}, path.name
            compared += 1
    assert compared > 50


def test_long_values_large_sequences_and_private_elements_are_left_in_the_file(tmp_path):
    long = element(0x00400555, b"UT", b"a" * (headers.MAXIMUM_ELEMENT + 2))
    private = element(0x00290010, b"LO", b"X ")
    data_set = instance("1.2.3", private, wide(5000), long, element(0x00400556, b"ST", b"kept"), PIXELS)
    header = headers.header(file_of(tmp_path, data_set))
    assert [int(tag) for tag in header.keys()][4:] == [0x00400556]  # noqa: SIM118 - a Dataset iterates elements


@pytest.mark.parametrize(
    ("data_set", "words"),
    [
        (instance("1.2.3", PIXELS)[:-1], "ends"),
        (instance("1.2.3", nested(100)), "deeply"),
        (instance("1.2.3", *[element(0x00200010 + at, b"LO") for at in range(20_000)]), "too many"),
        (b"", ""),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, data_set, words):
    path = file_of(tmp_path, data_set)
    if not data_set:
        assert len(headers.header(path)) == 0  # the UIDs are missed later
        return
    with pytest.raises(DecodeError, match=words):
        headers.header(path)


def test_of_a_deflated_file_the_beginning_is_enough(tmp_path):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pixels = element(0x7FE00010, b"OW", bytes(headers.HEADER_INFLATED))
    path = file_of(
        tmp_path, deflate.compress(instance("1.2.3", pixels)) + deflate.flush(), DeflatedExplicitVRLittleEndian
    )
    assert headers.header(path).SOPInstanceUID == "1.2.3"
    path = file_of(tmp_path, b"\xff" * 100, DeflatedExplicitVRLittleEndian)
    with pytest.raises(DecodeError, match="cannot be read"):
        headers.header(path)


def test_a_document_is_read_whole_or_refused(tmp_path):
    assert len(headers.document(file_of(tmp_path, instance("1.2.3", wide(100)))).ContentSequence) == 100
    with pytest.raises(DecodeError, match="too many"):
        headers.document(file_of(tmp_path, instance("1.2.3", wide(200_000))))
    with pytest.raises(DecodeError, match="over"):
        headers.document(file_of(tmp_path, instance("1.2.3", element(0x00420011, b"OB", bytes(17 << 20)))))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_header_of_a_file_that_is_arriving_is_that_of_the_whole(tmp_path, share):
    path = file_of(tmp_path, instance("1.2.3", wide(20), element(0x7FE00010, b"OW", bytes(50_000))))
    whole, size = path.read_bytes(), path.stat().st_size
    expected = headers.header(path)
    head = head_of(whole)
    found = headers.begun(memoryview(whole)[head.size : int(size * share)], head)
    assert (found.header, found.least) == (expected, size)


def test_a_header_is_not_told_before_its_end(tmp_path):
    """Cut before the pixels, or without any, or in an encoding that has to be whole."""
    data_set = instance("1.2.3", wide(200))
    path = file_of(tmp_path, data_set + PIXELS)
    whole = path.read_bytes()
    for cut in range(head_of(whole).size, len(whole) - len(PIXELS), 97):
        assert headers.begun(whole[head_of(whole).size : cut], head_of(whole)) is None
    assert headers.begun(data_set, head_of(whole)) is None
    deflated = replace(head_of(whole), transfer_syntax_uid=DeflatedExplicitVRLittleEndian)
    assert headers.begun(data_set + PIXELS, deflated) is None


def head_of(file: bytes) -> part10.Head:
    (meta,) = struct.unpack_from("<L", file, 140)
    return part10.Head("1.2", "1.2.3", ExplicitVRLittleEndian, 144 + meta)
