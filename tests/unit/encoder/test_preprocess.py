"""The same picture in another container is the same input; boxes go into the frame and come back."""

import numpy as np
import pytest
import torch

from encoder.boxes import Box
from encoder.errors import ImageError
from encoder.preprocess import LEVELS, LOCAL_FLOOR, LOCAL_LIMIT, NEIGHBOURHOOD, checked, frame, normalised, placement
from tests.unit.encoder import chests

SIZE = 64


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(11)
    smooth = np.kron(chests.picture(chests.contours(rng), rng).astype(float), np.ones((3, 3)))
    return smooth + rng.normal(0, 2, smooth.shape)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (16.0, 100.0), (257.0, -3000.0), (0.3, 40.0)])
def test_a_straight_line_of_the_picture_is_the_same_input(image: np.ndarray, scale: float, offset: float) -> None:
    stored = np.round(image * scale + offset).astype(np.int32)
    assert cosine(frame(image, None, SIZE)[0], frame(stored, None, SIZE)[0]) > 0.99


def test_a_rising_tone_curve_keeps_the_rank_channel(image: np.ndarray) -> None:
    curved = checked(image) ** 2.2
    assert cosine(frame(image, None, SIZE)[0][0], frame(curved, None, SIZE)[0][0]) > 0.98


def test_low_contrast_in_few_grey_levels(image: np.ndarray) -> None:
    few = np.round(checked(image) * 60 + 20).astype(np.uint8)
    assert cosine(frame(image, None, SIZE)[0], frame(few, None, SIZE)[0]) > 0.98


def test_a_black_plate_changes_little_elsewhere(image: np.ndarray) -> None:
    plated = image.copy()
    plated[:30, :60] = image.min()
    there, plate = frame(image, None, SIZE)[0], frame(plated, None, SIZE)[0]
    assert cosine(there[:, 20:], plate[:, 20:]) > 0.98


def test_inversion_is_another_picture(image: np.ndarray) -> None:
    """MONOCHROME1 has to be undone before: the frame does not hide it."""
    assert cosine(frame(image, None, SIZE)[0], frame(-image, None, SIZE)[0]) < 0


def test_channels_shape_and_range(image: np.ndarray) -> None:
    pixels, _ = frame(image, None, SIZE)
    assert pixels.shape == (2, SIZE, SIZE)
    assert pixels.dtype == torch.float32
    assert float(pixels.abs().max()) <= 1.0


def test_the_channels_are_what_they_are_said_to_be() -> None:
    """Written out plainly: trained weights depend on every value."""
    pixels = np.random.default_rng(5).random((40, 56)).astype(np.float32) ** 3
    ordered = np.sort(pixels.ravel())
    low, high = (float(ordered[round(share * (len(ordered) - 1))]) for share in (0.005, 0.995))
    grey = np.clip((pixels.astype(float) - low) / (high - low), 0, 1)
    level = np.round(grey * (LEVELS - 1))
    rank = [((level < one).mean() + (level == one).mean() / 2) * 2 - 1 for one in level.ravel()]
    half = SIZE // (2 * NEIGHBOURHOOD)
    local = np.zeros_like(grey)
    for y, x in np.ndindex(grey.shape):
        around = grey[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
        local[y, x] = (grey[y, x] - around.mean()) / (around.std() + LOCAL_FLOOR) / LOCAL_LIMIT
    channels = normalised(torch.from_numpy(pixels), SIZE).numpy()
    assert np.abs(channels[0].ravel() - rank).max() < 1e-2  # a level more or less, where rounding decides
    assert np.abs(channels[0].ravel() - rank).mean() < 1e-5
    assert np.abs(channels[1] - np.clip(local, -1, 1)).max() < 1e-4


def test_the_picture_given_stays_as_it_was() -> None:
    for kind in (np.float32, np.uint16):
        given = (np.random.default_rng(6).random((30, 40)) * 1000).astype(kind)
        kept = given.copy()
        frame(given, None, SIZE)
        assert np.array_equal(given, kept)


def test_padding_is_zero_and_the_picture_is_centred(image: np.ndarray) -> None:
    pixels, placed = frame(image[:, :144], None, SIZE)
    assert (placed.width, placed.height, placed.left) == (32, 64, 16)
    assert not pixels[:, :, :16].any()
    assert not pixels[:, :, 48:].any()
    assert pixels[:, :, 16:48].any()


@pytest.mark.parametrize("spacing", [None, (0.2, 0.1), (0.15, 0.35)])
@pytest.mark.parametrize("shape", [(3056, 2544), (512, 512), (400, 900)])
def test_boxes_come_back_from_the_frame(shape: tuple[int, int], spacing: tuple[float, float] | None) -> None:
    placed = placement(*shape, spacing, 384)
    box = Box(30.5, 40.0, shape[1] - 7.25, shape[0] - 1.0)
    assert placed.to_image(placed.to_frame(box)) == pytest.approx(box)
    whole = placed.to_frame(Box(0, 0, shape[1], shape[0]))
    assert max(whole.width, whole.height) == pytest.approx(1.0)


def test_what_lies_in_the_padding_is_clipped_away() -> None:
    placed = placement(100, 50, None, 64)
    assert placed.to_image(Box(0, 0, 1, 1)) == Box(0, 0, 50, 100)


def test_pixel_spacing_restores_proportions(image: np.ndarray) -> None:
    """Every second row dropped and said to be twice as far apart: the same picture."""
    squeezed = image[::2]
    assert cosine(frame(image, None, SIZE)[0], frame(squeezed, (2.0, 1.0), SIZE)[0]) > 0.95
    assert frame(squeezed, (2.0, 1.0), SIZE)[1].height == SIZE


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros((40, 40)), "one value"),
        (np.zeros((40, 40, 3)), "shape"),
        (np.arange(30).reshape(3, 10), "at least"),
        (np.full((40, 40), np.nan), "not finite"),
    ],
)
def test_what_is_no_picture_is_said(bad: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        frame(bad, None, SIZE)


def test_spacing_must_be_positive(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="positive"):
        frame(image, (0.0, 0.1), SIZE)
