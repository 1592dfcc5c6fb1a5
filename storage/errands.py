"""What a command asks of the nodes on a database in, whether one has done it out: two counters for each errand.

A node owns its index in memory and the files it is kept in, so who wants them otherwise asks. `asked` counts up with
each asking; a node that sees more asked than done does the errand and says up to which number it is done.
"""

from typing import Literal

from sqlalchemy import Connection, insert, select, update

from storage.database import Database, advance
from storage.schema import COUNTER

Errand = Literal["rebuild", "prepare"]  # the index anew from SQL; what the generation being built needs to answer


class Errands:
    """Safe for threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, errand: Errand) -> int:
        """Ask for it; returns the number that `done` will reach."""

        def work(connection: Connection) -> int:
            _make(connection, f"{errand} asked")
            return advance(connection, f"{errand} asked", 1)

        return self._database.write(work)

    def asked(self, errand: Errand) -> int:
        """The number of the latest asking; 0 when nobody ever did."""
        return self._read(f"{errand} asked")

    def done(self, errand: Errand) -> int:
        """The highest number that a node has done."""
        return self._read(f"{errand} done")

    def finish(self, errand: Errand, number: int) -> None:
        """A node's word that it is done up to `number`."""

        def work(connection: Connection) -> None:
            _make(connection, f"{errand} done")
            later = (COUNTER.c.name == f"{errand} done", COUNTER.c.value < number)
            connection.execute(update(COUNTER).where(*later).values(value=number))

        self._database.write(work)

    def _read(self, name: str) -> int:
        with self._database.reading() as connection:
            return int(connection.execute(select(COUNTER.c.value).where(COUNTER.c.name == name)).scalar() or 0)


def _make(connection: Connection, name: str) -> None:
    """Who loses the race for the row is run again and finds it."""
    if connection.execute(select(COUNTER.c.name).where(COUNTER.c.name == name)).first() is None:
        connection.execute(insert(COUNTER).values(name=name, value=0))
