"""Reindexing: the archive and a model in, a new live generation out, built beside the old one while that answers.

The generation's jobs are its cursor: killed at any point, the next run goes on where this one was. New instances get
a job in both generations from the receiver. The swap is one row, made only when every instance has ended.
"""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dicomnode import calibration, models
from dicomnode.config import Config
from dicomnode.errors import DecodeError, DicomNodeError, NotIndexable
from dicomnode.node import Lock
from dicomnode.pixels import decode
from dicomnode.workers.indexer import IndexerPlan, features_of
from dicomnode.workers.pool import Pool
from encoder.errors import ImageError
from encoder.pipeline import Pipeline
from storage.errors import GenerationIncomplete, VectorError
from storage.records import Generation, LocalFeatures, Region, SearchRequest, Unmapped
from storage.store import Store

log = logging.getLogger(__name__)
POLL_S = 0.2
LEAST_SHARE = 0.9  # of the instances that the live generation indexed
CANARIES = 8  # vectors of the new generation that must find themselves before it goes live
Report = Callable[[str, int, int, str], None]


def plan(store: Store, model: Path | None) -> dict[str, Any]:
    """What `run` would do, changing nothing. CheckpointError when it would refuse the model."""
    live = _live(store)
    if model:
        models.prove(model)
    building = store.generations.building()
    wanted = models.describe(model).id if model else live.model.id
    return {
        "instances": store.jobs.counts(live.id).instances,
        "from_model": live.model.id,
        "to_model": wanted,
        "resumes_generation": building.id if building and building.model.id == wanted else None,
    }


def rebuild_index(store: Store, config: Config) -> dict[str, Any]:
    """Make every index file of the live generation anew from the database. DicomNodeError while a node runs on it.

    A running node has its index in memory and writes these files itself.
    """
    live = _live(store)
    with Lock(config.root / "serve.lock", "a node"):
        return {"generation": live.id, "vectors": store.vectors.rebuild(live.id)}


def add_features(store: Store, config: Config, report: Report) -> dict[str, Any]:
    """Give the live generation the local features that it lacks: of what was indexed before there were any.

    Regions and vectors stay. Goes on where it was stopped, beside a running node. DicomNodeError when the live model
    makes none, or is another than the generation's.
    """
    with Lock(config.root / "reindex.lock", "a reindexing"):
        live = _live(store)
        missing = store.local_maps.count_missing(live.id)
        pipeline = _pipeline(store, config, live) if missing else None
        added = failed = after = 0
        while pipeline is not None and (films := store.local_maps.missing(live.id, after)):
            for film in films:
                features = _features(store, config, pipeline, film)
                if features is not None and store.local_maps.add(live.id, film, features):
                    added += 1
                else:
                    failed += 1  # damaged since, or replaced just now: then its new job makes them
                report("local features", added + failed, missing, f"{failed} failed" if failed else "")
            after = films[-1].instance_id
        return {"generation": live.id, "added": added, "failed": failed}


def measure_thresholds(store: Store) -> dict[str, Any]:
    """Measure again from which distance an ROI is unlike the archive, in the live generation."""
    return calibration.calibrate(store, _live(store))


def measured_thresholds(store: Store) -> dict[str, Any]:
    """What `measure_thresholds` would go by, changing nothing: the images there are, and those of the last time."""
    live = _live(store)
    images = len(store.regions.instances(live.id))
    return {"generation": live.id, "images": images, "measured_on": live.model.thresholds.get(calibration.IMAGES, 0)}


def missing_features(store: Store) -> dict[str, Any]:
    """What `add_features` would do, changing nothing."""
    live = _live(store)
    return {"generation": live.id, "missing": store.local_maps.count_missing(live.id)}


def _pipeline(store: Store, config: Config, live: Generation) -> Pipeline:
    pipeline = Pipeline.load(
        store.root / live.model.path, config.models.device, config.ingest.threads, config.models.runtime
    )
    if pipeline.card.model_id != live.model.id:
        raise DicomNodeError(f"{live.model.path} holds model {pipeline.card.model_id}, not {live.model.id}")
    return pipeline


def _features(store: Store, config: Config, pipeline: Pipeline, film: Unmapped) -> LocalFeatures | None:
    """None when the film cannot be read any more."""
    try:
        image = decode.film(store.files.path(film.path), decode.Policy.of(config.ingest))
        features = features_of(pipeline.analyse(image.pixels, image.spacing_mm).local)
    except (DecodeError, NotIndexable, ImageError) as error:
        log.warning("no local features of instance %d: %s", film.instance_id, error)
        return None
    if features is None:
        raise DicomNodeError(f"model {pipeline.card.model_id} makes no local features")
    return features


def indexed_vectors(store: Store) -> dict[str, Any]:
    """What `rebuild_index` would do, changing nothing."""
    live = _live(store)
    return {"generation": live.id, "vectors": store.regions.count(live.id) * len(live.model.projections)}


def run(store: Store, config: Config, model: Path | None, report: Report) -> dict[str, Any]:
    """Build, check, swap, and drop what is older than the one kept for rollback.

    Raises CheckpointError when the model is no good, ConfigError when its runtime cannot be had, DicomNodeError when
    another reindexing runs or the new generation is no good (it is then abandoned), GenerationError when one of another
    model is under way.
    """
    models.check_runtime(config.models)
    with Lock(config.root / "reindex.lock", "a reindexing"):
        before = _live(store)
        folder = model or store.root / before.model.path
        models.prove(folder)  # before anything is copied or started: a model that is no good changes nothing
        target = models.install(store, folder)
        generation = store.generations.start(target)
        live = _build(store, config, generation, report)
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


def abandon(store: Store) -> dict[str, Any]:
    """Give up the generation that is being built."""
    building = store.generations.building()
    if building is None:
        raise DicomNodeError("no generation is being built")
    store.generations.abandon(building.id)
    store.generations.delete(building.id)
    return {"abandoned": building.id}


def roll_back(store: Store) -> dict[str, Any]:
    """Make the generation before the live one live again; GenerationError when instances came since."""
    retired = [generation for generation in store.generations.all() if generation.state == "retired"]
    if not retired:
        raise DicomNodeError("no earlier generation is kept")
    live = store.generations.make_live(retired[-1].id)
    return {"generation": live.id, "model": live.model.id}


def _live(store: Store) -> Generation:
    live = store.generations.live()
    if live is None:
        raise DicomNodeError("the archive has no live generation: start `dicomnode serve` on it once")
    return live


def _build(store: Store, config: Config, generation: Generation, report: Report) -> Generation:
    """Workers of its own, beside those of a node that may be running, until it is live."""
    owner = f"reindex@{socket.gethostname()}"
    plan = IndexerPlan(
        config.root, config.storage.url, owner, config.ingest, config.log, (generation.id,), config.models
    )
    pool = Pool(store, plan, max(1, config.ingest.workers))
    pool.start()
    try:
        while True:
            counts = store.jobs.counts(generation.id)
            ended = counts.instances - counts.queued
            report("re-encoding", ended, max(counts.instances, 1), f"{counts.failed} failed" if counts.failed else "")
            if not counts.queued:
                _check(store, generation)
                calibration.calibrate(store, generation)
                with suppress(GenerationIncomplete):  # something arrived meanwhile: it is encoded first
                    return store.generations.make_live(generation.id)
            time.sleep(POLL_S)
    finally:
        pool.stop()


def _check(store: Store, generation: Generation) -> None:
    """Counts, then canaries. What does not pass is abandoned, so that the next try starts anew."""
    try:
        _compare_counts(store, generation)
        _ask_canaries(store, generation)
    except DicomNodeError:
        abandon(store)
        raise


def _compare_counts(store: Store, generation: Generation) -> None:
    before = store.jobs.counts(_live(store).id).indexed
    after = store.jobs.counts(generation.id).indexed
    if after < LEAST_SHARE * before:
        raise DicomNodeError(f"the new generation indexed {after} instances, the live one {before}; not swapped")


def _ask_canaries(store: Store, generation: Generation) -> None:
    """Vectors of the new generation must find themselves in its index, first."""
    projection = generation.model.projections[0]
    for region in store.regions.first(generation.id, CANARIES):
        if not _finds_itself(store, generation, projection, region) and store.regions.details([region.id]):
            raise DicomNodeError(f"the new generation does not find its own region {region.id}; not swapped")


def _finds_itself(store: Store, generation: Generation, projection: str, region: Region) -> bool:
    """False too when the region was deleted just now."""
    try:
        vector = store.regions.vector(region.id, projection).astype(np.float32)
    except VectorError:
        return False
    request = SearchRequest(generation.id, projection, (region.anatomy,), vector, k=1)
    best = store.vectors.search(request).hits
    return bool(best) and best[0].score >= 0.999


def _drop_old(store: Store, keep: set[int]) -> None:
    for old in store.generations.all():
        if old.state in {"retired", "abandoned"} and old.id not in keep:
            log.info("generation %d is dropped", old.id)
            store.generations.delete(old.id)
            models.remove(store, old.model)
