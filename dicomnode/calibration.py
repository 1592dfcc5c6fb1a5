"""A generation's stored vectors go in, the distance from which an ROI is unlike the archive goes into its row.

For each anatomy, of the archive as it is: `encoder.unlike`, with the model's slack for boxes that people draw. An
archive that grows is measured again each time it has grown by half; until it is large enough, what the model set
brought along holds.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.models import SLACK
from encoder import unlike
from storage.records import Generation
from storage.store import Store

log = logging.getLogger(__name__)
IMAGES = "images"  # beside the thresholds: how many images they were measured on
SAMPLE = 2_000  # images at most
SEED = 0
GROWN = 1.5  # times the images measured: then it is time to measure again


def due(store: Store, live: Generation) -> bool:
    """Whether the archive has outgrown the thresholds of its live generation."""
    measured = int(live.model.thresholds.get(IMAGES, 0))
    return store.jobs.counts(live.id).indexed >= max(GROWN * measured, unlike.LEAST)


def calibrate(store: Store, generation: Generation) -> dict[str, Any]:
    """Measure and store; returns what was stored. An anatomy with too few vectors keeps the threshold it has."""
    images = store.regions.instances(generation.id)
    found: dict[int, list[tuple[NDArray[np.float32], int]]] = {}
    projection = generation.model.projections[0]
    for row in store.regions.with_vectors(generation.id, projection, by_patient(images)[:SAMPLE]):
        found.setdefault(row.region.anatomy, []).append((row.vector.astype(np.float32), row.patient_row_id))
    slack = float(generation.model.thresholds.get(SLACK, 1.0))
    limits = {str(anatomy): _threshold(of) for anatomy, of in found.items()}
    measured = {anatomy: round(limit * slack, 6) for anatomy, limit in limits.items() if limit is not None}
    thresholds: Mapping[str, Any] = {**generation.model.thresholds, **measured, IMAGES: len(images)}
    store.generations.set_thresholds(generation.id, thresholds)
    log.info("thresholds of generation %d measured on %d images", generation.id, len(images))
    return {"generation": generation.id, "images": len(images), "anatomies_measured": len(measured)}


def by_patient(images: NDArray[np.int64]) -> list[int]:
    """(n, 2) image and patient -> image ids, patient after patient in an order drawn with a fixed seed."""
    patients = np.random.default_rng(SEED).permutation(np.unique(images[:, 1]))
    place = {int(patient): number for number, patient in enumerate(patients)}
    return [row[0] for row in sorted(images.tolist(), key=lambda row: (place[row[1]], row[0]))]


def _threshold(rows: list[tuple[NDArray[np.float32], int]]) -> float | None:
    vectors = np.stack([vector for vector, _ in rows])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unlike.threshold(unlike.left_out(unit, np.array([patient for _, patient in rows])))
