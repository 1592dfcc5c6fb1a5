"""The head of a Part 10 file: what pydicom reads of ours, and ours of its own."""

from io import BytesIO

import pytest
from pydicom.filereader import read_file_meta_info, read_preamble
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode import uids
from dicomnode.attributes import part10
from dicomnode.errors import InvalidInstance

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])  # of odd and of even length
def test_a_head_is_what_pydicom_reads(uid, tmp_path):
    head = part10.head(SOP_CLASS, uid, ExplicitVRLittleEndian)
    path = tmp_path / "head.dcm"
    path.write_bytes(head)
    assert read_preamble(BytesIO(head), force=False) == bytes(128)
    meta = read_file_meta_info(path)
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (SOP_CLASS, uid)
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.ImplementationClassUID == uids.IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == uids.IMPLEMENTATION_VERSION_NAME
    assert meta.FileMetaInformationGroupLength == len(head) - 144


def test_a_head_is_read_as_it_was_written():
    head = part10.head(SOP_CLASS, "1.2.3", ExplicitVRLittleEndian)
    behind = b"\x08\x00\x16\x00UI\x02\x001\0" + bytes(10)
    assert part10.read(head + behind) == part10.Head(SOP_CLASS, "1.2.3", ExplicitVRLittleEndian, len(head))


@pytest.mark.parametrize("uid", ["", "../escaped", "1.2.", "1" * 65, "1.2.3\n"])
def test_a_malformed_uid_makes_no_head(uid):
    with pytest.raises(InvalidInstance):
        part10.head(SOP_CLASS, uid, ExplicitVRLittleEndian)
