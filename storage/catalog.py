"""A kept file and what its header says in, one catalogued instance with its jobs out; conditions in, rows out.

Every statement that changes or reads the catalogue is in this module; what a column means is in records.py.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Connection,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    not_,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from storage.database import Database
from storage.files import Files
from storage.matching import COLUMNS, LEVEL_OF, LEVELS, TABLES, instance_ids, joined, where
from storage.records import Added, Condition, InstanceRow, KeptFile, Level, NewInstance, Outcome, Policy, Row
from storage.regions import INSTANCE_ROW, delete_regions
from storage.schema import GENERATION, INSTANCE, JOB, PATIENT, SERIES, STUDY
from storage.sql import DistinctList
from storage.together import Together

POLICIES: tuple[Policy, ...] = ("keep", "replace")
ACTIVE = ("live", "building")  # generations that get a job for every instance
PAGE = 500  # rows fetched at once while streaming

LISTS = frozenset({"modalities_in_study", "sop_classes_in_study"})  # columns whose values are tuples of strings
UIDS: dict[Level, tuple[str, ...]] = {  # what identifies a row of a level, and the order rows come in
    "PATIENT": ("patient_id", "issuer", "anonymous_key"),
    "STUDY": ("study_instance_uid",),
    "SERIES": ("study_instance_uid", "series_instance_uid"),
    "IMAGE": ("study_instance_uid", "series_instance_uid", "sop_instance_uid"),
}

_INSTANCE_FIELDS = (
    *("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "instance_number", "content_date", "content_time"),
    *("rows", "columns", "frames", "source_ae", "header"),
)

_KNOWN = (
    select(INSTANCE.c.id, INSTANCE.c.path, INSTANCE.c.sha256, INSTANCE.c.series_row_id)
    .where(INSTANCE.c.sop_instance_uid == bindparam("uid"))
    .with_for_update()  # of two that replace it, the second must learn which file the first put there
)
_SERIES = (
    select(SERIES, STUDY, PATIENT)
    .select_from(joined(LEVELS[:3]))
    .where(SERIES.c.series_instance_uid == bindparam("uid"))
)
_STUDY = select(STUDY).where(STUDY.c.study_instance_uid == bindparam("uid"))
_PATIENT = select(PATIENT).where(
    PATIENT.c.patient_id == bindparam("patient_id"),
    PATIENT.c.issuer == bindparam("issuer"),
    PATIENT.c.anonymous_key == bindparam("anonymous_key"),
)
_ACTIVE = select(GENERATION.c.id).where(GENERATION.c.state.in_(ACTIVE))
_INSERT = {table.name: insert(table) for table in TABLES.values()}
_ADD_JOB = insert(JOB)


class Catalog:
    """Patients, studies, series and instances. Safe for threads and processes."""

    def __init__(self, database: Database, files: Files, clock: Callable[[], float]) -> None:
        self._database = database
        self._files = files
        self._clock = clock
        self._adding = {policy: Together(partial(self.add_all, policy=policy)) for policy in POLICIES}

    # --- writing ---------------------------------------------------------------------------------------------

    def add(self, new: NewInstance, kept: KeptFile, policy: Policy = "keep") -> Added:
        """Catalogue one instance and owe it a job in every active generation; durable on return.

        A second instance of the same UID: with the same bytes it changes nothing (`identical`); with others it is
        thrown away (`kept`) or takes the first one's place (`replaced`: its regions go, its jobs start over).
        The file that lost is removed after the commit. StorageFull, DatabaseError: nothing was catalogued.
        Threads that add at the same time share a commit.
        """
        return self._adding[policy].do((new, kept))

    def add_all(self, arrivals: Sequence[tuple[NewInstance, KeptFile]], policy: Policy = "keep") -> list[Added]:
        """`add` for several, in order, sharing one transaction: all are durable on return, or none is there."""
        now = self._clock()

        def work(connection: Connection) -> list[tuple[Added, str | None]]:
            generations = active_generations(self._database, connection)
            return [_add(connection, new, kept, policy, generations, now, self._files) for new, kept in arrivals]

        done = self._database.write(work)
        for _, loser in done:
            if loser is not None:
                self._files.remove(loser)
        return [added for added, _ in done]

    # --- reading ---------------------------------------------------------------------------------------------

    def find(
        self,
        level: Level,
        conditions: Iterable[Condition] = (),
        limit: int | None = None,
        wanted: Collection[str] | None = None,
    ) -> Iterator[Row]:
        """The rows of a level that meet the conditions, ordered by its UIDs, streamed.

        A row maps column names of its level and those above (COLUMNS), and its level's COUNTS, to values;
        `wanted` narrows it to those named, which is faster. A condition on a deeper level means: some below meets
        it. KeyError for a column that does not exist. DatabaseError.
        """
        names = _names(level, wanted)
        query = (
            select(*(_selected(level, name) for name in names))
            .select_from(joined(LEVELS[: LEVELS.index(level) + 1]))
            .where(*where(level, conditions))
            .order_by(*(COLUMNS[name] for name in UIDS[level]))
            .limit(limit)
        )
        return self._stream(query, names)

    def _stream(self, query: Select[Any], names: Sequence[str]) -> Iterator[Row]:
        lists = [name for name in names if name in LISTS]
        with self._database.reading() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=PAGE)
            with streaming.execute(query) as result:  # closed too when the reader stops early
                for values in result:
                    row = dict(zip(names, values, strict=True))
                    for name in lists:
                        row[name] = _tidied(row[name])
                    yield row

    def candidates(self, conditions: Iterable[Condition]) -> NDArray[np.int64]:
        """Row ids of the instances that meet the conditions: (n,) int64, ascending."""
        with self._database.reading() as connection:
            found = connection.execute(instance_ids(conditions)).scalars()
            return np.sort(np.fromiter(found, dtype=np.int64))

    def instance(self, sop_instance_uid: str) -> InstanceRow | None:
        """The instance of that UID, or None."""
        return self._one(INSTANCE_ROW.where(INSTANCE.c.sop_instance_uid == sop_instance_uid))

    def by_id(self, instance_id: int) -> InstanceRow | None:
        """The instance of that row id, or None."""
        return self._one(INSTANCE_ROW.where(INSTANCE.c.id == instance_id))

    def _one(self, query: Select[Any]) -> InstanceRow | None:
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else InstanceRow(**row)

    def count(self) -> int:
        """How many instances there are."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(INSTANCE)).scalar_one())

    def files_under(self, prefix: str) -> dict[str, tuple[str, str, int]]:
        """Relative path -> (SOP Instance UID, sha256, size) of the instances whose path starts so."""
        columns = (INSTANCE.c.path, INSTANCE.c.sop_instance_uid, INSTANCE.c.sha256, INSTANCE.c.size)
        query = select(*columns).where(INSTANCE.c.path.startswith(prefix, autoescape=True))
        with self._database.reading() as connection:
            return {path: (uid, sha256, size) for path, uid, sha256, size in connection.execute(query)}


def active_generations(database: Database, connection: Connection) -> list[int]:
    """Generations that new instances get jobs in; no generation starts before this transaction has ended."""
    database.share(connection, "generation")
    return list(connection.execute(_ACTIVE).scalars())


# --- adding one instance -----------------------------------------------------------------------------------------


def _add(
    connection: Connection,
    new: NewInstance,
    kept: KeptFile,
    policy: Policy,
    generations: Sequence[int],
    now: float,
    files: Files,
) -> tuple[Added, str | None]:
    """Returns what happened and the file that lost, if one did."""
    known = connection.execute(_KNOWN, {"uid": new.sop_instance_uid}).one_or_none()
    if known is None:
        row = _instance_values(connection, new, kept, now)
        instance_id = _insert(connection, INSTANCE, row)
        owe(connection, [instance_id], generations, now)
        return Added("new", instance_id), None
    if known.sha256 == kept.sha256 and not files.has(known.path):  # lost, and here it is again
        connection.execute(update(INSTANCE).where(INSTANCE.c.id == known.id).values(path=kept.path))
        return Added("identical", known.id), None
    if known.sha256 == kept.sha256 or policy == "keep":
        outcome: Outcome = "identical" if known.sha256 == kept.sha256 else "kept"
        return Added(outcome, known.id), kept.path if kept.path != known.path else None
    _replace(connection, known.id, _instance_values(connection, new, kept, now), now)
    _prune(connection, known.series_row_id)
    return Added("replaced", known.id), known.path


def owe(connection: Connection, instances: Iterable[int], generations: Sequence[int], now: float) -> None:
    """Queue a job for each instance in each generation."""
    fresh = {"state": "queued", "reason": "", "attempts": 0, "not_before": now, "updated_at": now}
    jobs = [{"instance_id": instance, "generation_id": g, **fresh} for instance in instances for g in generations]
    if jobs:
        connection.execute(_ADD_JOB, jobs)


def _replace(connection: Connection, instance_id: int, row: Mapping[str, Any], now: float) -> None:
    connection.execute(update(INSTANCE).where(INSTANCE.c.id == instance_id).values(row))
    # Jobs before regions: whoever holds a job's lease loses it before the regions it may write are looked at.
    again = {"state": "queued", "reason": "", "attempts": 0, "not_before": now, "updated_at": now}
    connection.execute(
        update(JOB).where(JOB.c.instance_id == instance_id).values(lease_owner=None, lease_until=None, **again)
    )
    delete_regions(connection, instance_id)


def _instance_values(connection: Connection, new: NewInstance, kept: KeptFile, now: float) -> dict[str, Any]:
    return {
        **{name: getattr(new, name) for name in _INSTANCE_FIELDS},
        "series_row_id": _series(connection, new),
        "received_at": now,
        "path": kept.path,
        "sha256": kept.sha256,
        "size": kept.size,
    }


def _series(connection: Connection, new: NewInstance) -> int:
    """The row id of the instance's series, made with its study and patient where they are new.

    What the first instance said stays; what it left empty is filled in.
    """
    known = connection.execute(_SERIES, {"uid": new.series.series_instance_uid}).one_or_none()
    if known is None:
        return _insert(connection, SERIES, {**vars(new.series), "study_row_id": _study(connection, new)})
    mapping = known._mapping
    for table, identity, values in (
        (SERIES, UIDS["SERIES"][-1:], vars(new.series)),
        (STUDY, UIDS["STUDY"], vars(new.study)),
        (PATIENT, UIDS["PATIENT"], vars(new.patient)),
    ):
        stored = {name: mapping[table.c[name]] for name in values}
        # A series that claims another study or patient than its first instance did stays where it is.
        if all(stored[name] == values[name] for name in identity):
            _fill(connection, table, int(mapping[table.c.id]), stored, values)
    return int(mapping[SERIES.c.id])


def _study(connection: Connection, new: NewInstance) -> int:
    known = connection.execute(_STUDY, {"uid": new.study.study_instance_uid}).mappings().one_or_none()
    if known is None:
        return _insert(connection, STUDY, {**vars(new.study), "patient_row_id": _patient(connection, new)})
    _fill(connection, STUDY, known["id"], known, vars(new.study))
    return int(known["id"])


def _patient(connection: Connection, new: NewInstance) -> int:
    values = asdict(new.patient)
    identity = {name: values[name] for name in UIDS["PATIENT"]}
    known = connection.execute(_PATIENT, identity).mappings().one_or_none()
    if known is None:
        return _insert(connection, PATIENT, values)
    _fill(connection, PATIENT, known["id"], known, values)
    return int(known["id"])


def _insert(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    key = connection.execute(_INSERT[table.name], values).inserted_primary_key
    assert key is not None, "every table here has a primary key"
    return int(key[0])


def _fill(
    connection: Connection, table: Table, row_id: int, known: Mapping[Any, Any], values: Mapping[str, Any]
) -> None:
    missing = {name: value for name, value in values.items() if value is not None and known[name] is None}
    if missing:
        connection.execute(update(table).where(table.c.id == row_id).values(missing))


def _prune(connection: Connection, series_row_id: int) -> None:
    """Remove the series, then its study, then its patient, as far as nothing is left below."""
    links = (
        (SERIES, INSTANCE.c.series_row_id, SERIES.c.study_row_id),
        (STUDY, SERIES.c.study_row_id, STUDY.c.patient_row_id),
        (PATIENT, STUDY.c.patient_row_id, None),
    )
    row_id = series_row_id
    for table, child, parent in links:
        above = connection.execute(select(parent).where(table.c.id == row_id)).scalar() if parent is not None else 0
        empty = not_(exists().where(child == row_id))
        if not connection.execute(delete(table).where(table.c.id == row_id, empty)).rowcount:
            return
        row_id = int(above or 0)


# --- what a row is made of ----------------------------------------------------------------------------------------


def _count(level: Level, deep: Level) -> ColumnElement[int]:
    """How many rows of `deep` are below one of `level`."""
    below = LEVELS[LEVELS.index(level) + 1 : LEVELS.index(deep) + 1]
    return _below(level, below, func.count())


def _values(level: Level, deep: Level, column: str) -> ColumnElement[Any]:
    """The distinct values of a deeper level's column."""
    below = LEVELS[LEVELS.index(level) + 1 : LEVELS.index(deep) + 1]
    return _below(level, below, DistinctList(COLUMNS[column]))


def _below(level: Level, below: Sequence[Level], what: ColumnElement[Any]) -> ColumnElement[Any]:
    parent = {"PATIENT": STUDY.c.patient_row_id, "STUDY": SERIES.c.study_row_id, "SERIES": INSTANCE.c.series_row_id}
    table = TABLES[level]
    query = select(what).select_from(joined(below)).where(parent[level] == table.c.id).correlate(table)
    return query.scalar_subquery()


COUNTS: dict[Level, dict[str, ColumnElement[Any]]] = {  # PS3.4 C.3.4: what a level says of those below it
    "PATIENT": {
        "number_of_patient_related_studies": _count("PATIENT", "STUDY"),
        "number_of_patient_related_series": _count("PATIENT", "SERIES"),
        "number_of_patient_related_instances": _count("PATIENT", "IMAGE"),
    },
    "STUDY": {
        "modalities_in_study": _values("STUDY", "SERIES", "modality"),
        "sop_classes_in_study": _values("STUDY", "IMAGE", "sop_class_uid"),
        "number_of_study_related_series": _count("STUDY", "SERIES"),
        "number_of_study_related_instances": _count("STUDY", "IMAGE"),
    },
    "SERIES": {"number_of_series_related_instances": _count("SERIES", "IMAGE")},
    "IMAGE": {},
}


def _names(level: Level, wanted: Collection[str] | None) -> list[str]:
    """What a row of the level holds: its UIDs always, the rest as wanted. KeyError for what it cannot hold."""
    deepest = LEVELS.index(level)
    possible = [name for name in COLUMNS if LEVELS.index(LEVEL_OF[name]) <= deepest] + list(COUNTS[level])
    if wanted is None:
        return possible
    if unknown := set(wanted).difference(possible):
        raise KeyError(f"no such column at level {level}: {', '.join(sorted(unknown))}")
    return [name for name in possible if name in wanted or name in UIDS[level]]


def _selected(level: Level, name: str) -> ColumnElement[Any]:
    return COUNTS[level][name].label(name) if name in COUNTS[level] else COLUMNS[name]


def _tidied(found: Iterable[str | None]) -> tuple[str, ...]:
    """A list without gaps, in order: databases make it in any."""
    return tuple(sorted(item for item in found if item is not None))
