"""All migrations applied, and the tables as the program sees them: the same."""

import re
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, text

from storage.database import Database
from storage.errors import DatabaseError
from storage.migrations.run import configuration, newest
from storage.schema import METADATA, REVISION
from storage.store import DATABASE, Store
from tests.integration.storage.building import Bench, filled

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


def test_newer_schema_is_refused(bench: Bench, store: Store) -> None:
    with store._database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="not one this program knows"):
        bench.open()


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
