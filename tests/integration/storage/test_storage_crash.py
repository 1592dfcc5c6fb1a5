"""kill -9 at any instruction, a disk that fills: nothing acknowledged is lost, nothing half-done is believed."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.store import Store
from tests.integration.storage.building import MODEL, Bench, filled, put, work_off

PROJECT = Path(__file__).resolve().parents[3]
KILLS = {True: 10, False: 4}  # SQLite or not: with a server only its client dies


def _killed(bench: Bench, first: int, after_s: float) -> list[str]:
    """What a writer acknowledged before it was killed, so long after its first word."""
    command = [sys.executable, "-m", "tests.integration.storage.writer", str(bench.root), bench.url or "", str(first)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(after_s)
        process.kill()
        lines += process.stdout.readlines()
    # A last line may be cut: then nobody was told.
    return [line.strip() for line in lines if line.endswith("\n") and line.strip()]


def test_killed_again_and_again(bench: Bench) -> None:
    chance = random.Random(20)
    stored: set[str] = set()
    indexed: list[str] = []
    for kill in range(KILLS[bench.url is None]):
        for line in _killed(bench, 1000 * kill, chance.uniform(0, 0.6)):
            what, uid = line.split()
            if what == "stored":
                stored.add(uid)
            else:
                indexed.append(uid)
    assert len(stored) > KILLS[bench.url is None]
    assert len(indexed) == len(set(indexed))  # no job ended twice
    bench.clock.now = time.time() + 60
    store = bench.open()
    live = store.generations.ensure_live(MODEL)
    _nothing_is_lost(store, stored, set(indexed), live.id)

    store.sweep(0)
    store.jobs.release("writer.", counts=False)
    work_off(store)
    counts = store.jobs.counts(live.id)
    assert counts.indexed == counts.instances >= len(stored)
    assert store.regions.count(live.id) == 3 * counts.instances
    store.vectors.warm(live.id)
    assert store.check() == []


def _nothing_is_lost(store: Store, stored: set[str], indexed: set[str], generation_id: int) -> None:
    for uid in stored:
        row = store.catalog.instance(uid)
        assert row is not None
        found = store.files.digest(row.path)
        assert (found.sha256, found.size) == (row.sha256, row.size)
        regions = store.regions.of_instance(generation_id, row.id)
        assert len(regions) == 3 if uid in indexed else len(regions) in (0, 3)
    store.vectors.warm(generation_id)
    assert store.vectors.check() == []
    assert {one.kind for one in store.check()} <= {"file unknown"}  # kept, and killed before the row


def test_a_full_disk_leaves_the_old_snapshot(bench: Bench) -> None:
    store = bench.open(exact_limit=10)
    generation = filled(store, 20)
    store.vectors.warm(generation.id)
    store.vectors.improve()
    store.vectors.snapshot()
    folder = bench.root / "index" / str(generation.id)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    put(store, 100)
    work_off(store)
    program = f"""
import resource, signal, sys
from pathlib import Path
from storage.errors import StorageFull
from storage.store import Store
store = Store.open(Path({str(bench.root)!r}), {bench.url!r}, exact_limit=10)
store.vectors.warm({generation.id})
store.vectors.improve()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (500, 1900, 3000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.vectors.snapshot()
    except StorageFull as error:
        print("full:", error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, env=os.environ)
    assert done.stderr == ""
    assert done.stdout.count("full: index") == 3
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert [path for path in folder.iterdir() if path.name.startswith(".")] == []
    again = bench.open(exact_limit=10)
    again.vectors.warm(generation.id)
    assert again.vectors.check() == []


@pytest.mark.parametrize("damage", ["cut", "gone", "stray", "row"])
def test_check_finds_what_is_wrong(store: Store, damage: str) -> None:
    filled(store, 3)
    row = store.catalog.instance("4.0001")
    assert row is not None
    path = store.files.path(row.path)
    if damage == "cut":
        path.write_bytes(b"c")
    elif damage == "gone":
        path.unlink()
    elif damage == "stray":
        path.with_name("stray.dcm").write_bytes(b"x")
    else:
        with store._database.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM job WHERE instance_id = 1")
    kinds = {"cut": "file differs", "gone": "file missing", "stray": "file unknown", "row": "job missing"}
    assert [one.kind for one in store.check()] == [kinds[damage]]
