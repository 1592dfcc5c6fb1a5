"""One worker process: jobs in, each ended as indexed, not indexable or failed (invariant 2).

It claims a job, decodes the instance, detects and encodes its regions in one pass, and commits regions, vectors, local
features and the job's end in one transaction. Run as `python -m dicomnode.workers.indexer FD` by `workers.pool`.
"""

import faulthandler
import logging
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from dicomnode import log
from dicomnode.errors import DecodeError, NotIndexable
from dicomnode.pace import Pace
from dicomnode.pixels import decode
from dicomnode.settings import IngestSettings, LogSettings, ModelSettings
from dicomnode.workers import child, limits
from encoder.errors import ImageError
from encoder.local import LocalMap
from encoder.pipeline import Pipeline
from storage.errors import DatabaseAway, FileError, LeaseLost, StorageFull
from storage.records import Generation, Job, LocalFeatures, NewRegion
from storage.store import Store

logger = logging.getLogger(__name__)
IDLE_S = 1.0  # a worker nobody wakes looks for work this often: retries come due, other machines add jobs
OVER_MEMORY = "needs more memory than ingest.maximum_memory_mib"
AGAIN_S = 2.0  # between tries to write an end that the storage does not take
AWAY = (DatabaseAway, FileError, StorageFull)  # what no film is to blame for
ALWAYS = Pace()
HANGS = 0.9  # of the lease: the process ends itself before another worker takes the job


@dataclass(frozen=True)
class IndexerPlan:
    """What a worker is told: where the store is, under which name it leases, and which generations it serves."""

    root: Path
    url: str
    owner: str
    ingest: IngestSettings
    log: LogSettings
    generations: tuple[int, ...] | Literal["live"] = "live"
    models: ModelSettings = field(default_factory=ModelSettings)
    pace: Pace = field(default_factory=Pace)
    niceness: int = 0  # nice(2): queries before ingest before reindexing


def _waited(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class Indexer:
    """Turns instances into regions and vectors, with one loaded pipeline for each model in use."""

    def __init__(
        self,
        store: Store,
        plan: IndexerPlan,
        loading: limits.Loading = nullcontext,
        wait: Callable[[float], bool] = _waited,
    ) -> None:
        """`loading`: what a model is loaded in; the process gives one that limits its memory afterwards.

        `wait`: waits for so many seconds; true when the worker is to end.
        """
        self._store = store
        self._wait = wait
        self._loading = loading
        self._plan = plan
        self._policy = decode.Policy.of(plan.ingest)
        self._pipelines: dict[str, Pipeline] = {}
        self._latest: int | None = None  # the instance of the job before: what is of its study comes next

    def warm(self) -> None:
        """Load a model before the first job asks for it: of the generation it serves, the live one by default."""
        generations = self._store.generations
        wanted = self._plan.generations
        chosen = generations.live() if wanted == "live" or not wanted else generations.get(wanted[0])
        if chosen is not None:
            self._pipeline(chosen)

    def step(self) -> bool:
        """Do one job if one is due. Returns whether there was one, and the storage let it be done."""
        plan = self._plan
        try:
            jobs = self._store.jobs.claim(plan.owner, plan.ingest.lease_s, 1, plan.generations, self._latest)
        except AWAY as error:
            logger.warning("no job can be had, the next look tries again: %s", log.frames(error))
            return False
        done = [self._do(job) for job in jobs]
        self._latest = jobs[-1].instance_id if jobs else self._latest
        return bool(done) and all(done)

    def _do(self, job: Job) -> bool:
        """One job from claim to end. A film that hangs a codec ends this process before its lease does."""
        faulthandler.dump_traceback_later(self._plan.ingest.lease_s * HANGS, exit=True)
        try:
            ending = self._ending(job)
            is_done = True
        except AWAY as error:
            logger.warning("job %s is handed back: %s", job.id, log.frames(error))
            ending, is_done = partial(self._store.jobs.release, job.owner, counts=False), False
        finally:
            faulthandler.cancel_dump_traceback_later()
        return self._end(job, ending) and is_done

    def _end(self, job: Job, ending: Callable[[], object]) -> bool:
        """Write the end; a storage that does not take it is given time, as long as the job is leased."""
        until = time.monotonic() + self._plan.ingest.lease_s
        while True:
            try:
                ending()
                return True
            except LeaseLost:
                told = "job %s is no longer this worker's: the film was replaced or deleted, or took too long"
                logger.warning(told, job.id)
                return True
            except AWAY as error:
                logger.warning("the end of job %s cannot be written yet: %s", job.id, log.frames(error))
            if self._wait(AGAIN_S) or time.monotonic() > until:
                return False

    def _ending(self, job: Job) -> Callable[[], object]:
        """What is to be done with the job, decided and not yet written."""
        jobs = self._store.jobs
        try:
            regions, local = self._found(job)
        except NotIndexable as error:
            return partial(jobs.not_indexable, job, str(error))
        except ImageError:
            return partial(jobs.not_indexable, job, str(NotIndexable(decode.Reason.NO_CONTRAST)))
        except AWAY:
            raise
        except DecodeError as error:
            if isinstance(error.__cause__, OSError) and not self._store.files.is_there():
                raise FileError("root folder: not the one that was opened") from error
            # The same bytes fail the same way; a disk that failed may be better next time.
            reason = OVER_MEMORY if isinstance(error.__cause__, MemoryError) else str(error)
            return partial(jobs.fail, job, reason, retry=isinstance(error.__cause__, OSError))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this film's, and is counted
            logger.error("job %s failed: %s", job.id, log.frames(error))
            return partial(jobs.fail, job, f"{type(error).__name__} while indexing: see the log", retry=True)
        return partial(jobs.finish, job, regions, local)

    def _found(self, job: Job) -> tuple[list[NewRegion], LocalFeatures | None]:
        """Raises NotIndexable, DecodeError, ImageError, and whatever a model does."""
        pipeline = self._pipeline(self._store.generations.get(job.generation_id))  # first: it sets the memory limit
        image = decode.film(self._store.files.path(job.path), self._policy)
        analysis = pipeline.analyse(image.pixels, image.spacing_mm)
        if not analysis.regions:
            raise NotIndexable(decode.Reason.NO_REGION)
        regions = [
            NewRegion(
                anatomy=region.anatomy,
                box=(region.box.x1, region.box.y1, region.box.x2, region.box.y2),
                presence=region.presence,
                vectors={name: rows[number] for name, rows in analysis.vectors.items()},
            )
            for number, region in enumerate(analysis.regions)
        ]
        return regions, features_of(analysis.local)

    def _pipeline(self, generation: Generation) -> Pipeline:
        if generation.model.id not in self._pipelines:
            folder = self._store.root / generation.model.path
            plan = self._plan
            with self._loading():
                self._pipelines[generation.model.id] = Pipeline.load(
                    folder, plan.models.device, plan.ingest.threads, plan.models.runtime
                )
        return self._pipelines[generation.model.id]


def features_of(local: LocalMap | None) -> LocalFeatures | None:
    """An image's local map as it is kept."""
    return (
        None
        if local is None
        else LocalFeatures(local.features, (local.area.x1, local.area.y1, local.area.x2, local.area.y2))
    )


def run(step: Callable[[], bool], connection: Connection, pace: Pace = ALWAYS) -> None:
    """Step while there is work, a parent, and it is time; sleep between, until woken."""
    while not child.parent_gone(connection, 0.0):
        started = time.monotonic()
        worked = not pace.closed_s(datetime.now()) and step()
        rest_s = pace.pause_s(time.monotonic() - started) if worked else IDLE_S
        if rest_s and child.parent_gone(connection, rest_s):
            return


def main() -> None:
    """The process: plan from the lifeline, store opened, jobs done until the parent hangs up."""
    connection, plan = child.lifeline()
    log.configure(plan.log.level, plan.log.format)
    os.nice(plan.niceness)
    store = Store.open(plan.root, plan.url or None, max_attempts=plan.ingest.maximum_attempts, new=False)
    try:
        lifted = partial(limits.lifted, plan.ingest.maximum_memory_mib, plan.models.device)
        indexer = Indexer(store, plan, lifted, partial(child.parent_gone, connection))
        indexer.warm()
        run(indexer.step, connection, plan.pace)
    finally:
        store.close()


if __name__ == "__main__":
    main()
