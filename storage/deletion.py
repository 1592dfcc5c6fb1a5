"""Conditions in, instances gone: their rows in one transaction, their files after it.

Jobs go first, so that a worker with one in hand loses it; then regions with their vectors and local maps, logged for
every index to follow; then the instance, and what is empty above it. Killed before the commit, everything is still
there; after it, nothing but files that no row names, which a sweep removes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection, delete, func, select

from storage.arrivals import prune
from storage.database import Database, advance
from storage.files import Files
from storage.matching import LEVELS, joined, where
from storage.questions import forget
from storage.records import Condition, Equals, StudyShare
from storage.regions import delete_regions
from storage.schema import INSTANCE, JOB, PATIENT, STUDY
from storage.studies import busy

_Gone = tuple[str, int]  # path and size of a file that no row names any more
BATCH = 100  # instances in one transaction: a study of more goes in several, and the receiver waits for none long


class Deletion:
    """Takes instances out of the archive. Safe for threads and processes, beside a node that serves.

    Memory bound: the row ids of one study.
    """

    def __init__(self, database: Database, files: Files, clock: Callable[[], float]) -> None:
        self._database = database
        self._files = files
        self._clock = clock

    def plan(self, conditions: Sequence[Condition]) -> list[StudyShare]:
        """What `delete` would delete, by Study Instance UID. ValueError without a condition: not everything."""
        uid, last = STUDY.c.study_instance_uid, STUDY.c.last_received_at
        patient = (PATIENT.c.patient_id, PATIENT.c.patient_name)
        query = (
            select(uid, func.count(INSTANCE.c.id), func.sum(INSTANCE.c.size), last, *patient)
            .select_from(joined(LEVELS))
            .where(*where("IMAGE", _some(conditions)))
            .group_by(uid, last, *patient)
            .order_by(uid)
        )
        with self._database.reading() as connection:
            return [StudyShare(study, n, int(size), *rest) for study, n, size, *rest in connection.execute(query)]

    def delete(self, conditions: Sequence[Condition]) -> Iterator[StudyShare]:
        """Delete every instance that meets the conditions, study after study; what went of each. StorageError."""
        for share in self.plan(conditions):
            ids = self._ids([*conditions, Equals("study_instance_uid", share.study_instance_uid)])
            gone = [size for chunk in _chunks(ids) for size in self._write(partial(_delete, self._database, ids=chunk))]
            yield replace(share, instances=len(gone), size=sum(gone))

    def expire(self, share: StudyShare, stable_age_s: float) -> StudyShare | None:
        """Delete a whole study for retention; None when it is no longer as it was: complete, in no worker's hands."""

        def first(connection: Connection, ids: Sequence[int]) -> list[_Gone]:
            if not _unchanged(connection, share, stable_age_s, self._clock()):
                return []
            advance(connection, "expired", 1)
            return _delete(self._database, connection, ids)

        ids = self._ids([Equals("study_instance_uid", share.study_instance_uid)])
        gone = self._write(partial(first, ids=ids[:BATCH]))
        if not gone:
            return None
        for chunk in _chunks(ids[BATCH:]):  # begun is done: half a study is nobody's
            gone += self._write(partial(_delete, self._database, ids=chunk))
        return replace(share, instances=len(gone), size=sum(gone))

    def _ids(self, conditions: Iterable[Condition]) -> list[int]:
        query = select(INSTANCE.c.id).select_from(joined(LEVELS)).where(*where("IMAGE", conditions))
        with self._database.reading() as connection:
            return list(connection.execute(query.order_by(INSTANCE.c.id)).scalars())

    def _write(self, work: Callable[[Connection], list[_Gone]]) -> list[int]:
        """Run one transaction, then remove the files that it left without a row; their sizes."""
        rows = self._database.write(work)
        for path, _ in rows:
            self._files.remove(path)
        return [size for _, size in rows]


def _some(conditions: Sequence[Condition]) -> Sequence[Condition]:
    if not conditions:
        raise ValueError("a deletion without a condition would take everything")
    return conditions


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _unchanged(connection: Connection, share: StudyShare, stable_age_s: float, now: float) -> bool:
    """Whether a study is complete, in no worker's hands, and the one that was looked at; held so from now on."""
    query = (
        select(STUDY.c.id)
        .where(STUDY.c.study_instance_uid == share.study_instance_uid)
        .where(STUDY.c.last_received_at == share.last_received_at)
        .where(STUDY.c.last_received_at <= now - stable_age_s)
        .where(STUDY.c.id.not_in(busy(now)))
    )
    return connection.execute(query.with_for_update()).first() is not None


def _delete(database: Database, connection: Connection, ids: Sequence[int]) -> list[_Gone]:
    """Delete the rows of these instances, as far as they are still there, and what is left empty above them."""
    database.share(connection, "generation")  # no generation starts meanwhile and owes them jobs
    connection.execute(delete(JOB).where(JOB.c.instance_id.in_(ids)))
    for instance_id in ids:
        delete_regions(connection, instance_id)
    columns = (INSTANCE.c.path, INSTANCE.c.size, INSTANCE.c.series_row_id, INSTANCE.c.sop_instance_uid)
    gone = connection.execute(delete(INSTANCE).where(INSTANCE.c.id.in_(ids)).returning(*columns)).all()
    forget(connection, [row.sop_instance_uid for row in gone])
    for series in sorted({row.series_row_id for row in gone}):
        prune(connection, series)
    return [(row.path, row.size) for row in gone]
