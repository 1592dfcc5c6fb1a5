"""A database in use in, a copy of one state of it as a file out, with the files that this very state names; and back.

SQLite by its online backup, PostgreSQL by pg_dump in the snapshot of a transaction that also lists the files: nobody
who writes waits, and nothing that is committed when it begins is missing.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, inspect, select, text

from storage.database import Database, translated
from storage.durable import reported
from storage.errors import DatabaseError
from storage.schema import INSTANCE

Kind = Literal["sqlite", "postgresql"]
SUFFIX: dict[Kind, str] = {"sqlite": "sqlite", "postgresql": "dump"}
PAGE = 500
DEBIAN = Path("/usr/lib/postgresql")  # where its programs are when they are not on the path
_NAMED = select(INSTANCE.c.path, INSTANCE.c.sha256, INSTANCE.c.size, INSTANCE.c.sop_instance_uid).order_by(
    INSTANCE.c.path
)


@dataclass(frozen=True)
class Named:
    """A file that an instance names."""

    path: str  # relative to the root
    sha256: str
    size: int
    sop_instance_uid: str


@dataclass(frozen=True)
class Copied:
    """A copy, and what it says of files."""

    kind: Kind
    file: Path
    named: Callable[[], Iterator[Named]]


class Copies:
    """Copies of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def kind(self) -> Kind:
        return "sqlite" if self._database.sqlite else "postgresql"

    @contextmanager
    def copied(self, folder: Path, stem: str) -> Iterator[Copied]:
        """A copy as `folder/stem.*`; its state can be read until the block ends. StorageError."""
        target = folder / f"{stem}.{SUFFIX[self.kind]}"
        made = self._by_sqlite if self._database.sqlite else self._by_dump
        with made(target) as named:
            yield Copied(self.kind, target, named)

    @contextmanager
    def _by_sqlite(self, target: Path) -> Iterator[Callable[[], Iterator[Named]]]:
        with translated(), self._database.engine.connect() as connection, closing(sqlite3.connect(target)) as copy:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            with _reported():
                source.backup(copy)  # in one step: in several it would begin anew whenever somebody writes
                copy.execute("PRAGMA journal_mode = DELETE")  # one file
        with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as copy:
            yield lambda: _rows(copy)

    @contextmanager
    def _by_dump(self, target: Path) -> Iterator[Callable[[], Iterator[Named]]]:
        with self._database.reading() as connection:
            snapshot = str(connection.execute(text("SELECT pg_export_snapshot()")).scalar_one())
            self._run("pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={target}")
            yield lambda: _streamed(connection)

    def check_empty(self) -> None:
        """DatabaseError when the database holds anything."""
        with translated(), self._database.engine.connect() as connection:
            if inspect(connection).get_table_names():
                raise DatabaseError("the database is not empty")

    def restore(self, copy: Path) -> None:
        """Make an empty PostgreSQL database what the copy says; all of it or nothing. DatabaseError."""
        self.check_empty()
        self._run("pg_restore", "--exit-on-error", "--single-transaction", str(copy))

    def _run(self, program: str, *arguments: str) -> None:
        """One of PostgreSQL's programs on this database. Its password goes by the environment, not by the arguments."""
        where, password = self._address()
        command = [_found(program), "--no-owner", "--no-privileges", f"--dbname={where}", *arguments]
        environment = os.environ | ({"PGPASSWORD": password} if password else {})
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            words = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
            raise DatabaseError(words if words.startswith(program) else f"{program}: {words}")

    def _address(self) -> tuple[str, str]:
        """What libpq calls the database, and the password."""
        from psycopg.conninfo import make_conninfo  # only where there is PostgreSQL

        engine = self._database.engine
        _, given = engine.dialect.create_connect_args(engine.url)
        known: dict[str, Any] = {name: value for name, value in given.items() if isinstance(value, str | int)}
        password = str(known.pop("password", "") or "")
        return str(make_conninfo(**known)), password


def _rows(copy: sqlite3.Connection) -> Iterator[Named]:
    with _reported():
        for row in copy.execute("SELECT path, sha256, size, sop_instance_uid FROM instance ORDER BY path"):
            yield Named(*row)


def _streamed(connection: Connection) -> Iterator[Named]:
    streaming = connection.execution_options(stream_results=True, yield_per=PAGE)
    with streaming.execute(_NAMED) as result:
        for row in result:
            yield Named(*row)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"{type(error).__name__}: {error}") from None


def _found(program: str) -> str:
    """Where one of PostgreSQL's programs is: the newest, which reads what older servers keep."""
    with reported("programs"):
        here = sorted(DEBIAN.glob(f"*/bin/{program}"), key=lambda path: path.parent.parent.name.zfill(4))
    found = shutil.which(program) or (str(here[-1]) if here else "")
    if not found:
        raise DatabaseError(f"{program} is not installed: it comes with PostgreSQL's client programs")
    return found
