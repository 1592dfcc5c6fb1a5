"""Flipped bytes and truncation in each kind of file: no wrong answer without a word, no crash, no loop.

Model weights and whole snapshots under a running program are in tests/acceptance/test_bad_input.py.
"""

import random
import shutil
from pathlib import Path

import pytest

from storage.store import DATABASE, Store
from tests import nodes
from tests.integration.storage.building import Bench, filled

FLIPS = 4  # of each file


@pytest.fixture
def bench(tmp_path: Path):
    bench = Bench(tmp_path / "root", None)
    yield bench
    for store in bench.opened:
        store.close()


def flipped(content: bytes, chance: random.Random) -> bytes:
    """One bit of it."""
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def damages(content: bytes, chance: random.Random) -> list[bytes]:
    """Flips, truncations, nothing at all, and what is no such file."""
    cuts = [content[: chance.randrange(len(content))] for _ in range(2)]
    return [*(flipped(content, chance) for _ in range(FLIPS)), *cuts, b"", b"{}", bytes(len(content))]


def test_a_damaged_index_file_is_made_anew(bench):
    """With and without a graph; each file of the snapshot, damaged in every way."""
    store = bench.open(exact_limit=10)
    generation = filled(store, 15)
    store.vectors.warm(generation.id)
    store.vectors.improve()
    store.vectors.snapshot()
    folder = bench.root / "index" / str(generation.id)
    files = sorted(folder.glob("0-0.*"))
    assert {path.suffix for path in files} == {".json", ".exact", ".hnsw"}
    chance = random.Random(4)
    for path in files:
        whole = path.read_bytes()
        for damaged in damages(whole, chance):
            path.write_bytes(damaged)
            again = bench.open(exact_limit=10)
            assert again.vectors.warm(generation.id) == 90
            assert again.vectors.check() == []
            again.close()
        path.write_bytes(whole)


def test_a_damaged_instance_is_told_by_the_check(bench):
    store = bench.open()
    filled(store, 2)
    row = store.catalog.instance("4.0001")
    path = store.files.path(row.path)
    whole = path.read_bytes()
    for damaged in damages(whole, random.Random(5)):
        path.write_bytes(damaged)
        assert [(each.kind, each.subject) for each in store.check()] == [("file differs", "4.0001")]
    path.write_bytes(whole)
    assert store.check() == []


def stopped_archive(root: Path) -> None:
    with nodes.running_node(root, "--workers", "0"):
        pass


@pytest.mark.timeout(300)
def test_a_database_or_a_configuration_that_is_damaged_is_one_line(tmp_path):
    """`serve` says what is wrong and ends; it changes nothing, so that the whole file put back is enough."""
    root = tmp_path / "root"
    stopped_archive(root)
    whole = (root / DATABASE).read_bytes()
    damaged = {"no database": b"no database" * 1000, "header": flipped(whole[:16], random.Random(1)) + whole[16:]}
    for content in damaged.values():
        (root / DATABASE).write_bytes(content)
        done = nodes.dicomnode("serve", "--root", root, "--port", "0", check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "dicomnode: DatabaseError: file is not a database"
        assert "Traceback" not in done.stderr
        assert (root / DATABASE).read_bytes() == content
    (root / DATABASE).write_bytes(whole)
    settings = tmp_path / "dicomnode.toml"
    for content in (b"[storage\nroot = 1", b"\xff\xfe[storage]", b"[storage]\nroot = 7\n", b"[strage]\n"):
        settings.write_bytes(content)
        done = nodes.dicomnode("serve", "--config", settings, "--port", "0", check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
    stopped_archive(root)


def test_a_damaged_page_of_the_database_is_told(bench):
    """A page in the middle of SQLite's file: the check says so, or every row is as it was."""
    store = bench.open()
    generation = filled(store, 40)
    store.close()
    path = bench.root / DATABASE
    kept = bench.root / "kept"
    shutil.copy(path, kept)
    content = path.read_bytes()
    chance = random.Random(6)
    told = 0
    for _ in range(6):
        at = 4096 * chance.randrange(1, len(content) // 4096)
        path.write_bytes(content[:at] + bytes(4096) + content[at + 4096 :])
        found = damage_of(bench.root)
        told += bool(found)
    shutil.copy(kept, path)
    assert told == 6
    with Store.open(bench.root) as whole:
        whole.vectors.warm(generation.id)
        assert whole.check() == []


def damage_of(root: Path) -> list[str]:
    from storage.errors import StorageError

    try:
        with Store.open(root) as store:
            return [each.kind for each in store.check()]
    except StorageError as error:
        return [str(error)]
