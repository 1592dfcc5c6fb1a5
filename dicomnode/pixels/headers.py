"""The path of a Part 10 file in, what the catalogue or the SR reader needs of it out, whatever the file holds.

For the receiver's process, where a peer's object must not cost time or memory that honest peers need. Memory bound:
MAXIMUM_KEPT_BYTES of values and MAXIMUM_KEPT elements of a header; of a deflated file HEADER_INFLATED bytes more.
"""

import mmap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode.attributes import part10
from dicomnode.attributes.extents import SEQUENCES, Buffer, Encoding, Extent, check, extents
from dicomnode.attributes.values import NUMBER_FORMATS, TEXT_VRS, UNREADABLE
from dicomnode.errors import DecodeError
from dicomnode.quiet import quiet_pydicom

HEADER_INFLATED: Final = 8 << 20  # bytes of a deflated data set that a header is looked for in
MAXIMUM_ELEMENT: Final = 64 << 10  # bytes of an element that a header keeps: longer values are no keys
MAXIMUM_INSIDE: Final = 1024  # elements and items of a sequence that a header keeps
MAXIMUM_KEPT: Final = 10_000  # of all elements: some 15 MB as pydicom holds them
MAXIMUM_KEPT_BYTES: Final = 4 << 20
MAXIMUM_DOCUMENT: Final = 16 << 20  # bytes of a document, inflated

_PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_PLAIN: Final = {vr.encode("ascii"): vr for vr in TEXT_VRS | set(NUMBER_FORMATS) | {"AT", "OB", "OW"}}
_META_START: Final = 128 + 4 + 12  # preamble, DICM, the group length element (PS3.10 7.1)
_MALFORMED: Final = (*UNREADABLE, InvalidDicomError, MemoryError, zlib.error)


@dataclass(frozen=True)
class _Content:
    """The data set of a file, or how it begins."""

    buffer: Buffer
    start: int
    encoding: Encoding
    is_whole: bool = True


def header(path: Path, head: part10.Head | None = None) -> Dataset:
    """The standard elements in front of the pixel data that are short enough to be keys.

    With the file meta, unless who calls knows the file's `head`. DecodeError, fit for an Error Comment, when the file
    cannot be read that far, or ends in the pixel data.
    """
    if head is None:
        return _read(path, _header, HEADER_INFLATED)
    try:
        with quiet_pydicom(), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            return _header(_content(held, UID(head.transfer_syntax_uid), head.size, HEADER_INFLATED))
    except _MALFORMED as wrong:
        raise DecodeError(f"data set cannot be read: {type(wrong).__name__}") from wrong


@dataclass(frozen=True)
class Begun:
    """The header of a file that is still arriving, and what the whole file has to be for it."""

    header: Dataset
    least: int  # bytes; with fewer it ends in its pixel data


def begun(part: Buffer, head: part10.Head) -> Begun | None:
    """The `header` of a file from the first `part` of its data set. None while that cannot be told; `header` will."""
    syntax = UID(head.transfer_syntax_uid)
    if syntax.is_deflated:
        return None
    try:
        with quiet_pydicom():
            encoding = Encoding(syntax.is_implicit_VR, syntax.is_little_endian)
            collected = _Collected(_Content(part, 0, encoding, is_whole=False))
            dataset = collected.header()
    except (DecodeError, *_MALFORMED):
        return None
    return None if collected.end is None else Begun(dataset, head.size + collected.end)


def document(path: Path) -> Dataset:
    """The whole data set of a file without pictures. DecodeError when it cannot be read or is over the limits."""
    return _read(path, _document, MAXIMUM_DOCUMENT)


def data_set(path: Path) -> Dataset:
    """A bare data set in Explicit VR Little Endian, as the transcoder writes it; limits as for a document."""
    try:
        with quiet_pydicom(), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            dataset = _document(_Content(held, 0, Encoding(implicit_vr=False, little_endian=True)))
    except _MALFORMED as wrong:
        raise DecodeError(f"data set cannot be read: {type(wrong).__name__}") from wrong
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _read(path: Path, read: Callable[[_Content], Dataset], inflated: int) -> Dataset:
    try:
        with quiet_pydicom(), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            meta = read_file_meta_info(path)
            start = _META_START + int(meta.FileMetaInformationGroupLength)
            content = _content(held, meta.TransferSyntaxUID, start, inflated)
            dataset = read(content)
    except _MALFORMED as wrong:
        raise DecodeError(f"data set cannot be read: {type(wrong).__name__}") from wrong
    dataset.file_meta = meta
    return dataset


def _content(held: mmap.mmap, syntax: UID, start: int, inflated: int) -> _Content:
    encoding = Encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    if not syntax.is_deflated:
        return _Content(held, start, encoding)
    # PS3.5 A.5: all behind the file meta information is one raw deflate stream.
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(held[start : start + inflated], inflated)
    return _Content(data, 0, encoding, is_whole=len(data) < inflated)


def _header(content: _Content) -> Dataset:
    return _Collected(content).header()


class _Collected:
    """What a header needs of a data set."""

    def __init__(self, content: _Content) -> None:
        self._content = content
        self.end: int | None = None  # offset behind the pixel data, where that says its length

    def header(self) -> Dataset:
        """The elements that are short enough to be keys. DecodeError."""
        kept, count, size = [], 0, 0
        for extent in self._in_front_of_pixels():
            if _is_kept(extent):
                count += extent.heads or 1
                size += extent.end - extent.start
                if count > MAXIMUM_KEPT or size > MAXIMUM_KEPT_BYTES:
                    raise DecodeError("data set has too many elements")
                kept.append(extent)
        plain = self._plain(kept)
        return self._parsed(kept) if plain is None else plain

    def _plain(self, kept: list[Extent]) -> Dataset | None:
        """What pydicom reads of these, without its reading of files; None where that takes more than looking."""
        buffer, is_little_endian = self._content.buffer, self._content.encoding.little_endian
        is_implicit = not any(extent.vr for extent in kept)
        elements: dict[BaseTag, RawDataElement | DataElement] = {}
        sequences = []
        for tag, start, end, _, vr, at in kept:
            if vr == b"SQ":
                sequences.append(bytes(buffer[start:end]))
            elif at and (tag not in SEQUENCES if is_implicit else vr in _PLAIN):
                key, value = BaseTag(tag), bytes(buffer[at:end])
                elements[key] = RawDataElement(
                    key, _PLAIN.get(vr), len(value), value, at, is_implicit, is_little_endian
                )
            else:
                return None
        if sequences:
            elements.update(_parsed(BytesIO(b"".join(sequences)), self._content.encoding).items())
        return Dataset(elements)

    def _parsed(self, kept: list[Extent]) -> Dataset:
        buffer = self._content.buffer
        return _parsed(BytesIO(b"".join(buffer[each.start : each.end] for each in kept)), self._content.encoding)

    def _in_front_of_pixels(self) -> Iterator[Extent]:
        content = self._content
        self.end = yield from extents(
            content.buffer,
            content.start,
            content.encoding,
            until=_PIXEL_TAGS,
            is_whole=content.is_whole,
            looked_into=MAXIMUM_ELEMENT,
        )


def _is_kept(extent: Extent) -> bool:
    """Whether a header needs it: not private (PS3.5 7.8), neither long nor a large sequence."""
    is_short = extent.end - extent.start <= MAXIMUM_ELEMENT
    return is_short and extent.heads is not None and extent.heads <= MAXIMUM_INSIDE and not extent.tag >> 16 & 1


def _document(content: _Content) -> Dataset:
    if len(content.buffer) - content.start > MAXIMUM_DOCUMENT or not content.is_whole:
        raise DecodeError(f"document over {MAXIMUM_DOCUMENT} bytes")
    encoded = bytes(content.buffer[content.start :])
    check(encoded, content.encoding)
    return _parsed(BytesIO(encoded), content.encoding)


def _parsed(stream: Any, encoding: Encoding) -> Dataset:
    stream.seek(0)
    dataset: Dataset = read_dataset(stream, encoding.implicit_vr, encoding.little_endian)
    return dataset
