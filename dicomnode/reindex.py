"""Reindexing: the archive and a model in, a new live generation out, built beside the old one while that answers.

The generation's jobs are its cursor: killed at any point, the next run goes on where this one was. New instances get
a job in both generations from the receiver; the node's workers do those of the live one, this run's the others. The
swap is one row, made when every instance has ended, the result was verified and a running node is prepared for it.
"""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from dicomnode import calibration, models, progress
from dicomnode.canaries import Verification, verify
from dicomnode.errors import DecodeError, DicomNodeError, NotIndexable
from dicomnode.locks import Lock
from dicomnode.pace import parse
from dicomnode.pixels import decode
from dicomnode.settings import Config
from dicomnode.workers.indexer import IndexerPlan, features_of
from dicomnode.workers.pool import Pool
from encoder.errors import ImageError
from encoder.pipeline import Pipeline
from storage.errands import Errand
from storage.errors import GenerationGone, GenerationIncomplete
from storage.records import Generation, LocalFeatures, Unmapped
from storage.store import Store

log = logging.getLogger(__name__)
POLL_S = 0.2
REPORT_S = 0.5  # between two looks at how far it is
COUNTING = 9.0  # times as long as a look took is waited before the next: counting a large archive takes a while
NICENESS = 19  # nice(2): whatever else there is to do goes first
REBUILD_S = 3600.0
PREPARE_S = 120.0  # a node loads an index and a model
OLD = frozenset({"retired", "abandoned"})
Report = Callable[[str, int, int, str], None]


def plan(store: Store, config: Config, model: Path | None) -> dict[str, Any]:
    """What `run` would do, changing nothing. CheckpointError when it would refuse the model."""
    live = _live(store)
    if model:
        models.prove(model)
    building = store.generations.building()
    wanted = models.describe(model).id if model else live.model.id
    resumed = building if building and building.model.id == wanted else None
    counts = store.jobs.counts(live.id)
    return {
        "instances": counts.instances,
        "to_encode": store.jobs.counts(resumed.id).queued if resumed else counts.instances,
        "from_model": live.model.id,
        "to_model": wanted,
        "resumes_generation": resumed.id if resumed else None,
        "in_the_way": building.id if building and not resumed else None,
        "drops_generations": [each.id for each in store.generations.all() if each.state in OLD],
        "throttle": config.reindex.throttle,
        "schedule": config.reindex.schedule,
    }


def rebuild_index(store: Store, config: Config) -> dict[str, Any]:
    """Make the index of the live generation anew from the database; queries go on meanwhile.

    A running node that has its index in memory writes the files itself: it is asked to. DicomNodeError when it does
    not within REBUILD_S. One that the database holds is made anew here.
    """
    live = _live(store)
    if store.vectors.IS_SHARED:
        return {"generation": live.id, "vectors": store.vectors.rebuild(live.id)}
    if _is_served(config.root):
        _ask(store, "rebuild", REBUILD_S)
        return indexed_vectors(store)
    with Lock(config.root / "serve.lock", "a node"):
        return {"generation": live.id, "vectors": store.vectors.rebuild(live.id)}


def _is_served(root: Path) -> bool:
    try:
        with Lock(root / "serve.lock", "a node"):
            return False
    except DicomNodeError:
        return True


def _ask(store: Store, errand: Errand, patience_s: float) -> None:
    """Have the running node do something. DicomNodeError when it did not in time."""
    number = store.errands.ask(errand)
    deadline = time.monotonic() + patience_s
    while store.errands.done(errand) < number:
        if time.monotonic() > deadline:
            raise DicomNodeError(f"the running node did not {errand} its index within {patience_s:g} s: see its log")
        time.sleep(POLL_S)


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


def run(
    store: Store, config: Config, model: Path | None, report: Report, *, force: bool = False, ray: str = ""
) -> dict[str, Any]:
    """Build, check, swap, and drop what is older than the one kept for rollback.

    `force`: swap although the check refuses; `ray`: address of a cluster whose workers encode. Raises CheckpointError
    when the model is no good, ConfigError when its runtime or Ray cannot be had, DicomNodeError when another
    reindexing runs or the new generation is refused (it stays as it is), GenerationError when one of another model is
    under way.
    """
    models.check_runtime(config.models)
    with Lock(config.root / "reindex.lock", "a reindexing"):
        before = _live(store)
        folder = model or store.root / before.model.path
        models.prove(folder)  # before anything is copied or started: a model that is no good changes nothing
        _drop_old(store, keep={each.id for each in _retired(store)[-1:]}, spared=folder)  # what killed runs have left
        target = models.install(store, folder)
        generation = store.generations.start(target)
        store.jobs.retry(generation.id)  # what failed before this run may have been mended since
        with progress.Telling(store.root, generation.id) as telling:
            building = _Building(store, config, before, generation, report, telling)
            live, verified = building.build(_crew(store, config, generation, ray), force=force)
        _drop_old(store, keep={live.id, before.id})
        counts = store.jobs.counts(live.id)
        return {
            "generation": live.id,
            "model": live.model.id,
            "indexed": counts.indexed,
            "not_indexable": counts.not_indexable,
            "failed": counts.failed,
            "recall_at_10": verified.recall,
            "canaries": verified.queries,
            "forced": "; ".join(verified.refusals),
            "kept_for_rollback": before.id,
        }


def abandon(store: Store) -> dict[str, Any]:
    """Give up the generation that is being built."""
    building = store.generations.building()
    if building is None:
        raise DicomNodeError("no generation is being built")
    store.generations.abandon(building.id)
    _drop_old(store, keep={each.id for each in _retired(store)})
    return {"abandoned": building.id}


def roll_back(store: Store) -> dict[str, Any]:
    """Make the generation before the live one live again; GenerationError when instances came since."""
    retired = _retired(store)
    if not retired:
        raise DicomNodeError("no earlier generation is kept")
    live = store.generations.make_live(retired[-1].id)
    return {"generation": live.id, "model": live.model.id}


def _retired(store: Store) -> list[Generation]:
    """What may be gone back to, oldest first."""
    return [generation for generation in store.generations.all() if generation.state == "retired"]


def _live(store: Store) -> Generation:
    live = store.generations.live()
    if live is None:
        raise DicomNodeError("the archive has no live generation: start `dicomnode serve` on it once")
    return live


class Crew(Protocol):
    """Who encodes: `workers.pool.Pool`, or `cluster.RayCrew`."""

    def start(self) -> None:
        """Begin."""

    def check(self) -> None:
        """DicomNodeError when nothing more will come of it."""

    def stop(self) -> None:
        """Finish what is in hand, begin nothing new."""


def _crew(store: Store, config: Config, generation: Generation, ray: str) -> Crew:
    """Workers beside those of a node that may be running, which leave what is being built to these."""
    workers = max(1, config.ingest.workers)
    plan = IndexerPlan(
        config.root.resolve(),
        config.storage.url,
        f"reindex@{socket.gethostname()}",
        config.ingest,
        config.log,
        (generation.id,),
        config.models,
        parse(config.reindex.throttle, config.reindex.schedule, workers),
        NICENESS,
    )
    if not ray:
        return Pool(store, plan, workers)
    from dicomnode import cluster

    return cluster.RayCrew(store, plan, ray, workers)


class _Building:
    """One run's way from a building generation to a live one."""

    def __init__(
        self,
        store: Store,
        config: Config,
        before: Generation,
        generation: Generation,
        report: Report,
        telling: progress.Telling,
    ) -> None:
        self._store = store
        self._config = config
        self._before = before
        self._generation = generation
        self._report = report
        self._telling = telling
        self._pace = parse(config.reindex.throttle, config.reindex.schedule)
        self._reported = 0.0
        self._verified: Verification | None = None

    def build(self, crew: Crew, *, force: bool) -> tuple[Generation, Verification]:
        """Wait while the crew works, until it is live. What arrives meanwhile is encoded, too."""
        try:
            crew.start()
            while True:
                started = time.monotonic()
                crew.check()
                live = self._round(force)
                if live is not None:
                    assert self._verified is not None, "nothing goes live unverified"
                    return live, self._verified
                time.sleep(max(POLL_S, COUNTING * (time.monotonic() - started)))
        finally:
            crew.stop()

    def _round(self, force: bool) -> Generation | None:
        """Look once; the live generation when everything has ended and it was swapped."""
        counts = self._store.jobs.counts(self._generation.id)
        closed = self._pace.closed_s(datetime.now())
        self._telling.says("waiting" if closed else "encoding" if counts.queued else "verifying")
        self._draw(last=not counts.queued)
        if counts.queued or closed:
            return None
        if self._verified is None:
            self._verified = self._verify(force)
        with suppress(GenerationIncomplete):  # something arrived meanwhile: it is encoded first
            return self._store.generations.make_live(self._generation.id)
        return None

    def _draw(self, *, last: bool) -> None:
        """The bar, about twice a second."""
        if time.monotonic() - self._reported < REPORT_S and not last:
            return
        self._reported = time.monotonic()
        state = progress.of(self._store, self._generation)
        self._report("re-encoding", state.done, max(state.instances, 1), state.text)

    def _verify(self, force: bool) -> Verification:
        """Once a run: what arrives during it is encoded by the same model. DicomNodeError when it is refused."""
        found = verify(self._store, self._before, self._generation, self._config.reindex.least_recall, self._report)
        if found.refusals and not force:
            raise DicomNodeError(
                f"{'; '.join(found.refusals)}: not swapped; `reindex --force` swaps all the same, "
                f"`reindex --abandon` gives generation {self._generation.id} up"
            )
        calibration.calibrate(self._store, self._generation)
        if _is_served(self._config.root):
            try:
                _ask(self._store, "prepare", PREPARE_S)
            except DicomNodeError as error:
                log.warning("%s; the first questions after the swap wait for it", error)
        return found


def _drop_old(store: Store, keep: set[int], spared: Path | None = None) -> None:
    """Drop what has had its time, but `keep`; with its model, where no other generation has it and it is not spared."""
    for old in store.generations.all():
        if old.state in OLD and old.id not in keep:
            log.info("generation %d is dropped", old.id)
            with suppress(GenerationGone):  # by another command
                store.generations.delete(old.id)
            if spared is None or spared.resolve() != (store.root / old.model.path).resolve():
                models.remove(store, old.model)
