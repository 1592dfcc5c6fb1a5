"""A power cut between any two writes: what was committed is there, whole, whatever was left of the rest."""

import hashlib
import shutil
import sqlite3

import pytest

from storage.database import Database
from storage.records import Equals
from storage.store import DATABASE, Store
from tests.faults.journal import Disk, Journal, choices
from tests.integration.storage.building import MODEL, put, work_off

RANDOM_TREES = 3  # of each prefix
Rows = dict[str, tuple[str, int]]  # path -> sha256, size


def rows_of(store: Store) -> Rows:
    return {path: (sha256, size) for path, (_, sha256, size) in store.catalog.files_under("").items()}


@pytest.fixture
def journal(tmp_path, monkeypatch) -> Journal:
    """Of an archive that takes instances, replaces and deletes some, and writes its index, with a mark a commit."""
    root = tmp_path / "root"
    recorded = Journal(root)
    write = Database.write
    with Store.open(root) as store:
        generation = store.generations.ensure_live(MODEL)

        def marking(database, work):
            result = write(database, work)
            recorded.mark(rows_of(store))
            return result

        with recorded.recording(), monkeypatch.context() as patched:
            patched.setattr(Database, "write", marking)
            for number in range(6):
                put(store, number)
            put(store, 2, b"other bytes", policy="replace")
            work_off(store)
            store.vectors.warm(generation.id)
            store.vectors.snapshot()
            list(store.deletion.delete([Equals("study_instance_uid", "2.0000")]))
            put(store, 9)
            work_off(store)
            store.vectors.snapshot()
    return recorded


def test_what_is_committed_survives_a_power_cut_at_any_moment(journal):
    """Every prefix of what was done, and of each the trees that may be left of it."""
    disk, committed, seen = Disk(), Rows(), 0
    for at, operation in enumerate(journal.operations):
        disk.apply(operation)
        if operation[0] == "mark":
            committed = operation[1]
        for choose in choices(at, RANDOM_TREES):
            tree = disk.tree(choose)
            for path, (sha256, size) in committed.items():
                assert (hashlib.sha256(tree[path]).hexdigest(), len(tree[path])) == (sha256, size)
                seen += 1
    assert seen > 1000
    kinds = {operation[0] for operation in journal.operations}
    assert kinds == {"mark", "mkdir", "content", "folder", "rename", "unlink"}


def test_an_index_that_a_power_cut_left_is_the_old_one_the_new_one_or_made_anew(journal, tmp_path):
    kept = tmp_path / "kept.sqlite"
    shutil.copy(tmp_path / "root" / DATABASE, kept)
    with sqlite3.connect(kept) as database:
        assert database.execute("SELECT count(*) FROM region").fetchone() == (15,)
    database.close()
    started = [at for at, (kind, *rest) in enumerate(journal.operations) if rest and "index/" in str(rest[0])]
    assert len(started) > 20
    disk = Disk()
    for at, operation in enumerate(journal.operations):
        disk.apply(operation)
        if at < started[0] or at % 5:
            continue
        for choose in choices(at, 1):
            tree = tmp_path / "tree"
            for path, content in disk.tree(choose).items():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_bytes(content)
            tree.mkdir(exist_ok=True)
            shutil.copy(kept, tree / DATABASE)
            with Store.open(tree) as store:
                live = store.generations.live()
                assert store.vectors.warm(live.id) == 30
                assert store.vectors.check() == []
            shutil.rmtree(tree)


def test_a_missing_sync_is_found(journal):
    """The check can fail: without the syncs of folders, names are lost."""
    journal.operations = [operation for operation in journal.operations if operation[0] != "folder"]
    with pytest.raises(KeyError):
        test_what_is_committed_survives_a_power_cut_at_any_moment(journal)
