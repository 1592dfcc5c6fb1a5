"""decode: the same picture however it is stored; lies and damage end in the right error."""

import struct
import subprocess
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rle
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000MC,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import DecodeError, NotIndexable
from dicomnode.pixels.decode import DecodeLimits, Policy, Reason, film, image, read, spacing_mm
from dicomnode.settings import IngestSettings
from tests.unit.dicomnode import films

LIMITS = DecodeLimits()


def _shown(path: Path) -> np.ndarray:
    return image(path, 1, LIMITS).pixels


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("bits", "off"), [(8, 1 / 255), (10, 1 / 1023), (12, 1e-3), (16, 1e-4), (32, 1e-6)])
def test_depth_and_polarity_do_not_change_the_picture(tmp_path: Path, bits: int, off: float, inverted: bool) -> None:
    shown = _shown(films.save(films.film(bits, inverted=inverted), tmp_path))
    assert shown.dtype == np.float32
    assert (shown.min(), shown.max()) == (0, 1)
    np.testing.assert_allclose(shown, films.picture(), atol=off)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_codecs_give_the_same_picture(tmp_path: Path, syntax: str, bits: int) -> None:
    plain = _shown(films.save(films.film(bits), tmp_path))
    dataset = films.film(bits)
    dataset.compress(syntax)
    np.testing.assert_array_equal(_shown(films.save(dataset, tmp_path, "compressed.dcm")), plain)


@pytest.mark.dcmtk
@pytest.mark.parametrize(
    ("option", "syntax", "bits", "off"),
    [
        ("+eb", JPEGBaseline8Bit, 8, 0.03),
        ("+ee", JPEGExtended12Bit, 12, 0.03),
        ("+el", JPEGLossless, 12, 0),
        ("+e1", JPEGLosslessSV1, 12, 0),
        ("+e1", JPEGLosslessSV1, 16, 0),
    ],
)
def test_jpeg(dcmtk: Path, tmp_path: Path, option: str, syntax: str, bits: int, off: float) -> None:
    plain, packed = films.save(films.film(bits), tmp_path), tmp_path / "packed.dcm"
    subprocess.run([dcmtk / "dcmcjpeg", option, plain, packed], check=True)
    assert dcmread(packed).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_allclose(_shown(packed), _shown(plain), atol=off)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(
    ("syntax", "written", "off"),
    [
        (HTJ2KLossless, {}, 0),
        (HTJ2KLosslessRPCL, {}, 0),
        (HTJ2K, {"reversible": False, "level": 1e-4}, 0.01),
    ],
)
def test_htj2k(tmp_path: Path, syntax: str, written: dict[str, Any], off: float, bits: int) -> None:
    dataset = films.film(bits)
    plain = _shown(films.save(dataset, tmp_path))
    frame = imagecodecs.htj2k_encode(films.stored(dataset), **written)
    assert b"\xff\x50" in frame[:100]  # CAP: Part 15, not Part 1
    path = films.save(films.compressed(dataset, syntax, frame), tmp_path, "packed.dcm")
    np.testing.assert_allclose(_shown(path), plain, atol=off)


def test_implicit_vr(tmp_path: Path) -> None:
    dataset = films.film(12)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=1e-3)


def test_big_endian(tmp_path: Path) -> None:
    dataset = films.film(12)
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "big.dcm"
    dataset.save_as(path, enforce_file_format=True, little_endian=False, implicit_vr=False)
    np.testing.assert_allclose(_shown(path), films.picture(), atol=1e-3)


def _deflated(tmp_path: Path) -> Path:
    dataset = films.film(12)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return films.save(dataset, tmp_path)


def test_deflated(tmp_path: Path) -> None:
    np.testing.assert_allclose(_shown(_deflated(tmp_path)), films.picture(), atol=1e-3)


def test_deflated_bomb_is_not_inflated(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="over 20000 bytes"):
        image(_deflated(tmp_path), 1, DecodeLimits(maximum_inflated_bytes=20_000))


def test_deflated_and_cut(tmp_path: Path) -> None:
    path = _deflated(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DecodeError, match="cut short"):
        _shown(path)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("syntax", ["", RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_signed_pixels(tmp_path: Path, syntax: str, bits: int) -> None:
    """Two's complement, whatever lies above it in the cell (PS3.5 8.1.1)."""
    levels = (np.round(films.picture() * (2**bits - 1)) - 2 ** (bits - 1)).astype("<i2")
    dataset = films.film(bits, PixelRepresentation=1, PixelData=levels.tobytes())
    if syntax:
        dataset.compress(syntax)
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=2 / 2**bits)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("syntax", ["", RLELossless])
@pytest.mark.parametrize(("bits", "high"), [(12, 11), (10, 9), (10, 12), (12, 15), (8, 15), (15, 15)])
def test_bits_around_those_stored_are_not_part_of_the_picture(
    tmp_path: Path, bits: int, high: int, syntax: str, signed: int
) -> None:
    """PS3.5 8.1.1: overlays once lived there, above and below; HighBit says where the value is."""
    levels = np.round(films.picture() * (2**bits - 1)).astype(np.uint32)
    cells = (levels - 2 ** (bits - 1) * signed) % 2**bits << high + 1 - bits
    noise = np.random.default_rng(0).integers(0, 1 << 16, cells.shape)
    noise &= ~(((1 << bits) - 1) << high + 1 - bits)
    dataset = films.film(
        12, BitsStored=bits, HighBit=high, PixelRepresentation=signed, PixelData=(cells | noise).astype("<u2").tobytes()
    )
    if syntax:
        dataset = films.compressed(dataset, syntax, rle.encode_pixel_data(dataset.PixelData, dataset, "<"))
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=2 / 2**bits)


@pytest.mark.parametrize(("allocated", "bits"), [(8, 6), (8, 7), (16, 9), (16, 14), (32, 17), (32, 24)])
def test_any_depth(tmp_path: Path, allocated: int, bits: int) -> None:
    levels = np.round(films.picture() * (2**bits - 1)).astype(f"<u{allocated // 8}")
    dataset = films.film(12, BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1, PixelData=levels.tobytes())
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=2 / 2**bits)


def test_one_bit(tmp_path: Path) -> None:
    """PS3.5 8.1.1: the first pixel is the least significant bit."""
    black_or_white = films.picture() > 0.5
    packed = np.packbits(black_or_white.ravel(), bitorder="little").tobytes()
    dataset = films.film(8, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    np.testing.assert_array_equal(_shown(films.save(dataset, tmp_path)), black_or_white)


@pytest.mark.parametrize(
    ("keyword", "kind", "bits"), [("FloatPixelData", "<f4", 32), ("DoubleFloatPixelData", "<f8", 64)]
)
def test_float_pixels(tmp_path: Path, keyword: str, kind: str, bits: int) -> None:
    dataset = films.film(12, BitsAllocated=bits)
    for absent in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[absent]
    setattr(dataset, keyword, (films.picture() * 5 - 2).astype(kind).tobytes())
    path = films.save(dataset, tmp_path)
    np.testing.assert_allclose(_shown(path), films.picture(), atol=1e-5)
    film(path, Policy.of(IngestSettings()))


def test_overlay_planes_are_not_part_of_the_picture(tmp_path: Path) -> None:
    dataset = films.film(12)
    dataset.add_new(0x60000010, "US", films.ROWS)
    dataset.add_new(0x60000011, "US", films.COLUMNS)
    dataset.add_new(0x60003000, "OW", b"\xff" * (films.ROWS * films.COLUMNS // 8))
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=1e-3)


@pytest.mark.parametrize("keyword", ["SamplesPerPixel", "PixelRepresentation", "HighBit"])
def test_what_careless_writers_leave_out(tmp_path: Path, keyword: str) -> None:
    dataset = films.film(12)
    del dataset[keyword]
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=1e-3)


@pytest.mark.parametrize("syntax", [MPEG4HP41, JPEG2000MC, "1.2.840.10008.1.2.4.53"])
def test_encodings_that_nothing_here_reads_are_a_reason(tmp_path: Path, syntax: str) -> None:
    dataset = films.compressed(films.film(8), syntax, b"whatever it is")
    with pytest.raises(NotIndexable) as refused:
        _shown(films.save(dataset, tmp_path))
    assert refused.value.reason == Reason.ENCODING


def test_second_frame(tmp_path: Path) -> None:
    dataset = films.film(12)
    blank = bytes(len(dataset.PixelData))
    dataset.NumberOfFrames, dataset.PixelData = 2, blank + dataset.PixelData
    path = films.save(dataset, tmp_path)
    np.testing.assert_allclose(image(path, 2, LIMITS).pixels, films.picture(), atol=1e-3)
    with pytest.raises(DecodeError, match="no frame 3 of 2"):
        image(path, 3, LIMITS)


@pytest.mark.parametrize("syntax", ["", RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_cut_file(tmp_path: Path, syntax: str) -> None:
    dataset = films.film(12)
    if syntax:
        dataset.compress(syntax)
    path = films.save(dataset, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DecodeError):
        _shown(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_cut_codestream(tmp_path: Path, syntax: str) -> None:
    dataset = films.film(12)
    dataset.compress(syntax)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(DecodeError, match="cannot be decoded"):
        _shown(films.save(dataset, tmp_path))


@pytest.mark.dcmtk
def test_cut_jpeg_codestream(dcmtk: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.dcm"
    subprocess.run([dcmtk / "dcmcjpeg", "+e1", films.save(films.film(12), tmp_path), packed], check=True)
    dataset = dcmread(packed)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(DecodeError, match="cannot be decoded"):
        _shown(films.save(dataset, tmp_path))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_codestream_of_another_size_reaches_no_codec(tmp_path: Path, syntax: str) -> None:
    dataset = films.film(12)
    dataset.compress(syntax)
    dataset.Rows, dataset.Columns = 60, 80
    with pytest.raises(DecodeError, match="claims another size"):
        _shown(films.save(dataset, tmp_path))


def _siz(frame: bytes, at: int, *numbers: int) -> bytes:
    """A JPEG 2000 codestream with other 32 bit numbers in its SIZ segment, counted from the codestream's start."""
    changed = b"".join(number.to_bytes(4, "big") for number in numbers)
    return frame[:at] + changed + frame[at + len(changed) :]


def test_codestream_of_many_tiles_reaches_no_codec(tmp_path: Path) -> None:
    dataset = films.film(12)
    dataset.compress(JPEG2000Lossless)
    frame = _siz(next(generate_frames(dataset.PixelData, number_of_frames=1)), 24, 1, 1)
    with pytest.raises(DecodeError, match="of 19200 tiles"):
        _shown(films.save(films.compressed(dataset, JPEG2000Lossless, frame), tmp_path))


def test_codestream_of_many_samples_reaches_no_codec(tmp_path: Path) -> None:
    dataset = films.film(12)
    dataset.compress(JPEG2000Lossless)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    frame = frame[:40] + (16384).to_bytes(2, "big") + frame[42:]
    with pytest.raises(DecodeError, match="another number of samples"):
        _shown(films.save(films.compressed(dataset, JPEG2000Lossless, frame), tmp_path))


def test_header_that_claims_too_much_reaches_no_codec(tmp_path: Path) -> None:
    dataset = films.film(12)
    dataset.compress(RLELossless)
    dataset.Rows = dataset.Columns = 20_000
    with pytest.raises(NotIndexable) as refused:
        _shown(films.save(dataset, tmp_path))
    assert refused.value.reason == Reason.TOO_LARGE


def test_frames_count_towards_the_limit(tmp_path: Path) -> None:
    path = films.save(films.film(12, NumberOfFrames=2_000_000), tmp_path)
    with pytest.raises(NotIndexable) as refused:
        _shown(path)
    assert refused.value.reason == Reason.TOO_LARGE


def test_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="file over 100 bytes"):
        image(films.save(films.film(12), tmp_path), 1, DecodeLimits(maximum_file_bytes=100))


@pytest.mark.parametrize("tag", [0x00280002, 0x00280010, 0x00280100, 0x00280101, 0x00280103])
def test_a_number_of_the_wrong_length_is_a_reason(tmp_path: Path, tag: int) -> None:
    """pydicom reads each value only when it is asked for, and then raises an error of its own."""
    path = films.save(films.film(), tmp_path)
    content = path.read_bytes()
    at = content.index(struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"US", 2))
    path.write_bytes(content[: at + 6] + b"\1\0\7" + content[at + 10 :])
    with pytest.raises(DecodeError, match=r"cannot be (read|decoded)"):
        film(path, Policy.of(IngestSettings()))


def test_no_pixel_data(tmp_path: Path) -> None:
    dataset = films.film(12)
    del dataset.PixelData
    with pytest.raises(NotIndexable) as refused:
        _shown(films.save(dataset, tmp_path))
    assert refused.value.reason == Reason.NO_PIXEL_DATA


@pytest.mark.parametrize("content", [b"", b"not DICOM", bytes(132), bytes(128) + b"DICM"])
def test_what_is_no_dicom_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "junk"
    path.write_bytes(content)
    with pytest.raises((DecodeError, NotIndexable)):
        _shown(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="FileNotFoundError"):
        _shown(tmp_path / "gone.dcm")


def test_errors_hold_no_patient_data(tmp_path: Path) -> None:
    path = films.save(films.film(12, PatientName="Secret^Name"), tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DecodeError) as failed:
        _shown(path)
    assert "Secret" not in str(failed.value)


def test_film_asks_eligibility_first(tmp_path: Path) -> None:
    policy = Policy.of(IngestSettings())
    chest = films.save(films.film(12), tmp_path)
    hand = films.save(films.film(12, BodyPartExamined="HAND"), tmp_path, "hand.dcm")
    assert film(chest, policy).pixels.shape == (films.ROWS, films.COLUMNS)
    with pytest.raises(NotIndexable) as refused:
        film(hand, policy)
    assert refused.value.reason == Reason.BODY_PART


def test_header_only_leaves_the_pixels(tmp_path: Path) -> None:
    dataset = read(films.save(films.film(12), tmp_path), LIMITS, header_only=True)
    assert "PixelData" not in dataset
    assert dataset.Rows == films.ROWS


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({"PixelSpacing": [0.14, 0.15], "ImagerPixelSpacing": [0.2, 0.1]}, (0.14, 0.15)),
        ({"PixelSpacing": [0, 0.15], "ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({"PixelSpacing": [-1, 1]}, None),
        ({"PixelSpacing": 0.2}, None),
        ({"PixelSpacing": ""}, None),
    ],
)
def test_spacing(elements: dict[str, object], spacing: tuple[float, float] | None) -> None:
    assert spacing_mm(films.header(**elements)) == spacing


def test_every_sample_object_is_shown_or_refused(data_dir: Path) -> None:
    """Whatever others wrote: a picture 0..1 or one of our two errors."""
    shown = 0
    for path in sorted((data_dir / "dicom").rglob("*.dcm")) + sorted((data_dir / "sr").glob("*.dcm")):
        try:
            pixels = _shown(path)
        except (DecodeError, NotIndexable):
            continue
        shown += 1
        assert np.isfinite(pixels).all() and 0 <= pixels.min() <= pixels.max() <= 1, path.name
    assert shown >= 20


def test_sample_film_is_bright_where_viewers_show_it_bright(data_dir: Path) -> None:
    """MONOCHROME1 with Presentation LUT Shape INVERSE says one inversion, not two."""
    path = data_dir / "sr" / "dx_image.dcm"
    stored = np.frombuffer(dcmread(path).PixelData, np.uint8)[: 169 * 211].reshape(169, 211)
    assert np.corrcoef(_shown(path).ravel(), stored.ravel())[0, 1] < -0.99
