"""Rows of a table that are due in, one of them leased to who asks out: what several processes owe, one of them does.

As with jobs, under a lease: `lease_owner` holds the row, and `not_before` (NULL: nothing is to be done for it) is when
the lease runs out and others may have it. Only who holds a row can change it. Programs that know no leases see a row
that is held as one that is not due yet.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, bindparam, or_, select, update

from storage.database import Database
from storage.errors import LeaseLost

BOOKKEEPING: Final = ("not_before", "lease_owner")  # columns that a record has under another name, or not at all


def named(holder: str) -> str:
    """An owner's name for one run of one process of the node of that name: never that of an earlier one."""
    return f"{holder}/{secrets.token_hex(4)}"


class Leases:
    """The rows of one table that are due. Safe for threads and processes.

    An `owner` is `HOLDER/NAME`, see `named`.
    """

    def __init__(self, database: Database, clock: Callable[[], float], table: Table) -> None:
        self._database = database
        self._clock = clock
        self._table = table
        self._due = (
            select(table.c.id)
            .where(table.c.not_before <= bindparam("now"))
            .order_by(table.c.not_before, table.c.id)
            .limit(1)
        )

    @property
    def columns(self) -> Sequence[ColumnElement[Any]]:
        """What a record of the table holds, and who holds the row as its `owner`."""
        return [column for column in self._table.c if column.name not in BOOKKEEPING] + [
            self._table.c.lease_owner.label("owner")
        ]

    def claim(self, owner: str, lease_s: float) -> RowMapping | None:
        """The row that has waited longest, if one is due, held for `lease_s` seconds."""
        now = self._clock()
        with self._database.reading() as connection:
            if not connection.execute(self._due, {"now": now}).first():
                return None  # who polls never takes the write lock

        def work(connection: Connection) -> RowMapping | None:
            # SQLite has one writer anyway and leaves the lock out.
            found = connection.execute(self._due.with_for_update(skip_locked=True), {"now": now}).scalar()
            if found is None:
                return None
            mine = update(self._table).where(self._table.c.id == found)
            connection.execute(mine.values(lease_owner=owner, not_before=now + lease_s))
            return connection.execute(select(*self.columns).where(self._table.c.id == found)).mappings().one()

        return self._database.write(work)

    def change(self, row_id: int, owner: str | None, values: Mapping[str, Any]) -> None:
        """Change a row that `owner` holds, or nobody when it is None; it is held no longer. LeaseLost.

        `values` say when it is due again.
        """

        def work(connection: Connection) -> None:
            mine = (self._table.c.id == row_id, self._table.c.lease_owner.is_not_distinct_from(owner))
            changed = update(self._table).where(*mine).values({**values, "lease_owner": None})
            if not connection.execute(changed).rowcount:
                raise LeaseLost(f"{self._table.name} {row_id}: not held by {owner or 'nobody'} any more")

        self._database.write(work)

    def release(self, owner: str) -> None:
        """Let go of what an owner holds: it is stopping. Others may have it at once."""
        free = {"lease_owner": None, "not_before": self._clock()}
        held = update(self._table).where(self._table.c.lease_owner == owner).values(free)
        self._database.write(lambda connection: connection.execute(held))

    def hasten(self, holder: str) -> None:
        """Make every row due that is not done with, and is not in other hands: after a start.

        What earlier runs of `holder` had in hand is taken back.
        """
        owner = self._table.c.lease_owner
        free = or_(owner.is_(None), owner.startswith(f"{holder}/", autoescape=True))
        waiting = update(self._table).where(self._table.c.not_before.is_not(None), free)
        now = {"lease_owner": None, "not_before": self._clock()}
        self._database.write(lambda connection: connection.execute(waiting.values(now)))
