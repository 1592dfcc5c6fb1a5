"""An encoded data set in, where its elements lie out: nothing of it is decoded or kept. PS3.5 7.1, 7.5, A.4.

A reader of whole data sets takes a hundred times the bytes of a hostile one in memory, and one frame of the stack for
each nested sequence. Here both are counted first. Memory bound: one head, and the stack of what is open.
"""

import mmap
import struct
from collections.abc import Generator, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydicom.datadict import DicomDictionary

from dicomnode.attributes.elements import LONG_VRS
from dicomnode.errors import DecodeError

Buffer = bytes | memoryview | mmap.mmap

MAXIMUM_DEPTH: Final = 64  # nested sequences; what is legal and seen stays under 16
MAXIMUM_HEADS: Final = 1_000_000  # elements and items that are stepped over: a second or two
MAXIMUM_READ: Final = 100_000  # of a data set that is read as a whole: 70 MB as pydicom holds them, a second
UNDEFINED: Final = 0xFFFFFFFF

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
SEQUENCES: Final = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
_LONG: Final = frozenset(vr.encode("ascii") for vr in LONG_VRS)
_SIZES: Final = {True: (struct.Struct("<HHL"), "<H", "<L"), False: (struct.Struct(">HHL"), ">H", ">L")}


@dataclass(frozen=True)
class Encoding:
    """How a data set is written, PS3.5 7.1 and 7.3."""

    implicit_vr: bool
    little_endian: bool = True


class _TooDeep(DecodeError):
    """Nested deeper than any reader should go."""


class Extent(NamedTuple):
    """One element of the data set itself."""

    tag: int
    start: int  # offset of its tag
    end: int  # offset behind its value
    heads: int | None  # elements and items down to its leaves, itself one of them; None: not all were looked at
    vr: bytes = b""  # empty where the encoding says none
    value: int = 0  # offset of its value; 0 where its length is not said


class _Head(NamedTuple):
    tag: int
    vr: bytes  # empty where the encoding says none
    length: int
    value: int  # offset of the value


class _Open(NamedTuple):
    """A sequence or an item that the walk is in."""

    is_sequence: bool
    end: int | None  # None: until its delimiter


def extents(
    buffer: Buffer,
    start: int,
    encoding: Encoding,
    *,
    until: Set[int] = frozenset(),
    is_whole: bool = True,
    looked_into: int | None = None,
    most: int = MAXIMUM_HEADS,
) -> Generator[Extent, None, int | None]:
    """The elements from offset `start` on, up to one of the tags `until`; returns the offset behind what that holds.

    None where it was not met, or does not say how long it is.

    is_whole: the buffer is not the beginning of something longer, so that even the last element must fit.
    looked_into: bytes of one element up to which what it holds is counted; None: always, and then what is malformed
    inside is an error as well. DecodeError, fit for an Error Comment, where the data set cannot be walked: cut short,
    over `most` heads, nested deeper than MAXIMUM_DEPTH.
    """
    walk = _Walk(buffer, encoding, start, looked_into, most)
    at = start
    while walk.size - at >= 8:
        head = walk.head(at)
        if head.tag == _ITEM_END:
            return None
        if head.tag in until:
            if is_whole:
                walk.check_fits(head)
            return None if head.length == UNDEFINED else head.value + head.length
        before = walk.heads
        end, counted = walk.behind(head, at)
        value = 0 if head.length == UNDEFINED else head.value
        yield Extent(head.tag, at, end, walk.heads - before + 1 if counted else None, head.vr, value)
        at = end
    if any(buffer[at : walk.size]):  # zeros are padding that some writers leave
        raise DecodeError("data set ends inside an element")
    return None


def check(encoded: bytes, encoding: Encoding, most: int = MAXIMUM_READ) -> None:
    """DecodeError when a reader of the whole data set would make more than `most` elements and items of it."""
    for _ in extents(encoded, 0, encoding, most=most):
        pass


class _Walk:
    """Steps over one buffer; knows how many heads it met."""

    def __init__(self, buffer: Buffer, encoding: Encoding, start: int, looked_into: int | None, most: int) -> None:
        self.size = len(buffer)
        self.heads = 0
        self._buffer = buffer
        self._head, self._short, self._long = _SIZES[encoding.little_endian]
        self._most = most
        self._looked_into = looked_into
        self._implicit = self._is_implicit(start, encoding.implicit_vr)

    def _is_implicit(self, start: int, declared: bool) -> bool:
        """What the first element shows, as pydicom sees it: peers send the one and negotiated the other."""
        vr = self._buffer[start + 4 : start + 6]
        return not all(0x40 < char < 0x5B for char in vr) if len(vr) == 2 else declared

    def head(self, at: int) -> _Head:
        """Tag, VR and length at an offset."""
        self.heads += 1
        if self.heads > self._most:
            raise DecodeError("data set has too many elements")
        try:
            return self._read(at)
        except struct.error as cut:
            raise DecodeError("data set ends inside an element") from cut

    def _read(self, at: int) -> _Head:
        group, element, length = self._head.unpack_from(self._buffer, at)
        tag = group << 16 | element
        if self._implicit or group == 0xFFFE:
            return _Head(tag, b"", length, at + 8)
        vr = bytes(self._buffer[at + 4 : at + 6])
        if vr in _LONG:
            return _Head(tag, vr, struct.unpack_from(self._long, self._buffer, at + 8)[0], at + 12)
        if not b"AA" <= vr <= b"ZZ":  # an element in Implicit VR among explicit ones: seen inside UN
            return _Head(tag, b"", length, at + 8)
        return _Head(tag, vr, struct.unpack_from(self._short, self._buffer, at + 6)[0], at + 8)

    def check_fits(self, head: _Head) -> None:
        """DecodeError when a defined length reaches beyond the data set."""
        if head.length != UNDEFINED and head.value + head.length > self.size:
            raise DecodeError("data set ends inside an element")

    def behind(self, head: _Head, start: int) -> tuple[int, bool]:
        """Offset behind an element of the data set itself, and whether all that it holds was counted."""
        self.check_fits(head)
        if head.length == UNDEFINED:
            end = self._past(head.value, None, start)
            return end, self._within(start, end)
        end = head.value + head.length
        if not _is_sequence(head):
            return end, True
        if not self._within(start, end):
            return end, False
        if self._looked_into is None:
            self._past(head.value, end, start)
            return end, True
        try:
            self._past(head.value, end, start)
        except _TooDeep:
            raise
        except DecodeError:
            return end, False  # its own length says where the data set goes on
        return end, True

    def _within(self, start: int, end: int) -> bool:
        return self._looked_into is None or end - start <= self._looked_into

    def _past(self, at: int, end: int | None, start: int) -> int:
        """Offset behind the sequence whose first item is at `at`. Iterative: the interpreter's stack is no limit."""
        opened = [_Open(is_sequence=True, end=end)]
        while opened:
            top = opened[-1]
            if top.end is not None and at >= top.end:
                _check_inside(at, top.end)
                opened.pop()
                continue
            head = self.head(at)
            at = head.value
            if head.tag in (_ITEM_END, _SEQUENCE_END):
                _close(opened, head.tag)
                continue
            self.check_fits(head)
            inner = self._opened_by(head, top, start)
            if inner is None:
                at += head.length
            else:
                opened.append(inner)
                _check_depth(opened)
        return at

    def _opened_by(self, head: _Head, top: _Open, start: int) -> _Open | None:
        """What an item or a nested sequence opens; None for what is stepped over."""
        if top.is_sequence and head.tag != _ITEM:
            raise DecodeError("sequence holds something that is no item")
        if head.length == UNDEFINED:
            return _Open(not top.is_sequence, None)
        end = head.value + head.length
        nests = top.is_sequence or _is_sequence(head)
        return _Open(not top.is_sequence, end) if nests and self._within(start, end) else None


def _is_sequence(head: _Head) -> bool:
    return head.vr == b"SQ" or (head.vr in (b"", b"UN") and head.tag in SEQUENCES)


def _close(opened: list[_Open], delimiter: int) -> None:
    """Leave an item, or a sequence with the item in it that was not ended. A stray item delimiter is nothing."""
    if not opened[-1].is_sequence:
        opened.pop()
        if delimiter == _ITEM_END:
            return
    if delimiter == _SEQUENCE_END:
        opened.pop()


def _check_inside(at: int, end: int) -> None:
    if at > end:
        raise DecodeError("element reaches beyond its item")


def _check_depth(opened: list[_Open]) -> None:
    if len(opened) > 2 * MAXIMUM_DEPTH:
        raise _TooDeep("data set is nested too deeply")
