"""All migrations applied, and the tables as the program sees them: the same."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    insert,
    select,
    text,
    update,
)

from storage.database import Database
from storage.errors import DatabaseError
from storage.migrations.run import configuration, newest
from storage.schema import METADATA, REVISION
from storage.store import DATABASE, Store
from tests.integration.storage.building import Bench, filled, put, work_off

SAME = 7777  # every number of a row: its own, and that of each row above it

SQLITE_DDL = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%' ORDER BY name"
POSTGRESQL_DDL = """
    SELECT table_name || '.' || column_name,
           data_type || coalesce(collation_name, '') || is_nullable || coalesce(column_default, '')
      FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    UNION SELECT 'index ' || indexname, indexdef FROM pg_indexes
     WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass
    ORDER BY 1"""


def _described(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        query = SQLITE_DDL if engine.dialect.name == "sqlite" else POSTGRESQL_DDL
        return {name: _unordered(ddl) for name, ddl in connection.execute(text(query))}


def _unordered(ddl: str) -> str:
    """A table's constraints have no order that means anything."""
    return ",".join(sorted(part.strip() for part in re.sub(r"[()\s]+", " ", ddl).split(",")))


def test_newest_revision_is_the_programs() -> None:
    assert newest() == REVISION


def test_migrated_is_what_the_metadata_says(bench: Bench, store: Store) -> None:
    engine = store._database.engine
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    migrated = _described(engine)
    if engine.dialect.name == "sqlite":
        fresh = create_engine(f"sqlite:///{bench.root}/fresh.sqlite")
        METADATA.create_all(fresh)
        assert migrated == _described(fresh)
        fresh.dispose()
    else:
        with engine.begin() as connection:
            METADATA.drop_all(connection)
            METADATA.create_all(connection)
        assert migrated == _described(engine)
    assert len(migrated) > 20


def test_opening_again_changes_nothing(bench: Bench) -> None:
    before = _described(bench.open()._database.engine)
    assert _described(bench.open()._database.engine) == before


def test_many_programs_start_at_once(bench: Bench, in_threads) -> None:  # type: ignore[no-untyped-def]
    in_threads(*[bench.open] * 4)
    assert {store._database.revision() for store in bench.opened} == {REVISION}


def test_many_connections_make_one_new_file(tmp_path: Path, in_threads) -> None:  # type: ignore[no-untyped-def]
    """SQLite does not wait by itself when two switch a new file to write-ahead logging at once."""
    for n in range(30):
        databases = [Database(f"sqlite:///{tmp_path / str(n)}") for _ in range(8)]
        in_threads(*[database.revision for database in databases])
        for database in databases:
            database.close()


def test_an_archive_of_the_first_schema_is_brought_up_with_what_it_holds(bench: Bench) -> None:
    bench.root.mkdir(parents=True)
    database = Database(bench.url or f"sqlite:///{bench.root / DATABASE}")
    config = configuration()

    def first(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("UPDATE counter SET value = 7 WHERE name = 'change'"))

    database.write(first)
    assert database.revision() == "0001"
    store = bench.open()
    assert database.revision() == REVISION
    assert store.vectors.refresh() == 7
    generation = filled(store, 2)
    assert store.local_maps.count_missing(generation.id) == 2
    database.close()


def test_newer_schema_that_this_program_cannot_work_on_is_refused(bench: Bench, store: Store) -> None:
    with store._database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("UPDATE counter SET value = 9999 WHERE name = 'oldest_program'"))
    with pytest.raises(DatabaseError, match="not one this program knows"):
        bench.open()


def test_a_program_goes_on_after_a_newer_one_has_migrated(bench: Bench, store: Store) -> None:
    """And its workers start again on what the newer one left: a rolling upgrade."""
    generation = filled(store, 2)
    with store._database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("CREATE TABLE of_the_future (id INTEGER PRIMARY KEY)"))
        connection.execute(text("ALTER TABLE instance ADD COLUMN of_the_future TEXT"))
    put(store, 5)
    work_off(bench.open())
    assert store.jobs.counts(generation.id).indexed == 3
    assert store.check() == []


def _row(table: Table) -> dict[str, object]:
    """A row of a table as a program of its revision writes it: every column that it knows."""
    kinds: list[tuple[type, object]] = [(JSON, {}), (Integer, SAME), (Float, 1.0), (LargeBinary, b"x"), (String, "x")]
    return {
        column.name: next(value for kind, value in kinds if isinstance(column.type, kind)) for column in table.columns
    }


def _revisions() -> list[str]:
    return [each.revision for each in ScriptDirectory.from_config(configuration()).walk_revisions()][::-1]


def test_what_programs_before_a_migration_write_can_be_written_after_it(bench: Bench) -> None:
    """Migrations only add. Each table as it was, with each column as it was, takes every statement still."""
    bench.root.mkdir(parents=True)
    database = Database(bench.url or f"sqlite:///{bench.root / DATABASE}")
    config = configuration()

    def to(revision: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

        return work

    before = MetaData()
    for revision in _revisions():
        database.write(to(revision))
        for table in before.sorted_tables:
            with database.engine.begin() as connection:
                connection.execute(insert(table).values(_row(table)))
                connection.execute(update(table).values({c.name: c for c in table.columns if not c.primary_key}))
                assert len(connection.execute(select(table)).all()) >= 1
        for table in reversed(before.sorted_tables):
            with database.engine.begin() as connection:
                gone = next(iter(table.primary_key.columns))
                connection.execute(delete(table).where(gone == _row(table)[gone.name]))
        before = MetaData()
        before.reflect(database.engine)
        before.remove(before.tables["alembic_version"])
    assert set(before.tables) == set(METADATA.tables)
    database.close()


def test_sqlite_is_made_durable(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, store._database.reading() as connection:
        pragma = lambda name: connection.execute(text(f"PRAGMA {name}")).scalar()  # noqa: E731
        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("foreign_keys") == 1
        assert pragma("busy_timeout") == 30_000


def test_unknown_database_is_one_clear_error() -> None:
    with pytest.raises(DatabaseError):
        Database("nonsense://x")


def test_missing_server_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError):
        Store.open(tmp_path, f"postgresql+psycopg://nobody@/nothing?host={tmp_path}")
