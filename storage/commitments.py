"""Answers to requests for storage commitment in; those that the peer has not been told yet out, when they are due."""

from collections.abc import Callable, Sequence
from dataclasses import astuple

from sqlalchemy import Text, cast, delete, func, insert, select

from storage.database import Database
from storage.leases import Leases
from storage.records import Commitment, Reference
from storage.schema import COMMITMENT


class Commitments:
    """The reports that are owed. Safe for threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._leases = Leases(database, clock, COMMITMENT)

    def owe(
        self,
        transaction_uid: str,
        ae_title: str,
        references: Sequence[Reference],
        delay_s: float,
        owner: str | None = None,
    ) -> int:
        """Keep one report, due after `delay_s`; durable on return. Returns its id.

        `owner` has it in hand until then.
        """
        now = self._clock()
        row = {
            "transaction_uid": transaction_uid,
            "ae_title": ae_title,
            "entries": [astuple(reference) for reference in references],
            "attempts": 0,
            "requested_at": now,
            "not_before": now + delay_s,
            "lease_owner": owner,
        }
        return self._database.write(lambda connection: _key(connection.execute(insert(COMMITMENT), row)))

    def size(self, ae_title: str) -> int:
        """How much is owed to an AE, in characters of what is kept."""
        entries = func.length(cast(COMMITMENT.c.entries, Text))
        query = select(func.coalesce(func.sum(entries), 0)).where(COMMITMENT.c.ae_title == ae_title)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def claim(self, owner: str, lease_s: float) -> Commitment | None:
        """The report that has waited longest, if one is due, leased to `owner`; see `Leases`."""
        row = self._leases.claim(owner, lease_s)
        if row is None:
            return None
        values = {name: value for name, value in row.items() if name != "entries"}
        return Commitment(references=tuple(Reference(*entry) for entry in row["entries"]), **values)

    def postpone(self, commitment: Commitment, delay_s: float) -> None:
        """Count an attempt that failed; the report is due again after `delay_s`. LeaseLost."""
        later = {"not_before": self._clock() + delay_s, "attempts": COMMITMENT.c.attempts + 1}
        self._leases.change(commitment.id, commitment.owner, later)

    def hasten(self, holder: str) -> None:
        """Make every report due that nobody else is telling: after a start, peers may be back; see `Leases`."""
        self._leases.hasten(holder)

    def release(self, owner: str) -> None:
        """Let go of what an owner has in hand."""
        self._leases.release(owner)

    def end(self, commitment_id: int) -> None:
        """The report was told, or is given up, by whoever."""
        gone = delete(COMMITMENT).where(COMMITMENT.c.id == commitment_id)
        self._database.write(lambda connection: connection.execute(gone))


def _key(result: object) -> int:
    key = getattr(result, "inserted_primary_key", None)
    assert key is not None, "the table has a primary key"
    return int(key[0])
