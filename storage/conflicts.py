"""What an instance says of its patient against what is kept in, rows for the administrator out.

The first to arrive is believed. An instance that states no Patient ID, or no issuer, contradicts nobody.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from storage.database import Database
from storage.records import Conflict, ConflictKind, NewInstance, NewPatient, Outcome
from storage.schema import CONFLICT, PATIENT, STUDY

_KEY = ("study_instance_uid", "kind", "patient_id", "issuer")
_KNOWN = select(CONFLICT.c.id).where(*(CONFLICT.c[name] == bindparam(f"_{name}") for name in _KEY)).with_for_update()


class Conflicts:
    """Reading what contradicts what. Safe for threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> int:
        """How many there are: one for each study, kind and patient stated."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(CONFLICT)).scalar_one())

    def all(self, limit: int | None = None) -> list[Conflict]:
        """The latest first."""
        columns = [column for column in CONFLICT.columns if column.name != "id"]
        query = select(*columns).order_by(CONFLICT.c.last_at.desc(), CONFLICT.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return [Conflict(**row) for row in connection.execute(query).mappings()]


# --- judging and writing, inside a caller's transaction ------------------------------------------------------------


def kinds(new: NewInstance, held: Mapping[Any, Any]) -> tuple[ConflictKind, ...]:
    """How an instance contradicts the rows it would be put under.

    `held`: column -> value of a patient's row, and of a study's where the study is known; empty: nothing is.
    """
    found: list[ConflictKind] = []
    if PATIENT.c.id in held:
        if _is_another(new.patient, held):
            found.append("patient")
        elif _is_otherwise(new.patient, held):
            found.append("demographics")
    if STUDY.c.id in held and held[STUDY.c.study_instance_uid] != new.study.study_instance_uid:
        found.append("study")
    return tuple(found)


def _is_another(stated: NewPatient, held: Mapping[Any, Any]) -> bool:
    if not stated.patient_id:
        return False
    issuers = {stated.issuer, held[PATIENT.c.issuer]} - {""}
    return bool(stated.patient_id != held[PATIENT.c.patient_id] or len(issuers) > 1)


def _is_otherwise(stated: NewPatient, held: Mapping[Any, Any]) -> bool:
    pairs = (
        (stated.patient_name_key, held[PATIENT.c.patient_name_key]),
        (stated.patient_birth_date, held[PATIENT.c.patient_birth_date]),
    )
    return any(one and other and one != other for one, other in pairs)


def record(
    connection: Connection, new: NewInstance, study_instance_uid: str, kind: ConflictKind, outcome: Outcome, now: float
) -> None:
    """Note one contradiction: a row for its study, kind and stated patient, however often it comes."""
    key = {
        "study_instance_uid": study_instance_uid,
        "kind": kind,
        "patient_id": new.patient.patient_id,
        "issuer": new.patient.issuer,
    }
    latest = {
        "sop_instance_uid": new.sop_instance_uid,
        "source_ae": new.source_ae,
        "outcome": outcome,
        "last_at": now,
    }
    known = connection.execute(_KNOWN, {f"_{name}": value for name, value in key.items()}).scalar()
    if known is None:
        connection.execute(insert(CONFLICT).values(**key, **latest, first_at=now, times=1))
    else:
        again = update(CONFLICT).where(CONFLICT.c.id == known)
        connection.execute(again.values(**latest, times=CONFLICT.c.times + 1))


def forget(connection: Connection, study_instance_uid: str) -> None:
    """The study is gone, and with it what contradicted it."""
    connection.execute(delete(CONFLICT).where(CONFLICT.c.study_instance_uid == study_instance_uid))
