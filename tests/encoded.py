"""Data sets as bytes: elements as they are wanted, true or false, in Explicit VR Little Endian unless it says else."""

import struct

from tests.raw import DX, even

UNDEFINED = 0xFFFFFFFF
LONG = frozenset({b"OB", b"OW", b"SQ", b"UC", b"UN", b"UT", b"OF"})
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


def element(tag: int, vr: bytes, value: bytes = b"", length: int | None = None) -> bytes:
    """One element; `length`: what it claims."""
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    return head + (struct.pack("<HL", 0, size) if vr in LONG else struct.pack("<H", size)) + value


def implicit(tag: int, value: bytes = b"", length: int | None = None) -> bytes:
    """One element in Implicit VR, an item, or a delimiter."""
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def instance(uid: str, *more: bytes, sop_class: str = DX, study: str = "1.2.9", before: bytes = b"") -> bytes:
    """A data set that is an instance, with elements in front of it and behind it."""
    return b"".join((
        before,
        element(0x00080016, b"UI", even(sop_class)),
        element(0x00080018, b"UI", even(uid)),
        element(0x0020000D, b"UI", even(study)),
        element(0x0020000E, b"UI", even(f"{study}.1")),
        *more,
    ))  # fmt: skip


def nested(depth: int, tag: int = 0x0040A730, *, explicit: bool = True, defined: bool = False) -> bytes:
    """A sequence in an item in a sequence, `depth` times."""
    inner = b""
    for _ in range(depth):
        inner = _sequence(tag, inner, explicit, defined)
    return inner


def _sequence(tag: int, inner: bytes, explicit: bool, defined: bool) -> bytes:
    ends = (b"", b"") if defined else (implicit(ITEM_END), implicit(SEQUENCE_END))
    body = implicit(ITEM, inner, None if defined else UNDEFINED) + ends[0]
    make = (lambda *given: element(given[0], b"SQ", *given[1:])) if explicit else implicit
    return make(tag, body, None if defined else UNDEFINED) + ends[1]


def wide(items: int, tag: int = 0x0040A730, *, explicit: bool = True, item: bytes = b"") -> bytes:
    """A sequence of undefined length with many items."""
    body = implicit(ITEM, item) * items + implicit(SEQUENCE_END)
    return element(tag, b"SQ", body, UNDEFINED) if explicit else implicit(tag, body, UNDEFINED)
