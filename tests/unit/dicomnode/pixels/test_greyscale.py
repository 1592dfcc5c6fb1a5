"""greyscale: stored values to display levels, against the formulas of PS3.3 C.11 and pydicom's own."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from dicomnode.pixels.greyscale import display
from tests.unit.dicomnode import films

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def _lut(entries: Any, first: int, bits: int) -> Dataset:
    """A LUT item; `entries` are numbers or bytes of US."""
    count = len(entries) // 2 if isinstance(entries, bytes) else len(entries)
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count, first, bits])
    if isinstance(entries, bytes):
        item.add_new("LUTData", "OW", entries)
    else:
        item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return item


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1500, 800), (600.5, 1201)])
def test_windows_are_pydicoms(function: str, centre: float, width: float) -> None:
    header = films.header(WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    np.testing.assert_allclose(display(RAMP, header), apply_windowing(RAMP, header) / 4095, atol=1e-6)


def test_rescale_comes_before_the_window() -> None:
    header = films.header(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=2001)
    shown = display(RAMP, header)
    assert shown.ravel()[500] == pytest.approx(0, abs=1e-3)
    assert shown.ravel()[1000] == pytest.approx(0.5, abs=1e-3)
    assert shown.ravel()[1500] == pytest.approx(1, abs=1e-3)


def test_first_of_several_windows() -> None:
    several = films.header(WindowCenter=[1500, 100], WindowWidth=[800, 50])
    one = films.header(WindowCenter=1500, WindowWidth=800)
    np.testing.assert_array_equal(display(RAMP, several), display(RAMP, one))


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 60000, "WindowWidth": 10},  # everything black
        {"WindowCenter": -60000, "WindowWidth": 10},  # everything white
        {"WindowCenter": 2048, "WindowWidth": 2},  # two levels
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 2048, "WindowWidth": 1},  # LINEAR divides by width - 1
        {"WindowCenter": 2048, "WindowWidth": 900, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 2048},
    ],
)
def test_a_window_that_shows_nothing_is_ignored(window: dict[str, Any]) -> None:
    np.testing.assert_array_equal(display(RAMP, films.header(**window)), display(RAMP, films.header()))


def test_no_window_stretches_the_picture_over_the_range() -> None:
    shown = display(RAMP[10:20], films.header())
    assert (shown.min(), shown.max()) == (0, 1)


def test_voi_lut_wins_over_the_window() -> None:
    curve = (np.linspace(0, 1, 4096) ** 2 * 255).round().astype(int)
    header = films.header(VOILUTSequence=[_lut(curve, 0, 8)], WindowCenter=100, WindowWidth=50)
    np.testing.assert_allclose(display(RAMP, header).ravel(), curve / 255, atol=1e-6)


def test_voi_lut_with_more_entries_than_output_levels_does_not_wrap() -> None:
    """pydicom indexes such a table with its output type and wraps at 256."""
    curve = np.arange(4096) // 16
    shown = display(RAMP, films.header(VOILUTSequence=[_lut(curve, 0, 8)]))
    assert (np.diff(shown.ravel()) >= 0).all()


def test_lut_before_and_after_its_range() -> None:
    shown = display(RAMP, films.header(VOILUTSequence=[_lut(range(0, 1000, 10), 1000, 10)])).ravel()
    assert (shown[:1000] == 0).all()
    assert np.allclose(shown[1100:], 990 / 1023)


def test_lut_data_as_bytes() -> None:
    curve = (np.arange(4096, dtype="<u2") // 4).tobytes()
    shown = display(RAMP, films.header(VOILUTSequence=[_lut(curve, 0, 10)]))
    np.testing.assert_allclose(shown.ravel(), np.arange(4096) // 4 / 1023, atol=1e-6)


def test_first_value_that_lost_its_sign() -> None:
    """Implicit VR reads the descriptor as US: -1024 arrives as 64512."""
    header = films.header(RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=[_lut(range(4096), 64512, 12)])
    np.testing.assert_allclose(display(RAMP, header).ravel(), np.arange(4096) / 4095, atol=1e-6)


def test_modality_lut() -> None:
    header = films.header(ModalityLUTSequence=[_lut(range(4095, -1, -1), 0, 12)])
    np.testing.assert_allclose(display(RAMP, header).ravel(), np.linspace(1, 0, 4096), atol=1e-6)


def test_broken_lut_falls_back() -> None:
    broken = _lut(range(10), 0, 12)
    broken.LUTDescriptor = [4096, 0, 12]
    np.testing.assert_array_equal(display(RAMP, films.header(VOILUTSequence=[broken])), display(RAMP, films.header()))


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ],
)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 800}])
def test_inversion(elements: dict[str, str], window: dict[str, int]) -> None:
    upright = display(RAMP, films.header(**window))
    np.testing.assert_allclose(display(RAMP, films.header(**window, **elements)), 1 - upright, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4095])
def test_padding_is_background_and_does_not_stretch_the_range(photometric: str, padding: int) -> None:
    stored = np.full((20, 20), padding, np.uint16)
    stored[5:15, 5:15] = np.arange(1000, 1100).reshape(10, 10)
    shown = display(stored, films.header(PhotometricInterpretation=photometric, PixelPaddingValue=padding))
    assert (shown[:5] == 0).all()
    assert (shown[5:15, 5:15].min(), shown[5:15, 5:15].max()) == (0, 1)


def test_padding_range() -> None:
    stored = np.tile(np.arange(100, dtype=np.uint16), (10, 1))
    shown = display(stored, films.header(PixelPaddingValue=0, PixelPaddingRangeLimit=49))
    assert (shown[:, :50] == 0).all()
    assert shown[0, 50] == 0
    assert shown[0, 75] == pytest.approx(25 / 49)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.uint16, np.int16, ">u2", ">i2", np.uint32, np.int32, np.float32]
)
def test_any_stored_type(dtype: Any) -> None:
    stored = np.arange(-50, 50) if np.dtype(dtype).kind != "u" else np.arange(100)
    shown = display(stored.astype(dtype).reshape(10, 10), films.header())
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown.ravel(), np.linspace(0, 1, 100), atol=1e-6)


def test_constant_and_all_padding_frames_are_black() -> None:
    flat = np.full((5, 5), 7, np.uint16)
    assert not display(flat, films.header()).any()
    assert not display(flat, films.header(PixelPaddingValue=7)).any()
