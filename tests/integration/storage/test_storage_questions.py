"""Questions and deliveries: kept, due in order, each step once, gone with their SR; on every database."""

from storage.records import Equals
from storage.store import Store
from tests.integration.storage.building import Bench, put

SR, REPORT, PANEL = "1.2.1", "1.2.8", "1.2.9"
ANSWER = {"format": 1, "hits": [{"rank": 1, "score": 0.5}]}


def asked(store: Store, uid: str = SR) -> int:
    assert store.questions.ask(uid, "VIEWER")
    found = store.questions.of_sr(uid)
    assert found is not None
    return found.id


def test_what_is_asked_is_due_with_what_it_says(bench: Bench, store: Store) -> None:
    number = asked(store)
    due = bench.open().questions.due()
    assert due is not None
    assert (due.id, due.sop_instance_uid, due.source_ae, due.state) == (number, SR, "VIEWER", "waiting")
    assert (due.attempts, due.answer, due.report_uid) == (0, None, None)


def test_an_sr_asks_once_and_again_only_after_it_failed(store: Store) -> None:
    number = asked(store)
    assert not store.questions.ask(SR, "ANOTHER")
    store.questions.fail(number, "SR has no region")
    failed = store.questions.of_sr(SR)
    assert failed is not None
    assert (failed.state, failed.reason, store.questions.due()) == ("failed", "SR has no region", None)
    assert store.questions.ask(SR, "ANOTHER")
    again = store.questions.due()
    assert again is not None
    assert (again.id, again.source_ae, again.reason) == (number, "ANOTHER", "")


def test_a_question_goes_from_waiting_to_answered_to_stored(store: Store) -> None:
    number = asked(store)
    store.questions.postpone(number, 3600.0, "image not stored")
    assert store.questions.due() is None
    store.questions.hasten()
    waiting = store.questions.due()
    assert waiting is not None
    assert (waiting.attempts, waiting.reason) == (1, "image not stored")
    store.questions.answer(number, ANSWER, REPORT, PANEL)
    answered = store.questions.due()
    assert answered is not None
    assert (answered.state, answered.reason, answered.attempts) == ("answered", "", 0)
    assert (answered.answer, answered.report_uid, answered.panel_uid) == (ANSWER, REPORT, PANEL)
    store.questions.finish(number)
    assert store.questions.due() is None
    store.questions.hasten()  # what has ended stays ended
    assert store.questions.due() is None
    found = store.questions.of_report(REPORT)
    assert found is not None
    assert (found.id, found.state) == (number, "stored")


def test_a_result_never_asks(store: Store) -> None:
    store.questions.answer(asked(store), ANSWER, REPORT, PANEL)
    assert not store.questions.ask(REPORT, "VIEWER")
    assert [each.sop_instance_uid for each in store.questions.all()] == [SR]


def test_a_delivery_is_owed_once_waits_and_ends(store: Store) -> None:
    number = asked(store)
    for _ in range(2):
        store.deliveries.owe(number, REPORT, "VIEWER")
    store.deliveries.owe(number, PANEL, "VIEWER")
    first = store.deliveries.due()
    assert first is not None
    assert (first.sop_instance_uid, first.ae_title, first.state) == (REPORT, "VIEWER", "owed")
    store.deliveries.postpone(first.id, 3600.0, "does not answer")
    second = store.deliveries.due()
    assert second is not None
    assert second.sop_instance_uid == PANEL
    store.deliveries.end(second.id, "refused", "refused with 0xA900")
    assert store.deliveries.due() is None
    store.deliveries.hasten()
    again = store.deliveries.due()
    assert again is not None
    assert (again.id, again.attempts, again.reason) == (first.id, 1, "does not answer")
    store.deliveries.end(first.id, "sent")
    states = [(each.state, each.reason) for each in store.deliveries.of_question(number)]
    assert states == [("sent", ""), ("refused", "refused with 0xA900")]
    store.deliveries.owe(number, REPORT, "VIEWER")  # made again after a crash: it was sent
    assert store.deliveries.due() is None


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
