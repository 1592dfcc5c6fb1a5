"""The film drawer's file: arrays in, one compact archive out, and back. No pickle is written or read.

Base: what is smooth (organs, exposure), as principal components at low resolution. Detail: what is fine (ribs,
vessels, bronchi), as principal components at a higher one, JPEG inside the archive. Shape: components of the contours.
All are components over every training film: no film, and no part of one, is kept.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder.errors import CheckpointError

Floats = NDArray[np.float64]

SIZE: Final = 512  # pixels a side of the frame that everything is in
BASE: Final = 128  # pixels a side of the smooth part
SHIPPED: Final = Path(__file__).parent / "phantoms.npz"
FINE: Final = 384  # pixels a side of the detail
JPEG_QUALITY: Final = 76
FORMAT: Final = 1
_QUANTA: Final = 127.0
_SPAN: Final = 99.95  # percentile of a detail component's values that 8 bits reach


@dataclass(frozen=True, eq=False)
class PhantomModel:
    """Everything `draw` needs. Points are x, y in pixels of a 512 frame; intensities 0 dark to 1 bright."""

    structures: tuple[tuple[str, int], ...]  # contour names and their numbers of points, in order
    shape_mean: Floats  # (P, 2)
    shape_components: Floats  # (S, P * 2), rows scaled to one standard deviation
    base_mean: Floats  # (BASE, BASE)
    base_components: Floats  # (K, BASE * BASE), unit rows
    base_scores: Floats  # (N, K): each training film's coordinates
    detail_components: NDArray[np.float32]  # (D, FINE * FINE), unit rows
    detail_scores: Floats  # (N, D)


def save(model: PhantomModel, path: Path) -> None:
    """Write the archive. Components are kept in 8 bits a value with a scale a row."""
    shape, shape_scale = _quantised(model.shape_components)
    base, base_scale = _quantised(model.base_components)
    spans = np.percentile(np.abs(model.detail_components), _SPAN, axis=1)
    layers = [_jpeg(row / span) for row, span in zip(model.detail_components, spans, strict=True)]
    arrays = {
        "format": np.array(FORMAT),
        "structures": np.array([f"{name}:{count}" for name, count in model.structures]),
        "shape_mean": model.shape_mean.astype(np.float32),
        "shape": shape,
        "shape_scale": shape_scale,
        "base_mean": model.base_mean.astype(np.float32),
        "base": base,
        "base_scale": base_scale,
        "base_scores": model.base_scores.astype(np.float32),
        "details": np.frombuffer(b"".join(layers), np.uint8),
        "detail_ends": np.cumsum([len(layer) for layer in layers]),
        "detail_spans": spans.astype(np.float32),
        "detail_scores": model.detail_scores.astype(np.float32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load(path: Path = SHIPPED) -> PhantomModel:
    """Read the archive. CheckpointError when it is missing, damaged or of another format."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if int(kept["format"]) != FORMAT:
                raise CheckpointError(f"{path.name} is of format {int(kept['format'])}, not {FORMAT}")
            return _model(kept)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path.name} holds no film drawer: {error}") from error


def _model(kept: "np.lib.npyio.NpzFile") -> PhantomModel:
    pairs = [str(item).rpartition(":") for item in kept["structures"]]
    content, ends = kept["details"].tobytes(), kept["detail_ends"].tolist()
    starts = [0, *ends[:-1]]
    return PhantomModel(
        structures=tuple((name, int(count)) for name, _, count in pairs),
        shape_mean=kept["shape_mean"].astype(np.float64),
        shape_components=kept["shape"] * kept["shape_scale"][:, None].astype(np.float64),
        base_mean=kept["base_mean"].astype(np.float64),
        base_components=kept["base"] * kept["base_scale"][:, None].astype(np.float64),
        base_scores=kept["base_scores"].astype(np.float64),
        detail_components=np.stack(
            [
                _layer(content[start:end]) * span
                for start, end, span in zip(starts, ends, kept["detail_spans"].tolist(), strict=True)
            ]
        ),
        detail_scores=kept["detail_scores"].astype(np.float64),
    )


def _quantised(rows: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scale = np.abs(rows).max(axis=1) / _QUANTA
    return np.rint(rows / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def _jpeg(row: NDArray[np.float32]) -> bytes:
    grey = np.clip((row.reshape(FINE, FINE) + 1) * 127.5, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(grey).astype(np.uint8)).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _layer(content: bytes) -> NDArray[np.float32]:
    with Image.open(io.BytesIO(content)) as picture:
        return (np.asarray(picture, dtype=np.float32) / np.float32(127.5) - 1).ravel()


def contours(model: PhantomModel, points: Floats) -> dict[str, Floats]:
    """The points of all structures, (P, 2), as one array a structure."""
    ends = np.cumsum([count for _, count in model.structures])
    parts: Sequence[Floats] = np.split(points, ends[:-1])
    return {name: part for (name, _), part in zip(model.structures, parts, strict=True)}
