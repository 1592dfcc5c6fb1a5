"""A clock that is set back or forward: work goes on, nothing is done twice, nothing is thrown away too early."""

import logging
from pathlib import Path

import pytest

from dicomnode.settings import RetentionSettings, StorageSettings
from dicomnode.upkeep import JUMP_S, Keeper, Wall
from storage.errors import LeaseLost
from storage.store import Store
from tests.integration.storage.building import MODEL, Bench, filled, put, regions_of, work_off

HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
def bench(tmp_path: Path):
    bench = Bench(tmp_path / "root", None)
    yield bench
    for store in bench.opened:
        store.close()


def keeper(bench: Bench, store: Store, **retention: float) -> Keeper:
    """One whose steady clock stands still: every move of the other is a jump."""
    return Keeper(store, StorageSettings(), RetentionSettings(**retention), wall=Wall(bench.clock, lambda: 0.0))


def test_set_back_what_waits_is_done_at_once(bench):
    store = bench.open()
    live = store.generations.ensure_live(MODEL)
    upkeep = keeper(bench, store)
    put(store, 1)
    (failing,) = store.jobs.claim("worker", 60, 1)
    store.jobs.fail(failing, "a reason", retry=True)
    put(store, 2)
    store.questions.ask("4.0001", "ASKER")
    bench.clock.now -= DAY
    assert store.jobs.claim("worker", 60, 5) == []  # by that clock nothing is due before tomorrow
    assert store.questions.claim("node/1", 60) is None
    upkeep.round()
    assert len(work_off(store)) == 2
    assert store.questions.claim("node/1", 60) is not None
    assert store.jobs.counts(live.id).indexed == 2


def test_set_forward_a_lease_that_runs_out_gives_no_film_two_ends(bench):
    store = bench.open()
    live = store.generations.ensure_live(MODEL)
    put(store, 1)
    (slow,) = store.jobs.claim("slow", 60, 1)
    bench.clock.now += DAY
    (quick,) = store.jobs.claim("quick", 60, 1)
    assert quick.id == slow.id
    store.jobs.finish(quick, regions_of(quick.sop_instance_uid))
    with pytest.raises(LeaseLost):
        store.jobs.finish(slow, regions_of(slow.sop_instance_uid))
    assert store.jobs.counts(live.id).indexed == 1
    assert store.regions.count(live.id) == 3


def test_set_back_a_question_in_hand_stays_in_one_hand(bench):
    store = bench.open()
    store.questions.ask("4.0001", "ASKER")
    held = store.questions.claim("node/1", 60)
    bench.clock.now -= DAY
    keeper(bench, store).round()
    store.hasten()
    assert store.questions.claim("other/1", 60) is None
    store.questions.fail(held, "for a reason")


def test_set_forward_retention_by_age_rests(bench, caplog):
    """Ten years in a moment make no study old; without the jump they would."""
    store = bench.open()
    filled(store, 4)
    upkeep = keeper(bench, store, maximum_age_days=30.0)
    bench.clock.now += 3650 * DAY
    with caplog.at_level(logging.WARNING):
        upkeep.round()
    assert store.catalog.count() == 4
    assert "the clock may be wrong" in caplog.text
    keeper(bench, store, maximum_age_days=30.0).round()  # after a start that clock is believed
    assert store.catalog.count() == 0


def test_a_clock_that_drifts_was_not_set(bench):
    wall = Wall(bench.clock, lambda: 0.0)
    for _ in range(10):
        bench.clock.now += JUMP_S / 2
        assert wall.jumped() == 0.0
    bench.clock.now -= 2 * JUMP_S
    assert wall.jumped() == -2 * JUMP_S
