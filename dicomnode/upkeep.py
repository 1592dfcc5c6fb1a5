"""Time and settings in; studies found complete, and studies gone that the archive may not keep, out.

Age takes the studies that nothing has come to for the longest; then the quota takes as many as it must, in its order.
A study that is still arriving, or that a worker has in hand, stays: the next round looks again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

from dicomnode import log
from dicomnode.audit.auditor import Auditor, silent
from dicomnode.errors import DicomNodeError
from dicomnode.locks import Lock
from dicomnode.settings import RetentionSettings, StorageSettings
from storage.records import StudyShare
from storage.store import SWEEP_AGE_S, Store

logger = logging.getLogger(__name__)
IMPORTING = "import.lock"  # under the root, held by who takes files in without the node
ROUND_S = 2.0  # how often the keeper looks for studies that have become complete
RETAIN_EVERY = 30  # rounds between looks at age and quota; whenever a study becomes complete, too
STOP_S = 10.0  # one study's deletion takes less
JUMP_S = 5.0  # a clock that moved by so much more or less than time did was set
LEAP_S = 3600.0  # set forward by so much, nothing is old by that clock: it may be wrong
GIB, DAY_S = 1 << 30, 86_400.0


def sweep(store: Store, age_s: float) -> None:
    """Remove what earlier processes left, but for what an import may be writing. StorageError."""
    with ExitStack() as locks:
        try:
            locks.enter_context(Lock(store.root / IMPORTING, "an import"))
        except DicomNodeError:
            age_s = SWEEP_AGE_S
        removed = store.sweep(age_s)
    if removed:
        logger.info("%d left-over files of an earlier run removed", removed)


@dataclass(frozen=True)
class Due:
    """A study that retention takes, and why."""

    study: StudyShare
    reason: Literal["age", "quota"]


class Wall:
    """The clock that people set, watched by one that nobody can set."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._apart = wall() - steady()

    def jumped(self) -> float:
        """Seconds that it was set forward since the last look; negative: back; 0 when it was not set."""
        before, self._apart = self._apart, self._wall() - self._steady()
        moved = self._apart - before
        return moved if abs(moved) >= JUMP_S else 0.0


def due(store: Store, retention: RetentionSettings, stable_age_s: float) -> Iterator[Due]:
    """What retention would take now, in that order."""
    excess = store.studies.size() - retention.maximum_gib * GIB if retention.maximum_gib else 0.0
    taken: set[str] = set()
    if retention.maximum_age_days:
        for study in store.studies.oldest("received", max(stable_age_s, retention.maximum_age_days * DAY_S)):
            taken.add(study.study_instance_uid)
            excess -= study.size
            yield Due(study, "age")
    if excess <= 0:
        return
    for study in store.studies.oldest("study_date" if retention.order == "study_date" else "received", stable_age_s):
        if study.study_instance_uid not in taken:
            excess -= study.size
            yield Due(study, "quota")
        if excess <= 0:
            return


def expire(store: Store, retention: RetentionSettings, stable_age_s: float) -> Iterator[Due]:
    """Delete what is due, study by study; each that went. StorageError."""
    for each in due(store, retention, stable_age_s):
        gone = store.deletion.expire(each.study, stable_age_s)
        if gone is not None:
            yield replace(each, study=gone)


def excess(store: Store, retention: RetentionSettings) -> int:
    """Bytes above the quota; 0 without one."""
    return max(0, store.studies.size() - int(retention.maximum_gib * GIB)) if retention.maximum_gib else 0


class Keeper:
    """A thread that tells complete studies and applies retention while the node serves."""

    def __init__(
        self,
        store: Store,
        storage: StorageSettings,
        retention: RetentionSettings,
        auditor: Auditor | None = None,
        wall: Wall | None = None,
    ) -> None:
        self._store = store
        self._auditor = auditor or silent()
        self._wall = wall or Wall()
        self._stable_age_s = storage.stable_age_s
        self._retention = retention
        self._stopping = threading.Event()
        self._rounds = 0
        self._over = False  # whether it was said that the quota cannot be met
        self._thread = threading.Thread(target=self._run, name="archive-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the study in hand."""
        self._stopping.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.wait(ROUND_S):
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - upkeep goes on: a full disk or a lost server comes back
                logger.error("upkeep failed, the next round tries again: %s", log.frames(error))

    def round(self) -> None:
        """Look once: tell what has become complete, and apply retention when it is time."""
        self._follow(self._wall.jumped())
        complete = self._store.studies.settle(self._stable_age_s)
        for uid in complete:
            logger.info("study complete: %s", uid)
        if complete or self._rounds % RETAIN_EVERY == 0:
            self._retain()
        self._rounds += 1

    def _follow(self, jump_s: float) -> None:
        """What a clock that was set does to work and to age.

        Back: what was due soon would wait as long again. Forward: studies would be old that are not.
        """
        if jump_s:
            logger.warning("the clock was set by %+.0f s", jump_s)
        if jump_s < 0:
            self._store.hasten()
        if jump_s > LEAP_S and self._retention.maximum_age_days:
            logger.warning("retention by age rests until the next start: the clock may be wrong")
            self._retention = replace(self._retention, maximum_age_days=0.0)

    def _retain(self) -> None:
        for gone in expire(self._store, self._retention, self._stable_age_s):
            study = gone.study
            told = (gone.reason, study.study_instance_uid, study.instances, study.size)
            logger.info("retention by %s: study %s deleted, %d instances, %d bytes", *told)
            self._auditor.deleted(None, study, whole=True)
            if self._stopping.is_set():
                return
        over = excess(self._store, self._retention)
        if over and not self._over:
            logger.warning("%d bytes over the quota, and every study is arriving or in a worker's hands", over)
        self._over = over > 0
