"""Identifiers of any content against the query: matched or refused in words, never anything else."""

import struct
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset

from dicomnode import private
from dicomnode.attributes.charsets import python_encoding
from dicomnode.attributes.extents import Encoding, check
from dicomnode.attributes.values import UNREADABLE
from dicomnode.errors import DecodeError, IdentifierError, ImageNotStored
from dicomnode.query import identifiers, matching, region
from dicomnode.query.keys import KEYS, Model
from dicomnode.quiet import quiet_libraries
from tests.encoded import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, element, implicit
from tests.fuzz.settings import BOUNDED
from tests.unit.dicomnode.query import archive

STORED = [
    archive.instance(1, PatientName="Smith^John", StudyDate="20200101", StudyTime="101530", NumberOfFrames="3"),
    archive.instance(2, PatientName=archive.GERMAN, SpecificCharacterSet="ISO_IR 100", StudyDescription="a" * 64),
    archive.instance(3, PatientName=archive.JAPANESE, SpecificCharacterSet="ISO_IR 192", Rows=512),
]  # fmt: skip

tags = st.one_of(
    st.sampled_from([int(key.tag) for key in KEYS]),
    st.sampled_from([0x00080005, 0x00080052, 0x00400275, 0x00081140, 0x00280010, 0x0008002A, 0x00990010, 0x00991020]),
    st.integers(0x00080000, 0x7FDFFFFF),
)
vrs = st.sampled_from(
    [b"LO", b"PN", b"DA", b"TM", b"DT", b"UI", b"IS", b"DS", b"US", b"FD", b"AT", b"UN", b"CS", b"OB"]
)
texts = st.one_of(
    st.binary(max_size=40),
    st.text("*?\\^=-.0123456789aZ \x1b$B", max_size=40).map(lambda text: text.encode()),
    st.sampled_from(
        [b"STUDY ", b"IMAGE ", b"SERIES", b"PATIENT ", b"19900101-20300101 ", b"REGIONMIR 1.0 ", b"*a" * 30]
    ),
    st.sampled_from([term.encode() for term in python_encoding]),
)


def sequence(inner: bytes, *, explicit: bool) -> bytes:
    body = implicit(ITEM, inner, UNDEFINED) + implicit(ITEM_END) + implicit(SEQUENCE_END)
    return element(0x00400275, b"SQ", body, UNDEFINED) if explicit else implicit(0x00400275, body, UNDEFINED)


def elements(*, explicit: bool) -> st.SearchStrategy[bytes]:
    plain = st.builds(element, tags, vrs, texts) if explicit else st.builds(implicit, tags, texts)
    nested = st.recursive(plain, lambda inner: inner.map(lambda one: sequence(one, explicit=explicit)), max_leaves=4)
    return st.lists(st.one_of(plain, nested), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    quiet_libraries()
    private.register()
    with archive.opened(tmp_path_factory.mktemp("fuzz") / "root", STORED) as opened:
        yield opened


def identifier_of(encoded: bytes, *, explicit: bool):
    """As the port reads one; None where it refuses the bytes."""
    try:
        check(encoded, Encoding(implicit_vr=not explicit))
    except DecodeError:
        return None
    with suppress(*UNREADABLE):  # of which the port says "identifier cannot be decoded"
        return read_dataset(BytesIO(encoded), not explicit, True)
    return None


def nothing_stored(uid: str):
    raise ImageNotStored("query SR not stored: send it first")


@BOUNDED
@given(level=st.sampled_from([b"STUDY ", b"IMAGE ", b"SERIES"]), explicit=st.booleans(), data=st.data())
def test_any_identifier_is_answered_or_refused(store, level, explicit, data):
    head = element(0x00080052, b"CS", level) if explicit else implicit(0x00080052, level)
    identifier = identifier_of(head + data.draw(elements(explicit=explicit)), explicit=explicit)
    if identifier is None:
        return
    relational, combined = data.draw(st.booleans()), data.draw(st.booleans())
    try:
        if private.carries_query(identifier):
            region.parse(identifier, nothing_stored, 10, 100)
            return
        query = matching.parse(identifier, Model.STUDY_ROOT, relational=relational, combined_date_time=combined)
    except IdentifierError as refused:
        assert 0 < len(str(refused)) <= 64
        return
    for match in identifiers.matches(store.catalog, query, "NODE"):
        assert match.encoded()
        assert match.dataset() is not None


@BOUNDED
@given(encoded=st.binary(max_size=300), explicit=st.booleans())
def test_any_bytes_are_walked_or_refused(encoded, explicit):
    try:
        check(encoded, Encoding(implicit_vr=not explicit))
    except DecodeError as refused:
        assert 0 < len(str(refused)) <= 64


@BOUNDED
@given(count=st.integers(0, 50), depth=st.integers(1, 200), defined=st.booleans())
def test_what_is_walked_can_be_read(count, depth, defined):
    """Whatever the walk lets through, a reader comes through it too: no depth, no length left to surprise it."""
    from tests.encoded import nested

    encoded = b"".join(implicit(0x00100020, struct.pack("<H", number)) for number in range(count))
    encoded += nested(depth, explicit=False, defined=defined)
    try:
        check(encoded, Encoding(implicit_vr=True))
    except DecodeError:
        assert depth > 32
        return
    read_dataset(BytesIO(encoded), True, True)
