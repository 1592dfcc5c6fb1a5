"""What the catalogue keeps of a received data set, however ugly it is."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from dicomnode.attributes import elements
from dicomnode.attributes.header import MAXIMUM_VALUE, new_instance, read_header, trimmed
from dicomnode.attributes.names import folded_groups, name_key
from dicomnode.errors import InvalidInstance

EXPLICIT = "1.2.840.10008.1.2.1"
UIDS = {"SOPClassUID": "1.2.1", "SOPInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}


def raw(**values: tuple[str, bytes]) -> Dataset:
    """A data set as read from a file, with these bytes for its elements."""
    uids = {keyword: ("UI", value.encode()) for keyword, value in UIDS.items()}
    parts = sorted((int(Tag(keyword)), vr, value) for keyword, (vr, value) in {**uids, **values}.items())
    body = b"".join(elements.explicit(Tag(tag), vr, value) for tag, vr, value in parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about an unknown character set, while it reads
        return read_dataset(BytesIO(body), is_implicit_VR=False, is_little_endian=True)


def test_values_become_normal_text_in_their_columns() -> None:
    new = new_instance(
        raw(
            SpecificCharacterSet=("CS", b"ISO_IR 100"),
            PatientName=("PN", b"Buc^J\xe9r\xf4me "),
            PatientID=("LO", b" 4711 "),
            IssuerOfPatientID=("LO", b"CITY"),
            StudyDate=("DA", b"1998.01.28"),
            StudyTime=("TM", b"1015"),
            SeriesNumber=("IS", b" 07 "),
            Rows=("US", b"\x00\x02"),
            NumberOfFrames=("IS", b"3"),
        ),
        EXPLICIT,
        "SENDER",
    )
    assert (new.patient.patient_id, new.patient.issuer, new.patient.anonymous_key) == ("4711", "CITY", "")
    assert new.patient.patient_name == "Buc^Jérôme"
    assert new.patient.patient_name_key == "=buc^jérôme^="
    assert (new.study.study_date, new.study.study_time) == ("19980128", "101500")
    assert (new.series.series_number, new.rows, new.frames) == ("7", 512, 3)
    assert (new.transfer_syntax_uid, new.source_ae) == (EXPLICIT, "SENDER")


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [b"", b"../escaped", b"1.2." + b"3" * 61, b"1.2 3"])
def test_an_instance_needs_its_uids(keyword: str, value: bytes) -> None:
    with pytest.raises(InvalidInstance, match=keyword):
        new_instance(raw(**{keyword: ("UI", value)}), EXPLICIT)


def test_without_a_patient_id_the_study_tells_patients_apart() -> None:
    new = new_instance(raw(PatientID=("LO", b"  ")), EXPLICIT)
    assert (new.patient.patient_id, new.patient.anonymous_key) == ("", UIDS["StudyInstanceUID"])


UGLY: dict[str, tuple[str, bytes]] = {
    "PatientBirthDate": ("DA", b"31/12/1999"),
    "StudyDate": ("DA", b"99999999"),
    "StudyTime": ("TM", b"noon"),
    "SeriesNumber": ("IS", b"12abc"),
    "InstanceNumber": ("IS", b"9" * 40),
    "NumberOfFrames": ("IS", b"-5"),
    "PatientSex": ("CS", b"\xff\xfe"),
    "AcquisitionDateTime": ("DT", b"garbage"),
    "PatientAge": ("AS", b"old"),
    "RequestAttributesSequence": ("SQ", b"\x01\x02\x03\x04\x05\x06\x07\x08"),
    "SpecificCharacterSet": ("CS", b"KLINGON"),
    "Modality": ("CS", b"CR\\DX"),
}


@pytest.mark.parametrize("keyword", UGLY)
def test_an_ugly_value_is_absent_or_read_as_far_as_it_goes(keyword: str) -> None:
    new = new_instance(raw(**{keyword: UGLY[keyword]}), EXPLICIT)
    assert new.sop_instance_uid == UIDS["SOPInstanceUID"]
    assert new.study.study_date is None
    assert new.series.series_number is None
    assert new.frames is None
    assert new.series.modality == ("CR" if keyword == "Modality" else None)


def test_everything_ugly_at_once_still_leaves_a_readable_header() -> None:
    header = read_header(new_instance(raw(**UGLY), EXPLICIT).header)
    assert header.SOPInstanceUID == UIDS["SOPInstanceUID"]


def test_the_header_keeps_keys_and_leaves_bulk_out() -> None:
    dataset = raw(
        SpecificCharacterSet=("CS", b"ISO_IR 144"),
        PatientName=("PN", bytes([0xBB, 0xEE, 0xDA])),
        ImageType=("CS", b"ORIGINAL\\PRIMARY"),
        ImageComments=("LT", b"x" * (MAXIMUM_VALUE + 2)),
        PixelData=("OW", b"\0" * 64),
        EncapsulatedDocument=("OB", b"\0" * 64),
    )
    dataset.add_new(0x00091001, "LO", "private")
    dataset.add_new(0x60003000, "OW", b"\0\0")
    header = read_header(trimmed(dataset))
    assert header.get_item("PatientName").value == bytes([0xBB, 0xEE, 0xDA]) + b" "  # as received, padded
    assert [element.keyword for element in header] == [
        "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "PatientName",
        "StudyInstanceUID", "SeriesInstanceUID",
    ]  # fmt: skip
    assert str(header.PatientName) == "Люк"


def test_the_header_keeps_sequences_with_their_items() -> None:
    dataset = raw()
    inner = Dataset()
    inner.RequestedProcedureID = "R1"
    inner.add_new(0x00091001, "LO", "private")
    dataset.RequestAttributesSequence = [inner, Dataset()]
    items = read_header(trimmed(dataset)).RequestAttributesSequence
    assert [[element.keyword for element in item] for item in items] == [["RequestedProcedureID"], []]


def test_a_sequence_nested_without_end_is_cut() -> None:
    dataset = raw()
    item = Dataset()
    for _ in range(100):
        outer = Dataset()
        outer.ContentSequence = [item]
        item = outer
    dataset.ContentSequence = [item]
    depth, level = 0, read_header(trimmed(dataset))
    while "ContentSequence" in level and level.ContentSequence:
        depth, level = depth + 1, level.ContentSequence[0]
    assert 0 < depth <= 16


def test_big_endian_and_implicit_files_give_the_same_header() -> None:
    little = raw(Rows=("US", b"\x00\x02"), WindowCenter=("DS", b"1.5"))
    big_body = b"".join(
        bytes([*element.tag.group.to_bytes(2, "big"), *element.tag.element.to_bytes(2, "big")])
        + element.VR.encode()
        + len(element.value).to_bytes(2, "big")
        + (element.value[::-1] if element.VR == "US" else element.value)
        for element in (little.get_item(tag) for tag in little.keys())  # noqa: SIM118 - a Dataset yields elements
    )
    implicit_body = b"".join(
        elements.implicit(tag, "UN", little.get_item(tag).value)
        for tag in little.keys()  # noqa: SIM118
    )
    big = read_dataset(BytesIO(big_body), is_implicit_VR=False, is_little_endian=False)
    implicit = read_dataset(BytesIO(implicit_body), is_implicit_VR=True, is_little_endian=True)
    assert trimmed(big) == trimmed(little) == trimmed(implicit)


def test_names_of_any_case_and_width_have_one_key() -> None:
    assert name_key("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎") == name_key("ヤマダ^タロウ=山田^太郎^^")
    assert name_key("SMITH^John^^") == name_key("smith^JOHN")
    assert folded_groups("Smith^J*=") == ("smith^j*", "")


@pytest.mark.data
def test_every_file_of_the_development_data_has_a_header(data_dir: Path) -> None:
    read = 0
    for path in sorted((data_dir / "dicom").rglob("*.dcm")) + sorted((data_dir / "sr").rglob("*.dcm")):
        dataset: Any = dcmread(path, stop_before_pixels=True, force=True)
        if "SOPInstanceUID" not in dataset or "SeriesInstanceUID" not in dataset:
            continue
        new = new_instance(dataset, EXPLICIT)
        assert read_header(new.header).SOPInstanceUID == dataset.SOPInstanceUID
        read += 1
    assert read > 10
