"""Models in, generations of vectors out: built beside the live one, swapped in one row, kept for rollback, deleted.

building -> live -> retired, or building -> abandoned. At most one is live and one building: the database says so.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Insert, delete, func, insert, literal, or_, select, update

from storage.database import Database, advance
from storage.errors import GenerationError, GenerationGone, GenerationIncomplete
from storage.local_maps import delete_some
from storage.records import Generation, GenerationState, Model
from storage.schema import GENERATION, INSTANCE, JOB, REGION, VECTOR

BATCH = 2_000  # regions deleted in one transaction: short, because the receiver waits for it

_LIVE = select(GENERATION).where(GENERATION.c.state == "live")
_FINISHED = ("indexed", "not_indexable", "failed")


class Generations:
    """The sets of vectors. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    # --- reading ---------------------------------------------------------------------------------------------

    def live(self) -> Generation | None:
        """The generation that answers queries; None before the first start."""
        with self._database.reading() as connection:
            row = connection.execute(_LIVE).mappings().one_or_none()
        return None if row is None else _generation(row)

    def building(self) -> Generation | None:
        """The generation that a reindex is filling, if one is."""
        found = self._select(GENERATION.c.state == "building")
        return found[0] if found else None

    def active(self) -> list[Generation]:
        """The generations that new instances are indexed in: live, then building."""
        found = self._select(GENERATION.c.state.in_(("live", "building")))
        return sorted(found, key=lambda generation: generation.state != "live")

    def all(self) -> list[Generation]:
        """Every generation there still is, oldest first."""
        return self._select()

    def get(self, generation_id: int) -> Generation:
        """GenerationGone when there is none of that id."""
        found = self._select(GENERATION.c.id == generation_id)
        if not found:
            raise GenerationGone(f"there is no generation {generation_id}")
        return found[0]

    def _select(self, *conditions: Any) -> list[Generation]:
        with self._database.reading() as connection:
            return _select(connection, *conditions)

    # --- writing ---------------------------------------------------------------------------------------------

    def ensure_live(self, model: Model) -> Generation:
        """The live generation, whatever its model; one of `model`, with a job for every instance, where none is."""

        def work(connection: Connection) -> Generation:
            advance(connection, "generation", 1)
            found = _select(connection, GENERATION.c.state == "live")
            return found[0] if found else self._insert(connection, model, "live")

        return self.live() or self._database.write(work)

    def start(self, model: Model) -> Generation:
        """A building generation with a job for every instance, in one transaction; or the one already building.

        GenerationError when one of another model is building: abandon it first.
        """

        def work(connection: Connection) -> Generation:
            advance(connection, "generation", 1)
            found = _select(connection, GENERATION.c.state == "building")
            if not found:
                return self._insert(connection, model, "building")
            if found[0].model.id != model.id:
                raise GenerationError(f"generation {found[0].id} of model {found[0].model.id} is still being built")
            return found[0]

        return self._database.write(work)

    def _insert(self, connection: Connection, model: Model, state: GenerationState) -> Generation:
        now = self._clock()
        values = {
            "model_id": model.id,
            "model_path": model.path,
            "dim": model.dim,
            "projections": list(model.projections),
            "regions": list(model.regions),
            "thresholds": dict(model.thresholds),
        }
        since = now if state == "live" else None
        row = insert(GENERATION).values(**values, state=state, created_at=now, live_since=since)
        key = connection.execute(row).inserted_primary_key
        assert key is not None, "a generation has a primary key"
        connection.execute(_missing_jobs(int(key[0]), now))
        return _select(connection, GENERATION.c.id == int(key[0]))[0]

    def missing(self, generation_id: int) -> int:
        """Queue a job for every instance that has none in the generation; returns how many."""
        jobs = _missing_jobs(generation_id, self._clock()).execution_options(preserve_rowcount=True)
        return self._database.write(lambda connection: connection.execute(jobs).rowcount)

    def make_live(self, generation_id: int) -> Generation:
        """Let this generation answer from now on; the one that did is retired.

        A building one: GenerationIncomplete, with the numbers, unless every instance has a finished job in it; jobs
        that were missing are queued then. A retired one (rollback) goes live at once and is owed the jobs of what
        came since. GenerationError when it was abandoned.
        """
        self.missing(generation_id)

        def work(connection: Connection) -> Generation:
            advance(connection, "generation", 1)  # waits for running stores and keeps new ones out: see schema
            state = self._state(connection, generation_id)
            if state == "abandoned":
                raise GenerationError(f"generation {generation_id} was abandoned")
            if state == "building":
                _require_finished(connection, generation_id)
            if state != "live":
                self._set(connection, GENERATION.c.state == "live", "retired")
                self._set(connection, GENERATION.c.id == generation_id, "live")
            return _select(connection, GENERATION.c.id == generation_id)[0]

        return self._database.write(work)

    def set_thresholds(self, generation_id: int, thresholds: Mapping[str, Any]) -> None:
        """Keep other thresholds with the generation; a JSON object, opaque here."""
        change = update(GENERATION).where(GENERATION.c.id == generation_id).values(thresholds=dict(thresholds))
        self._database.write(lambda connection: connection.execute(change))

    def abandon(self, generation_id: int) -> None:
        """Give up a building generation. GenerationError when it is not building."""

        def work(connection: Connection) -> None:
            advance(connection, "generation", 1)
            if self._state(connection, generation_id) != "building":
                raise GenerationError(f"generation {generation_id} is not being built")
            self._set(connection, GENERATION.c.id == generation_id, "abandoned")

        self._database.write(work)

    def delete(self, generation_id: int) -> None:
        """Remove a retired or abandoned generation with everything in it, in short transactions.

        Stopped half-way it is simply called again. GenerationError when it is live or building, GenerationGone when
        it went before.
        """
        if self.get(generation_id).state in ("live", "building"):
            raise GenerationError(f"generation {generation_id} is in use")
        self._database.write(lambda connection: self._drop_jobs(connection, generation_id))
        while self._database.write(lambda connection: _delete_batch(connection, generation_id)):
            pass
        self._database.write(
            lambda connection: connection.execute(delete(GENERATION).where(GENERATION.c.id == generation_id))
        )

    def _drop_jobs(self, connection: Connection, generation_id: int) -> None:
        # Abandoned first, so that no rollback can make a half-deleted generation live; without its jobs no
        # worker can add regions any more.
        self._set(connection, GENERATION.c.id == generation_id, "abandoned")
        connection.execute(delete(JOB).where(JOB.c.generation_id == generation_id))

    def _state(self, connection: Connection, generation_id: int) -> str:
        state = connection.execute(select(GENERATION.c.state).where(GENERATION.c.id == generation_id)).scalar()
        if state is None:
            raise GenerationGone(f"there is no generation {generation_id}")
        return str(state)

    def _set(self, connection: Connection, condition: Any, state: GenerationState) -> None:
        since = {"live_since": self._clock()} if state == "live" else {}
        connection.execute(update(GENERATION).where(condition).values(state=state, **since))


def _select(connection: Connection, *conditions: Any) -> list[Generation]:
    query = select(GENERATION).where(*conditions).order_by(GENERATION.c.id)
    return [_generation(row) for row in connection.execute(query).mappings()]


def _generation(row: Any) -> Generation:
    names = {"projections": tuple(row["projections"]), "regions": tuple(row["regions"])}
    model = Model(row["model_id"], row["model_path"], row["dim"], thresholds=row["thresholds"], **names)
    return Generation(row["id"], model, row["state"], row["created_at"], row["live_since"])


def _missing_jobs(generation_id: int, now: float) -> Insert:
    has_one = select(JOB.c.id).where(JOB.c.instance_id == INSTANCE.c.id, JOB.c.generation_id == generation_id)
    values = {"generation_id": generation_id, "state": "queued", "reason": "", "attempts": 0, "not_before": now}
    instances = (
        select(INSTANCE.c.id, *(literal(value) for value in values.values()), literal(now))
        .where(~has_one.exists())
        .order_by(INSTANCE.c.id)
    )
    return insert(JOB).from_select(["instance_id", *values, "updated_at"], instances)


def _require_finished(connection: Connection, generation_id: int) -> None:
    job = JOB.c.generation_id == generation_id
    unfinished = (
        select(func.count())
        .select_from(INSTANCE.outerjoin(JOB, (JOB.c.instance_id == INSTANCE.c.id) & job))
        .where(or_(JOB.c.id.is_(None), JOB.c.state.not_in(_FINISHED)))
    )
    n = int(connection.execute(unfinished).scalar_one())
    if n:
        total = int(connection.execute(select(func.count()).select_from(INSTANCE)).scalar_one())
        raise GenerationIncomplete(generation_id, n, total)


def _delete_batch(connection: Connection, generation_id: int) -> bool:
    """Delete some of the generation's regions, then some of its local maps; whether there were any."""
    query = select(REGION.c.id).where(REGION.c.generation_id == generation_id).limit(BATCH)
    ids = list(connection.execute(query).scalars())
    if ids:
        connection.execute(delete(VECTOR).where(VECTOR.c.region_id.in_(ids)))
        connection.execute(delete(REGION).where(REGION.c.id.in_(ids)))
    return bool(ids) or delete_some(connection, generation_id)
