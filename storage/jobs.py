"""Work owed to instances: claimed under a lease, ended exactly once, given back when its holder dies.

queued -> running -> indexed | not_indexable | failed. A running job whose lease has run out, or that failed and may be
tried again, is queued once more; after `max_attempts` it is failed. Only the holder of the latest lease can end a job.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Select, Update, and_, bindparam, case, func, or_, select, update

from storage.database import Database
from storage.errors import LeaseLost
from storage.records import Job, JobCounts, JobState, LocalFeatures, NewRegion, Unindexed
from storage.regions import replace_regions
from storage.schema import GENERATION, INSTANCE, JOB, SERIES

MAX_ATTEMPTS = 3
BACK_OFF_S = 5.0  # before the second attempt; doubles with every further one
BACK_OFF_LIMIT_S = 600.0

Wanted = Sequence[int] | Literal["live"] | None  # generations by id, the one that answers, or all there is work for

_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_until": None}

_BESIDE, _ITS_SERIES = INSTANCE.alias("beside"), SERIES.alias("its_series")
_ENDED = ("indexed", "not_indexable", "failed")
_CLAIMABLE = (
    select(JOB.c.id)
    .where(
        JOB.c.generation_id == bindparam("generation"),
        JOB.c.state == "queued",
        JOB.c.not_before <= bindparam("now"),
    )
    .order_by(JOB.c.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)  # SQLite has one writer anyway and leaves this out
)
_OF_STUDY = _CLAIMABLE.where(  # of the study that an instance is of
    JOB.c.instance_id.in_(
        select(_BESIDE.c.id)
        .select_from(_BESIDE.join(_ITS_SERIES, _ITS_SERIES.c.id == _BESIDE.c.series_row_id))
        .where(
            _ITS_SERIES.c.study_row_id
            == select(SERIES.c.study_row_id)
            .select_from(SERIES.join(INSTANCE))
            .where(INSTANCE.c.id == bindparam("beside"))
            .scalar_subquery()
        )
    )
)
_CLAIMED = (
    select(
        *(JOB.c.id, JOB.c.instance_id, JOB.c.generation_id, JOB.c.lease_owner.label("owner"), JOB.c.attempts),
        *(INSTANCE.c.sop_instance_uid, INSTANCE.c.sop_class_uid, INSTANCE.c.transfer_syntax_uid, INSTANCE.c.path),
    )
    .select_from(JOB.join(INSTANCE))
    .order_by(JOB.c.id)
)
_IN_ORDER = case((GENERATION.c.state == "live", 0), else_=1)  # what answers queries now comes first


class Jobs:
    """The queue. Safe for threads and processes; `owner` must name one worker process and nobody else, ever."""

    def __init__(self, database: Database, clock: Callable[[], float], max_attempts: int = MAX_ATTEMPTS) -> None:
        self._database = database
        self._clock = clock
        self._max_attempts = max_attempts

    # --- a worker's side -------------------------------------------------------------------------------------

    def claim(
        self,
        owner: str,
        lease_s: float,
        limit: int,
        generations: Wanted = None,
        beside: int | None = None,
    ) -> list[Job]:
        """Up to `limit` jobs, leased to `owner` for `lease_s` seconds: the live generation's first, then oldest.

        `beside`: row id of an instance; in each generation the jobs of its study go before the oldest.
        Claiming counts as an attempt. Jobs whose lease ran out are taken back first.
        """
        now = self._clock()
        if not self._anything(now, generations):
            return []  # an idle worker polls without ever taking the write lock

        def work(connection: Connection) -> list[Job]:
            connection.execute(self._taken_back(and_(JOB.c.lease_until < now)))
            taken: list[int] = []
            for generation in _claimed_generations(connection, generations):
                taken += _claimable(connection, generation, now, limit - len(taken), beside)
            if not taken:
                return []
            lease = {"state": "running", "lease_owner": owner, "lease_until": now + lease_s, "updated_at": now}
            connection.execute(update(JOB).where(JOB.c.id.in_(taken)).values(attempts=JOB.c.attempts + 1, **lease))
            rows = connection.execute(_CLAIMED.where(JOB.c.id.in_(taken))).mappings()
            claimed = {row["id"]: Job(**row) for row in rows}
            return [claimed[job_id] for job_id in taken]

        return self._database.write(work)

    def _anything(self, now: float, generations: Wanted) -> bool:
        active = JOB.c.generation_id.in_(_wanted_generations(generations))
        ready = and_(JOB.c.state == "queued", JOB.c.not_before <= now, active)
        expired = and_(JOB.c.state == "running", JOB.c.lease_until < now)
        with self._database.reading() as connection:
            return any(connection.execute(select(JOB.c.id).where(what).limit(1)).first() for what in (ready, expired))

    def extend(self, job: Job, lease_s: float) -> None:
        """Hold the job for `lease_s` seconds from now. LeaseLost."""
        self._database.write(lambda connection: _hold(connection, job, {"lease_until": self._clock() + lease_s}))

    def finish(self, job: Job, regions: Sequence[NewRegion], local: LocalFeatures | None = None) -> None:
        """The job's regions, their vectors, the image's local features and the job's end, in one transaction.

        LeaseLost: nothing was written. VectorError: the vectors are not the generation's, or the local features no
        grid; the job is still held.
        """

        def work(connection: Connection) -> None:
            _hold(connection, job, self._ended("indexed", ""))
            replace_regions(connection, job.generation_id, job.instance_id, regions, local)

        self._database.write(work)

    def not_indexable(self, job: Job, reason: str) -> None:
        """End the job: this instance is no picture that could be indexed. LeaseLost."""

        def work(connection: Connection) -> None:
            _hold(connection, job, self._ended("not_indexable", reason))
            replace_regions(connection, job.generation_id, job.instance_id, ())

        self._database.write(work)

    def fail(self, job: Job, reason: str, retry: bool) -> JobState:
        """The attempt failed; `queued` when there will be another, later each time, else `failed`. LeaseLost."""
        again = retry and job.attempts < self._max_attempts
        wait_s = min(BACK_OFF_S * 2.0 ** (job.attempts - 1), BACK_OFF_LIMIT_S)
        values = self._ended("queued" if again else "failed", reason) | {"not_before": self._clock() + wait_s}
        self._database.write(lambda connection: _hold(connection, job, values))
        return "queued" if again else "failed"

    def _ended(self, state: JobState, reason: str) -> dict[str, Any]:
        return {"state": state, "reason": reason, "updated_at": self._clock(), **_NO_LEASE}

    # --- the node's side ---------------------------------------------------------------------------------------

    def release(self, owner_prefix: str, *, counts: bool = True) -> int:
        """Take back what owners of that prefix hold, because they are dead; returns how many jobs.

        `counts`: the attempt counts, so that an instance that kills its worker ends as failed. False when the
        owners died for a reason of their own, such as the whole node going down.
        """
        held = JOB.c.lease_owner.startswith(owner_prefix, autoescape=True)
        taken = self._taken_back(held)
        if not counts:
            taken = (
                update(JOB)
                .where(JOB.c.state == "running", held)
                .values(attempts=JOB.c.attempts - 1, **self._ended("queued", ""))
            )
        return self._database.write(lambda connection: connection.execute(taken).rowcount)

    def hasten(self) -> None:
        """Make every queued job due that was to wait."""
        now = self._clock()
        waiting = update(JOB).where(JOB.c.state == "queued", JOB.c.not_before > now)
        self._database.write(lambda connection: connection.execute(waiting.values(not_before=now)))

    def _taken_back(self, condition: Any) -> Update:
        """Running jobs of the condition: queued again, or failed after their last attempt."""
        last = JOB.c.attempts >= self._max_attempts
        reason = f"its worker died or hung {self._max_attempts} times"
        values = self._ended("queued", "") | {
            "state": case((last, "failed"), else_="queued"),
            "reason": case((last, reason), else_=""),
        }
        return update(JOB).where(JOB.c.state == "running", condition).values(values)

    def retry(self, generation_id: int, *, also_not_indexable: bool = False) -> int:
        """Queue the generation's failed jobs again, with all their attempts; returns how many."""
        states = ["failed", "not_indexable"] if also_not_indexable else ["failed"]
        values = self._ended("queued", "") | {"attempts": 0, "not_before": self._clock()}
        again = update(JOB).where(JOB.c.generation_id == generation_id, JOB.c.state.in_(states)).values(values)
        return self._database.write(lambda connection: connection.execute(again).rowcount)

    def counts(self, generation_id: int) -> JobCounts:
        """Where the generation's instances stand, of one moment."""
        states = select(JOB.c.state, func.count()).where(JOB.c.generation_id == generation_id).group_by(JOB.c.state)
        instances = select(func.count()).select_from(INSTANCE)
        with self._database.reading() as connection:
            total = int(connection.execute(instances).scalar_one())
            n: dict[str, int] = {row[0]: row[1] for row in connection.execute(states)}
        queued = n.get("queued", 0) + n.get("running", 0)
        return JobCounts(total, queued, n.get("indexed", 0), n.get("not_indexable", 0), n.get("failed", 0))

    def oldest(self, generation_id: int) -> float | None:
        """Since when the first of the generation's queued or running jobs is so, seconds since 1970; None: none is."""
        ours = (JOB.c.generation_id == generation_id, JOB.c.state == bindparam("state"))
        first = (
            select(JOB.c.updated_at).where(*ours).order_by(JOB.c.id).limit(1)
        )  # by the index, however many there are
        with self._database.reading() as connection:
            found = [connection.execute(first, {"state": state}).scalar() for state in ("queued", "running")]
        return min((float(at) for at in found if at is not None), default=None)

    def ended_since(self, generation_id: int, moment: float) -> int:
        """How many of the generation's jobs ended at `moment` (seconds since 1970) or later."""
        ended = select(func.count()).where(
            JOB.c.generation_id == generation_id, JOB.c.state.in_(_ENDED), JOB.c.updated_at >= moment
        )
        with self._database.reading() as connection:
            return int(connection.execute(ended).scalar_one())

    def failures(self, limit: int = 100) -> list[Unindexed]:
        """Jobs that ended without vectors: the failed before the not indexable, the latest first."""
        columns = (INSTANCE.c.sop_instance_uid, JOB.c.generation_id, JOB.c.state, JOB.c.reason, JOB.c.attempts)
        query = (
            select(*columns, JOB.c.updated_at)
            .select_from(JOB.join(INSTANCE))
            .where(or_(JOB.c.state == "failed", JOB.c.state == "not_indexable"))
            .order_by(JOB.c.state, JOB.c.updated_at.desc(), JOB.c.id)  # "failed" sorts first
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Unindexed(**row) for row in connection.execute(query).mappings()]


def _claimable(connection: Connection, generation: int, now: float, most: int, beside: int | None) -> list[int]:
    """Ids of jobs of a generation that are due."""
    wanted = {"generation": generation, "now": now, "most": most}
    if beside is not None:
        found = list(connection.execute(_OF_STUDY, wanted | {"beside": beside}).scalars())
        if found:
            return found
    return list(connection.execute(_CLAIMABLE, wanted).scalars())


def _wanted_generations(wanted: Wanted) -> Select[int]:
    states = ("live",) if wanted == "live" else ("live", "building")
    query = select(GENERATION.c.id).where(GENERATION.c.state.in_(states))
    return query if wanted is None or wanted == "live" else query.where(GENERATION.c.id.in_(wanted))


def _claimed_generations(connection: Connection, wanted: Wanted) -> list[int]:
    return list(connection.execute(_wanted_generations(wanted).order_by(_IN_ORDER)).scalars())


def _hold(connection: Connection, job: Job, values: dict[str, Any]) -> None:
    """Change a job that is still held under this very lease. LeaseLost."""
    same = (JOB.c.id == job.id, JOB.c.instance_id == job.instance_id)  # after a deletion its number may come again
    lease = (JOB.c.state == "running", JOB.c.lease_owner == job.owner, JOB.c.attempts == job.attempts)
    if not connection.execute(update(JOB).where(*same, *lease).values(values)).rowcount:
        raise LeaseLost(f"job {job.id}: not held by {job.owner} any more")
