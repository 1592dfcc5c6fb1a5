"""Films with contours in, the film drawer's file out.

Each film is warped to the mean shape, its plates and borders are masked and filled, and it is parted in a smooth base
and fine detail. Both, and the contours, become principal components; no film and no part of one is kept.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter, label, zoom

from encoder.data import TRAIN, Film, Landmarks, read, split
from encoder.errors import TrainingDataError
from encoder.phantoms import warp
from encoder.phantoms.model import BASE, FINE, SIZE, Floats, PhantomModel, save

Report = Callable[[str, int, int, str], None]
Mask = NDArray[np.bool_]

STRUCTURES: Final = ("RL", "LL", "H", "RCLA", "LCLA")
SHAPES: Final = 14  # components of shape, about 95 % of its variance
BASES: Final = 48  # components of the smooth part
DETAILS: Final = 88  # components of the fine part: what the file's size allows
TONE: Final = 2.2  # scanned films end in white: this parts the heart from the spine and the abdomen again
SPLIT: Final = 5.0  # pixels: finer is detail, smoother is base
BORDER: Final = 9  # pixels at the film's edge that scanners frame
PLATE: Final = 150  # pixels of one value from which a patch is a plate, not anatomy
FILL_STEPS: Final = 12


def build(data: Path, out: Path, report: Report) -> Path:
    """Build the drawer from the films of a `data/cxr` folder that have contours; returns `out`'s file.

    `out`: a folder, or a path that ends in .npz. TrainingDataError when fewer than four films have contours.
    """
    films = _contoured(data)
    points = np.stack([_framed(film, marks) for film, marks in films])
    structures = tuple((part, len(films[0][1].contours[part])) for part in STRUCTURES)
    mean = points.mean(axis=0)
    images, masks = [], []
    for number, ((film, _), contour) in enumerate(zip(films, points, strict=True)):
        image, mask = _normalised(film.path)
        field = warp.displacement(mean, contour, SIZE)
        images.append(warp.sample(image, field))
        masks.append(warp.sample(mask.astype(np.float64), field) > 0.5)
        report("warping films", number + 1, len(films), "")
    model = _model(points, mean, images, masks, structures)
    report("components", 1, 1, f"{len(images)} films")
    path = out if out.suffix == ".npz" else out / "phantoms.npz"
    save(model, path)
    return path


def _contoured(data: Path) -> list[tuple[Film, Landmarks]]:
    films = split(read(data).films, TRAIN)
    contoured = [(film, film.labels) for film in films if isinstance(film.labels, Landmarks)]
    if len(contoured) < 4:
        raise TrainingDataError(f"{len(contoured)} films with contours in {data.name}: at least 4 are needed")
    return contoured


def _framed(film: Film, marks: Landmarks) -> Floats:
    """(P, 2) points of the film's own pixels, in those of the common frame."""
    rows, columns = film.size
    points = np.concatenate([marks.contours[part] for part in STRUCTURES]).astype(np.float64)
    return points * (SIZE / np.array([columns, rows], dtype=np.float64))


def _normalised(path: Path) -> tuple[Floats, Mask]:
    """A film's intensities by percentile, 0..1 (a little beyond is kept), and where it shows the patient."""
    with Image.open(path) as picture:
        stored = np.asarray(picture.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS), dtype=np.float64)
    mask = _shown(stored)
    stored = 255.0 * (stored / 255.0) ** TONE
    low, high = np.percentile(stored[mask], (0.5, 99.5))
    return np.clip((stored - low) / max(high - low, 1.0), -0.05, 1.05), mask


def _shown(stored: Floats) -> Mask:
    """False on plates (large patches of pure black at the film's edge) and on the scanner's frame."""
    black = stored <= 1
    patches, count = label(black)
    sizes = np.bincount(patches.ravel(), minlength=count + 1)
    plates = black & (sizes[patches] >= PLATE)
    mask: Mask = ~binary_dilation(plates, iterations=4)
    mask[:BORDER] = mask[-BORDER:] = False
    mask[:, :BORDER] = mask[:, -BORDER:] = False
    return mask


def _smooth(image: Floats, mask: Mask) -> Floats:
    """The image blurred over what the mask shows, extended into what it hides (normalised convolution)."""
    weight = mask.astype(np.float64)
    near = gaussian_filter(image * weight, SPLIT) / np.maximum(gaussian_filter(weight, SPLIT), 1e-6)
    far = gaussian_filter(image * weight, 8 * SPLIT) / np.maximum(gaussian_filter(weight, 8 * SPLIT), 1e-9)
    trust = np.clip(gaussian_filter(weight, SPLIT) * 2 - 0.2, 0, 1)
    return trust * near + (1 - trust) * far


def _model(
    points: Floats,
    mean: Floats,
    images: list[Floats],
    masks: list[Mask],
    structures: tuple[tuple[str, int], ...],
) -> PhantomModel:
    smooth = [_smooth(image, mask) for image, mask in zip(images, masks, strict=True)]
    bases = np.stack([zoom(each, BASE / SIZE, order=1, mode="nearest", grid_mode=True).ravel() for each in smooth])
    shown = np.stack([mask[:: SIZE // BASE, :: SIZE // BASE].ravel() for mask in masks])
    base_mean, components, scores = _filled_components(bases, shown)
    fine = np.stack([_detail(*each) for each in zip(images, smooth, masks, strict=True)])
    details, detail_scores = _components(fine, DETAILS)
    centred = (points - mean).reshape(len(points), -1)
    _, spread, rows = np.linalg.svd(centred, full_matrices=False)
    count = min(SHAPES, len(rows))
    return PhantomModel(
        structures=structures,
        shape_mean=mean,
        shape_components=rows[:count] * spread[:count, None] / np.sqrt(len(points)),
        base_mean=base_mean.reshape(BASE, BASE),
        base_components=components,
        base_scores=scores,
        detail_components=details,
        detail_scores=detail_scores,
    )


def _filled_components(bases: Floats, shown: Mask) -> tuple[Floats, Floats, Floats]:
    """Principal components of rows of which parts are hidden: the hidden is predicted from the shown, in turns."""
    filled = bases.copy()
    count = min(BASES, len(bases) - 1)
    for _ in range(FILL_STEPS):
        mean = filled.mean(axis=0)
        left, spread, rows = np.linalg.svd(filled - mean, full_matrices=False)
        few = min(12, count)  # filling by many components would bring the plates back
        predicted = mean + (left[:, :few] * spread[:few]) @ rows[:few]
        filled = np.where(shown, bases, predicted)
    mean = filled.mean(axis=0)
    left, spread, rows = np.linalg.svd(filled - mean, full_matrices=False)
    return mean, rows[:count], left[:, :count] * spread[:count]


def _detail(image: Floats, smooth: Floats, mask: Mask) -> NDArray[np.float32]:
    """What is finer than the base, fading out towards what is hidden: (FINE * FINE,)."""
    inside = gaussian_filter(mask.astype(np.float64), 3.0)
    detail = (image - smooth) * np.clip(inside * 2 - 1, 0, 1)
    return zoom(detail, FINE / SIZE, order=1, mode="nearest", grid_mode=True).astype(np.float32).ravel()


def _components(rows: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], Floats]:
    """Unit principal directions about zero, (count, pixels), and each row's coordinates, by the small Gram matrix."""
    values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    order = np.argsort(values)[::-1][: min(count, len(rows) - 1)]
    spread = np.sqrt(np.maximum(values[order], 1e-12))
    directions = (vectors[:, order] / spread).T.astype(np.float32) @ rows
    return directions, vectors[:, order] * spread
