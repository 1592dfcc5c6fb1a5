"""The head of a Part 10 file, read and written: preamble and File Meta Information. PS3.10 7.1."""

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info

from dicomnode import uids
from dicomnode.attributes.elements import LONG_VRS
from dicomnode.errors import InvalidInstance

MAXIMUM_HEAD: Final = 64 << 10  # bytes; what is legal and seen stays under 2 KiB
_PREAMBLE: Final = 132  # bytes, DICM the last four
_LONG: Final = frozenset(vr.encode("ascii") for vr in LONG_VRS)
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x0002, 0x0003, 0x0010  # elements of group 0002


@dataclass(frozen=True)
class Head:
    """What a head says, and how many bytes it is."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int


def head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """What stands before the data set, with this implementation's names. InvalidInstance: a malformed UID."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = transfer_syntax_uid
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    try:
        write_file_meta_info(buffer, meta, enforce_standard=True)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInstance("malformed UID in the command") from error
    return buffer.getvalue()


def read(begun: bytes) -> Head | None:
    """The head that a file begins with; None while it is not complete. InvalidInstance when it is none."""
    if len(begun) < _PREAMBLE:
        return None
    if begun[128:132] != b"DICM":
        raise InvalidInstance("not a DICOM file: no DICM behind its preamble")
    found: dict[int, bytes] = {}
    at = _PREAMBLE
    while len(begun) - at >= 12:
        group, element, vr, short = struct.unpack_from("<HH2sH", begun, at)
        if group != 2:
            return _checked(found, at)
        value, length = (at + 12, struct.unpack_from("<L", begun, at + 8)[0]) if vr in _LONG else (at + 8, short)
        if value + length > MAXIMUM_HEAD:
            raise InvalidInstance("file meta information too long")
        found[element], at = begun[value : value + length], value + length
    return None


def _checked(found: dict[int, bytes], size: int) -> Head:
    read = {
        name: found.get(name, b"").rstrip(b"\0 ").decode("latin-1")
        for name in (_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX)
    }
    if not all(uids.is_uid(text) for text in read.values()):
        raise InvalidInstance("file meta information without its UIDs")
    return Head(read[_SOP_CLASS], read[_SOP_INSTANCE], read[_TRANSFER_SYNTAX], size)
