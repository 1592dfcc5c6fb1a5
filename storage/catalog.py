"""A kept file and what its header says in, one catalogued instance with its jobs out; conditions in, rows out.

Who adds and reads comes here; arrivals.py has the statements of adding. What a column means is in records.py.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, bindparam, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from storage.arrivals import PATIENT_KEY, Arrivals
from storage.database import Database
from storage.files import Files
from storage.matching import COLUMNS, LEVEL_OF, LEVELS, TABLES, instance_ids, joined, where
from storage.prepared import Prepared
from storage.records import (
    Added,
    Condition,
    ConflictPolicy,
    InstanceRow,
    KeptFile,
    Level,
    NewInstance,
    Policy,
    Row,
)
from storage.regions import INSTANCE_ROW
from storage.schema import GENERATION, INSTANCE, SERIES, STUDY
from storage.sql import DistinctList
from storage.together import Together

POLICIES: tuple[Policy, ...] = ("keep", "replace")
CONFLICT_POLICIES: tuple[ConflictPolicy, ...] = ("keep", "refuse")
ACTIVE = ("live", "building")  # generations that get a job for every instance
PAGE = 500  # rows fetched at once while streaming

LISTS = frozenset({"modalities_in_study", "sop_classes_in_study"})  # columns whose values are tuples of strings
UIDS: dict[Level, tuple[str, ...]] = {  # what identifies a row of a level, and the order rows come in
    "PATIENT": PATIENT_KEY,
    "STUDY": ("study_instance_uid",),
    "SERIES": ("study_instance_uid", "series_instance_uid"),
    "IMAGE": ("study_instance_uid", "series_instance_uid", "sop_instance_uid"),
}

_NEWEST = (STUDY.c.study_date.desc().nulls_last(), STUDY.c.study_time.desc().nulls_last())
_BY_UID = INSTANCE_ROW.where(INSTANCE.c.sop_instance_uid == bindparam("uid"))
_BY_ID = INSTANCE_ROW.where(INSTANCE.c.id == bindparam("id"))
_ACTIVE = Prepared(select(GENERATION.c.id).where(or_(*(GENERATION.c.state == state for state in ACTIVE))))


class Catalog:
    """Patients, studies, series and instances. Safe for threads and processes."""

    def __init__(self, database: Database, files: Files, clock: Callable[[], float]) -> None:
        self._database = database
        self._files = files
        self._clock = clock
        self._adding = {
            (policy, conflicts): Together(partial(self.add_all, policy=policy, conflicts=conflicts))
            for policy in POLICIES
            for conflicts in CONFLICT_POLICIES
        }

    # --- writing ---------------------------------------------------------------------------------------------

    def add(
        self, new: NewInstance, kept: KeptFile, policy: Policy = "keep", conflicts: ConflictPolicy = "keep"
    ) -> Added:
        """Catalogue one instance and owe it a job in every active generation; durable on return.

        A second instance of the same UID: with the same bytes it changes nothing (`identical`); with others it is
        thrown away (`kept`) or takes the first one's place (`replaced`: its regions go, its jobs start over).
        An instance of a study that is another patient's stays with the study's patient, or is `refused`; either way
        it is noted, see conflicts.py. The file that lost is removed after the commit.
        StorageFull, DatabaseError: nothing was catalogued. Threads that add at the same time share a commit.
        """
        return self._adding[policy, conflicts].do((new, kept))

    def add_all(
        self,
        arrivals: Sequence[tuple[NewInstance, KeptFile]],
        policy: Policy = "keep",
        conflicts: ConflictPolicy = "keep",
    ) -> list[Added]:
        """`add` for several, in order, sharing one transaction: all are durable on return, or none is there."""
        now = self._clock()

        def work(connection: Connection) -> list[tuple[Added, str | None]]:
            arriving = Arrivals(connection, active_generations(self._database, connection), now, self._files)
            if len(arrivals) > 1:
                arriving.look_up([new.sop_instance_uid for new, _ in arrivals])
            done = [arriving.add(new, kept, policy, conflicts) for new, kept in arrivals]
            arriving.end()
            return done

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
        offset: int = 0,
        newest: bool = False,
    ) -> Iterator[Row]:
        """The rows of a level that meet the conditions, ordered by its UIDs, streamed.

        A row maps column names of its level and those above (COLUMNS), and its level's COUNTS, to values; `wanted`
        narrows it to those named, which is faster, and may name EXTRAS too. `offset`: rows that are skipped first.
        `newest`: of a study and below, the latest Study Date first. A condition on a deeper level means: some below
        meets it. KeyError for a column that does not exist. DatabaseError.
        """
        names = _names(level, wanted)
        query = (
            select(*(_selected(level, name) for name in names))
            .select_from(joined(LEVELS[: LEVELS.index(level) + 1]))
            .where(*where(level, conditions))
            .order_by(*(_NEWEST if newest else ()), *(COLUMNS[name] for name in UIDS[level]))
            .limit(limit)
            .offset(offset or None)
        )
        return self._stream(query, names)

    def images(self, sop_instance_uids: Sequence[str], wanted: Collection[str]) -> Iterator[Row]:
        """The IMAGE rows of these UIDs, some thousands at most, that there are, in no order; `wanted` as in `find`."""
        query, names = _images(frozenset(wanted))
        return self._stream(query, names, {"uids": list(sop_instance_uids)})

    def _stream(
        self, query: Select[Any], names: Sequence[str], asked: Mapping[str, Any] | None = None
    ) -> Iterator[Row]:
        lists = [name for name in names if name in LISTS]
        with self._database.reading() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=PAGE)
            with streaming.execute(query, asked) as result:  # closed too when the reader stops early
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
        return self._one(_BY_UID, {"uid": sop_instance_uid})

    def by_id(self, instance_id: int) -> InstanceRow | None:
        """The instance of that row id, or None."""
        return self._one(_BY_ID, {"id": instance_id})

    def _one(self, query: Select[Any], values: Mapping[str, Any]) -> InstanceRow | None:
        with self._database.reading() as connection:
            row = connection.execute(query, values).one_or_none()
        return None if row is None else InstanceRow(*row)

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
    return [row[0] for row in _ACTIVE.rows(connection)]


# --- what a row is made of ----------------------------------------------------------------------------------------


def _count(level: Level, deep: Level) -> ColumnElement[int]:
    """How many rows of `deep` are below one of `level`."""
    below = LEVELS[LEVELS.index(level) + 1 : LEVELS.index(deep) + 1]
    return _below(level, below, func.count())


def _values(level: Level, deep: Level, column: str) -> ColumnElement[Any]:
    """The distinct values of a deeper level's column."""
    below = LEVELS[LEVELS.index(level) + 1 : LEVELS.index(deep) + 1]
    return _below(level, below, DistinctList(COLUMNS[column]))


_PARENT: dict[Level, ColumnElement[Any]] = {  # what ties the level below to a row
    "PATIENT": STUDY.c.patient_row_id,
    "STUDY": SERIES.c.study_row_id,
    "SERIES": INSTANCE.c.series_row_id,
}


def _below(level: Level, below: Sequence[Level], what: ColumnElement[Any]) -> ColumnElement[Any]:
    table = TABLES[level]
    query = select(what).select_from(joined(below)).where(_PARENT[level] == table.c.id).correlate(table)
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


def _first_header(level: Level) -> ColumnElement[Any]:
    """The header of the first instance below a row, in the order of the UIDs."""
    below = LEVELS[LEVELS.index(level) + 1 :]
    first = select(INSTANCE.c.header).select_from(joined(below)).where(_PARENT[level] == TABLES[level].c.id)
    ordered = first.order_by(*(COLUMNS[name] for name in UIDS["IMAGE"] if LEVEL_OF[name] in below)).limit(1)
    return ordered.correlate(TABLES[level]).scalar_subquery()


EXTRAS: dict[Level, dict[str, ColumnElement[Any]]] = {  # what a row holds only where it is wanted
    "PATIENT": {"header": _first_header("PATIENT")},
    # Studies come in the order of their UIDs, a patient's not together: so what is counted of it comes with each.
    "STUDY": {"header": _first_header("STUDY"), **COUNTS["PATIENT"]},
    "SERIES": {"header": _first_header("SERIES")},
    "IMAGE": {},
}


def _names(level: Level, wanted: Collection[str] | None) -> list[str]:
    """What a row of the level holds: its UIDs always, the rest as wanted. KeyError for what it cannot hold."""
    deepest = LEVELS.index(level)
    possible = [name for name in COLUMNS if LEVELS.index(LEVEL_OF[name]) <= deepest] + list(COUNTS[level])
    if wanted is None:
        return possible
    possible += EXTRAS[level]
    if unknown := set(wanted).difference(possible):
        raise KeyError(f"no such column at level {level}: {', '.join(sorted(unknown))}")
    return [name for name in possible if name in wanted or name in UIDS[level]]


@lru_cache(maxsize=64)
def _images(wanted: frozenset[str]) -> tuple[Select[Any], list[str]]:
    """Made once for the same columns, as making it costs as much as running it; and their names."""
    names = _names("IMAGE", wanted)
    of = INSTANCE.c.sop_instance_uid.in_(bindparam("uids", expanding=True))
    return select(*(_selected("IMAGE", name) for name in names)).select_from(joined(LEVELS)).where(of), names


def _selected(level: Level, name: str) -> ColumnElement[Any]:
    made = COUNTS[level].get(name, EXTRAS[level].get(name))
    return COLUMNS[name] if made is None else made.label(name)


def _tidied(found: Iterable[str | None]) -> tuple[str, ...]:
    """A list without gaps, in order: databases make it in any."""
    return tuple(sorted(item for item in found if item is not None))
