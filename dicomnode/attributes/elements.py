"""Tag, value representation and value bytes in; one encoded data element, little endian, out. PS3.5 7.1."""

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache

from pydicom.tag import BaseTag

from dicomnode.attributes.values import NUMBER_FORMATS

# PS3.5 7.1.2: these have a 32 bit length in Explicit VR.
LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
MAXIMUM_SHORT = 0xFFFE  # bytes of a value of the others
Frame = Callable[[BaseTag, str, bytes], bytes]  # `explicit` or `implicit`
_ITEM = b"\xfe\xff\x00\xe0"
_SHORT, _LONG = struct.Struct("<H"), struct.Struct("<L")


@lru_cache(maxsize=4096)
def _head(tag: BaseTag, vr: str) -> bytes:
    """All in front of the length; an answer of a thousand matches has the same few in each."""
    reserved = b"\0\0" if vr in LONG_VRS else b""
    return struct.pack("<HH", tag.group, tag.element) + vr.encode("ascii") + reserved


def explicit(tag: BaseTag, vr: str, value: bytes) -> bytes:
    """One element in Explicit VR, padded to even length; as UN where it is too long for its own. PS3.5 6.2.2."""
    value = _even(vr, value)
    if len(value) > MAXIMUM_SHORT and vr not in LONG_VRS:
        vr = "UN"
    return _head(tag, vr) + (_LONG if vr in LONG_VRS else _SHORT).pack(len(value)) + value


def implicit(tag: BaseTag, vr: str, value: bytes) -> bytes:
    """One element in Implicit VR, padded to even length."""
    value = _even(vr, value)
    return struct.pack("<HHL", tag.group, tag.element, len(value)) + value


def item(body: bytes) -> bytes:
    """One item of a sequence, of defined length. PS3.5 7.5.1."""
    return _ITEM + struct.pack("<L", len(body)) + body


def packed(vr: str, numbers: Sequence[str]) -> bytes:
    """Binary numbers or tags of their texts (see `values.texts`). ValueError or struct.error when they do not fit."""
    if vr == "AT":
        return b"".join(struct.pack("<HH", int(text[:4], 16), int(text[4:], 16)) for text in numbers)
    form = NUMBER_FORMATS[vr]
    values = [float(text) if form in "fd" else int(text) for text in numbers]
    return struct.pack(f"<{len(values)}{form}", *values)


def _even(vr: str, value: bytes) -> bytes:
    if len(value) % 2 == 0:
        return value
    return value + (b"\0" if vr in {"UI", "OB"} else b" ")
