"""Local features: written with a job's end, gone with its regions, damaged ones as good as none; on every database."""

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import text

from storage.errors import LeaseLost, VectorError
from storage.local_maps import CHUNK
from storage.records import LocalFeatures
from storage.store import Store
from tests.integration.storage.building import MODEL, Bench, filled, put, regions_of

AREA = (-10.5, 0.0, 2010.5, 2500.0)


def features(seed: int, shape: tuple[int, int, int] = (6, 5, 4)) -> LocalFeatures:
    return LocalFeatures(np.random.default_rng(seed).integers(-127, 128, shape, np.int8), AREA)


def indexed(store: Store, n: int) -> int:
    """A live generation with n instances, each with its own local features; returns its id."""
    generation = store.generations.ensure_live(MODEL)
    for number in range(n):
        put(store, number)
    for job in store.jobs.claim("a", 60, n):
        store.jobs.finish(job, regions_of(job.sop_instance_uid), features(job.instance_id))
    return generation.id


def same(one: LocalFeatures | None, other: LocalFeatures) -> bool:
    return one is not None and one.area == other.area and np.array_equal(one.cells, other.cells)


def damage(store: Store, instance_id: int, change: str) -> None:
    with store._database.engine.begin() as connection:
        connection.execute(text(f"UPDATE local_map SET {change} WHERE instance_id = :id"), {"id": instance_id})


def test_what_a_job_ends_with_is_read_back(store: Store) -> None:
    generation = indexed(store, 3)
    assert same(store.local_maps.get(generation, 2), features(2))
    assert store.local_maps.get(generation, 99) is None
    assert store.local_maps.get(generation + 1, 2) is None
    assert store.local_maps.missing(generation) == []
    assert store.check() == []


def test_many_are_read_in_chunks(store: Store) -> None:
    n = 2 * CHUNK + 3
    generation = indexed(store, n)
    found = dict(store.local_maps.many(generation, [*range(1, n + 1), 3, 3, 10_000]))
    assert sorted(found) == list(range(1, n + 1))
    assert all(same(found[number], features(number)) for number in found)


def test_features_are_optional_and_those_without_are_named(store: Store) -> None:
    generation = filled(store, 5)
    rows = [store.catalog.by_id(number) for number in range(1, 6)]
    assert store.local_maps.count_missing(generation.id) == 5
    first = store.local_maps.missing(generation.id, limit=2)
    rest = store.local_maps.missing(generation.id, first[-1].instance_id)
    assert [(one.instance_id, one.path, one.sha256) for one in first + rest] == [
        (row.id, row.path, row.sha256) for row in rows if row is not None
    ]
    assert store.local_maps.add(generation.id, first[0], features(1))
    assert store.local_maps.add(generation.id, first[0], features(7))  # again is no error
    assert same(store.local_maps.get(generation.id, 1), features(7))
    assert store.local_maps.count_missing(generation.id) == 4
    put(store, 9)  # queued: its job will make them
    assert store.local_maps.count_missing(generation.id) == 4


def test_nothing_is_added_to_an_instance_that_changed(store: Store) -> None:
    generation = filled(store, 1)
    (film,) = store.local_maps.missing(generation.id)
    put(store, 0, b"other bytes", "replace")
    assert not store.local_maps.add(generation.id, film, features(0))
    (job,) = store.jobs.claim("a", 60, 1)
    store.jobs.finish(job, regions_of("4.0000"))
    assert not store.local_maps.add(generation.id, film, features(0))  # indexed again, from other bytes
    assert store.local_maps.get(generation.id, job.instance_id) is None
    (film,) = store.local_maps.missing(generation.id)
    assert not store.local_maps.add(generation.id + 1, film, features(0))
    assert store.local_maps.add(generation.id, film, features(0))


def test_they_go_where_the_regions_go(store: Store) -> None:
    generation = indexed(store, 2)
    put(store, 0, b"other bytes", "replace")
    assert store.local_maps.get(generation, 1) is None
    assert same(store.local_maps.get(generation, 2), features(2))
    (job,) = store.jobs.claim("a", 60, 1)
    store.jobs.finish(job, regions_of("4.0000"), features(77))
    assert same(store.local_maps.get(generation, 1), features(77))
    put(store, 1, b"other bytes", "replace")
    (job,) = store.jobs.claim("a", 60, 1)
    store.jobs.not_indexable(job, "no picture any more")
    assert store.local_maps.get(generation, 2) is None
    assert store.check() == []


def test_who_lost_the_lease_writes_none(bench: Bench, store: Store) -> None:
    generation = store.generations.ensure_live(MODEL)
    put(store, 0)
    (job,) = store.jobs.claim("a", 60, 1)
    bench.clock.now += 61
    store.jobs.claim("b", 60, 1)
    with pytest.raises(LeaseLost):
        store.jobs.finish(job, regions_of("4.0000"), features(0))
    assert store.local_maps.get(generation.id, job.instance_id) is None


def test_a_generation_takes_its_own_away(store: Store) -> None:
    old = indexed(store, 3)
    new = store.generations.start(replace(MODEL, id="model-2"))
    for job in store.jobs.claim("a", 60, 3):
        store.jobs.finish(job, regions_of(job.sop_instance_uid), features(100 + job.instance_id))
    store.generations.make_live(new.id)
    assert same(store.local_maps.get(new.id, 2), features(102))
    store.generations.delete(old)
    assert dict(store.local_maps.many(old, [1, 2, 3])) == {}
    assert same(store.local_maps.get(new.id, 2), features(102))


def test_only_a_grid_is_written(store: Store) -> None:
    store.generations.ensure_live(MODEL)
    put(store, 0)
    (job,) = store.jobs.claim("a", 60, 1)
    good = features(0)
    for bad in (
        replace(good, cells=good.cells.astype(np.float32)),
        replace(good, cells=good.cells[0]),
        replace(good, cells=good.cells[:0]),
        replace(good, area=(0.0, 0.0, 0.0, 10.0)),
        replace(good, area=(0.0, 0.0, float("nan"), 10.0)),
    ):
        with pytest.raises(VectorError):
            store.jobs.finish(job, regions_of("4.0000"), bad)
    assert store.regions.count(job.generation_id) == 0
    transposed = LocalFeatures(good.cells.transpose(1, 0, 2), AREA)  # not contiguous
    store.jobs.finish(job, regions_of("4.0000"), transposed)  # still held
    assert same(store.local_maps.get(job.generation_id, job.instance_id), transposed)


@pytest.mark.parametrize(
    "change",
    ["rows = 7", "channels = 0", "rows = -6, columns = -5", "x2 = x1", "rows = 2000000000, columns = 2000000000"],
)
def test_damaged_ones_are_as_good_as_none_and_made_again(store: Store, change: str) -> None:
    generation = indexed(store, 3)
    damage(store, 2, change)
    assert sorted(dict(store.local_maps.many(generation, [1, 2, 3]))) == [1, 3]
    (wrong,) = store.check()
    assert (wrong.kind, wrong.subject) == ("local map damaged", "4.0001")
    (film,) = store.local_maps.missing(generation)
    assert film.instance_id == 2
    assert store.local_maps.add(generation, film, features(2))
    assert same(store.local_maps.get(generation, 2), features(2))
    assert store.check() == []


def test_check_names_one_that_should_not_be_there(store: Store) -> None:
    indexed(store, 2)
    with store._database.engine.begin() as connection:
        connection.execute(text("UPDATE job SET state = 'failed' WHERE instance_id = 1"))
        connection.execute(text("DELETE FROM vector WHERE region_id IN (SELECT id FROM region WHERE instance_id = 1)"))
        connection.execute(text("DELETE FROM region WHERE instance_id = 1"))
    (wrong,) = store.check()
    assert (wrong.kind, wrong.subject) == ("local map unexpected", "4.0000")
