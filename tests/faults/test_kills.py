"""Storms of kill -9, small ones: on SQLite, on PostgreSQL; and death at each statement of a migration."""

from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, text

from storage.database import Database
from storage.migrations.run import configuration
from storage.schema import REVISION
from storage.store import DATABASE, Store
from tests import nodes, postgresql
from tests.faults.oracle import Place
from tests.faults.points import POINTS, Fault
from tests.faults.storm import NEEDS, OTHERS, PROGRAM, STORMY, Storm

SMALL = 6  # kills


def storm(place: Place, folder: Path, seed: int, kills: int = SMALL) -> None:
    sent = folder / "sent"
    sent.mkdir()
    report = Storm(place, sent, seed).run(kills)
    assert report.wrong == [], report.text()
    assert report.killed >= kills
    assert report.acknowledged > 0
    assert report.answers > 0


@pytest.mark.timeout(600)
def test_a_storm_on_sqlite_loses_nothing(tmp_path):
    storm(Place(tmp_path / "root", ""), tmp_path, seed=11)


@pytest.mark.timeout(600)
@pytest.mark.postgresql
def test_a_storm_on_postgresql_loses_nothing(cluster: postgresql.Cluster, tmp_path):
    storm(Place(tmp_path / "root", cluster.create("storm")), tmp_path, seed=12)


def test_every_point_is_in_a_storm_or_has_a_test_of_its_own():
    assert set(STORMY) | OTHERS == set(POINTS)
    assert set(NEEDS) <= set(STORMY)


def old_archive(root: Path, revision: str = "0002") -> None:
    """An archive of an earlier program: one instance with its file."""
    with Store.open(root) as store, store.files.scratch() as scratch:  # for its folders
        scratch.write(b"as it was")
        kept = store.files.keep(scratch, "4.1")
    for path in root.glob(f"{DATABASE}*"):
        path.unlink()
    database = Database(f"sqlite:///{root / DATABASE}")

    def earlier(connection: Connection) -> None:
        config = configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in (
            "INSERT INTO patient (id, patient_id, issuer, anonymous_key) VALUES (1, 'P', '', '')",
            "INSERT INTO study (id, patient_row_id, study_instance_uid) VALUES (1, 1, '2.1')",
            "INSERT INTO series (id, study_row_id, series_instance_uid) VALUES (1, 1, '3.1')",
            "INSERT INTO instance (id, series_row_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, path,"
            f" sha256, size, received_at, header) VALUES (1, 1, '4.1', 'c', '1.2.840.10008.1.2.1', '{kept.path}',"
            f" '{kept.sha256}', {kept.size}, 500.0, '')",
        ):
            connection.execute(text(statement))

    database.write(earlier)
    database.close()


@pytest.mark.timeout(600)
def test_death_in_a_migration_leaves_the_old_schema(tmp_path):
    root = tmp_path / "root"
    old_archive(root)
    database = Database(f"sqlite:///{root / DATABASE}")
    for number, (point, skip) in enumerate(
        (("a migration's statement run", 0), ("a migration's statement run", 9), ("migrated, not committed", 0))
    ):
        fault = Fault(point, skip, "self", tmp_path / f"token-{number}")
        with (
            pytest.raises(AssertionError, match="did not start"),
            nodes.running_node(root, "--workers", "0", environment=fault.environment, module=PROGRAM),
        ):
            pass
        assert fault.happened
        assert database.revision() == "0002"
    database.close()
    with nodes.running_node(root, "--workers", "0", module=PROGRAM):
        pass
    with Store.open(root) as store:
        assert store._database.revision() == REVISION
        assert store.catalog.instance("4.1") is not None
        assert store.check() == []
