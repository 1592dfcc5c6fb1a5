"""Decode: the path of a stored DICOM file and a frame number in, a display picture with its spacing out.

Runs in worker processes: a codec that crashes takes no association with it. Memory bound: the file, the frame as
stored and the frame as float32; a header that claims more than `DecodeLimits` is refused before any codec runs.
"""

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.pixels import get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGExtended12Bit, RLELossless

from dicomnode.errors import DecodeError, NotIndexable
from dicomnode.pixels.codestream import Claim, claim
from dicomnode.pixels.colour import grey_of_palette, grey_of_samples
from dicomnode.pixels.eligibility import (
    PALETTE,
    DecodeLimits,
    Policy,
    Reason,
    check_depth,
    check_photometric,
    eligibility,
)
from dicomnode.pixels.greyscale import display
from dicomnode.quiet import quiet_pydicom

__all__ = [
    "DecodeLimits",
    "DecodedImage",
    "Policy",
    "Reason",
    "eligibility",
    "film",
    "image",
    "read",
    "spacing_mm",
    "stored",
]

HEADER_INFLATED: Final = 8 << 20  # bytes of a deflated data set that a header is looked for in
LONG_VALUE: Final = 1 << 20  # bytes from which a value in front of the pixels is not read into memory

_PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_FASTEST: Final = {RLELossless: "pylibjpeg"}  # pydicom would take its own first, which is Python
_BY_GDCM: Final = frozenset({JPEGExtended12Bit})
# pydicom's options, the elements they are read from, and as which an absent one is read.
_ABSENT: Final = {"samples_per_pixel": ("SamplesPerPixel", 1), "pixel_representation": ("PixelRepresentation", 0)}
_PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# PS3.3 10.7.1.1, C.8.11.4: between pixel centres in the patient where calibrated, else at the detector.
_SPACING_KEYWORDS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_META_START: Final = 128 + 4 + 12  # preamble, DICM, the group length element (PS3.10 7.1)

# What pydicom and the codecs raise on data that lies; MemoryError and RecursionError are lies about size and depth.
_READ_FAILURES: Final = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    NotImplementedError, RuntimeError, MemoryError, OverflowError, UserWarning, zlib.error, BytesLengthException,
)  # fmt: skip


@dataclass(frozen=True)
class DecodedImage:
    """One frame as a viewer would first show it."""

    pixels: npt.NDArray[np.float32]  # (rows, columns), 0 darkest, 1 brightest
    spacing_mm: tuple[float, float] | None  # (row, column): between rows, between columns
    sop_instance_uid: str
    modality: str

    @property
    def rows(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def columns(self) -> int:
        return int(self.pixels.shape[1])


def film(path: Path, policy: Policy) -> DecodedImage:
    """The picture of an instance that may be a frontal chest film.

    NotIndexable with the reason when it is none; DecodeError when it cannot be read.
    """
    dataset = read(path, policy.limits)
    with _values_read():
        eligibility(dataset, policy)
        return _image(dataset, path, 1, policy.limits)


def image(path: Path, frame: int, limits: DecodeLimits) -> DecodedImage:
    """The picture of one frame, counted from 1, of any image that is grey, however it is encoded.

    NotIndexable when the file holds no grey pixel data, in an encoding nothing here reads, or claims more than the
    limits; DecodeError when what it holds cannot be read.
    """
    dataset = read(path, limits)
    with _values_read():
        return _image(dataset, path, frame, limits)


@contextmanager
def _values_read() -> Iterator[None]:
    """DecodeError for a value that is none of its representation: pydicom reads each only when it is asked for."""
    try:
        yield
    except _READ_FAILURES as wrong:
        raise DecodeError(f"a value of the data set cannot be read: {type(wrong).__name__}") from wrong


def stored(path: Path, frame: int, limits: DecodeLimits) -> tuple[Dataset, npt.NDArray[Any]]:
    """The header and one frame's stored values, (rows, columns) or of colour (rows, columns, 3). Raises as `image`."""
    with quiet_pydicom():
        dataset = read(path, limits)
        _check_limits(dataset, frame, limits)
        return dataset, _stored(dataset, path, frame, limits)


def read(path: Path, limits: DecodeLimits, *, header_only: bool = False) -> Dataset:
    """The data set of a Part 10 file, the pixel data left undecoded. DecodeError when it cannot be read.

    `header_only`: what stands before the pixel data, whatever the file's size; long values stay on disk, and of a
    deflated file no more than HEADER_INFLATED is inflated.
    """
    try:
        if not header_only and path.stat().st_size > limits.maximum_file_bytes:
            raise DecodeError(f"file over {limits.maximum_file_bytes} bytes")
        with quiet_pydicom():
            # pydicom drops an element that the end of the file cuts short, with a warning; to us it is an error.
            warnings.filterwarnings("error", message="End of file reached", category=UserWarning)
            return _read(path, limits, header_only)
    except _READ_FAILURES as wrong:
        raise DecodeError(f"file cannot be read: {type(wrong).__name__}") from wrong


def spacing_mm(header: Dataset) -> tuple[float, float] | None:
    """(row, column) spacing in mm; None when absent or not two positive numbers."""
    for keyword in _SPACING_KEYWORDS:
        value = header.get(keyword)
        if isinstance(value, Iterable) and not isinstance(value, str) and (pair := _positive_pair(value)):
            return pair
    return None


@quiet_pydicom()
def _image(dataset: Dataset, path: Path, frame: int, limits: DecodeLimits) -> DecodedImage:
    _check_limits(dataset, frame, limits)
    return DecodedImage(
        pixels=_shown(_stored(dataset, path, frame, limits), dataset),
        spacing_mm=spacing_mm(dataset),
        sop_instance_uid=str(dataset.get("SOPInstanceUID", "")),
        modality=str(dataset.get("Modality", "")),
    )


def _read(path: Path, limits: DecodeLimits, header_only: bool) -> Dataset:
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return dcmread(path, stop_before_pixels=header_only, defer_size=LONG_VALUE if header_only else None)
    if header_only:
        inflated = BytesIO(_inflated_start(path, meta))
        dataset: Dataset = read_dataset(inflated, False, True, stop_when=_is_pixels)
    else:
        dataset = read_dataset(BytesIO(_inflated(path.read_bytes(), meta, limits.maximum_inflated_bytes)), False, True)
    dataset.file_meta = meta
    return dataset


def _inflated(content: bytes, meta: FileMetaDataset, limit: int) -> bytes:
    """PS3.5 A.5: all behind the file meta information is one raw deflate stream, inflated here up to the limit."""
    start = _META_START + int(meta.FileMetaInformationGroupLength)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(content[start:], limit)
    if not inflater.eof:
        raise DecodeError(f"deflated data set is cut short or over {limit} bytes")
    return data


def _inflated_start(path: Path, meta: FileMetaDataset) -> bytes:
    """The first HEADER_INFLATED bytes of a deflated data set, or all where it is shorter."""
    with path.open("rb") as file:
        file.seek(_META_START + int(meta.FileMetaInformationGroupLength))
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(HEADER_INFLATED), HEADER_INFLATED)


def _is_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS


def _check_limits(dataset: Dataset, frame: int, limits: DecodeLimits) -> None:
    """Before any codec runs: what the header claims must be readable here, within the limits, and hold the frame."""
    sizes = [_size(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated")]
    if not all(sizes) or not any(dataset.get(keyword) for keyword in _PIXEL_KEYWORDS):
        raise NotIndexable(Reason.NO_PIXEL_DATA)
    rows, columns, bits = sizes
    samples, frames = _size(dataset, "SamplesPerPixel") or 1, _size(dataset, "NumberOfFrames") or 1
    pixels = rows * columns
    if pixels > limits.maximum_pixels or pixels * samples * frames * math.ceil(bits / 8) > limits.maximum_bytes:
        raise NotIndexable(Reason.TOO_LARGE, f"{rows} x {columns} x {samples} x {frames}, {bits} bits")
    check_photometric(dataset)
    check_depth(dataset)
    if not 1 <= frame <= frames:
        raise DecodeError(f"no frame {frame} of {frames}")


def _shown(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.float32]:
    """The display picture of a frame's stored values, (rows, columns) or (rows, columns, 3)."""
    try:
        if stored.ndim == 3:
            return grey_of_samples(stored, _size(dataset, "BitsStored"))
        return grey_of_palette(stored, dataset) if _photometric(dataset) == PALETTE else display(stored, dataset)
    except _READ_FAILURES as wrong:  # a palette that lies, or no memory for the picture
        raise DecodeError(f"pixel data cannot be shown: {type(wrong).__name__}") from wrong


def _stored(dataset: Dataset, path: Path, frame: int, limits: DecodeLimits) -> npt.NDArray[Any]:
    """The frame's stored values, (rows, columns), of colour (rows, columns, 3).

    NotIndexable when nothing here reads the encoding; DecodeError when the codec fails or the size disagrees.
    """
    decoder = _decoder(dataset.file_meta.get("TransferSyntaxUID"))
    try:
        _check_room(dataset)
        claimed = _checked_claim(dataset, frame, limits)
        stored = _values(decoder, dataset, path, frame, claimed)
    except _READ_FAILURES as wrong:
        raise DecodeError(f"{decoder.UID.name}: pixel data cannot be decoded: {type(wrong).__name__}") from wrong
    if stored.shape[:2] != (dataset.Rows, dataset.Columns):
        raise DecodeError("decoded frame is not of the size its header says")
    return stored


def _check_room(dataset: Dataset) -> None:
    """MemoryError where the process may not take what a frame needs: a codec that runs out may abort (Rust, C++).

    What is asked for is never touched, so this costs nothing. Beside the file, for each pixel: its samples as the codec
    and pydicom hold them, the float32 picture, and as much again while that is made.
    """
    pixels = _size(dataset, "Rows") * _size(dataset, "Columns")
    samples = _size(dataset, "SamplesPerPixel") or 1
    np.empty(pixels * (8 + 3 * samples * math.ceil(_size(dataset, "BitsAllocated") / 8)), np.uint8)


def _decoder(syntax: Any) -> Any:
    """pydicom's decoder of a transfer syntax. NotIndexable where there is none: video, retired JPEG processes."""
    try:
        decoder = get_decoder(syntax)
    except (NotImplementedError, TypeError, ValueError) as unknown:
        raise NotIndexable(Reason.ENCODING, str(getattr(syntax, "name", "") or "none named")[:48]) from unknown
    if not decoder.is_available:
        raise NotIndexable(Reason.ENCODING, str(syntax.name)[:48])
    return decoder


def _values(decoder: Any, dataset: Dataset, path: Path, frame: int, claimed: Claim | None) -> npt.NDArray[Any]:
    """The values in the bits that PS3.5 8.1.1 gives them: BitsStored of them, HighBit the first."""
    if decoder.UID in _BY_GDCM and _size(dataset, "BitsStored") > 8:
        return _gdcm_frame(dataset, path, frame)
    used = _used_bits(dataset, claimed)
    stored: npt.NDArray[Any]
    stored, _ = decoder.as_array(
        dataset, index=frame - 1, raw=True, decoding_plugin=_FASTEST.get(decoder.UID, ""), **_options(dataset), **used
    )
    below = used["bits_stored"] - _size(dataset, "BitsStored") if used else 0
    return stored >> below if below else stored  # an arithmetic shift where the values are signed


def _used_bits(dataset: Dataset, claimed: Claim | None) -> dict[str, int]:
    """How many low bits of a cell pydicom is to keep, where values do not begin at bit 0 (as in ACR-NEMA times).

    A codestream of no more bits than are stored holds the values themselves, whatever HighBit says.
    """
    stored, high = _size(dataset, "BitsStored"), _size(dataset, "HighBit")
    shifted = stored and high >= stored and (claimed is None or claimed.bits > stored)
    return {"bits_stored": high + 1} if shifted else {}


def _options(dataset: Dataset) -> dict[str, int | str]:
    """What careless writers leave out or misspell, as everybody reads it; pydicom would refuse."""
    options: dict[str, int | str] = {
        "photometric_interpretation": _photometric(dataset),
        "planar_configuration": _size(dataset, "PlanarConfiguration"),
    }
    return options | {option: value for option, (keyword, value) in _ABSENT.items() if dataset.get(keyword) is None}


def gdcm_samples(path: Path) -> bytes:
    """Every frame's samples, little endian. JPEG Extended with 12 bits: GDCM decodes it from a file, which pydicom's
    plugins do not ask it to."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise DecodeError("pixel data cannot be decoded: GDCM refused the file")
    return bytes(reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape"))


def _gdcm_frame(dataset: Dataset, path: Path, frame: int) -> npt.NDArray[Any]:
    samples = _size(dataset, "SamplesPerPixel") or 1
    size = dataset.Rows * dataset.Columns * samples
    kind = "<i2" if dataset.get("PixelRepresentation") else "<u2"
    values = np.frombuffer(gdcm_samples(path), kind, size, 2 * size * (frame - 1))
    return values.reshape((dataset.Rows, dataset.Columns) + ((samples,) if samples > 1 else ()))


def _checked_claim(dataset: Dataset, frame: int, limits: DecodeLimits) -> Claim | None:
    """What a compressed frame claims. DecodeError when that is not what the header does, which was held against the
    limits: a decoder allocates what the frame claims."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return None
    codestream = get_frame(dataset.PixelData, frame - 1, number_of_frames=_size(dataset, "NumberOfFrames") or 1)
    claimed = claim(codestream)
    if claimed is None:
        return None
    if (claimed.rows, claimed.columns) != (dataset.Rows, dataset.Columns):
        raise DecodeError("compressed frame claims another size than its header")
    if claimed.samples != (_size(dataset, "SamplesPerPixel") or 1):
        raise DecodeError("compressed frame claims another number of samples than its header")
    if claimed.tiles > limits.maximum_tiles:
        raise DecodeError(f"compressed frame of {claimed.tiles} tiles")
    return claimed


def _size(dataset: Dataset, keyword: str) -> int:
    value = dataset.get(keyword)
    return int(value) if isinstance(value, int) and value > 0 else 0


def _photometric(dataset: Dataset) -> str:
    return str(dataset.get("PhotometricInterpretation", "")).strip(" \0").upper()


def _positive_pair(value: Iterable[Any]) -> tuple[float, float] | None:
    try:
        row, column = (float(part) for part in value)
    except (TypeError, ValueError):
        return None
    ok = math.isfinite(row) and math.isfinite(column) and row > 0 and column > 0
    return (row, column) if ok else None
