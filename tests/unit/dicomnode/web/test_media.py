"""Accept headers, media types, multipart bodies cut anywhere, frames' places, and the JSON of odd values."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from starlette.requests import Request

from dicomnode.attributes import model, part10
from dicomnode.errors import DecodeError, InvalidInstance
from dicomnode.pixels.frames import Image, Layout
from dicomnode.web import media, multipart
from dicomnode.web.errors import BadRequest

LITTLE = "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"


def asking(accept: str, query: str = "") -> Request:
    headers = [(b"accept", accept.encode())] if accept else []
    return Request({"type": "http", "headers": headers, "query_string": query.encode(), "method": "GET", "path": "/"})


@pytest.mark.parametrize(
    ("accept", "contents"),
    [
        ("", ["*/*"]),
        ("application/dicom+json", ["application/dicom+json"]),
        ('multipart/related; type="application/dicom"', ["application/dicom"]),
        ("multipart/related;type=application/dicom;boundary=a", ["application/dicom"]),
        ("multipart/related", ["*/*"]),
        ("text/html;q=0.5, application/json", ["application/json", "text/html"]),
        ("application/json;q=0", ["*/*"]),
        ('multipart/related; type="image/x-jls", image/x-dicom-rle', ["image/jls", "image/dicom-rle"]),
        ("nonsense", ["*/*"]),
        ('a/b; x="1,2", c/d', ["a/b", "c/d"]),
    ],
)
def test_what_clients_take(accept, contents):
    assert [wish.content for wish in media.accepted(asking(accept))] == contents


def test_the_query_parameter_stands_for_the_header():
    assert media.accepted(asking("*/*", "accept=image/png"))[0].name == "image/png"


def test_long_headers_are_read_in_time():
    hostile = ";" * 30_000 + '"' * 30_001 + " " * 3000
    assert media.accepted(asking(hostile))


class Parts:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[bytes] = []
        self._held = b""

    def begin(self, content_type: str) -> None:
        self.begun.append(content_type)
        self._held = b""

    def take(self, data: memoryview) -> None:
        self._held += bytes(data)

    def end(self) -> None:
        self.done.append(self._held)


@settings(deadline=None, max_examples=60)
@given(contents=st.lists(st.binary(max_size=200), min_size=1, max_size=4), cut=st.integers(1, 64))
def test_a_multipart_body_is_read_whatever_its_pieces(contents, cut):
    contents = [content.replace(b"--edge", b"") for content in contents]
    body = b"".join(b"\r\n--edge\r\nContent-Type: application/dicom\r\n\r\n" + content for content in contents)
    body += b"\r\n--edge--\r\n"
    parts = Parts()
    reader = multipart.Reader("edge", parts)
    for at in range(0, len(body), cut):
        reader.feed(body[at : at + cut])
    reader.finish()
    assert parts.done == contents
    assert parts.begun == ["application/dicom"] * len(contents)


@pytest.mark.parametrize(
    "body", [b"--edge\r\nA: b\r\n\r\nhalf", b"--edge\r\n" + b"A: b\r\n" * 99, b"--other\r\n\r\n", b""]
)
def test_what_is_cut_or_something_else_is_no_multipart(body):
    reader = multipart.Reader("edge", Parts())
    with pytest.raises(BadRequest):
        reader.feed(body)
        reader.finish()


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400))
def test_a_head_is_read_or_refused(garbage):
    begun = b"\0" * 128 + b"DICM" + garbage
    try:
        found = part10.read(begun)
    except InvalidInstance:
        return
    assert found is None or found.size <= len(begun)


def test_a_head_that_was_written_is_read_back_wherever_it_is_cut():
    head = part10.head("1.2", "1.2.3", LITTLE)
    whole = head + b"\x08\x00\x05\x00CS\x00\x00\x08\x00\x16\x00"
    assert part10.read(whole) == part10.Head("1.2", "1.2.3", LITTLE, len(head))
    assert part10.read(head[:150]) is None


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    size = len(value) if length is None else length
    return start + (struct.pack("<HL", 0, size) if vr in (b"OB", b"OW") else struct.pack("<H", size)) + value


def item(value: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def encapsulated(table: bytes, *fragments: bytes) -> bytes:
    body = item(table) + b"".join(map(item, fragments)) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return element(0x00100020, b"LO", b"ID") + element(0x7FE00010, b"OB", body, 0xFFFFFFFF)


def frames_of(data: bytes, image: Image, syntax: str) -> list[bytes]:
    spans = Layout(data, 0, syntax).frames(image)
    return [b"".join(data[span.start : span.start + span.length] for span in each) for each in spans]


IMAGE = Image(rows=2, columns=2, samples=1, bits=8, frames=2, photometric="MONOCHROME2")


def test_frames_lie_where_fragments_and_tables_say():
    assert frames_of(encapsulated(b"", b"aa", b"bb"), IMAGE, RLE) == [b"aa", b"bb"]
    table = struct.pack("<LL", 0, 20)
    assert frames_of(encapsulated(table, b"aa", b"bb", b"cc"), IMAGE, RLE) == [b"aabb", b"cc"]
    plain = element(0x00100020, b"LO", b"ID") + element(0x7FE00010, b"OW", b"abcdefgh")
    assert frames_of(plain, IMAGE, LITTLE) == [b"abcd", b"efgh"]


@pytest.mark.parametrize(
    "data",
    [
        encapsulated(b"", b"aa", b"bb", b"cc"),
        encapsulated(b""),
        element(0x7FE00010, b"OW", b"abc"),
        element(0x7FE00010, b"OW", b"abc", 500),
        element(0x00100020, b"LO", b"ID"),
        element(0x7FE00010, b"OB", item(b"x")[:-1] + b"\xff" * 9, 0xFFFFFFFF),
    ],
)
def test_pixel_data_that_lies_is_refused(data):
    with pytest.raises((DecodeError, struct.error)):
        frames_of(data, IMAGE, RLE)


def test_odd_values_become_json_or_nothing():
    dataset = Dataset()
    dataset.add_new(0x00080005, "CS", ["ISO_IR 100"])
    dataset.add_new(0x00100010, "PN", "Yamada^Tarou=山田^太郎=やまだ^たろう")
    dataset.add_new(0x00181151, "IS", "12")
    dataset.add_new(0x00280030, "DS", ["0.1", "0.1"])
    dataset.add_new(0x00720066, "FD", [float("nan"), 1.5])
    dataset.add_new(0x00081140, "SQ", [Dataset()])
    dataset.add_new(0x00091001, "UN", b"\x01\x02")
    found = model.of_dataset(dataset)
    assert found["00080005"]["Value"] == ["ISO_IR 192"]
    assert found["00100010"]["Value"][0]["Ideographic"] == "山田^太郎"
    assert (found["00181151"]["Value"], found["00280030"]["Value"]) == ([12], [0.1, 0.1])
    assert found["00081140"]["Value"] == [{}]
    assert found["00091001"]["InlineBinary"] == "AQI="
    assert b"NativeDicomModel" in model.as_xml(found)


def test_what_xml_cannot_hold_is_left_out():
    assert b"\x01" not in model.as_xml({"00100020": {"vr": "LO", "Value": ["a\x01b\x00"]}})
