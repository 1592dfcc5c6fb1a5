"""Leases, retries and generations: every instance ends once in each; on every database."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from storage.errors import GenerationError, GenerationIncomplete, LeaseLost, VectorError
from storage.records import JobCounts, Model, NewRegion
from storage.store import Store
from tests.integration.storage.building import (
    DIM,
    MODEL,
    Bench,
    filled,
    put,
    regions_of,
    vectors_of,
    work_off,
)

OTHER = replace(MODEL, id="model-2")
InThreads = Callable[..., None]


@pytest.fixture
def busy(store: Store) -> Store:
    """Four instances waiting."""
    store.generations.ensure_live(MODEL)
    for number in range(4):
        put(store, number)
    return store


# --- leases --------------------------------------------------------------------------------------------------------


def test_oldest_first_and_nothing_twice(busy: Store) -> None:
    first, second = busy.jobs.claim("a", 60, 3), busy.jobs.claim("b", 60, 3)
    assert [job.sop_instance_uid for job in first + second] == ["4.0000", "4.0001", "4.0002", "4.0003"]
    assert busy.jobs.claim("c", 60, 3) == []
    assert busy.files.path(first[0].path).read_bytes() == b"content of 0"


def test_finish_writes_regions_and_ends_the_job(busy: Store) -> None:
    (job,) = busy.jobs.claim("a", 60, 1)
    busy.jobs.finish(job, regions_of(job.sop_instance_uid, (2, 0)))
    regions = busy.regions.of_instance(job.generation_id, job.instance_id)
    assert [region.anatomy for region in regions] == [0, 2]
    assert (regions[0].box, regions[0].presence) == ((1.0, 2.0, 30.5, 40.25), 0.75)
    stored = busy.regions.vector(regions[1].id, "finding")
    assert stored.dtype == np.float16
    assert np.array_equal(stored, vectors_of("4.0000", 2, 1).astype(np.float16))
    assert busy.jobs.counts(job.generation_id) == JobCounts(4, 3, 1, 0, 0)
    assert busy.regions.count(job.generation_id) == 2
    with pytest.raises(LeaseLost):
        busy.jobs.finish(job, regions_of(job.sop_instance_uid))
    assert busy.regions.count(job.generation_id) == 2


def test_an_expired_lease_goes_to_the_next(bench: Bench, busy: Store) -> None:
    (job,) = busy.jobs.claim("a", 60, 1)
    bench.clock.now += 61
    (again,) = busy.jobs.claim("b", 60, 1)
    assert (again.id, again.attempts) == (job.id, 2)
    for late in (lambda: busy.jobs.finish(job, []), lambda: busy.jobs.extend(job, 60)):
        with pytest.raises(LeaseLost):
            late()
    busy.jobs.finish(again, regions_of(again.sop_instance_uid))
    assert busy.regions.count(job.generation_id) == 3


def test_the_same_owner_cannot_end_its_earlier_lease(bench: Bench, busy: Store) -> None:
    (job,) = busy.jobs.claim("a", 60, 1)
    bench.clock.now += 61
    busy.jobs.claim("a", 60, 1)
    with pytest.raises(LeaseLost):
        busy.jobs.finish(job, [])


def test_an_extended_lease_holds(bench: Bench, busy: Store) -> None:
    (job,) = busy.jobs.claim("a", 60, 1)
    bench.clock.now += 50
    busy.jobs.extend(job, 60)
    bench.clock.now += 50
    assert job.id not in [other.id for other in busy.jobs.claim("b", 60, 10)]
    busy.jobs.finish(job, [])


def test_an_instance_that_kills_its_worker_ends_failed(bench: Bench, busy: Store) -> None:
    for _ in range(3):
        assert busy.jobs.claim("a", 60, 1)[0].sop_instance_uid == "4.0000"
        bench.clock.now += 61
    assert busy.jobs.claim("a", 60, 1)[0].sop_instance_uid == "4.0001"
    (failure,) = busy.jobs.failures()
    assert (failure.sop_instance_uid, failure.state, failure.attempts) == ("4.0000", "failed", 3)
    assert "died" in failure.reason


@pytest.mark.parametrize(("counts", "state"), [(True, ["4.0001"]), (False, ["4.0000", "4.0001"])])
def test_release_gives_back_what_the_dead_held(busy: Store, counts: bool, state: list[str]) -> None:
    for _ in range(3):
        busy.jobs.claim("node_1.a", 60, 1)
        busy.jobs.claim("nodeX1.a", 600, 10)  # `_` is no wild card
        assert busy.jobs.release("node_1.", counts=counts) == 1
    assert busy.jobs.release("nodeX1.", counts=False) == 3
    left = [job.sop_instance_uid for job in busy.jobs.claim("b", 60, 2)]
    assert left[: len(state)] == state


def test_a_failed_attempt_waits_longer_each_time(bench: Bench, busy: Store) -> None:
    for wait_s, outcome in ((5, "queued"), (10, "queued"), (0, "failed")):
        (job,) = [job for job in busy.jobs.claim("a", 1e9, 10) if job.sop_instance_uid == "4.0000"]
        assert busy.jobs.fail(job, "no luck", retry=True) == outcome
        if wait_s:
            bench.clock.now += wait_s - 1
            assert busy.jobs.claim("a", 60, 10) == []
            bench.clock.now += 1
    (failure,) = busy.jobs.failures()
    assert failure.reason == "no luck"


def test_no_retry_fails_at_once_and_retry_starts_over(busy: Store) -> None:
    generation = busy.generations.ensure_live(MODEL)
    one, two, *_ = busy.jobs.claim("a", 60, 4)
    assert busy.jobs.fail(one, "broken", retry=False) == "failed"
    busy.jobs.not_indexable(two, "no pixels")
    assert {(row.sop_instance_uid, row.state, row.reason) for row in busy.jobs.failures()} == {
        ("4.0000", "failed", "broken"),
        ("4.0001", "not_indexable", "no pixels"),
    }
    assert busy.jobs.counts(generation.id) == JobCounts(4, 2, 0, 1, 1)
    assert busy.jobs.retry(generation.id) == 1
    assert busy.jobs.retry(generation.id, also_not_indexable=True) == 1
    assert busy.jobs.counts(generation.id).queued == 4
    assert {job.attempts for job in busy.jobs.claim("b", 60, 9)} == {1}


@pytest.mark.parametrize(
    "vectors",
    [
        {"anatomy": np.ones(DIM)},
        {"anatomy": np.ones(DIM), "finding": np.ones(DIM + 1)},
        {"anatomy": np.ones(DIM), "finding": np.full(DIM, np.nan)},
        {"anatomy": np.ones(DIM), "finding": np.zeros(DIM)},
        {"anatomy": np.ones(DIM), "other": np.ones(DIM)},
    ],
)
def test_vectors_of_another_shape_are_refused_whole(busy: Store, vectors: dict[str, np.ndarray]) -> None:
    (job,) = busy.jobs.claim("a", 60, 1)
    with pytest.raises(VectorError):
        busy.jobs.finish(job, [*regions_of("x", (0,)), NewRegion(1, (0, 0, 1, 1), 1.0, vectors)])
    assert busy.regions.count(job.generation_id) == 0
    busy.jobs.finish(job, [])  # still held


def test_many_workers_end_each_job_once(bench: Bench, in_threads: InThreads) -> None:
    stores = [bench.open() for _ in range(3)]
    generation = stores[0].generations.ensure_live(MODEL)
    for number in range(30):
        put(stores[0], number)
    ended: list[str] = []

    def worker(store: Store, name: str) -> None:
        ended.extend(job.sop_instance_uid for job in work_off(store, name))

    in_threads(*[lambda i=i, store=store: worker(store, f"w{i}") for i, store in enumerate(stores * 2)])
    assert Counter(ended) == {f"4.{number:04}": 1 for number in range(30)}
    assert stores[0].jobs.counts(generation.id).indexed == 30
    assert stores[0].regions.count(generation.id) == 90


def test_the_watermark_counts_every_region(busy: Store) -> None:
    """A region's id is the counter when it was written: no gaps, in the order of commits."""
    work_off(busy)
    ids = sorted(
        region.id
        for instance in busy.catalog.candidates([])
        for region in busy.regions.of_instance(busy.generations.ensure_live(MODEL).id, int(instance))
    )
    assert ids == list(range(1, 13))
    assert busy.vectors.refresh() == 12


def test_details_come_in_the_order_asked(store: Store) -> None:
    filled(store, 6)
    details = store.regions.details([9, 2, 999, 5])
    assert [one.region.id for one in details] == [9, 2, 5]
    first = details[0]
    assert (first.instance.sop_instance_uid, first.instance.patient_id) == ("4.0002", "P000")
    assert (first.study_date, first.patient_sex, first.region.anatomy) == ("20200215", "F", 2)
    assert first.instance == store.catalog.instance("4.0002")


# --- generations ------------------------------------------------------------------------------------------------------


def test_instances_from_before_the_first_start_get_their_jobs(store: Store) -> None:
    for number in range(3):
        put(store, number)
    generation = store.generations.ensure_live(MODEL)
    assert generation.state == "live"
    assert generation.model == MODEL
    assert store.generations.ensure_live(OTHER) == generation
    assert store.jobs.counts(generation.id).queued == 3


def test_a_new_generation_is_built_beside_the_live_one(store: Store) -> None:
    old = filled(store, 3)
    new = store.generations.start(OTHER)
    assert store.generations.start(OTHER) == new  # resumed, not started twice
    with pytest.raises(GenerationError, match="still being built"):
        store.generations.start(replace(MODEL, id="model-3"))
    assert [generation.id for generation in store.generations.active()] == [old.id, new.id]
    put(store, 3)
    assert [store.jobs.counts(generation.id).queued for generation in (old, new)] == [1, 4]
    assert store.jobs.claim("a", 60, 1)[0].generation_id == old.id  # what answers now comes first
    with pytest.raises(GenerationIncomplete) as incomplete:
        store.generations.make_live(new.id)
    assert (incomplete.value.unfinished, incomplete.value.instances) == (4, 4)
    assert store.generations.live() == old
    assert store.jobs.release("a") == 1
    work_off(store)
    live = store.generations.make_live(new.id)
    assert store.generations.make_live(new.id) == live  # again is no error
    assert (live.id, live.state) == (new.id, "live")
    assert [(one.id, one.state) for one in store.generations.all()] == [(old.id, "retired"), (new.id, "live")]
    assert store.generations.building() is None


def test_rollback_owes_what_came_since(store: Store) -> None:
    old = filled(store, 2)
    new = store.generations.start(OTHER)
    work_off(store)
    store.generations.make_live(new.id)
    put(store, 5)
    work_off(store)
    assert store.generations.make_live(old.id).id == old.id
    assert store.jobs.counts(old.id) == JobCounts(3, 1, 2, 0, 0)
    assert [job.generation_id for job in work_off(store)] == [old.id]


def test_only_what_is_unused_can_be_deleted(store: Store) -> None:
    old = filled(store, 3)
    new = store.generations.start(OTHER)
    work_off(store, limit=2)
    for generation in (old, new):
        with pytest.raises(GenerationError, match="in use"):
            store.generations.delete(generation.id)
    store.generations.abandon(new.id)
    with pytest.raises(GenerationError, match="abandoned"):
        store.generations.make_live(new.id)
    with pytest.raises(GenerationError, match="not being built"):
        store.generations.abandon(new.id)
    store.generations.delete(new.id)
    assert store.generations.all() == [old]
    assert store.regions.count(new.id) == 0
    assert store.regions.count(old.id) == 9
    with pytest.raises(GenerationError, match="no generation"):
        store.generations.get(new.id)
    assert store.generations.start(OTHER).id > new.id  # a number never comes to mean another


def test_a_worker_of_a_deleted_generation_writes_nothing(store: Store) -> None:
    filled(store, 1)
    new = store.generations.start(OTHER)
    (job,) = store.jobs.claim("a", 60, 1)
    assert job.generation_id == new.id
    store.generations.abandon(new.id)
    store.generations.delete(new.id)
    with pytest.raises(LeaseLost):
        store.jobs.finish(job, regions_of(job.sop_instance_uid))


def test_a_generation_started_while_instances_arrive_misses_none(bench: Bench, in_threads: InThreads) -> None:
    """The instance sees the generation or the generation sees the instance, whichever commits first."""
    senders = [bench.open() for _ in range(3)]
    senders[0].generations.ensure_live(MODEL)
    ids = []

    def receive(store: Store, first: int) -> None:
        for number in range(first, first + 25):
            put(store, number)

    def reindex() -> None:
        store = bench.open()
        for number in range(6):
            generation = store.generations.start(replace(MODEL, id=f"model-{number}"))
            ids.append(generation.id)
            store.generations.abandon(generation.id)
        ids.append(store.generations.start(OTHER).id)

    in_threads(reindex, *[lambda i=i, store=store: receive(store, 100 * i) for i, store in enumerate(senders)])
    assert senders[0].jobs.counts(ids[-1]).queued == 75
    assert senders[0].generations.missing(ids[-1]) == 0
    assert senders[0].check() == []


def test_models_survive_the_round_trip(store: Store) -> None:
    model = Model("m", "p", 4, ("only",), ("a", "b"), {"present": 0.5, "unlike": [1, 2]})
    assert store.generations.ensure_live(model).model == model
    assert store.generations.live() == store.generations.get(1)


def test_jobs_of_one_study_go_together(store: Store) -> None:
    """Two studies that arrive interleaved; the live generation still goes before one that is being built."""
    store.generations.ensure_live(MODEL)
    for number in (0, 2, 1, 3):  # studies 0, 1, 0, 1
        put(store, number)
    building = store.generations.start(MODEL)
    (first,) = store.jobs.claim("a", 60, 1)
    (second,) = store.jobs.claim("a", 60, 1, beside=first.instance_id)
    assert (first.sop_instance_uid, second.sop_instance_uid) == ("4.0000", "4.0001")
    (third,) = store.jobs.claim("a", 60, 1, beside=second.instance_id)  # nothing of the study is left there
    assert (third.sop_instance_uid, third.generation_id) == ("4.0002", first.generation_id)
    (fourth,) = store.jobs.claim("a", 60, 1, beside=second.instance_id)
    assert (fourth.sop_instance_uid, fourth.generation_id) == ("4.0003", first.generation_id)
    (fifth,) = store.jobs.claim("a", 60, 1, beside=second.instance_id)
    assert (fifth.sop_instance_uid, fifth.generation_id) == ("4.0000", building.id)
