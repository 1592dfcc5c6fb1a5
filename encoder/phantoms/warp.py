"""Contours in two shapes in, the map between their frames out: piecewise affine on a triangulation, then smoothed.

A map is a displacement field on a coarse grid: at each point of the frame it is given on, how far away the same
anatomical point lies in the other frame, in pixels.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from scipy.spatial import Delaunay

Floats = NDArray[np.float64]

GRID: Final = 128  # points a side of a displacement field
SMOOTH: Final = 2.5  # grid points: hides the triangles' edges
INVERSION_STEPS: Final = 12
_ANCHORS: Final = 9  # a side: the frame's border, and a ring outside it, stay where they are


def displacement(source: Floats, target: Floats, size: int) -> Floats:
    """How far each point of the source's frame is from its place in the target's: (GRID, GRID, 2), x then y.

    source, target: (n, 2) x, y in pixels of a `size` x `size` frame; point i is the same anatomical point in both.
    """
    anchors = _border(size)
    points = np.concatenate([source, anchors])
    moved = np.concatenate([target - source, np.zeros_like(anchors)])
    triangles = Delaunay(points + _jitter(len(points)))
    centres = (np.arange(GRID) + 0.5) * size / GRID
    x, y = np.meshgrid(centres, centres)
    field: Floats = np.nan_to_num(LinearNDInterpolator(triangles, moved)(np.stack([x, y], axis=-1)))
    return np.stack([gaussian_filter(field[..., axis], SMOOTH, mode="nearest") for axis in range(2)], axis=-1)


def inverse(field: Floats, size: int) -> Floats:
    """The displacement of the opposite direction, by fixed-point iteration: v(y) = -u(y + v(y))."""
    step = size / GRID
    rows, columns = np.mgrid[0:GRID, 0:GRID].astype(np.float64)
    found = -field
    for _ in range(INVERSION_STEPS):
        at = [rows + found[..., 1] / step, columns + found[..., 0] / step]
        found = -np.stack(
            [map_coordinates(field[..., axis], at, order=1, mode="nearest") for axis in range(2)], axis=-1
        )
    return found


def sample(image: Floats, field: Floats, order: Literal[1, 3] = 1) -> Floats:
    """The image seen from the frame on which `field` is given: out(x) = image(x + field(x)). Both (size, size)."""
    size = image.shape[0]
    dense = [zoom(field[..., axis], size / GRID, order=1, mode="nearest", grid_mode=True) for axis in range(2)]
    rows, columns = np.mgrid[0:size, 0:size]
    seen: Floats = map_coordinates(image, [rows + dense[1], columns + dense[0]], order=order, mode="nearest")
    return seen


def _border(size: int) -> Floats:
    """Points that do not move: on a ring a quarter of the frame outside it, so that the film's edge still may."""
    low, high = -0.25 * size, 1.25 * size
    along = np.linspace(low, high, _ANCHORS)
    sides = [(x, y) for x in along for y in (low, high)] + [(x, y) for y in along[1:-1] for x in (low, high)]
    return np.array(sides)


def _jitter(count: int) -> Floats:
    """Contours share points where organs touch; a triangulation wants them apart."""
    return np.random.default_rng(0).normal(scale=0.05, size=(count, 2))
