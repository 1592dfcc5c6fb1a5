"""Reports of storage commitment that are owed: kept, due in order, postponed, ended; on every database."""

from storage.records import Reference
from storage.store import Store
from tests.integration.storage.building import Bench

REFERENCES = (Reference("1.2", "1.2.3"), Reference("1.2", "1.2.4", 0x0112))


def test_what_is_owed_is_due_with_what_it_says(bench: Bench, store: Store) -> None:
    owed = store.commitments.owe("1.9", "MODALITY", REFERENCES, 0.0)
    due = store.commitments.due()
    assert due is not None
    assert (due.id, due.transaction_uid, due.ae_title, due.references) == (owed, "1.9", "MODALITY", REFERENCES)
    assert due.attempts == 0
    again = bench.open().commitments.due()
    assert again == due


def test_a_report_waits_its_delay_and_the_longest_due_comes_first(store: Store) -> None:
    later = store.commitments.owe("1.1", "A", REFERENCES, 3600.0)
    store.commitments.owe("1.2", "B", REFERENCES, 0.0)
    first = store.commitments.due()
    assert first is not None
    assert first.transaction_uid == "1.2"
    store.commitments.postpone(first.id, 7200.0)
    assert store.commitments.due() is None
    store.commitments.hasten()
    due = store.commitments.due()
    assert due is not None
    assert due.id == later
    store.commitments.end(later)
    left = store.commitments.due()
    assert left is not None
    assert (left.transaction_uid, left.attempts) == ("1.2", 1)
    store.commitments.end(left.id)
    assert store.commitments.due() is None


def test_how_much_is_owed_is_told_by_ae_title(store: Store) -> None:
    assert store.commitments.size("A") == 0
    first = store.commitments.owe("1.1", "A", REFERENCES, 0.0)
    one = store.commitments.size("A")
    assert one > 0
    store.commitments.owe("1.2", "A", REFERENCES * 2, 0.0)
    assert store.commitments.size("A") > 2 * one - 10
    assert store.commitments.size("B") == 0
    store.commitments.end(first)
    assert one < store.commitments.size("A") < 2 * one + 10
