"""Writers of several processes on one SQLite file: they take turns, and wait no longer than they are told to."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage import database
from storage.database import Database, advance, counted
from storage.errors import DatabaseAway
from storage.store import DATABASE, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.open(tmp_path / "root").close()
    return tmp_path / "root" / DATABASE


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else's write transaction."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{path}")
    yield found
    found.close()


def test_who_waits_goes_on_when_the_other_has_ended(path: Path) -> None:
    with opened(path) as here, writing(path) as other:
        ending = threading.Timer(0.2, other.rollback)
        ending.start()
        here.write(lambda connection: advance(connection, "change", 1))
        ending.join()
        with here.reading() as connection:
            assert counted(connection, "change") == 1


def test_who_has_waited_long_enough_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    with opened(path) as here:
        with writing(path), pytest.raises(DatabaseAway, match="database is locked"):
            here.write(lambda connection: advance(connection, "change", 1))
        assert here.write(lambda connection: advance(connection, "change", 1)) == 1


def test_sqlite_waits_by_itself_for_all_else(path: Path) -> None:
    def left_alone(connection: database.Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one())

    with opened(path) as here:
        for _ in range(2):
            assert here.write(left_alone) == 30_000
        with here.reading() as connection:
            assert left_alone(connection) == 30_000


def test_several_writers_lose_nothing(path: Path) -> None:
    """Each with a file of its own open, as processes have."""

    def write(times: int) -> None:
        with opened(path) as mine:
            for _ in range(times):
                mine.write(lambda connection: advance(connection, "change", 1))

    threads = [threading.Thread(target=write, args=(40,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened(path) as here, here.reading() as connection:
        assert counted(connection, "change") == 160


def test_a_file_that_is_no_database_is_told(path: Path) -> None:
    with opened(path) as here:
        path.with_name("other").write_bytes(b"no database" * 1000)
        with opened(path.with_name("other")) as broken, pytest.raises(database.DatabaseError):
            broken.write(lambda connection: advance(connection, "change", 1))
        assert here.write(lambda connection: advance(connection, "change", 1)) == 1
