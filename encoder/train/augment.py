"""A film and a random generator go in, a moved and re-exposed film with its true labels comes out.

What may change: place, scale, proportion, a lean of up to 15 degrees, what is cropped away, tone curve, contrast,
noise, sharpness, shading, plates, markers and borders. What may not: left and right. There is no flip here, and a test
says so: the right lung is the one at the left of the picture in every sample.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data import Affine, Film, Regions
from encoder.preprocess import Placement, checked, framed, normalised, resized

SLOTS = len(VOCABULARY)
RIGHT_LUNG, LEFT_LUNG = (VOCABULARY.named(f"{side} lung").index for side in ("right", "left"))
ABDOMEN = VOCABULARY.named("abdomen").index
LEAN = 15.0  # degrees, the most
GONE, THERE = 0.25, 0.50  # visible share of a region: under the first it is absent, over the second it is present
CACHE = 1.25  # films are kept at this multiple of the frame: finer is never seen, coarser would blur when cropped


@dataclass(frozen=True)
class View:
    """One way to look at a film; its ranges are of uniform draws unless said otherwise."""

    share: float  # of all views
    zoom: float  # natural logarithm, from -0.6 of it to all of it
    drift: float  # shares of the window
    lean: float  # degrees, standard deviation
    aspect: float  # natural logarithm
    least: float = 1.0  # of the film's sides that is looked at
    exposed: bool = True  # as by another machine


VIEWS = (
    View(share=0.25, zoom=0.06, drift=0.03, lean=1.5, aspect=0.05, exposed=False),  # as the film is, nearly
    View(share=0.35, zoom=0.18, drift=0.07, lean=5.0, aspect=0.10),
    View(share=0.20, zoom=0.50, drift=0.30, lean=5.0, aspect=0.15),  # regions leave the film
    View(share=0.20, zoom=0.10, drift=0.05, lean=4.0, aspect=0.08, least=0.4),  # half a film, in its own proportions
)


@dataclass(frozen=True, eq=False)
class Sample:
    """One training example. K = 29 slots in vocabulary order."""

    frame: Tensor  # (2, S, S) float32
    boxes: Tensor  # (K, 4) shares of the frame, clipped to the film
    placed: Tensor  # (K,) bool: the box is known and visible
    present: Tensor  # (K,) float32: 1 visible, 0 gone
    judged: Tensor  # (K,) bool: presence is known


@dataclass(frozen=True, eq=False)
class Cached:
    """A film at working size."""

    film: Film
    pixels: Tensor  # (h, w) float32, 0..1, as stored
    ranks: Tensor  # (h, w) float32, 0..1, the same film with a flat histogram
    scale: tuple[float, float]  # working pixels for each stored pixel, x and y


def cached(film: Film, size: int) -> Cached:
    """The film shrunk once so that its longer side is `size * CACHE`."""
    pixels = torch.from_numpy(checked(film.image))
    height, width = pixels.shape
    share = min(1.0, size * CACHE / max(height, width))
    small = resized(pixels, max(1, round(height * share)), max(1, round(width * share)))
    ranks = (normalised(small, size)[0] + 1.0) / 2.0
    return Cached(film, small, ranks, (small.shape[1] / width, small.shape[0] / height))


def plain(film: Cached, size: int) -> Sample:
    """The film as inference sees it."""
    height, width = film.pixels.shape
    share = size / max(height, width)
    placed = _centred(round(height * share), round(width * share), size)
    pixels = resized(film.pixels, placed.height, placed.width)
    affine = np.array([[placed.width / width, 0.0, 0.0], [0.0, placed.height / height, 0.0]])
    return _sample(film, pixels, placed, affine)


def augmented(film: Cached, size: int, rng: np.random.Generator, inverted: float = 0.0) -> Sample:
    """A random view of the film in a frame of `size`, the same for the same state of `rng`.

    `inverted`: the share of views with black and white exchanged, as a film whose header lies about it.
    """
    view = VIEWS[int(rng.choice(len(VIEWS), p=[view.share for view in VIEWS]))]
    height, width = film.pixels.shape
    crop = _crop(height, width, view, rng)
    placed = _window(crop, view, size, rng)
    affine = _moved(crop, placed, view, rng)
    tone = float(rng.uniform(0.2, 1.0))  # stored films differ most in their tone curve: some have all of it in a tenth
    source = torch.lerp(film.pixels, film.ranks, tone)
    pixels = _warped(source, affine, placed, float(rng.choice([0.0, 0.0, 1.0, rng.uniform()])))
    seen = exposed(pixels, rng) if view.exposed else pixels
    if inverted and rng.random() < inverted:
        seen = seen.max() - seen
    return _sample(film, seen, placed, affine)


def _centred(height: int, width: int, size: int) -> Placement:
    return Placement(width, height, size, (size - width) // 2, (size - height) // 2, width, height)


def _crop(height: int, width: int, view: View, rng: np.random.Generator) -> Box:
    """What the view looks at, working pixels of the film."""
    columns, rows = (side * rng.uniform(view.least, 1.0) for side in (width, height))
    x, y = rng.uniform(0.0, width - columns), rng.uniform(0.0, height - rows)
    return Box(x, y, x + columns, y + rows)


def _window(crop: Box, view: View, size: int, rng: np.random.Generator) -> Placement:
    """The part of the frame that the view covers: the proportions of what it looks at, a little changed."""
    ratio = crop.width / crop.height * math.exp(rng.uniform(-view.aspect, view.aspect))
    columns, rows = size * min(1.0, ratio), size * min(1.0, 1.0 / ratio)
    return _centred(max(1, round(rows)), max(1, round(columns)), size)


def _moved(crop: Box, placed: Placement, view: View, rng: np.random.Generator) -> Affine:
    """Working pixels of the film -> pixels of the window."""
    zoom = math.exp(rng.uniform(-0.6 * view.zoom, view.zoom)) * max(
        placed.width / crop.width, placed.height / crop.height
    )
    stretch = math.exp(rng.uniform(-view.aspect, view.aspect))
    angle = math.radians(float(np.clip(rng.normal(0.0, view.lean), -LEAN, LEAN)))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.diag([zoom * stretch, zoom / stretch])
    shift = rng.uniform(-view.drift, view.drift, 2) * (placed.width, placed.height)
    target = np.array([placed.width, placed.height]) / 2 + shift
    centre = np.array([crop.x1 + crop.x2, crop.y1 + crop.y2]) / 2
    return np.column_stack([linear, target - linear @ centre])


def _warped(pixels: Tensor, affine: Affine, placed: Placement, fill: float) -> Tensor:
    """(h, w) -> (placed.height, placed.width); `fill` where the film ends."""
    height, width = pixels.shape
    back = np.linalg.inv(np.vstack([affine, [0.0, 0.0, 1.0]]))
    to_pixels = np.array(
        [[placed.width / 2, 0, placed.width / 2], [0, placed.height / 2, placed.height / 2], [0, 0, 1]]
    )
    to_unit = np.array([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    theta = torch.from_numpy((to_unit @ back @ to_pixels)[:2]).float()[None]
    grid = F.affine_grid(theta, [1, 1, placed.height, placed.width], align_corners=False)
    image = (pixels - fill)[None, None]
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0] + fill


def exposed(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Another machine, dose and printer: each change is drawn by itself, most films get a few."""
    image = pixels.clamp(0.0, 1.0) ** math.exp(rng.uniform(-0.8, 0.8))
    if rng.random() < 0.3:  # burnt out: the mediastinum of a film digitised too bright
        image = image.clamp(float(rng.uniform(0.0, 0.2)), float(rng.uniform(0.7, 1.0)))
    if rng.random() < 0.3:
        image = image + _shading(image.shape[0], image.shape[1], rng)
    if rng.random() < 0.25:
        image = _blurred(image, float(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.4:
        noise = torch.from_numpy(rng.normal(0.0, rng.uniform(0.003, 0.03), image.shape)).float()
        image = image + noise
    if rng.random() < 0.2:  # few grey levels, as when a low-contrast film is stored in 8 bits
        levels = float(rng.integers(12, 64))
        image = (image * levels).round() / levels
    return _covered(image, rng)


def _shading(height: int, width: int, rng: np.random.Generator) -> Tensor:
    coarse = torch.from_numpy(rng.normal(0.0, 0.12, (1, 1, 4, 4))).float()
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[0, 0]


def _blurred(image: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(2 * sigma)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image[None, None], (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[0, 0]


def _covered(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Name plates at the rim, collimator borders, side markers: black or white, over the picture."""
    image = image.clone()
    height, width = image.shape
    for _ in range(int(rng.integers(0, 4))):
        rows, columns = int(height * rng.uniform(0.03, 0.12)), int(width * rng.uniform(0.08, 0.3))
        y, x = int(rng.choice([0, height - rows])), int(rng.integers(0, width - columns))
        image[y : y + rows, x : x + columns] = _ink(rng)
    if rng.random() < 0.2:
        top, left, bottom, right = (max(1, int(side * rng.uniform(0.0, 0.05))) for side in (height, width) * 2)
        border = torch.full_like(image, _ink(rng))
        border[top:-bottom, left:-right] = image[top:-bottom, left:-right]
        image = border
    if rng.random() < 0.5:
        y, x, side = int(rng.integers(0, height // 4)), int(rng.integers(0, width - 16)), int(rng.integers(4, 16))
        image[y : y + side, x : x + side : 2] = 1.0
    return image


def _ink(rng: np.random.Generator) -> float:
    return 0.0 if rng.random() < 0.7 else 1.0


def _sample(film: Cached, pixels: Tensor, placed: Placement, affine: Affine) -> Sample:
    """`affine`: working pixels -> pixels of the window; the labels are kept in stored pixels."""
    stored = affine @ np.array([[film.scale[0], 0, 0], [0, film.scale[1], 0], [0, 0, 1.0]])
    regions = film.film.labels.moved(stored)
    seen = _film_area(film.pixels.shape[1], film.pixels.shape[0], affine).clipped(placed.width, placed.height)
    visible = {index: box.intersection(seen) for index, box in regions.items()}
    boxes, placed_slots = np.zeros((SLOTS, 4), np.float32), np.zeros(SLOTS, bool)
    present, judged = np.zeros(SLOTS, np.float32), np.zeros(SLOTS, bool)
    for index, box in visible.items():
        share = box.area / regions[index].area
        boxes[index] = placed.to_frame(box)
        placed_slots[index], present[index] = share >= THERE, share >= THERE
        judged[index] = share >= THERE or share < GONE
    _implied(regions, seen, present, judged)
    return Sample(
        frame=framed(pixels, placed),
        boxes=torch.from_numpy(boxes),
        placed=torch.from_numpy(placed_slots),
        present=torch.from_numpy(present),
        judged=torch.from_numpy(judged),
    )


def _film_area(width: int, height: int, affine: Affine) -> Box:
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ affine.T
    return Box(*(float(v) for v in (*corners.min(axis=0), *corners.max(axis=0))))


def _implied(regions: Regions, seen: Box, present: NDArray[np.float32], judged: NDArray[np.bool_]) -> None:
    """Whole lungs imply a whole chest: an unlabelled region between them has no box, but it is there."""
    lungs = [regions[index] for index in (RIGHT_LUNG, LEFT_LUNG) if index in regions]
    if len(lungs) == 2 and all(lung.intersection(seen) == lung for lung in lungs):
        unlabelled = [index for index in range(SLOTS) if index not in regions and index != ABDOMEN]
        present[unlabelled], judged[unlabelled] = 1.0, True
