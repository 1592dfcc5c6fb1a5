"""How long things have waited, and how many there are of each state: what is watched."""

from storage.store import Store
from tests.integration.storage import building
from tests.integration.storage.building import MODEL, Bench


def test_the_first_job_that_is_not_done_has_an_age(bench: Bench, store: Store) -> None:
    live = store.generations.ensure_live(MODEL).id
    assert store.jobs.oldest(live) is None
    building.put(store, 0)
    began = bench.clock.now
    bench.clock.now += 100
    building.put(store, 1)
    assert store.jobs.oldest(live) == began
    (job,) = store.jobs.claim("worker", 60, 1)
    assert store.jobs.oldest(live) == bench.clock.now  # the second waits, the first is in hand: both since now
    store.jobs.finish(job, building.regions_of(job.sop_instance_uid))
    bench.clock.now += 50
    building.work_off(store)
    assert store.jobs.oldest(live) is None
    assert store.jobs.oldest(live + 1) is None


def test_questions_and_deliveries_are_counted_by_state(bench: Bench, store: Store) -> None:
    assert (store.questions.counts(), store.questions.oldest(), store.deliveries.counts()) == ({}, None, {})
    store.questions.ask("1.1", "A")
    began = bench.clock.now
    bench.clock.now += 10
    store.questions.ask("1.2", "A")
    first = store.questions.claim("node/1", 60.0)
    assert first is not None
    assert (store.questions.counts(), store.questions.oldest()) == ({"waiting": 2}, began)
    store.questions.fail(first, "no region")
    store.deliveries.owe(first.id, "2.1", "PACS")
    assert store.questions.counts() == {"failed": 1, "waiting": 1}
    assert store.questions.oldest() == bench.clock.now
    assert store.deliveries.counts() == {"owed": 1}
