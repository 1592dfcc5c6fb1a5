"""A film and a seed go in, the same film with small made-up things at known places comes out.

Discs, rings, clusters, stripes, textures and pieces of other films: what a lesion-size ROI may hold. The local head
learns from them that a thing is the same thing wherever it lies, and they are the control of its evaluation: the only
local likeness whose place is known for certain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.float32]  # (h, w), 0..1
SMALLEST, LARGEST = 0.03, 0.10  # side of a thing, share of the film's longer side
FAINT, CLEAR = 0.2, 0.6  # contrast of a thing, share of the film's range
EDGE = 0.25  # of a thing's side: how softly it ends


@dataclass(frozen=True)
class Thing:
    """What is pasted; the same values draw the same thing."""

    kind: str
    side: float  # share of the film's longer side
    contrast: float  # share of the film's range, negative is dark
    seed: int

    def again(self, rng: np.random.Generator) -> "Thing":
        """The same thing as another film would show it: a little larger or smaller, fainter or clearer."""
        return replace(
            self, side=self.side * math.exp(rng.uniform(-0.1, 0.1)), contrast=self.contrast * rng.uniform(0.8, 1.2)
        )


def thing(rng: np.random.Generator, kind: str | None = None) -> Thing:
    """A random one."""
    return Thing(
        kind=kind or str(rng.choice(sorted(KINDS))),
        side=math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST))),
        contrast=float(rng.uniform(FAINT, CLEAR) * rng.choice([-1.0, 1.0, 1.0])),
        seed=int(rng.integers(2**31)),
    )


def paste(film: Pixels, what: Thing, x: float, y: float, span: float) -> Pixels:
    """A copy of the film with the thing's centre at (x, y) pixels. `span`: the film's range of grey."""
    side = max(4, round(what.side * max(film.shape)))
    left, top = round(x - side / 2), round(y - side / 2)
    rows = slice(max(0, top), min(film.shape[0], top + side))
    columns = slice(max(0, left), min(film.shape[1], left + side))
    drawn = KINDS[what.kind](side, np.random.default_rng(what.seed)) * _window(side) * what.contrast * span
    out = film.copy()
    out[rows, columns] += drawn[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return out


def _radius(side: int) -> Pixels:
    """Distance to the centre, 1 at the middle of an edge."""
    along = (np.arange(side) + 0.5) / side * 2.0 - 1.0
    return np.asarray(np.hypot(along[:, None], along[None, :]), dtype=np.float32)


def _window(side: int) -> Pixels:
    return np.asarray(np.clip((1.0 - _radius(side)) / EDGE, 0.0, 1.0), dtype=np.float32)


def _disc(side: int, rng: np.random.Generator) -> Pixels:
    return np.asarray((1.0 - _radius(side) ** 2 * rng.uniform(0.2, 1.0)).clip(0.0), dtype=np.float32)


def _ring(side: int, rng: np.random.Generator) -> Pixels:
    return np.asarray(np.exp(-(((_radius(side) - rng.uniform(0.45, 0.7)) / 0.15) ** 2)), dtype=np.float32)


def _cluster(side: int, rng: np.random.Generator) -> Pixels:
    dots = np.zeros((side, side), np.float32)
    places = rng.uniform(0.2, 0.8, (int(rng.integers(4, 9)), 2)) * side
    dots[tuple(places.astype(int).T)] = 1.0
    soft = gaussian_filter(dots, max(0.7, side * 0.05))
    return np.asarray(soft / soft.max(), dtype=np.float32)


def _stripes(side: int, rng: np.random.Generator) -> Pixels:
    y, x = np.mgrid[:side, :side] / side
    turn, waves = rng.uniform(0.0, math.pi), rng.uniform(2.0, 4.5)
    phase = 2.0 * math.pi * waves * (x * math.cos(turn) + y * math.sin(turn)) + rng.uniform(0.0, 6.3)
    return np.asarray(np.sin(phase), dtype=np.float32)


def _texture(side: int, rng: np.random.Generator) -> Pixels:
    noise = gaussian_filter(rng.normal(size=(side, side)), max(0.6, side * rng.uniform(0.03, 0.1)))
    return np.asarray(noise / np.abs(noise).max(), dtype=np.float32)


def _cross(side: int, rng: np.random.Generator) -> Pixels:
    y, x = np.mgrid[:side, :side] / side * 2.0 - 1.0
    turn, width = rng.uniform(0.0, math.pi / 2), rng.uniform(0.08, 0.2)
    a, b = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return np.asarray(np.maximum(np.exp(-((a / width) ** 2)), np.exp(-((b / width) ** 2))), dtype=np.float32)


KINDS: dict[str, Callable[[int, np.random.Generator], Pixels]] = {
    "cluster": _cluster,
    "cross": _cross,
    "disc": _disc,
    "ring": _ring,
    "stripes": _stripes,
    "texture": _texture,
}
