"""What was measured goes in, what plots are drawn from comes out: films with their boxes, vectors of a map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.boxes import Box
from encoder.data import Film
from encoder.evaluate.entries import ANATOMY, Entry
from encoder.evaluate.evaluation import BOOTSTRAP_SEED, Overlay

POINTS = 3_000  # vectors of the projection map
WORST, MEDIAN = 4, 4  # films that are drawn with their boxes
TITLE = 30  # characters of a film's id under its picture


@dataclass(frozen=True)
class Seen:
    """A film that was measured, without its pixels."""

    film: Film
    found: Mapping[int, Box]
    iou: float  # mean over its labelled regions


def points(entries: Sequence[Entry]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A sample of the anatomy vectors, drawn with a seed, for the projection map."""
    known = [entry for entry in entries if ANATOMY in entry.vectors]
    chosen = np.random.default_rng(BOOTSTRAP_SEED).permutation(len(known))[:POINTS]
    if not len(chosen):
        return np.zeros((0, 1), np.float32), np.zeros(0, np.int64)
    vectors = np.stack([known[number].vectors[ANATOMY] for number in chosen])
    return vectors, np.array([known[number].anatomy for number in chosen], np.int64)


def overlays(seen: Sequence[Seen]) -> tuple[Overlay, ...]:
    """The films whose boxes are the worst, and those in the middle."""
    order = sorted(seen, key=lambda one: (one.iou, one.film.id))
    middle = len(order) // 2
    worst = order[: min(WORST, middle)]
    median = order[max(middle - MEDIAN // 2, len(worst)) :][:MEDIAN]
    return tuple(_overlay(one, "worst") for one in worst) + tuple(_overlay(one, "median") for one in median)


def _overlay(one: Seen, kind: str) -> Overlay:
    shown = one.film.id if len(one.film.id) <= TITLE else f"...{one.film.id[-TITLE:]}"
    return Overlay(f"{kind}, mean IoU {one.iou:.2f}\n{shown}", one.film.image, one.film.regions, one.found, one.iou)
