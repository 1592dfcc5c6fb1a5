"""Answers to requests for storage commitment in; those that the peer has not been told yet out, when they are due."""

from collections.abc import Callable, Sequence
from dataclasses import astuple

from sqlalchemy import Text, bindparam, cast, delete, func, insert, select, update

from storage.database import Database
from storage.records import Commitment, Reference
from storage.schema import COMMITMENT

_DUE = (
    select(COMMITMENT)
    .where(COMMITMENT.c.not_before <= bindparam("now"))
    .order_by(COMMITMENT.c.not_before, COMMITMENT.c.id)
    .limit(1)
)


class Commitments:
    """The reports that are owed. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def owe(self, transaction_uid: str, ae_title: str, references: Sequence[Reference], delay_s: float) -> int:
        """Keep one report, due after `delay_s`; durable on return. Returns its id."""
        now = self._clock()
        row = {
            "transaction_uid": transaction_uid,
            "ae_title": ae_title,
            "entries": [astuple(reference) for reference in references],
            "attempts": 0,
            "requested_at": now,
            "not_before": now + delay_s,
        }
        return self._database.write(lambda connection: _key(connection.execute(insert(COMMITMENT), row)))

    def size(self, ae_title: str) -> int:
        """How much is owed to an AE, in characters of what is kept."""
        entries = func.length(cast(COMMITMENT.c.entries, Text))
        query = select(func.coalesce(func.sum(entries), 0)).where(COMMITMENT.c.ae_title == ae_title)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def due(self) -> Commitment | None:
        """The report that has waited longest, if one is due."""
        with self._database.reading() as connection:
            row = connection.execute(_DUE, {"now": self._clock()}).mappings().one_or_none()
        if row is None:
            return None
        references = tuple(Reference(*entry) for entry in row["entries"])
        return Commitment(
            row["id"], row["transaction_uid"], row["ae_title"], references, row["attempts"], row["requested_at"]
        )

    def postpone(self, commitment_id: int, delay_s: float) -> None:
        """Count an attempt that failed; the report is due again after `delay_s`."""
        later = {"not_before": self._clock() + delay_s, "attempts": COMMITMENT.c.attempts + 1}
        change = update(COMMITMENT).where(COMMITMENT.c.id == commitment_id).values(later)
        self._database.write(lambda connection: connection.execute(change))

    def hasten(self) -> None:
        """Make every report due: after a start nobody else is telling it, and peers may be back."""
        change = update(COMMITMENT).values(not_before=0.0)
        self._database.write(lambda connection: connection.execute(change))

    def end(self, commitment_id: int) -> None:
        """The report was told, or is given up."""
        gone = delete(COMMITMENT).where(COMMITMENT.c.id == commitment_id)
        self._database.write(lambda connection: connection.execute(gone))


def _key(result: object) -> int:
    key = getattr(result, "inserted_primary_key", None)
    assert key is not None, "the table has a primary key"
    return int(key[0])
