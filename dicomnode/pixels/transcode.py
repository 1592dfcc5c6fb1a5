"""A stored file in, its data set in an uncompressed transfer syntax out. PS3.5 8.2 and Annex A.

Every attribute goes over as its bytes are: texts are not decoded, private ones stay. Only lengths, VRs, byte order and
what describes compressed pixels change; group lengths and offset tables go. Runs in a worker process, never in the
receiver's: codecs run here. Memory bound: the file and its decoded pixels, each under `DecodeLimits`.
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

from dicomnode.attributes.elements import LONG_VRS
from dicomnode.attributes.values import UNREADABLE
from dicomnode.errors import DecodeError
from dicomnode.pixels import decode
from dicomnode.pixels.codestream import claim
from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.quiet import quiet_pydicom

# What can be made of a stored object, the best first.
TARGETS: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_FAILURES: Final = (*UNREADABLE, RuntimeError, MemoryError, zlib.error)
_PIXEL_DATA: Final = Tag(0x7FE00010)
# Extended offset tables and the length they speak of: of encapsulated pixels only. PS3.5 A.4.
_OF_COMPRESSED: Final = frozenset({Tag(0x7FE00001), Tag(0x7FE00002), Tag(0x7FE00003)})
_UNDEFINED: Final = 0xFFFFFFFF
_SHORT: Final = 0xFFFE  # bytes that a value with a 16 bit length may have
# Bytes of one number, by VR: what byte order means. PS3.5 7.3.
_WIDTHS: Final = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OL", "OF"), 4),
    **dict.fromkeys(("UV", "SV", "FD", "OV", "OD"), 8),
}


def transcode(source: Path, target: BinaryIO, syntax: str, limits: DecodeLimits) -> int:
    """Write the data set of a Part 10 file in a transfer syntax of TARGETS; returns its length in bytes.

    DecodeError when the file cannot be read, its pixels cannot be decoded, or either is over the limits.
    """
    dataset = decode.read(source, limits)
    stored = dataset.file_meta.TransferSyntaxUID
    try:
        with quiet_pydicom():
            if stored.is_encapsulated:
                _decompress(dataset, source, limits)
            return _write(dataset, target, Encoding(UID(syntax), stored, _is_signed(dataset)))
    except _FAILURES as wrong:
        raise DecodeError(f"{stored.name}: cannot be transcoded: {type(wrong).__name__}") from wrong


def _decompress(dataset: Dataset, source: Path, limits: DecodeLimits) -> None:
    """Pixel Data as plain samples, and the attributes that say how they lie. PS3.5 8.2, PS3.3 C.7.6.3.1.2."""
    if _PIXEL_DATA not in dataset:
        return
    _check_limits(dataset, limits)
    if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and dataset.BitsStored > 8:
        _decompress_by_gdcm(dataset, source)
    else:
        dataset.decompress(as_rgb=True, generate_instance_uid=False)
    if len(dataset.PixelData) < _claimed_bytes(dataset):
        raise DecodeError("decoded pixels are fewer than the header says")


def _check_limits(dataset: Dataset, limits: DecodeLimits) -> None:
    """Before any codec runs: what the header and each codestream claim."""
    if dataset.Rows * dataset.Columns > limits.maximum_pixels or _claimed_bytes(dataset) > limits.maximum_bytes:
        raise DecodeError("pixels are over the limits")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        claimed = claim(frame)
        if claimed is None:
            continue
        if (claimed.rows, claimed.columns, claimed.samples) != (dataset.Rows, dataset.Columns, samples):
            raise DecodeError("compressed frame claims another size than its header")
        if claimed.tiles > limits.maximum_tiles:
            raise DecodeError(f"compressed frame of {claimed.tiles} tiles")


def _claimed_bytes(dataset: Dataset) -> int:
    frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel") or 1)
    return int(dataset.Rows * dataset.Columns * samples * frames * math.ceil(dataset.BitsAllocated / 8))


def _decompress_by_gdcm(dataset: Dataset, source: Path) -> None:
    element = dataset["PixelData"]
    element.value = decode.gdcm_samples(source)
    element.VR, element.is_undefined_length = "OW", False


def _is_signed(dataset: Dataset) -> bool:
    return bool(dataset.get("PixelRepresentation"))


class Encoding:
    """From one transfer syntax to another: how a value's VR and bytes are found, and how an element is framed."""

    def __init__(self, target: UID, source: UID, signed: bool) -> None:
        """`signed`: as which of US and SS an attribute goes that may be either, PS3.5 7.1.2."""
        if target not in TARGETS:
            raise DecodeError(f"nothing is transcoded to {target.name}")
        self.target = target
        self.implicit = bool(target.is_implicit_VR)
        self.order = "<" if target.is_little_endian else ">"
        self.swaps = bool(source.is_little_endian) != bool(target.is_little_endian)
        self._either = "SS" if signed else "US"

    def vr(self, tag: BaseTag, written: str | None, length: int) -> str:
        """The VR of an element, from the dictionary where the source says none. UN for what nobody knows."""
        if written is not None and "or" not in written:
            return "UN" if self._is_long_for(written, length) else written
        try:
            known = written or dictionary_VR(tag)
        except KeyError:
            return "UN"
        if known.endswith("OW"):  # OB or OW, US or OW, US or SS or OW: PS3.5 A.1, and lengths over 16 bits
            return "OW"
        return self.vr(tag, self._either if "or" in known else known, length)

    def _is_long_for(self, vr: str, length: int) -> bool:
        """PS3.5 6.2.2: a value too long for the 16 bit length of its VR goes as UN."""
        return not self.implicit and vr not in LONG_VRS and length > _SHORT

    def swapped(self, vr: str, value: bytes) -> bytes:
        """The value in the target's byte order."""
        width = _WIDTHS.get(vr, 1) if self.swaps else 1
        if width == 1:
            return value
        if len(value) % width:
            raise DecodeError(f"a value of {vr} is no whole number of values")
        swapped = bytearray(len(value))
        for at in range(width):
            swapped[at::width] = value[width - 1 - at :: width]
        return bytes(swapped)

    def head(self, tag: BaseTag, vr: str, length: int) -> bytes:
        """Tag, VR and length. PS3.5 7.1."""
        start = struct.pack(f"{self.order}HH", tag.group, tag.element)
        if self.implicit:
            return start + struct.pack("<L", length)
        if vr in LONG_VRS:
            return start + vr.encode("ascii") + struct.pack(f"{self.order}HL", 0, length)
        return start + vr.encode("ascii") + struct.pack(f"{self.order}H", length)


def _write(dataset: Dataset, target: BinaryIO, encoding: Encoding) -> int:
    parts = _encoded(dataset, encoding)
    write: Callable[[bytes], Any] = target.write
    if encoding.target.is_deflated:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)  # PS3.5 A.5: a raw stream
        for part in parts:
            write(deflater.compress(part))
        write(deflater.flush())
    else:
        for part in parts:
            write(part)
    length = target.tell()
    if length % 2:
        write(b"\0")
    return length + length % 2


def _encoded(dataset: Dataset, encoding: Encoding) -> Iterator[bytes]:
    """The data set or item, in tag order. Group lengths are retired, PS3.5 7.2."""
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or tag in _OF_COMPRESSED:
            continue
        element = dataset.get_item(tag)
        if element.VR == "SQ" or (element.VR is None and encoding.vr(tag, None, 0) == "SQ"):
            yield from _sequence(tag, dataset[tag].value, encoding)
        else:
            yield from _element(element, encoding)


def _sequence(tag: BaseTag, items: Sequence[Dataset], encoding: Encoding) -> Iterator[bytes]:
    body = b"".join(_item(item, encoding) for item in items)
    yield encoding.head(tag, "SQ", len(body))
    yield body


def _item(item: Dataset, encoding: Encoding) -> bytes:
    body = b"".join(_encoded(item, encoding))
    return struct.pack(f"{encoding.order}HHL", 0xFFFE, 0xE000, len(body)) + body


def _element(element: Any, encoding: Encoding) -> Iterator[bytes]:
    """Of a raw element the bytes as they are, of a changed one its bytes as pydicom writes them."""
    if getattr(element, "length", 0) == _UNDEFINED or getattr(element, "is_undefined_length", False):
        raise DecodeError("compressed pixels within a sequence")
    raw = isinstance(element.value, bytes)  # in the source's byte order, decoded pixels too: those are little endian
    value = element.value if raw else _rewritten(element, encoding)
    vr = encoding.vr(element.tag, element.VR, len(value))
    yield encoding.head(element.tag, vr, len(value) + len(value) % 2)
    yield (encoding.swapped(vr, value) if raw else value) + b"\0" * (len(value) % 2)


def _rewritten(element: Any, encoding: Encoding) -> bytes:
    """The value of an element that was decoded, in the target's byte order. PS3.5 6.2."""
    if element.value is None:
        return b""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = encoding.order == "<", True
    write_data_element(buffer, element)
    return bytes(buffer.getvalue()[8:])
