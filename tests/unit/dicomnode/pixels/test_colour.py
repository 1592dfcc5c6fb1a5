"""colour: a radiograph saved in colour is the film it was; a picture with colours in it is none."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import convert_color_space
from pydicom.uid import JPEG2000, ExplicitVRBigEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicomnode.errors import DecodeError, NotIndexable
from dicomnode.pixels.decode import DecodeLimits, Reason, image
from tests.unit.dicomnode import films

LIMITS = DecodeLimits()


def _shown(path: Path) -> np.ndarray:
    return image(path, 1, LIMITS).pixels


def _rgb(bits: int = 8, tint: float = 0.0) -> np.ndarray:
    """(rows, columns, 3), the made-up film in three channels, one of them lifted by `tint` of the range."""
    lifted = np.stack([films.picture(), films.picture(), np.clip(films.picture() + tint, 0, 1)], axis=-1)
    return np.round(lifted * (2**bits - 1)).astype("<u1" if bits <= 8 else "<u2")


def _colour(samples: np.ndarray, photometric: str = "RGB", planar: int = 0, **elements: Any) -> Dataset:
    """A film of three samples; planar 1 is one channel after the other (PS3.3 C.7.6.3.1.3)."""
    bits = 8 * samples.dtype.itemsize
    cells = samples.transpose(2, 0, 1) if planar else samples
    return films.film(
        bits, SamplesPerPixel=3, PlanarConfiguration=planar, PhotometricInterpretation=photometric,
        PixelData=cells.tobytes(), **elements,
    )  # fmt: skip


def _ybr_422(ybr: np.ndarray) -> bytes:
    """PS3.3 C.7.6.3.1.2: two Y, one Cb, one Cr for each two pixels."""
    pairs = np.concatenate([ybr[:, 0::2, :1], ybr[:, 1::2, :1], ybr[:, 0::2, 1:]], axis=2)
    return pairs.astype("<u1").tobytes()


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", ["", RLELossless])
def test_grey_in_three_channels(tmp_path: Path, bits: int, planar: int, syntax: str) -> None:
    dataset = _colour(_rgb(bits), planar=0 if syntax else planar)
    if syntax:
        dataset.compress(syntax)  # its planes are apart whatever the element says
        dataset.PlanarConfiguration = planar
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=1 / 255)


@pytest.mark.parametrize("planar", [0, 1])
def test_grey_in_ybr(tmp_path: Path, planar: int) -> None:
    ybr = convert_color_space(_rgb(), "RGB", "YBR_FULL")
    path = films.save(_colour(ybr, "YBR_FULL", planar), tmp_path)
    np.testing.assert_allclose(_shown(path), films.picture(), atol=2 / 255)


def test_grey_in_ybr_of_half_the_chroma(tmp_path: Path) -> None:
    ybr = convert_color_space(_rgb(), "RGB", "YBR_FULL")
    dataset = _colour(ybr, "YBR_FULL_422")
    dataset.PixelData = _ybr_422(ybr)
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=2 / 255)


@pytest.mark.parametrize("labelled", ["RGB", "YBR_FULL"])
def test_a_header_that_names_the_wrong_space_of_grey(tmp_path: Path, labelled: str) -> None:
    samples = _rgb() if labelled == "YBR_FULL" else convert_color_space(_rgb(), "RGB", "YBR_FULL")
    path = films.save(_colour(samples, labelled), tmp_path)
    np.testing.assert_allclose(_shown(path), films.picture(), atol=2 / 255)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, JPEG2000])
def test_grey_in_colour_codecs(tmp_path: Path, syntax: str) -> None:
    dataset = _colour(_rgb(), "YBR_ICT" if syntax == JPEG2000 else "RGB")
    dataset.compress(syntax, **({"j2k_cr": [8]} if syntax == JPEG2000 else {}))
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=0.03)


@pytest.mark.dcmtk
@pytest.mark.parametrize("option", [["+eb"], ["+eb", "+s2"], ["+eb", "+s4"], ["+eb", "+cr"], ["+e1"]])
def test_grey_in_colour_jpeg(dcmtk: Path, tmp_path: Path, option: list[str]) -> None:
    """Full and halved chroma, and RGB without a colour transform."""
    packed = tmp_path / "packed.dcm"
    subprocess.run([dcmtk / "dcmcjpeg", *option, films.save(_colour(_rgb()), tmp_path), packed], check=True)
    np.testing.assert_allclose(_shown(packed), films.picture(), atol=0.03)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_a_tinted_picture_is_colour(tmp_path: Path, photometric: str) -> None:
    samples = _rgb(tint=0.1)
    if photometric != "RGB":
        samples = convert_color_space(samples, "RGB", photometric)
    with pytest.raises(NotIndexable) as refused:
        _shown(films.save(_colour(samples, photometric), tmp_path))
    assert refused.value.reason == Reason.COLOUR


def test_a_coloured_label_on_a_film_is_colour_and_a_few_coloured_pixels_are_not(tmp_path: Path) -> None:
    spotted, labelled = _rgb(), _rgb()
    spotted[:3, :5, 0] ^= 0x80
    labelled[:10, :20, 0] ^= 0x80
    np.testing.assert_allclose(_shown(films.save(_colour(spotted), tmp_path))[3:], films.picture()[3:], atol=1 / 255)
    with pytest.raises(NotIndexable):
        _shown(films.save(_colour(labelled), tmp_path))


def _palette(bits: int = 16, tint: float = 0.0, first: int = 0, **elements: Any) -> Dataset:
    """A film of palette indices: entry n is n, but the highest tenth of red is taken away by `tint`."""
    ramp = np.arange(256) / 255
    red = ramp - tint * (ramp > 0.9)
    dataset = films.film(8, PhotometricInterpretation="PALETTE COLOR", **elements)
    scale = 65535 if bits == 16 else 255
    for name, channel in (("Red", red), ("Green", ramp), ("Blue", ramp)):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, first, bits])
        entries = np.round(channel * scale).astype("<u2" if bits == 16 else "u1").tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", entries)
    return dataset


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", ["", RLELossless])
def test_grey_palette(tmp_path: Path, bits: int, syntax: str) -> None:
    dataset = _palette(bits)
    if syntax:
        dataset.compress(syntax)
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=1 / 255)


def test_a_palette_that_begins_later(tmp_path: Path) -> None:
    levels = (np.round(films.picture() * 255) + 1000).astype("<u2")
    dataset = _palette(first=1000, BitsAllocated=16, BitsStored=16, HighBit=15, PixelData=levels.tobytes())
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), films.picture(), atol=1 / 255)


def test_an_inverting_palette_turns_the_picture(tmp_path: Path) -> None:
    dataset = _palette()
    for name in ("Red", "Green", "Blue"):
        entries = np.arange(255, -1, -1, "<u2") * np.uint16(257)
        setattr(dataset, f"{name}PaletteColorLookupTableData", entries.astype("<u2").tobytes())
    np.testing.assert_allclose(_shown(films.save(dataset, tmp_path)), 1 - films.picture(), atol=1 / 255)


def test_a_coloured_palette_is_colour(tmp_path: Path) -> None:
    with pytest.raises(NotIndexable) as refused:
        _shown(films.save(_palette(tint=0.3), tmp_path))
    assert refused.value.reason == Reason.PALETTE


def test_a_palette_without_its_tables_cannot_be_decoded(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="cannot be shown"):
        _shown(films.save(films.film(8, PhotometricInterpretation="PALETTE COLOR"), tmp_path))


def test_big_endian_colour(tmp_path: Path) -> None:
    dataset = _colour(_rgb(16))
    dataset.PixelData = _rgb(16).astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "big.dcm"
    dataset.save_as(path, enforce_file_format=True, little_endian=False, implicit_vr=False)
    np.testing.assert_allclose(_shown(path), films.picture(), atol=1 / 255)
