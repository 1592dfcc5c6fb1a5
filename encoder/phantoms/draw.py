"""A seed in, one film of nobody out: pixels as a modality stores them, its contours, and the true boxes of its regions.

No drawn film is a real one: its shape is sampled from components; the coordinates of its smooth part are a mixture of
several films' moved by noise; those of its fine detail are mixtures of their own in each of four parts of the body. A
test holds the likeness to any one training film to what two different patients have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from encoder.boxes import Box
from encoder.phantoms import warp
from encoder.phantoms.model import FINE, SHIPPED, SIZE, Floats, PhantomModel, contours, load
from encoder.rules import derive

__all__ = ["SHIPPED", "Phantom", "PhantomModel", "draw", "load"]

BITS: Final = 12
MIXED: Final = 5  # films whose smooth parts are mixed
NOISE: Final = 0.35  # of the spread of each coordinate, added to the mixture
SHAPE_SPREAD: Final = 0.8  # of the training films' standard deviation
LIKELY: Final = 2.0  # standard deviations beyond which no component goes
SHOWN: Final = 0.5  # of a region must be on the film
NEAREST: Final = 24  # films with a similar smooth part whose details are mixed
STRONGEST: Final = 1.5  # detail of a film, in shares of the median
BLENDED: Final = 2  # of them in one part of the body: more would blur


@dataclass(frozen=True, eq=False)
class Phantom:
    """One drawn film."""

    pixels: NDArray[np.uint16]  # (size, size), 0..4095, high = bright (MONOCHROME2)
    boxes: Mapping[int, Box]  # vocabulary index -> true box, pixels of `pixels`; what is off the film is left out
    landmarks: Mapping[str, Floats]  # contour -> (n, 2) x, y in the same pixels


def draw(model: PhantomModel, seed: int, size: int = SIZE) -> Phantom:
    """Draw the film of that seed: the same seed and size, the same film."""
    rng = np.random.default_rng([seed, 20240])
    points = _shape(model, rng)
    scores = _scores(model, rng)
    flat = _ranged(_base(model, scores)) + _detail(model, scores, rng)
    field = warp.inverse(warp.displacement(model.shape_mean, points, SIZE), SIZE)
    film = _exposed(warp.sample(flat, field, order=3), rng)
    placed, film = _posed(points, film, rng)
    pixels = _stored(film, size, rng)
    landmarks = {name: part * size / SIZE for name, part in contours(model, placed).items()}
    return Phantom(pixels, _visible(derive(landmarks), size), landmarks)


def _visible(boxes: Mapping[int, Box], size: int) -> dict[int, Box]:
    """The boxes cut to the film; a region of which less than half is on it is not there."""
    cut = {anatomy: box.clipped(size, size) for anatomy, box in boxes.items()}
    return {anatomy: box for anatomy, box in cut.items() if box.area >= SHOWN * boxes[anatomy].area}


def _shape(model: PhantomModel, rng: np.random.Generator) -> Floats:
    weights = np.clip(rng.normal(size=len(model.shape_components)), -LIKELY, LIKELY) * SHAPE_SPREAD
    moved: Floats = weights @ model.shape_components
    return model.shape_mean + moved.reshape(-1, 2)


def _scores(model: PhantomModel, rng: np.random.Generator) -> Floats:
    """Coordinates of a smooth part that no film has: a mixture in which none has the half, and noise."""
    chosen = rng.choice(len(model.base_scores), size=min(MIXED, len(model.base_scores)), replace=False)
    weights = rng.dirichlet(np.full(len(chosen), 2.0))
    weights = np.minimum(weights, 0.45)
    weights /= weights.sum()
    spread = model.base_scores.std(axis=0)
    noise = np.clip(rng.normal(size=len(spread)), -LIKELY, LIKELY) * spread * NOISE
    sharper = 1.0 / np.sqrt((weights**2).sum())  # a mean of films varies less than films do
    mixed: Floats = (weights @ model.base_scores[chosen]) * min(sharper, 1.5) + noise
    return mixed


def _base(model: PhantomModel, scores: Floats) -> Floats:
    side = model.base_mean.shape[0]
    low = model.base_mean + (scores @ model.base_components).reshape(side, side)
    dense: Floats = zoom(low, SIZE / side, order=3, mode="nearest", grid_mode=True)
    return dense


def _ranged(base: Floats) -> Floats:
    """The smooth part over the whole range, as training films are: the detail that is added is in shares of it."""
    low, high = np.percentile(base, (1, 99))
    ranged: Floats = (base - low) / max(high - low, 1e-6)
    return ranged


def _detail(model: PhantomModel, scores: Floats, rng: np.random.Generator) -> Floats:
    """Fine detail, mixed anew in each part of the body from films with a similar smooth part."""
    strength = np.linalg.norm(model.detail_scores, axis=1)
    distance = np.linalg.norm(model.base_scores - scores, axis=1)
    distance[strength > STRONGEST * np.median(strength)] = np.inf  # films scanned with few grey levels
    near = np.argsort(distance, kind="stable")[:NEAREST]
    film = np.zeros((SIZE, SIZE))
    for mask in _parts(model):
        share = rng.uniform(0.35, 0.65)
        weights = np.array([share, 1 - share])
        chosen = rng.choice(near, size=BLENDED, replace=False)
        mixed = weights @ model.detail_scores[chosen] / np.linalg.norm(weights)
        layer = (mixed.astype(np.float32) @ model.detail_components).reshape(FINE, FINE)
        film += mask * zoom(layer, SIZE / FINE, order=3, mode="nearest", grid_mode=True)
    return film


def _parts(model: PhantomModel) -> list[Floats]:
    """Four smooth weights that sum to one: right chest, left chest, shoulders and neck, middle and abdomen."""
    shape = contours(model, model.shape_mean)
    right, left = shape["RL"], shape["LL"]
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    inner_right, inner_left = np.percentile(right[:, 0], 90), np.percentile(left[:, 0], 10)
    bottom = max(right[:, 1].max(), left[:, 1].max())
    top = min(right[:, 1].min(), left[:, 1].min())
    lower = _step(rows - bottom, 10)
    upper = _step(top - rows, 8)
    chest = (1 - lower) * (1 - upper)
    on_right, on_left = _step(inner_right - columns, 10), _step(columns - inner_left, 10)
    parts = [chest * on_right, chest * on_left, upper * (1 - lower)]
    return [*parts, 1 - sum(parts, np.zeros((SIZE, SIZE)))]


def _step(distance: Floats, width: float) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(distance / width, -40, 40)))


def _exposed(film: Floats, rng: np.random.Generator) -> Floats:
    """Another tube, another plate: range, gamma and a soft shoulder instead of the white that scanners clip."""
    soft = np.where(film > 0.75, 0.75 + 0.3 * np.tanh((film - 0.75) / 0.3), film)
    soft = np.where(soft < 0.03, 0.03 * np.exp((soft - 0.03) / 0.03), soft)
    exposed: Floats = np.clip(soft, 0, 1.1) ** rng.uniform(0.85, 1.25)
    return exposed


def _posed(points: Floats, film: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Where the patient stood: a small turn, shift and distance. Returns the moved points and the moved film.

    Always a little nearer than the frame, so that its edge, where the warp had nothing to show, stays outside.
    """
    angle = np.deg2rad(np.clip(rng.normal(scale=0.9), -1.8, 1.8))
    scale = rng.uniform(1.06, 1.13)
    shift = rng.uniform(-5, 5, size=2)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([SIZE / 2, SIZE / 2])
    placed = (points - centre) @ turn.T + centre + shift
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    there = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    back = (there - centre - shift) @ np.linalg.inv(turn).T + centre - 0.5
    moved: Floats = map_coordinates(film, [back[..., 1], back[..., 0]], order=3, mode="reflect")
    return placed, moved


def _stored(film: Floats, size: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Grain, and twelve bits."""
    if size != SIZE:
        picture = Image.fromarray(film.astype(np.float32))
        film = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    grain = gaussian_filter(rng.normal(size=film.shape), 0.6) * 0.012 + rng.normal(size=film.shape) * 0.003
    top = (1 << BITS) - 1
    ceiling = rng.uniform(0.78, 0.95)
    exposed = np.clip(0.02 + film * ceiling + grain * (0.5 + film), 0, 1)
    return np.rint(exposed * top).astype(np.uint16)
