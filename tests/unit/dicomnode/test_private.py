"""private: the block round-trips, wherever it was reserved and however it arrived; malformed values are named."""

from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from dicomnode import codes, private
from dicomnode.attributes import plain
from dicomnode.errors import IdentifierError, RoiError
from dicomnode.private import CREATOR, GROUP, Element, PatientScope, Profile, QueryKeys, ResponseKeys
from encoder.anatomy import VOCABULARY


@pytest.fixture(autouse=True)
def registered() -> None:
    private.register()
    private.register()


HIT = (plain.element("ValueType", "TEXT"), plain.element("TextValue", "hit"))


def _roi(label: str = "roi") -> Dataset:
    item = Dataset()
    item.ValueType = "TEXT"
    item.TextValue = label
    return item


def _identifier(**elements: Any) -> Dataset:
    """A region query with its block filled by element name."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    block = identifier.private_block(GROUP, CREATOR, create=True)
    for name, value in ({"QUERY_ROI": [_roi()]} | elements).items():
        element = Element[name]
        block.add_new(element, private.TABLE[element].vr, value)
    return identifier


def _sent(dataset: Dataset, *, implicit: bool) -> Dataset:
    """The data set as it arrives on the other side."""
    buffer = DicomIO(BytesIO())
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, dataset)
    content = BytesIO(buffer.parent.getvalue())
    return read_dataset(content, implicit, True)


FULL = QueryKeys(
    sr_instance_uid=None,
    rois=(_roi("one"), _roi("two")),
    anatomy=(VOCABULARY[3],),
    scope=PatientScope.ANY,
    maximum_matches=25,
    minimum_score=0.25,
    profile=Profile.FINDING,
)


@pytest.mark.parametrize("implicit", [False, True])
def test_request_round_trip(implicit: bool) -> None:
    identifier = Dataset()
    private.write_request(identifier, FULL, codes.region_item(VOCABULARY[3]))
    assert private.read_request(_sent(identifier, implicit=implicit)) == FULL


@pytest.mark.parametrize("implicit", [False, True])
def test_response_round_trip(implicit: bool) -> None:
    said: dict[str, Any] = {"score": 0.875, "rank": 3, "generation": "g-7", "warning": "UNLIKE ARCHIVE"}
    identifier = plain.dataset(private.response(matched_roi=HIT, **said))
    keys = ResponseKeys(matched_roi=plain.dataset(HIT), **said)
    assert private.read_response(_sent(identifier, implicit=implicit)) == keys


def test_no_warning_is_no_element() -> None:
    identifier = plain.dataset(private.response(score=1.0, rank=1, generation="g", matched_roi=HIT))
    assert Tag(GROUP, 0x1022) not in identifier


@pytest.mark.parametrize("block", [0x10, 0x11, 0x7F, 0xFF])
def test_block_may_lie_anywhere(block: int) -> None:
    identifier = Dataset()
    identifier.add_new(Tag(GROUP, block), "LO", CREATOR)
    identifier.add_new(Tag(GROUP, block << 8 | Element.QUERY_SR), "UI", "1.2.3")
    assert private.carries_query(identifier)
    assert private.read_request(identifier).sr_instance_uid == "1.2.3"


def test_another_creators_block_is_not_ours() -> None:
    identifier = Dataset()
    identifier.add_new(Tag(GROUP, 0x10), "LO", "SOMEONE ELSE")
    identifier.add_new(Tag(GROUP, 0x1020), "SQ", [_roi()])
    assert not private.carries_query(identifier)
    with pytest.raises(IdentifierError, match="no REGIONMIR"):
        private.read_request(identifier)


def _implicit_bytes(dataset: Dataset) -> bytes:
    buffer = DicomIO(BytesIO())
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, dataset)
    return buffer.parent.getvalue()


def test_unknown_vr_is_read_with_ours() -> None:
    """PS3.5 6.2.2: a peer without the dictionary forwards the elements, creator too, as UN."""
    item = _implicit_bytes(_roi("inside"))
    framed = b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item
    identifier = Dataset()
    identifier.add_new(Tag(GROUP, 0x0010), "UN", b"REGIONMIR 1.0 ")
    for element, value in {
        Element.MAXIMUM_MATCHES: b"5 ",
        Element.PATIENT_SCOPE: b"SAME",
        Element.MINIMUM_SCORE: b"\x00\x00\x00\x00\x00\x00\xe0\x3f",
        Element.QUERY_ROI: framed,
    }.items():
        identifier.add_new(Tag(GROUP, 0x1000 | element), "UN", value)
    keys = private.read_request(identifier)
    assert (keys.maximum_matches, keys.scope, keys.minimum_score) == (5, PatientScope.SAME, 0.5)
    assert [roi.TextValue for roi in keys.rois] == ["inside"]


def test_plain_queries_are_not_region_queries() -> None:
    identifier = Dataset()
    identifier.PatientID = "*"
    assert not private.carries_query(identifier)
    identifier.private_block(GROUP, CREATOR, create=True).add_new(Element.RANK, "IS", None)
    assert not private.carries_query(identifier)


def test_defaults() -> None:
    keys = private.read_request(_identifier())
    assert (keys.scope, keys.profile) == (PatientScope.OTHER, Profile.ANATOMY)
    assert (keys.anatomy, keys.maximum_matches, keys.minimum_score, keys.sr_instance_uid) == ((), None, None, None)


def test_empty_optional_keys_are_absent_ones() -> None:
    keys = private.read_request(_identifier(MAXIMUM_MATCHES=None, PATIENT_SCOPE="", QUERY_SR="", ANATOMIC_REGION=[]))
    assert (keys.maximum_matches, keys.scope, keys.anatomy) == (None, PatientScope.OTHER, ())


def test_an_empty_roi_is_a_question_badly_put() -> None:
    identifier = _identifier(QUERY_ROI=[])
    assert private.carries_query(identifier)
    with pytest.raises(RoiError, match="empty"):
        private.read_request(identifier)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"QUERY_SR": "1.2.3"}, "not both"),
        ({"QUERY_ROI": [], "QUERY_SR": "../1"}, "no UID"),
        ({"MAXIMUM_MATCHES": 0}, "1 or more"),
        ({"MAXIMUM_MATCHES": -4}, "1 or more"),
        ({"PATIENT_SCOPE": "EVERYONE"}, "Patient Scope must be one of ANY, OTHER, SAME"),
        ({"PROFILE": "SHAPE"}, "Profile must be one of ANATOMY, FINDING"),
        ({"MINIMUM_SCORE": float("nan")}, "between -1 and 1"),
        ({"MINIMUM_SCORE": 1.5}, "between -1 and 1"),
        ({"ANATOMIC_REGION": [codes.code_item(codes.Code("T-C5300", "SRT", "Tonsil"))]}, "not in the vocabulary"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_malformed_values_are_named(elements: dict[str, Any], words: str) -> None:
    with pytest.raises(IdentifierError, match=words) as wrong:
        private.read_request(_identifier(**elements))
    assert len(str(wrong.value)) <= 64  # Error Comment (0000,0902) is LO


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (Element.MAXIMUM_MATCHES, b"ten "),
        (Element.MINIMUM_SCORE, b"\x00\x01"),
    ],
)
def test_malformed_bytes_are_named(element: Element, value: bytes) -> None:
    identifier = _identifier()
    identifier.add_new(Tag(GROUP, 0x1000 | element), "UN", value)
    with pytest.raises(IdentifierError):
        private.read_request(identifier)


def test_a_value_for_a_sequence_is_malformed() -> None:
    identifier = _identifier()
    identifier.add_new(Tag(GROUP, 0x1020), "LO", "text")
    with pytest.raises(IdentifierError, match="Query ROI is malformed"):
        private.read_request(identifier)


def test_anatomic_region_without_side_is_both() -> None:
    keys = private.read_request(_identifier(ANATOMIC_REGION=[codes.code_item(codes.anatomy_code(VOCABULARY[0]))]))
    assert keys.anatomy == (VOCABULARY[0], VOCABULARY[8])


def test_an_answer_without_the_block_is_none() -> None:
    assert private.read_response(Dataset()) is None
    assert private.read_response(_identifier()) is None
