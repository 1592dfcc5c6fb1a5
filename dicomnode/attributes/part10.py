"""The head of a Part 10 file, read and written: preamble and File Meta Information. PS3.10 7.1."""

import struct
from dataclasses import dataclass
from typing import Final

from pydicom.tag import BaseTag

from dicomnode import uids
from dicomnode.attributes.elements import LONG_VRS, explicit
from dicomnode.errors import InvalidInstance
from dicomnode.uids import is_uid

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
    if not (is_uid(sop_class_uid) and is_uid(sop_instance_uid) and is_uid(transfer_syntax_uid)):
        raise InvalidInstance("malformed UID in the command")
    values = (
        (0x0001, "OB", b"\x00\x01"),
        (_SOP_CLASS, "UI", sop_class_uid.encode()),
        (_SOP_INSTANCE, "UI", sop_instance_uid.encode()),
        (_TRANSFER_SYNTAX, "UI", transfer_syntax_uid.encode()),
        (0x0012, "UI", uids.IMPLEMENTATION_CLASS_UID.encode()),
        (0x0013, "SH", uids.IMPLEMENTATION_VERSION_NAME.encode()),
    )
    group = b"".join(explicit(BaseTag(0x0002_0000 | element), vr, value) for element, vr, value in values)
    return b"\0" * 128 + b"DICM" + explicit(BaseTag(0x0002_0000), "UL", struct.pack("<L", len(group))) + group


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
    if not all(is_uid(text) for text in read.values()):
        raise InvalidInstance("file meta information without its UIDs")
    return Head(read[_SOP_CLASS], read[_SOP_INSTANCE], read[_TRANSFER_SYNTAX], size)
