"""A generation that is complete in, whether it may answer from now on out: counts, recall, canary queries.

Its index is made here, from SQL, with the graphs that it will have, and written down: a node loads it in place of
making it again. Recall compares what that index finds with a scan of every vector.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.errors import StorageError
from storage.records import Generation, RegionVector, SearchRequest
from storage.store import Store

log = logging.getLogger(__name__)
LEAST_SHARE = 0.9  # of the instances that the live generation indexed
IMAGES = 64  # that regions are drawn from
REGIONS = 128  # drawn: each a canary that must find itself, each a query whose recall is measured
K = 10
SELF = 0.999  # least score of a vector that finds itself, as fp16
SEED = 0
Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Verification:
    """What was found. `refusals`: why the generations must not be swapped; () when they may."""

    indexed: int
    indexed_before: int
    queries: int
    recall: float  # mean of recall@10; 1 without queries
    canaries_lost: int  # regions that do not find themselves
    refusals: tuple[str, ...]


def verify(store: Store, live: Generation, generation: Generation, least_recall: float, report: Report) -> Verification:
    """Compare the counts, then ask. StorageError when the archive cannot be read."""
    _make_index(store, generation)
    before, after = store.jobs.counts(live.id).indexed, store.jobs.counts(generation.id).indexed
    recalls, lost = _asked(store, generation, report)
    recall = float(np.mean(recalls)) if recalls else 1.0
    refusals = [
        (after < LEAST_SHARE * before, f"the new generation indexed {after} instances, the live one {before}"),
        (bool(lost), f"{lost} of {len(recalls)} regions of the new generation do not find themselves"),
        (recall < least_recall, f"recall@{K} of its index is {recall:.3f}, less than {least_recall:g}"),
    ]
    why = tuple(words for is_so, words in refusals if is_so)
    return Verification(after, before, len(recalls), round(recall, 4), lost, why)


def _make_index(store: Store, generation: Generation) -> None:
    store.vectors.warm(generation.id)
    store.vectors.improve()
    try:
        store.vectors.snapshot()
    except StorageError as error:
        log.warning("no snapshot of the new index, it will be made from the database again: %s", error)


def _asked(store: Store, generation: Generation, report: Report) -> tuple[list[float], int]:
    """Recall of each query, and how many did not find the region they are."""
    recalls: list[float] = []
    lost = 0
    everything = store.regions.instances(generation.id)
    for projection in generation.model.projections:
        rows = _drawn(store, generation, projection, everything)
        for number, row in enumerate(rows, 1):
            recall, found = _query(store, generation, projection, row, everything[:, 0])
            recalls.append(recall)
            lost += not found and bool(store.regions.details([row.region.id]))  # deleted just now: not lost
            report("verifying", number, len(rows), projection)
    return recalls, lost


def _drawn(store: Store, generation: Generation, projection: str, images: NDArray[np.int64]) -> list[RegionVector]:
    """Regions of images all over the archive, by a fixed seed."""
    rng = np.random.default_rng(SEED)
    some = rng.permutation(images[:, 0])[:IMAGES].tolist()
    rows = store.regions.with_vectors(generation.id, projection, some)
    return [rows[at] for at in sorted(rng.permutation(len(rows))[:REGIONS])]


def _query(
    store: Store, generation: Generation, projection: str, row: RegionVector, everything: NDArray[np.int64]
) -> tuple[float, bool]:
    """Recall against the scan, and whether the region itself, or its equal, came first."""
    vector = row.vector.astype(np.float32)
    request = SearchRequest(generation.id, projection, (row.region.anatomy,), vector, k=K)
    found = store.vectors.search(request).hits
    scan = SearchRequest(generation.id, projection, (row.region.anatomy,), vector, k=K, allowed=everything)
    exact = {hit.region_id for hit in store.vectors.search(scan).hits}
    recall = len(exact & {hit.region_id for hit in found}) / len(exact) if exact else 1.0
    return recall, bool(found) and found[0].score >= SELF
