"""Kept files and what their headers say in, catalogued instances with their jobs out, in a caller's transaction.

The first to say something about a series, a study or a patient is believed; what it left empty is filled in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, bindparam, delete, exists, insert, not_, null, select, update

from storage.conflicts import forget, kinds, record
from storage.files import Files
from storage.matching import LEVELS, TABLES, joined
from storage.prepared import Prepared
from storage.records import Added, ConflictKind, ConflictPolicy, KeptFile, NewInstance, Policy
from storage.regions import delete_regions
from storage.schema import INSTANCE, JOB, PATIENT, SERIES, STUDY

PATIENT_KEY = ("patient_id", "issuer", "anonymous_key")  # what identifies a patient
_Done = tuple[Added, str | None]  # what happened, and the file that lost if one did

_INSTANCE_FIELDS = (
    *("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "instance_number", "content_date", "content_time"),
    *("rows", "columns", "frames", "source_ae", "header"),
)

_KEPT = select(
    INSTANCE.c.sop_instance_uid, INSTANCE.c.id, INSTANCE.c.path, INSTANCE.c.sha256, INSTANCE.c.series_row_id
).with_for_update()  # of two that replace it, the second must learn which file the first put there
_KNOWN = Prepared(_KEPT.where(INSTANCE.c.sop_instance_uid == bindparam("uid")))
_KNOWN_OF = _KEPT.where(INSTANCE.c.sop_instance_uid.in_(bindparam("uids", expanding=True)))
_ABOVE = (  # the series with what is above it, else the study with its patient, else the patient
    Prepared(
        select(SERIES, STUDY, PATIENT)
        .select_from(joined(LEVELS[:3]))
        .where(SERIES.c.series_instance_uid == bindparam("series"))
    ),
    Prepared(
        select(STUDY, PATIENT).select_from(joined(LEVELS[:2])).where(STUDY.c.study_instance_uid == bindparam("study"))
    ),
    Prepared(select(PATIENT).where(*(PATIENT.c[name] == bindparam(name) for name in PATIENT_KEY))),
)
_OWNER = select(STUDY, PATIENT).select_from(joined(LEVELS[:3])).where(SERIES.c.id == bindparam("series"))
_INSERT = {
    table.name: Prepared(
        insert(table).returning(table.c.id), [column.name for column in table.c if column.name != "id"]
    )
    for table in TABLES.values()
}
_ADD_JOB = Prepared(
    insert(JOB), ("instance_id", "generation_id", "state", "reason", "attempts", "not_before", "updated_at")
)
_TOUCH = Prepared(
    update(STUDY).where(STUDY.c.id == bindparam("study")).values(last_received_at=bindparam("now"), completed_at=null())
)


class _Known(NamedTuple):
    """An instance that is there: `_KEPT`."""

    sop_instance_uid: str
    id: int
    path: str
    sha256: str
    series_row_id: int


_Above = tuple[str, str, tuple[str, str, str]]  # what an instance says of its series, study and patient


class Arrivals:
    """Instances on their way into the catalogue, in one transaction; `end` ends it.

    Those of one transaction often are of one series: what is above it is read once, jobs and dates are written once.
    """

    def __init__(self, connection: Connection, generations: Sequence[int], now: float, files: Files) -> None:
        self._connection = connection
        self._generations = generations
        self._now = now
        self._files = files
        self._touched: set[int] = set()  # row ids of studies of before that something came to
        self._owed: list[int] = []  # row ids of instances that are to get their jobs
        self._looked_up: dict[str, _Known | None] = {}  # by SOP Instance UID; good for one look, `add` changes it
        self._above: dict[
            _Above, Mapping[Any, Any]
        ] = {}  # what `_held` found, until something above an instance changes

    def look_up(self, uids: Sequence[str]) -> None:
        """Read at once what is known of instances that are about to be added."""
        self._looked_up = dict.fromkeys(uids)
        for row in self._connection.execute(_KNOWN_OF, {"uids": list(self._looked_up)}):
            self._looked_up[row.sop_instance_uid] = _Known(*row)

    def _known(self, uid: str) -> _Known | None:
        if uid in self._looked_up:
            return self._looked_up.pop(uid)
        return next((_Known(*row) for row in _KNOWN.rows(self._connection, {"uid": uid})), None)

    def _held(self, new: NewInstance) -> Mapping[Any, Any]:
        """Column -> value of what there is of the instance's series, study and patient: all three, two, one or none."""
        patient = (new.patient.patient_id, new.patient.issuer, new.patient.anonymous_key)
        key = (new.series.series_instance_uid, new.study.study_instance_uid, patient)
        if key not in self._above:
            self._above[key] = _read_above(self._connection, new)
        return self._above[key]

    def _insert_above(self, table: Table, values: Mapping[str, Any]) -> int:
        self._above.clear()
        return _insert(self._connection, table, values)

    def add(self, new: NewInstance, kept: KeptFile, policy: Policy, conflicts: ConflictPolicy) -> _Done:
        """What `Catalog.add` does, but for the commit and for removing the file that lost."""
        known = self._known(new.sop_instance_uid)
        if known is not None and known.sha256 == kept.sha256:
            return self._again(known, kept)
        held = self._held(new)
        owner = {} if known is None else self._owner(known.series_row_id)
        against = tuple(dict.fromkeys((*kinds(new, owner), *kinds(new, held))))
        if conflicts == "refuse" and "patient" in against:
            return self._noted(Added("refused", 0), new, against, owner or held), kept.path
        if known is None:
            return self._noted(Added("new", self._new(new, kept, held)), new, against, held), None
        if policy == "keep":
            return self._noted(Added("kept", known.id), new, against, owner), kept.path
        self._replace(known, new, kept, held)
        return self._noted(Added("replaced", known.id), new, against, held), known.path

    def _noted(
        self, added: Added, new: NewInstance, against: tuple[ConflictKind, ...], held: Mapping[Any, Any]
    ) -> Added:
        """`held`: of the study that the instance is in now, or that it was kept out of."""
        study = str(held[STUDY.c.study_instance_uid] if STUDY.c.id in held else new.study.study_instance_uid)
        for kind in against:
            record(self._connection, new, study, kind, added.outcome, self._now)
        return replace(added, conflicts=against, study_instance_uid=study)

    def _again(self, known: _Known, kept: KeptFile) -> _Done:
        """The same bytes once more: they change nothing, but for a file that was lost."""
        if not self._files.has(known.path):
            change = update(INSTANCE).where(INSTANCE.c.id == known.id).values(path=kept.path)
            self._connection.execute(change)
            return Added("identical", known.id), None
        return Added("identical", known.id), kept.path if kept.path != known.path else None

    def _owner(self, series_row_id: int) -> Mapping[Any, Any]:
        return self._connection.execute(_OWNER, {"series": series_row_id}).one()._mapping

    def _new(self, new: NewInstance, kept: KeptFile, held: Mapping[Any, Any]) -> int:
        instance_id = _insert(self._connection, INSTANCE, self._values(new, kept, held))
        self._owed.append(instance_id)
        return instance_id

    def _replace(self, known: _Known, new: NewInstance, kept: KeptFile, held: Mapping[Any, Any]) -> None:
        values = self._values(new, kept, held)
        self._connection.execute(update(INSTANCE).where(INSTANCE.c.id == known.id).values(values))
        # Jobs before regions: whoever holds a job's lease loses it before the regions it may write are looked at.
        again = {"state": "queued", "reason": "", "attempts": 0, "not_before": self._now, "updated_at": self._now}
        self._connection.execute(
            update(JOB).where(JOB.c.instance_id == known.id).values(lease_owner=None, lease_until=None, **again)
        )
        delete_regions(self._connection, known.id)
        prune(self._connection, known.series_row_id)
        self._above.clear()

    def _values(self, new: NewInstance, kept: KeptFile, held: Mapping[Any, Any]) -> dict[str, Any]:
        return {
            **{name: getattr(new, name) for name in _INSTANCE_FIELDS},
            "series_row_id": self._series(new, held),
            "received_at": self._now,
            "path": kept.path,
            "sha256": kept.sha256,
            "size": kept.size,
        }

    def _series(self, new: NewInstance, held: Mapping[Any, Any]) -> int:
        """The row id of the instance's series, made with its study and patient where they are new.

        A series or a study that claims another study or patient than its first instance did stays where it is.
        """
        if _fill_in(self._connection, new, held):
            self._above.clear()
        if STUDY.c.id not in held:
            return self._insert_above(SERIES, {**vars(new.series), "study_row_id": self._study(new, held)})
        study = int(held[STUDY.c.id])
        self._touched.add(study)
        if SERIES.c.id in held:
            return int(held[SERIES.c.id])
        return self._insert_above(SERIES, {**vars(new.series), "study_row_id": study})

    def _study(self, new: NewInstance, held: Mapping[Any, Any]) -> int:
        patient = held[PATIENT.c.id] if held else self._insert_above(PATIENT, vars(new.patient))
        arrived = {"patient_row_id": patient, "last_received_at": self._now}
        return self._insert_above(STUDY, {**vars(new.study), **arrived})

    def end(self) -> None:
        """Owe the jobs. The studies that something came to are arriving, from now on for the stable age."""
        owe(self._connection, self._owed, self._generations, self._now)
        if self._touched:
            for study in sorted(self._touched):
                _TOUCH.rows(self._connection, {"study": study, "now": self._now})


def _read_above(connection: Connection, new: NewInstance) -> Mapping[Any, Any]:
    named = {name: getattr(new.patient, name) for name in PATIENT_KEY}
    named |= {"series": new.series.series_instance_uid, "study": new.study.study_instance_uid}
    for query in _ABOVE:
        for row in query.rows(connection, named):
            return dict(zip(query.columns, row, strict=True))
    return {}


def _fill_in(connection: Connection, new: NewInstance, held: Mapping[Any, Any]) -> bool:
    """Whether there was something that the series, the study or the patient had left empty."""
    changed = False
    for table, identity, stated in (
        (SERIES, ("series_instance_uid",), vars(new.series)),
        (STUDY, ("study_instance_uid",), vars(new.study)),
        (PATIENT, PATIENT_KEY, vars(new.patient)),
    ):
        if table.c.id not in held or any(held[table.c[name]] != stated[name] for name in identity):
            continue
        missing = {name: value for name, value in stated.items() if value is not None and held[table.c[name]] is None}
        if missing:
            connection.execute(update(table).where(table.c.id == held[table.c.id]).values(missing))
            changed = True
    return changed


def owe(connection: Connection, instances: Iterable[int], generations: Sequence[int], now: float) -> None:
    """Queue a job for each instance in each generation."""
    fresh = {"state": "queued", "reason": "", "attempts": 0, "not_before": now, "updated_at": now}
    for instance in instances:
        for generation in generations:
            _ADD_JOB.rows(connection, {"instance_id": instance, "generation_id": generation, **fresh})


def _insert(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    (row,) = _INSERT[table.name].rows(connection, values)
    return int(row[0])


def prune(connection: Connection, series_row_id: int) -> None:
    """Remove the series, then its study, then its patient, as far as nothing is left below."""
    links = (
        (SERIES, INSTANCE.c.series_row_id, SERIES.c.study_row_id),
        (STUDY, SERIES.c.study_row_id, STUDY.c.patient_row_id),
        (PATIENT, STUDY.c.patient_row_id, PATIENT.c.id),
    )
    row_id = series_row_id
    for table, child, parent in links:
        empty = delete(table).where(table.c.id == row_id, not_(exists().where(child == row_id)))
        gone = connection.execute(empty.returning(table)).mappings().one_or_none()
        if gone is None:
            return
        if table is STUDY:
            forget(connection, gone[STUDY.c.study_instance_uid])
        row_id = gone[parent]
