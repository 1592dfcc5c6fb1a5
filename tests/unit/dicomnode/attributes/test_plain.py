"""Plain elements: the data set of them, and their encoding, byte for byte what pydicom writes of that."""

import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicomnode import private
from dicomnode.attributes import plain
from dicomnode.attributes.charsets import Charset
from dicomnode.attributes.plain import Item, element, sequence
from dicomnode.query.identifiers import Match
from dicomnode.sr import writer
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box


def response(*elements: plain.Element, tracking: str = "ROI 1") -> Item:
    """An answer to a region query."""
    matched = writer.matched_roi(
        sop_class_uid="1.2",
        sop_instance_uid="1.2.3",
        frame=7,
        box=Box(1.5, 2.25, 30.0, 40.0),
        anatomy=VOCABULARY[3],
        tracking=tracking,
        tracking_uid="2.25.7",
    )
    block = private.response(
        score=0.1234567, rank=3, generation="model 1", matched_roi=matched, warning="anatomy unsure; locally"
    )
    return plain.item(element("QueryRetrieveLevel", "IMAGE"), element("SOPInstanceUID", "1.2.3"), *elements, *block)


JAPANESE, UTF8 = Charset.of(["", "ISO 2022 IR 87"]), Charset.of(["ISO_IR 192"])
ITEMS = {
    "nothing": (),
    "response": response(
        element("PatientName", "A^B"),
        element("PatientID", "odd"),
        element("StudyDate", "20240101"),
        element("ModalitiesInStudy", "CR", "DX"),
    ),
    "names": (
        element("ReferringPhysicianName"),
        element("PatientName", "A^B=C^D"),
        element("OtherPatientNames", "C", "D"),
    ),
    "numbers": plain.item(
        element("PixelSpacing", "0.10", "1e-3"),
        element("InstanceNumber", "007"),
        element("Rows", "5"),
        element("FrameIncrementPointer", "00181063"),
        element("SliceThickness"),
    ),
    "lists": plain.item(element("GraphicData", "1.5", "2.5"), element("ImageType", "ORIGINAL", "", "AXIAL")),
    "empty sequence": (
        sequence("ReferencedImageSequence"),
        sequence("OtherPatientIDsSequence", (), (element("PatientID", "x"),)),
    ),
    "long": (
        element("DerivationDescription", "x" * 1000),
        element("AcquisitionComments", "x" * 70_001),
        element("TextValue", "line\r\n\\and one"),
    ),
}
MATCHES = {
    "japanese": (response(element("PatientName", "Yamada^Tarou=山田^太郎")), JAPANESE),
    "said by the asker alone": (response(tracking="Größe"), UTF8),
}


def written(dataset: plain.Dataset, *, implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.filterwarnings("ignore")
def test_it_is_what_pydicom_writes(name: str, implicit: bool) -> None:
    dataset = plain.dataset(ITEMS[name])
    assert plain.encoded(ITEMS[name], implicit_vr=implicit) == written(dataset, implicit=implicit)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", MATCHES)
@pytest.mark.filterwarnings("ignore")
def test_a_match_says_its_character_set(name: str, implicit: bool) -> None:
    elements, charset = MATCHES[name]
    match = Match(elements, (charset,))
    assert match.charset == charset
    assert match.encoded(implicit_vr=implicit) == written(match.dataset(), implicit=implicit)


def test_values_read_back() -> None:
    dataset = plain.dataset(ITEMS["response"])
    keys = private.read_response(dataset)
    assert keys is not None
    assert (keys.score, keys.rank, keys.generation) == (0.1234567, 3, "model 1")
    assert dataset.ModalitiesInStudy == ["CR", "DX"]


def test_items_are_in_tag_order() -> None:
    tags = [each.tag for each in plain.item(element("PatientID"), element("StudyDate"))]
    assert tags == [0x00080020, 0x00100020]


def test_an_unknown_keyword_is_told() -> None:
    with pytest.raises(KeyError):
        element("PatientsName")
