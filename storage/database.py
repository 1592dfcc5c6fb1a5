"""A database URL in, transactions out: one engine, SQLite made durable, writes that may lose a race run again.

Memory bound: reads stream; nothing here keeps rows.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, bindparam, create_engine, event, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from storage.errors import DatabaseAway, DatabaseError, StorageError, StorageFull
from storage.schema import COUNTER, REVISION

T = TypeVar("T")

_ADVANCE = (
    update(COUNTER).where(COUNTER.c.name == bindparam("which")).values(value=COUNTER.c.value + bindparam("steps"))
)
_COUNTED = select(COUNTER.c.value).where(COUNTER.c.name == bindparam("which"))

BUSY_TIMEOUT_S = 30.0
BUSY_POLL_S = 0.0005  # between looks whether another process has ended its transaction
MOST_TOLD = 10  # faults of a damaged file that are told
RETRIES = 20  # a lost race is rare; so many in a row are a fault, not a race
PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA case_sensitive_like = ON",  # as on every other database
)
SQLSTATE_RACES = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
SQLSTATE_FULL = frozenset({"53100"})  # disk_full


class Database:
    """The engine and its two kinds of transaction. Safe for threads; open one for each process.

    A transaction of a function passed to `write` may run more than once: it must have no effect but its SQL.
    """

    def __init__(self, url: str | URL) -> None:
        """DatabaseError when the URL means nothing here."""
        with translated():
            parsed = make_url(url)
            self.sqlite = parsed.get_backend_name() == "sqlite"
            # A thread that waits for a connection waits for a commit; an association must never fail for that.
            # The one used last first: SQLite keeps its pages as long as no other connection has written.
            self.engine = create_engine(
                parsed, pool_size=8, max_overflow=-1, pool_pre_ping=not self.sqlite, pool_use_lifo=True
            )
        # SQLite lets waiting processes poll; threads of one process can queue instead, which is faster and fair.
        self._turn = threading.Lock() if self.sqlite else nullcontext()
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._reader = self.engine if self.sqlite else self.engine.execution_options(isolation_level="REPEATABLE READ")
        self._writer = self.engine.execution_options(dicomnode_write=True)  # the same pool

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, and sees one state of the database from first to last row."""
        with translated(), self._reader.connect() as connection, connection.begin():
            yield connection

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, commit, return what it returned.

        Work that meets a row somebody else has just written (a unique key, a deadlock) is rolled back and run
        again: it then finds the row. Raises StorageFull, DatabaseError, and whatever `work` raises.
        """
        with translated(), self._turn:
            for _ in range(RETRIES):
                try:
                    return self._attempt(work)
                except DBAPIError as error:
                    if not _lost_race(error):
                        raise
            return self._attempt(work)

    def _attempt(self, work: Callable[[Connection], T]) -> T:
        with self._writer.connect() as connection, connection.begin():
            return work(connection)

    def share(self, connection: Connection, counter: str) -> None:
        """Hold `counter` unchanged until this transaction ends; others may share it.

        SQLite's write transactions exclude each other already.
        """
        if not self.sqlite:
            connection.execute(select(COUNTER.c.value).where(COUNTER.c.name == counter).with_for_update(read=True))

    def damage(self) -> list[str]:
        """What SQLite's own check finds wrong with its file; a server keeps checksums itself."""
        if not self.sqlite:
            return []
        with self.reading() as connection:
            try:
                found = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA integrity_check({MOST_TOLD})")]
            except DBAPIError as error:
                return [_first_line(error.orig)]  # so damaged that it cannot be checked
        return [] if found == ["ok"] else found

    def revision(self) -> str | None:
        """The migration the database is at; None for an empty one."""
        with translated(), self.engine.connect() as connection:
            if not self.engine.dialect.has_table(connection, "alembic_version"):
                return None
            row = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return str(row) if row is not None else None

    def upgrade(self) -> None:
        """Bring the schema to this program's revision; leave that of a newer program that this one can work on.

        DatabaseError when it is one that it cannot.
        """
        found = self.revision()
        if found == REVISION or (found is not None and self._is_newer(found)):
            return
        from storage.migrations.run import upgrade  # alembic takes a while to import: only when there is work

        self.write(upgrade)

    def _is_newer(self, revision: str) -> bool:
        """Whether a newer program migrated the database, and says that this one may go on."""
        if not revision.isdecimal() or int(revision) < int(REVISION):
            return False
        with self.reading() as connection:
            oldest = connection.execute(_COUNTED, {"which": "oldest_program"}).scalar()
        return oldest is not None and int(oldest) <= int(REVISION)


def advance(connection: Connection, counter: str, steps: int) -> int:
    """Add `steps` to a counter and hold it to the end of the transaction; returns its new value.

    Whoever reads the value w in a later transaction sees every row numbered up to w: a second writer waits here
    until the first has committed. A sequence or a clock does not promise that.
    """
    connection.execute(_ADVANCE, {"which": counter, "steps": steps})
    return counted(connection, counter)


def counted(connection: Connection, counter: str) -> int:
    """A counter's present value."""
    return int(connection.execute(_COUNTED, {"which": counter}).scalar_one())


@contextmanager
def translated() -> Iterator[None]:
    """SQLAlchemy's errors as ours; the database's own words are kept, statements and values are not.

    Values are left out because they are patient data and errors end up in logs.
    """
    try:
        yield
    except StorageError:
        raise
    except DBAPIError as error:
        words = f"{type(error.orig).__name__}: {_first_line(error.orig)}"
        raise _meaning(error)(words) from None
    except SQLAlchemyError as error:
        raise DatabaseError(f"{type(error).__name__}: {_first_line(error)}") from None


def _meaning(error: DBAPIError) -> type[StorageError]:
    if _is_full(error):
        return StorageFull
    is_away = isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return DatabaseAway if is_away else DatabaseError


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0]


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _lost_race(error: DBAPIError) -> bool:
    return isinstance(error, IntegrityError) or _sqlstate(error) in SQLSTATE_RACES


def _is_full(error: DBAPIError) -> bool:
    return _sqlstate(error) in SQLSTATE_FULL or "database or disk is full" in str(error.orig)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours, see _begin_sqlite
    cursor = connection.cursor()
    _wait_up_to(cursor, BUSY_TIMEOUT_S)
    for pragma in PRAGMAS:
        cursor.execute(pragma)
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Journal mode WAL. Two who switch a new file to it at once fail without SQLite's own waiting: it is here."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that starts by reading and then writes fails at once, without waiting, when another wrote
    # in between; one that will write takes the lock first.
    if not connection.get_execution_options().get("dicomnode_write", False):
        connection.exec_driver_sql("BEGIN")
        return
    cursor = connection.connection.cursor()
    # SQLite itself looks again after 1, 2, 5 ... 100 ms: of several processes that write all would mostly sleep.
    _wait_up_to(cursor, 0.0)
    try:
        if not _taken(cursor):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # what is wrong is told as of any other statement
    finally:
        _wait_up_to(cursor, BUSY_TIMEOUT_S)
        cursor.close()


def _wait_up_to(cursor: Any, seconds: float) -> None:
    """How long SQLite waits by itself where it finds the file locked."""
    cursor.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _taken(cursor: Any) -> bool:
    """Whether the one write transaction has begun: when another process has it, as soon as that one has ended."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("BEGIN IMMEDIATE")
            return True
        except sqlite3.Error as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                return False
        time.sleep(BUSY_POLL_S)


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
