"""Questions and deliveries: kept, due in order, each step once, gone with their SR; on every database."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from storage.errors import LeaseLost
from storage.records import Delivery, Equals, Question
from storage.store import Store
from tests.integration.storage.building import Bench, put

SR, REPORT, PANEL = "1.2.1", "1.2.8", "1.2.9"
ME = "a/1"  # one run of node a
LEASE_S = 60.0
ANSWER = {"format": 1, "hits": [{"rank": 1, "score": 0.5}]}


def asked(store: Store, uid: str = SR) -> int:
    assert store.questions.ask(uid, "VIEWER")
    return of_sr(store, uid).id


def of_sr(store: Store, uid: str = SR) -> Question:
    found = store.questions.of_sr(uid)
    assert found is not None
    return found


def claimed(store: Store, owner: str = ME) -> Question:
    found = store.questions.claim(owner, LEASE_S)
    assert found is not None
    return found


def delivered(store: Store, owner: str = ME) -> Delivery:
    found = store.deliveries.claim(owner, LEASE_S)
    assert found is not None
    return found


def nothing_due(store: Store) -> bool:
    return store.questions.claim(ME, LEASE_S) is None


def test_what_is_asked_is_due_with_what_it_says(bench: Bench, store: Store) -> None:
    number = asked(store)
    due = claimed(bench.open())
    assert (due.id, due.sop_instance_uid, due.source_ae, due.state) == (number, SR, "VIEWER", "waiting")
    assert (due.attempts, due.answer, due.report_uid, due.owner) == (0, None, None, ME)


def test_an_sr_asks_once_and_again_only_after_it_failed(store: Store) -> None:
    number = asked(store)
    assert not store.questions.ask(SR, "ANOTHER")
    store.questions.fail(claimed(store), "SR has no region")
    failed = of_sr(store)
    assert (failed.state, failed.reason, nothing_due(store)) == ("failed", "SR has no region", True)
    assert store.questions.ask(SR, "ANOTHER")
    again = claimed(store)
    assert (again.id, again.source_ae, again.reason) == (number, "ANOTHER", "")


def test_a_failure_with_a_notice_is_due_until_that_is_made(store: Store) -> None:
    number = asked(store)
    store.questions.fail(claimed(store), "SR has no region", REPORT)
    due = claimed(store)
    assert (due.id, due.state, due.reason, due.report_uid) == (number, "failed", "SR has no region", REPORT)
    store.questions.end(due)
    assert nothing_due(store)
    assert (of_sr(store).state, of_sr(store).reason) == ("failed", "SR has no region")
    assert not store.questions.ask(REPORT, "VIEWER")  # a notice never asks
    assert store.questions.ask(SR, "VIEWER")
    assert claimed(store).report_uid is None


def test_a_question_goes_from_waiting_to_answered_to_stored(store: Store) -> None:
    number = asked(store)
    store.questions.postpone(claimed(store), 3600.0, "image not stored")
    assert nothing_due(store)
    store.questions.hasten("a")
    waiting = claimed(store)
    assert (waiting.attempts, waiting.reason) == (1, "image not stored")
    store.questions.answer(waiting, ANSWER, REPORT, PANEL)
    answered = claimed(store)
    assert (answered.state, answered.reason, answered.attempts) == ("answered", "", 0)
    assert (answered.answer, answered.report_uid, answered.panel_uid) == (ANSWER, REPORT, PANEL)
    store.questions.finish(answered)
    assert nothing_due(store)
    store.questions.hasten("a")  # what has ended stays ended
    assert nothing_due(store)
    found = store.questions.of_report(REPORT)
    assert found is not None
    assert (found.id, found.state) == (number, "stored")


def test_a_result_never_asks(store: Store) -> None:
    asked(store)
    store.questions.answer(claimed(store), ANSWER, REPORT, PANEL)
    assert not store.questions.ask(REPORT, "VIEWER")
    assert [each.sop_instance_uid for each in store.questions.all()] == [SR]


def test_a_question_in_hand_is_nobody_elses_until_its_lease_is_over(bench: Bench, store: Store) -> None:
    asked(store)
    mine = claimed(store)
    assert store.questions.claim("b/1", LEASE_S) is None
    store.questions.hasten("b")  # another node starts
    assert store.questions.claim("b/1", LEASE_S) is None
    bench.clock.now += LEASE_S + 1
    theirs = claimed(store, "b/1")
    assert theirs.id == mine.id
    for change in (
        lambda: store.questions.answer(mine, ANSWER, REPORT, PANEL),
        lambda: store.questions.postpone(mine, 1.0, "image not stored"),
        lambda: store.questions.fail(mine, "SR has no region"),
    ):
        with pytest.raises(LeaseLost):
            change()
    assert of_sr(store) == theirs
    store.questions.finish(theirs)
    assert of_sr(store).owner is None


def test_what_a_node_had_in_hand_is_due_when_it_starts_again_and_when_it_stops(store: Store) -> None:
    asked(store)
    claimed(store)
    store.questions.hasten("a")
    again = claimed(store, "a/2")
    with pytest.raises(LeaseLost):
        store.questions.finish(replace(again, owner=ME))
    store.questions.release("a/2")
    assert claimed(store, "b/1").id == again.id


def test_a_question_that_is_deleted_in_hand_is_lost(store: Store) -> None:
    put(store, 0)
    asked(store, "4.0000")
    mine = claimed(store)
    list(store.deletion.delete([Equals("sop_instance_uid", "4.0000")]))
    with pytest.raises(LeaseLost):
        store.questions.finish(mine)


def test_the_latest_questions_and_how_many_there_are_of_each_state(bench: Bench, store: Store) -> None:
    assert store.questions.counts() == {}
    for number in range(5):
        bench.clock.now += 1
        asked(store, f"1.3.{number}")
    store.questions.fail(claimed(store), "SR has no region")
    store.questions.answer(claimed(store), ANSWER, REPORT, PANEL)
    assert [each.sop_instance_uid for each in store.questions.all(2)] == ["1.3.4", "1.3.3"]
    assert len(store.questions.all()) == 5
    assert store.questions.counts() == {"failed": 1, "answered": 1, "waiting": 3}


def test_many_who_claim_at_once_never_get_the_same(bench: Bench, store: Store, in_threads) -> None:  # type: ignore[no-untyped-def]
    uids = [f"1.4.{number}" for number in range(40)]
    for uid in uids:
        asked(store, uid)
        store.deliveries.owe(of_sr(store, uid).id, f"{uid}.1", "VIEWER")
        store.commitments.owe(uid, "MODALITY", (), 0.0)
    taken: list[str] = []

    def keeper(owner: str, mine: Store) -> None:
        while (question := mine.questions.claim(owner, LEASE_S)) is not None:
            taken.append(question.sop_instance_uid)
            mine.questions.finish(question)
        while (delivery := mine.deliveries.claim(owner, LEASE_S)) is not None:
            taken.append(delivery.sop_instance_uid)
            mine.deliveries.end(delivery, "sent")
        while (commitment := mine.commitments.claim(owner, LEASE_S)) is not None:
            taken.append(f"commitment {commitment.transaction_uid}")
            mine.commitments.end(commitment.id)

    in_threads(*[partial(keeper, f"{name}/1", bench.open()) for name in "abcd"])
    assert sorted(taken) == sorted([*uids, *(f"{uid}.1" for uid in uids), *(f"commitment {uid}" for uid in uids)])


@pytest.mark.postgresql
def test_two_processes_on_one_database_do_each_once(postgresql: str, tmp_path: Path) -> None:
    uids = [f"1.5.{number}" for number in range(60)]
    with Store.open(tmp_path / "root", postgresql) as store:
        for uid in uids:
            asked(store, uid)
    command = [sys.executable, "-m", "tests.integration.storage.claimer", str(tmp_path / "root"), postgresql]
    processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("a/1", "b/1")]
    taken = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(taken[0] + taken[1]) == sorted(uids)
    assert all(taken), "one of them had nothing to do"
    with Store.open(tmp_path / "root", postgresql) as store:
        assert store.questions.counts() == {"stored": len(uids)}


def test_a_delivery_is_owed_once_waits_and_ends(store: Store) -> None:
    number = asked(store)
    for _ in range(2):
        store.deliveries.owe(number, REPORT, "VIEWER")
    store.deliveries.owe(number, PANEL, "VIEWER")
    first = delivered(store)
    assert (first.sop_instance_uid, first.ae_title, first.state) == (REPORT, "VIEWER", "owed")
    store.deliveries.postpone(first, 3600.0, "does not answer")
    second = delivered(store)
    assert second.sop_instance_uid == PANEL
    store.deliveries.end(second, "refused", "refused with 0xA900")
    assert store.deliveries.claim(ME, LEASE_S) is None
    store.deliveries.hasten("a")
    again = delivered(store)
    assert (again.id, again.attempts, again.reason) == (first.id, 1, "does not answer")
    store.deliveries.end(again, "sent")
    states = [(each.state, each.reason) for each in store.deliveries.of_question(number)]
    assert states == [("sent", ""), ("refused", "refused with 0xA900")]
    store.deliveries.owe(number, REPORT, "VIEWER")  # made again after a crash: it was sent
    assert store.deliveries.claim(ME, LEASE_S) is None


def test_the_question_goes_with_its_sr(store: Store) -> None:
    for number in range(2):
        put(store, number)
    gone, stays = asked(store, "4.0000"), asked(store, "4.0001")
    for number in (gone, stays):
        store.deliveries.owe(number, f"{REPORT}.{number}", "VIEWER")
    list(store.deletion.delete([Equals("sop_instance_uid", "4.0000")]))
    assert [each.sop_instance_uid for each in store.questions.all()] == ["4.0001"]
    assert (store.deliveries.of_question(gone), len(store.deliveries.of_question(stays))) == ([], 1)
    store.deliveries.owe(gone, REPORT, "VIEWER")  # by who was making its result
    assert store.deliveries.of_question(gone) == []
