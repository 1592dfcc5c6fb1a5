"""Reindexing: the archive and a model in, a new live generation out, built beside the old one while that answers.

The generation's jobs are its cursor: killed at any point, the next run goes on where this one was. New instances get
a job in both generations from the receiver. The swap is one row, made only when every instance has ended.
"""

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dicomnode import models
from dicomnode.config import Config
from dicomnode.errors import DicomNodeError
from dicomnode.node import Lock
from dicomnode.workers.indexer import IndexerPlan
from dicomnode.workers.pool import Pool
from storage.errors import GenerationIncomplete
from storage.records import Generation, Model, SearchRequest
from storage.store import Store

log = logging.getLogger(__name__)
POLL_S = 0.2
CANARIES = 8  # vectors of the new generation that must find themselves before it goes live
Report = Callable[[str, int, int, str], None]


def plan(store: Store, model: Path | None) -> dict[str, Any]:
    """What `run` would do, changing nothing."""
    live = _live(store)
    building = store.generations.building()
    wanted = models.describe(model).id if model else live.model.id
    return {
        "instances": store.jobs.counts(live.id).instances,
        "from_model": live.model.id,
        "to_model": wanted,
        "resumes_generation": building.id if building and building.model.id == wanted else None,
    }


def rebuild_index(store: Store) -> dict[str, Any]:
    """Make every index file of the live generation anew from the database."""
    live = _live(store)
    return {"generation": live.id, "vectors": store.vectors.rebuild(live.id)}


def run(store: Store, config: Config, model: Path | None, report: Report) -> dict[str, Any]:
    """Build, check, swap, and drop what is older than the one kept for rollback.

    Raises DicomNodeError when another reindexing runs, GenerationError when one of another model is under way.
    """
    with Lock(config.root / "reindex.lock", "a reindexing"):
        before = _live(store)
        target = models.install(store, model) if model else _reinstalled(store, before)
        generation = store.generations.start(target)
        _build(store, config, generation, report)
        _check(store, generation)
        live = _swap(store, config, generation, report)
        _drop_old(store, keep={live.id, before.id})
        counts = store.jobs.counts(live.id)
        return {
            "generation": live.id,
            "model": live.model.id,
            "indexed": counts.indexed,
            "not_indexable": counts.not_indexable,
            "failed": counts.failed,
            "kept_for_rollback": before.id,
        }


def _live(store: Store) -> Generation:
    live = store.generations.live()
    if live is None:
        raise DicomNodeError("the archive has no live generation: start `dicomnode serve` on it once")
    return live


def _reinstalled(store: Store, live: Generation) -> Model:
    return models.install(store, store.root / live.model.path)


def _build(store: Store, config: Config, generation: Generation, report: Report) -> None:
    """Workers of its own, beside those of a node that may be running, until no job of the generation is left."""
    owner = f"reindex@{socket.gethostname()}"
    pool = Pool(
        store,
        IndexerPlan(config.root, config.storage.url, owner, config.ingest, config.log, (generation.id,)),
        max(1, config.ingest.workers),
    )
    pool.start()
    try:
        while True:
            store.generations.missing(generation.id)
            counts = store.jobs.counts(generation.id)
            ended = counts.instances - counts.queued
            report("re-encoding", ended, max(counts.instances, 1), f"{counts.failed} failed" if counts.failed else "")
            if not counts.queued:
                return
            time.sleep(POLL_S)
    finally:
        pool.stop()


def _check(store: Store, generation: Generation) -> None:
    """Counts, then canaries: vectors of the new generation must find themselves in its index, first."""
    before = store.jobs.counts(_live(store).id)
    after = store.jobs.counts(generation.id)
    if before.indexed and not after.indexed:
        raise DicomNodeError(f"generation {generation.id} indexed nothing of {after.instances} instances; not swapped")
    store.vectors.refresh()
    projection = generation.model.projections[0]
    for region in store.regions.first(generation.id, CANARIES):
        vector = store.regions.vector(region.id, projection).astype(np.float32)
        request = SearchRequest(generation.id, projection, (region.anatomy,), vector, k=1)
        best = store.vectors.search(request).hits
        if not best or best[0].score < 0.999:
            raise DicomNodeError(f"generation {generation.id} does not find its own region {region.id}; not swapped")


def _swap(store: Store, config: Config, generation: Generation, report: Report) -> Generation:
    """Make it live. What arrived since the last look is encoded first."""
    while True:
        try:
            return store.generations.make_live(generation.id)
        except GenerationIncomplete:
            _build(store, config, generation, report)


def _drop_old(store: Store, keep: set[int]) -> None:
    for old in store.generations.all():
        if old.state in {"retired", "abandoned"} and old.id not in keep:
            log.info("generation %d is dropped", old.id)
            store.generations.delete(old.id)
