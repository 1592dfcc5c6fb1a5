"""A stored file in, where its attributes and frames lie in it out: for who sends bytes as they are. PS3.5 A.4, 8.2.

No codec runs here. Memory bound: the heads of the elements, and one entry for each fragment of the pixel data.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from dicomnode.attributes.elements import LONG_VRS
from dicomnode.attributes.extents import MAXIMUM_READ, Buffer, Encoding, Extent, extents
from dicomnode.errors import DecodeError
from dicomnode.pixels import headers

PIXEL_DATA: Final = 0x7FE00010
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
_TABLE, _TABLE_LENGTHS = 0x7FE00001, 0x7FE00002  # Extended Offset Table, PS3.3 C.7.6.3.1.8
_ITEM, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_HEAD: Final = struct.Struct("<HHL")
_UNDEFINED: Final = 0xFFFFFFFF
MAXIMUM_FRAGMENTS: Final = 1_000_000


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    start: int
    length: int


@dataclass(frozen=True)
class Value:
    """Where an attribute's value lies. `spans`: of encapsulated pixel data each fragment, else the one value."""

    tag: int
    vr: str  # empty where the encoding says none
    spans: tuple[Span, ...]
    is_encapsulated: bool = False

    @property
    def length(self) -> int:
        return sum(span.length for span in self.spans)


class Layout:
    """The data set of one file in a little endian transfer syntax that is not deflated."""

    def __init__(self, buffer: Buffer, start: int, syntax: str) -> None:
        """`start`: where the data set begins."""
        uid = UID(syntax)
        if not uid.is_little_endian or uid.is_deflated:
            raise DecodeError("data set is not laid out to be read in place")
        self._buffer = buffer
        vr = bytes(buffer[start + 4 : start + 6])
        # As the first element shows: peers send the one and negotiated the other.
        self._implicit = not all(0x40 < char < 0x5B for char in vr) if len(vr) == 2 else bool(uid.is_implicit_VR)
        self._extents = {found.tag: found for found in self._walked(start)}

    def _walked(self, start: int) -> Iterator[Extent]:
        """The elements. Fragments are no data sets: pixel data is stepped over here."""
        at, encoding = start, Encoding(self._implicit)
        for found in extents(self._buffer, start, encoding, until=_PIXELS, looked_into=headers.MAXIMUM_DOCUMENT):
            at = found.end
            yield found
        if len(self._buffer) - at < _HEAD.size or (tag := self._tag(at)) not in _PIXELS:
            return
        _, length, value = self._head(at)
        end = value + length if length != _UNDEFINED else self._end_of_fragments(value)
        yield Extent(tag, at, end, 1)
        if any(self._buffer[end : end + _HEAD.size]):  # zeros are padding that some writers leave
            yield from extents(self._buffer, end, encoding, looked_into=headers.MAXIMUM_DOCUMENT)

    def _tag(self, at: int) -> int:
        group, element = struct.unpack_from("<HH", self._buffer, at)
        return int(group << 16 | element)

    def _end_of_fragments(self, at: int) -> int:
        for span in self._fragments(at, len(self._buffer)):
            at = span.start + span.length
        return at + _HEAD.size

    def __contains__(self, tag: int) -> bool:
        return tag in self._extents

    @property
    def pixels(self) -> Value | None:
        """Pixel Data, Float Pixel Data or Double Float Pixel Data; None without any."""
        return next((self.value(tag) for tag in sorted(_PIXELS) if tag in self._extents), None)

    @property
    def tags(self) -> tuple[int, ...]:
        """What the data set has, in its order."""
        return tuple(self._extents)

    def dataset(self) -> tuple[Dataset, tuple[int, ...]]:
        """All but pixels and long plain values, and the tags of what was left out. DecodeError over the limits."""
        left_out = tuple(extent.tag for extent in self._extents.values() if self._is_long(extent))
        kept, elements = BytesIO(), 0
        for extent in self._extents.values():
            if extent.tag in left_out:
                continue
            elements += extent.heads or MAXIMUM_READ + 1
            kept.write(self._buffer[extent.start : extent.end])
            if elements > MAXIMUM_READ or kept.tell() > headers.MAXIMUM_DOCUMENT:
                raise DecodeError("data set has too many elements")
        kept.seek(0)
        dataset: Dataset = read_dataset(kept, self._implicit, True)
        return dataset, left_out

    def _is_long(self, extent: Extent) -> bool:
        is_leaf = extent.heads == 1
        return extent.tag in _PIXELS or (is_leaf and extent.end - extent.start > headers.MAXIMUM_ELEMENT)

    def value(self, tag: int) -> Value:
        """Where a value lies. KeyError when there is none of that tag."""
        extent = self._extents[tag]
        vr, length, start = self._head(extent.start)
        if length != _UNDEFINED:
            return Value(tag, vr, (Span(start, length),))
        if tag != PIXEL_DATA:
            return Value(tag, vr, (Span(start, extent.end - start),))
        return Value(tag, vr, tuple(self._fragments(start, extent.end)), is_encapsulated=True)

    def frames(self, image: "Image") -> list[tuple[Span, ...]]:
        """The bytes of each frame. DecodeError where the pixel data does not hold what the header says."""
        pixels = self.pixels
        if pixels is None:
            raise DecodeError("instance has no pixel data")
        if pixels.is_encapsulated:
            return self._encapsulated(pixels.spans, image.frames)
        if image.bits_of_frame % 8:
            raise DecodeError("frames do not begin at whole bytes")
        size = image.bits_of_frame // 8
        if not size or pixels.length < size * image.frames:
            raise DecodeError("pixel data is shorter than the header says")
        return [(Span(pixels.spans[0].start + number * size, size),) for number in range(image.frames)]

    def _head(self, at: int) -> tuple[str, int, int]:
        """VR, length and offset of the value of the element there. PS3.5 7.1."""
        if self._implicit:
            return "", struct.unpack_from("<L", self._buffer, at + 4)[0], at + 8
        vr = bytes(self._buffer[at + 4 : at + 6]).decode("latin-1")
        if vr in LONG_VRS:
            return vr, struct.unpack_from("<L", self._buffer, at + 8)[0], at + 12
        return vr, struct.unpack_from("<H", self._buffer, at + 6)[0], at + 8

    def _fragments(self, at: int, end: int) -> Iterator[Span]:
        """The items of encapsulated pixel data, the Basic Offset Table first. PS3.5 A.4."""
        for _ in range(MAXIMUM_FRAGMENTS):
            group, element, length = _HEAD.unpack_from(self._buffer, at)
            if (group, element) == _SEQUENCE_END:
                return
            if (group, element) != _ITEM or at + 8 + length > end:
                raise DecodeError("encapsulated pixel data is damaged")
            yield Span(at + 8, length)
            at += 8 + length
        raise DecodeError("pixel data of too many fragments")

    def _encapsulated(self, items: Sequence[Span], frames: int) -> list[tuple[Span, ...]]:
        """Fragments by frame: one each, all of the only one, or as an offset table says. PS3.5 A.4."""
        if not items:
            raise DecodeError("pixel data has no fragment")
        table, fragments = items[0], tuple(items[1:])
        if frames == 1:
            return [fragments]
        if len(fragments) == frames:
            return [(fragment,) for fragment in fragments]
        starts = self._offsets(table)
        if len(starts) != frames or not fragments:
            raise DecodeError("fragments of the pixel data cannot be told to their frames")
        first = fragments[0].start - 8
        return [
            tuple(one for one in fragments if low <= one.start - 8 - first < high)
            for low, high in zip(starts, [*starts[1:], 1 << 62], strict=True)
        ]

    def _offsets(self, table: Span) -> list[int]:
        if table.length:
            raw = self._buffer[table.start : table.start + table.length - table.length % 4]
            return [offset for (offset,) in struct.iter_unpack("<L", bytes(raw))]
        if _TABLE not in self._extents:
            return []
        (span,) = self.value(_TABLE).spans
        raw = self._buffer[span.start : span.start + span.length - span.length % 8]
        return [offset for (offset,) in struct.iter_unpack("<Q", bytes(raw))]


@dataclass(frozen=True)
class Image:
    """What the header says of the frames. PS3.3 C.7.6.3."""

    rows: int
    columns: int
    samples: int
    bits: int
    frames: int
    photometric: str

    @classmethod
    def of(cls, header: Dataset) -> "Image":
        """DecodeError when it is no image."""
        rows, columns, bits = (_count(header, name) for name in ("Rows", "Columns", "BitsAllocated"))
        if not (rows and columns and bits):
            raise DecodeError("instance is no image")
        samples, frames = _count(header, "SamplesPerPixel") or 1, _count(header, "NumberOfFrames") or 1
        photometric = str(header.get("PhotometricInterpretation") or "").strip(" \0").upper()
        return cls(rows, columns, samples, bits, frames, photometric)

    @property
    def bits_of_frame(self) -> int:
        """Of one that is not compressed; YBR_FULL_422 holds two samples a pixel, PS3.3 C.7.6.3.1.2."""
        samples = 2 if self.photometric == "YBR_FULL_422" and self.samples == 3 else self.samples
        return self.rows * self.columns * samples * self.bits


@contextmanager
def laid_out(path: Path, start: int, syntax: str) -> Iterator[Layout]:
    """The layout of a file, which is only good inside. DecodeError when it cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            yield Layout(held, start, syntax)
    except (OSError, ValueError, struct.error) as wrong:
        raise DecodeError(f"data set cannot be read: {type(wrong).__name__}") from wrong


def _count(header: Dataset, keyword: str) -> int:
    value = header.get(keyword)
    return int(value) if isinstance(value, int) and value > 0 else 0
