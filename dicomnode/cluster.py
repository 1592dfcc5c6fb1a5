"""A Ray cluster in, its workers encoding or importing for one archive out: optional, see the extra `ray`.

Ray only starts, places and restarts processes. What is to be done is in the archive's job rows, as without Ray: a
worker claims under a lease and commits as any other, so one that dies costs a film's attempt, and results are the same.
Workers on other machines need the root under the same path, the database by URL, and the same version of the program.
"""

import logging
import os
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from dicomnode import log
from dicomnode.errors import ConfigError, DicomNodeError
from dicomnode.importing import Importer, Outcomes
from dicomnode.settings import Config, StorageSettings
from dicomnode.sources import Source
from dicomnode.workers import limits
from dicomnode.workers.indexer import Indexer, IndexerPlan
from storage.errors import StorageError
from storage.store import Store

logger = logging.getLogger(__name__)
LOCAL = "local"  # in place of an address: a cluster of its own on this machine, for as long as the command runs
TURN_S = 2.0  # a worker works so long before it says how far it is
IDLE_S = 1.0  # before a worker that found nothing looks again
START_S = 180.0  # until every worker has opened the archive and loaded the model
RETRIES = 3  # of a batch whose worker died
PATIENCE_S = (
    600.0  # for a worker that dies or fails again and again: films that kill it are failed one by one meanwhile
)
STOP_S = 30.0


def ray_module() -> Any:
    """Ray; ConfigError where it is not installed. Imported here alone: it takes a second and 60 MiB."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will do by itself in future
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed: pip install 'regionmir-dicomnode[ray]'") from error
    return ray


class Cluster:
    """A connection to a cluster. DicomNodeError when there is none at the address."""

    def __init__(self, address: str, workers: int) -> None:
        """`workers`: how many processes; of a cluster that runs, what it has CPUs for where that is less."""
        self.ray = ray_module()
        self._printed = redirect_stdout(sys.stderr)  # Ray prints what dies; standard output is the command's
        own = address == LOCAL
        where: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if own else {"address": address}
        try:
            self._printed.__enter__()
            self.ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self.close()
            raise DicomNodeError(f"no Ray cluster at {address}: {type(error).__name__}") from error
        cpus = int(self.ray.cluster_resources().get("CPU", 0))
        if not cpus:
            self.close()
            raise DicomNodeError(f"the Ray cluster at {address} has no CPUs")
        self.size = max(1, min(workers, cpus))

    def start(self, cls: type[Any], *settings: Any, retries: int) -> list[Any]:
        """`size` actors of a class, each told its number, ready. DicomNodeError when one cannot begin.

        `retries`: how often a call is made again by itself when its actor died.
        """
        kind = self.ray.remote(cls).options(num_cpus=1, max_restarts=-1, max_task_retries=retries)
        actors = [kind.remote(*settings, number) for number in range(self.size)]
        try:
            hosts = self.ray.get([actor.ready.remote() for actor in actors], timeout=START_S)
        except self.ray.exceptions.RayError as error:
            self.close()
            raise DicomNodeError(f"a Ray worker cannot begin: {_reason(error)}") from error
        logger.info("%d Ray workers on %d machines", len(actors), len(set(hosts)))
        return actors

    def close(self) -> None:
        """Let go of the cluster; one of its own ends."""
        self.ray.shutdown()
        self._printed.__exit__(None, None, None)


def _reason(error: BaseException) -> str:
    """The last line of what a remote failure says."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[-1]}"


def _opened(root: Path, url: str, attempts: int) -> Store:
    """The archive, which must be there. DicomNodeError where the root is not this machine's, too."""
    if not root.is_dir() or (not url and not Store.is_at(root)):
        raise DicomNodeError(f"no archive at {root} on {os.uname().nodename}: every Ray worker needs the same root")
    return Store.open(root, url or None, max_attempts=attempts)


def _check_shared(url: str, driver: str) -> None:
    if not url and os.uname().nodename != driver:
        raise DicomNodeError("SQLite's file cannot be shared by machines: give the archive a database by storage.url")


# --- encoding -------------------------------------------------------------------------------------------------------


class Encoder:
    """An actor: an indexer with a model of its own."""

    def __init__(self, plan: IndexerPlan, driver: str, number: int) -> None:
        _check_shared(plan.url, driver)
        log.configure(plan.log.level, plan.log.format)
        limits.without_core_dumps()
        os.nice(plan.niceness)
        self._plan = replace(plan, owner=f"{plan.owner}/{number}/{secrets.token_hex(4)}")
        self._store = _opened(plan.root, plan.url, plan.ingest.maximum_attempts)
        loading = partial(limits.lifted, plan.ingest.maximum_memory_mib, plan.models.device)
        self._indexer = Indexer(self._store, self._plan, loading)

    def ready(self) -> str:
        """The machine's name, when the model is loaded."""
        self._indexer.warm()
        return os.uname().nodename

    def work(self) -> float:
        """Do jobs for a turn, at the plan's pace; how many seconds the next turn is to be put off."""
        end = time.monotonic() + TURN_S
        while (started := time.monotonic()) < end:
            if self._plan.pace.closed_s(datetime.now()) or not self._indexer.step():
                return IDLE_S
            rest_s = self._plan.pace.pause_s(time.monotonic() - started)
            if rest_s > end - time.monotonic():
                return rest_s
            time.sleep(rest_s)
        return 0.0


class RayCrew:
    """What `workers.pool.Pool` is, on a cluster: who encodes one generation."""

    def __init__(self, store: Store, plan: IndexerPlan, address: str, workers: int) -> None:
        self._store = store
        self._plan = replace(plan, owner=f"{plan.owner}(ray)")
        self._address = address
        self._workers = workers
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._drive, name="ray-crew", daemon=True)
        self._failure: DicomNodeError | None = None

    def start(self) -> None:
        """Connect, have every worker load the model, begin. ConfigError, DicomNodeError."""
        self._cluster = Cluster(self._address, self._workers)
        plan = replace(self._plan, pace=replace(self._plan.pace, workers=self._cluster.size))
        self._store.jobs.release(f"{plan.owner}/", counts=False)
        self._actors = self._cluster.start(Encoder, plan, os.uname().nodename, retries=0)
        self._thread.start()

    def check(self) -> None:
        """DicomNodeError when the cluster is lost or its workers only fail."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begin nothing new, wait for a turn, release what is left."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        cluster = getattr(self, "_cluster", None)
        if cluster is not None:
            cluster.close()
        self._store.jobs.release(f"{self._plan.owner}/", counts=False)

    def _drive(self) -> None:
        try:
            self._turns()
        except Exception as error:  # noqa: BLE001 - the thread's boundary: the command is told
            self._failure = error if isinstance(error, DicomNodeError) else DicomNodeError(f"Ray: {_reason(error)}")

    def _turns(self) -> None:
        """Every worker in turn after turn; one that died is restarted by Ray and what it had is released."""
        ray = self._cluster.ray
        due = dict.fromkeys(range(len(self._actors)), 0.0)  # worker -> when its next turn begins
        turns: dict[Any, int] = {}
        worked = dict.fromkeys(due, time.monotonic())  # when its latest turn was one without failure
        failing: set[int] = set()
        while not self._stopping.is_set() or turns:
            for number in [each for each, when in due.items() if when <= time.monotonic()]:
                if not self._stopping.is_set():
                    turns[self._actors[number].work.remote()] = number
                del due[number]
            if not turns:
                time.sleep(0.05)
            done, _ = ray.wait(list(turns), timeout=0.2) if turns else ([], [])
            for turn in done:
                number = turns.pop(turn)
                wait_s, failure = self._turn_of(turn, number)
                due[number] = time.monotonic() + wait_s
                if failure and number not in failing:
                    logger.warning("Ray worker %d ended or failed and is asked again: %s", number, failure)
                    failing.add(number)
                if not failure:
                    worked[number] = time.monotonic()
                    failing.discard(number)
                elif time.monotonic() - worked[number] > PATIENCE_S:
                    raise DicomNodeError(f"Ray worker {number} fails again and again: {failure}")

    def _turn_of(self, turn: Any, number: int) -> tuple[float, str]:
        """How long the worker waits for its next turn, and why this one failed."""
        exceptions = self._cluster.ray.exceptions
        try:
            return float(self._cluster.ray.get(turn)), ""
        except exceptions.RayActorError as error:
            self._store.jobs.release(f"{self._plan.owner}/{number}/")
            return IDLE_S, _reason(error)
        except exceptions.RayTaskError as error:
            return IDLE_S, _reason(error)


# --- importing ------------------------------------------------------------------------------------------------------


class Taker:
    """An actor: takes files in that it sees under the same paths as the command."""

    def __init__(self, root: Path, storage: StorageSettings, driver: str, number: int) -> None:
        _check_shared(storage.url, driver)
        self._number = number
        self._importer = Importer(_opened(root, storage.url, 1), storage)

    def ready(self) -> str:
        """The machine's name."""
        return os.uname().nodename

    def take(self, sources: list[Source]) -> Outcomes:
        """As `Importer.batch`."""
        return self._importer.batch(sources)


class RayTakers:
    """What `importing.Threads` is, on a cluster."""

    def __init__(self, config: Config, address: str, workers: int) -> None:
        self._cluster = Cluster(address, workers)
        root = config.root.resolve()
        self._actors = self._cluster.start(Taker, root, config.storage, os.uname().nodename, retries=RETRIES)

    def take(self, batches: Iterable[list[Source]]) -> Iterator[Outcomes]:
        """The batch of a worker that died is handed to it again: what it had taken in is known. StorageFull."""
        ray = self._cluster.ray
        rest = iter(batches)
        free = deque(self._actors * 2)  # one batch in hand, one waiting
        running: dict[Any, Any] = {}
        while True:
            while free and (batch := next(rest, None)) is not None:
                actor = free.popleft()
                running[actor.take.remote(batch)] = actor
            if not running:
                return
            done, _ = ray.wait(list(running))
            for task in done:
                free.append(running.pop(task))
                yield self._outcomes(task)

    def _outcomes(self, task: Any) -> Outcomes:
        exceptions = self._cluster.ray.exceptions
        try:
            return list(self._cluster.ray.get(task))
        except exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, StorageError) else DicomNodeError(f"Ray: {_reason(error)}") from error
        except exceptions.RayActorError as error:
            raise DicomNodeError(f"a Ray worker died of some files {RETRIES + 1} times: import them apart") from error

    def close(self) -> None:
        """Let go of the cluster."""
        self._cluster.close()
