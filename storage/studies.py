"""Studies as wholes: which are complete, what they take on disk, and which would go first.

A study is complete when nothing has arrived for it for a stable age; one more instance makes it arriving again.
"""

from collections.abc import Callable, Iterator

from sqlalchemy import ColumnElement, Select, case, func, select, update

from storage.database import Database, counted
from storage.records import StudyCounts, StudyOrder, StudyShare
from storage.schema import INSTANCE, JOB, PATIENT, SERIES, STUDY

CHUNK = 500  # studies marked in one transaction, or measured in one statement

_PATIENT = (PATIENT.c.patient_id, PATIENT.c.patient_name)
_SIZES = (
    select(
        *(STUDY.c.study_instance_uid, func.count(INSTANCE.c.id), func.sum(INSTANCE.c.size), STUDY.c.last_received_at),
        *_PATIENT,
    )
    .select_from(PATIENT.join(STUDY).join(SERIES).join(INSTANCE))
    .group_by(STUDY.c.id, STUDY.c.study_instance_uid, STUDY.c.last_received_at, *_PATIENT)
)
_UNDATED = case((func.coalesce(STUDY.c.study_date, "") == "", 1), else_=0)
_ORDERS: dict[StudyOrder, tuple[ColumnElement[object], ...]] = {
    "received": (STUDY.c.last_received_at, STUDY.c.id),
    "study_date": (_UNDATED, STUDY.c.study_date, STUDY.c.last_received_at, STUDY.c.id),  # without a date: last
}


class Studies:
    """Completion, sizes and order of studies. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def settle(self, stable_age_s: float) -> list[str]:
        """Mark the studies that nothing has come to for `stable_age_s` seconds; their UIDs, each once a time."""
        quiet = (STUDY.c.completed_at.is_(None), STUDY.c.last_received_at <= self._clock() - stable_age_s)
        found = select(STUDY.c.id, STUDY.c.study_instance_uid).where(*quiet).order_by(STUDY.c.id).limit(CHUNK)
        with self._database.reading() as connection:
            if connection.execute(found).first() is None:
                return []  # what is mostly so takes no write lock
        mark = update(STUDY).where(STUDY.c.id.in_(found.with_only_columns(STUDY.c.id)), *quiet)
        marked = mark.values(completed_at=self._clock()).returning(STUDY.c.study_instance_uid)
        return sorted(self._database.write(lambda connection: list(connection.execute(marked).scalars())))

    def counts(self, stable_age_s: float) -> StudyCounts:
        """How many are complete and how many arriving, now."""
        arriving = STUDY.c.last_received_at > self._clock() - stable_age_s
        with self._database.reading() as connection:
            total = int(connection.execute(select(func.count()).select_from(STUDY)).scalar_one())
            n = int(connection.execute(select(func.count()).select_from(STUDY).where(arriving)).scalar_one())
        return StudyCounts(total - n, n)

    def size(self) -> int:
        """Bytes of all files, as received."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.coalesce(func.sum(INSTANCE.c.size), 0))).scalar_one())

    def expired(self) -> int:
        """How many studies retention has deleted since the archive began."""
        with self._database.reading() as connection:
            return counted(connection, "expired")

    def oldest(self, order: StudyOrder, quiet_s: float) -> Iterator[StudyShare]:
        """Studies that nothing has come to for `quiet_s` seconds and no worker has in hand, the first to go first.

        Read in chunks; one that went meanwhile is left out. Memory bound: one number a study.
        """
        now = self._clock()
        query = select(STUDY.c.id).where(STUDY.c.last_received_at <= now - quiet_s, STUDY.c.id.not_in(busy(now)))
        with self._database.reading() as connection:
            ids = list(connection.execute(query.order_by(*_ORDERS[order])).scalars())
        for start in range(0, len(ids), CHUNK):
            yield from self._shares(ids[start : start + CHUNK])

    def _shares(self, ids: list[int]) -> Iterator[StudyShare]:
        query = _SIZES.add_columns(STUDY.c.id).where(STUDY.c.id.in_(ids))
        with self._database.reading() as connection:
            found = {row[-1]: StudyShare(row[0], row[1], int(row[2]), *row[3:6]) for row in connection.execute(query)}
        return (found[study] for study in ids if study in found)


def busy(now: float) -> Select[int]:
    """SELECT of the row ids of studies that a worker has an instance of in hand."""
    held = (JOB.c.state == "running", JOB.c.lease_until >= now)
    return select(SERIES.c.study_row_id).select_from(JOB.join(INSTANCE).join(SERIES)).where(*held)
