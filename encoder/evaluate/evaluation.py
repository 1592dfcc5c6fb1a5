"""What a measurement leaves: the numbers, one JSON object, and the arrays that pictures of them are drawn from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box

Report = Callable[[str, int, int, str], None]  # stage, done, total, text
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, eq=False)
class Overlay:
    """One film with its true and its found boxes, in pixels of `image`."""

    title: str
    image: NDArray[np.float32]  # (H, W), high = bright
    truth: Mapping[int, Box]  # vocabulary index -> box
    found: Mapping[int, Box]
    iou: float  # mean over the film's labelled regions


@dataclass(frozen=True, eq=False)
class Material:
    """What the plots need beside the numbers; a part that was not measured is empty."""

    overlays: tuple[Overlay, ...] = ()
    ratios: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # kind -> distance / threshold, see unlike
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1), np.float32))  # (N, dim), a sample
    anatomy: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # (N,) of those vectors


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`summary` is what `--json` prints."""

    title: str
    summary: dict[str, object]
    material: Material = field(default_factory=Material)


def rounded(value: float) -> float:
    """As printed."""
    return round(float(value), 4)


def interval(pair: tuple[float, float]) -> list[float]:
    """As printed: [low, high]."""
    return [rounded(pair[0]), rounded(pair[1])]
