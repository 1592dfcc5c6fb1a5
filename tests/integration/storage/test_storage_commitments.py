"""Reports of storage commitment that are owed: kept, due in order, postponed, ended; on every database."""

from dataclasses import replace

import pytest

from storage.errors import LeaseLost
from storage.records import Reference
from storage.store import Store
from tests.integration.storage.building import Bench

ME = "a/1"  # one run of node a
REFERENCES = (Reference("1.2", "1.2.3"), Reference("1.2", "1.2.4", 0x0112))


def test_what_is_owed_is_due_with_what_it_says(bench: Bench, store: Store) -> None:
    owed = store.commitments.owe("1.9", "MODALITY", REFERENCES, 0.0)
    due = store.commitments.claim(ME, 60.0)
    assert due is not None
    assert (due.id, due.transaction_uid, due.ae_title, due.references) == (owed, "1.9", "MODALITY", REFERENCES)
    assert due.attempts == 0
    assert bench.open().commitments.claim("b/1", 60.0) is None  # it is in hand
    bench.clock.now += 61.0
    again = bench.open().commitments.claim("b/1", 60.0)
    assert again is not None
    assert (again.id, again.owner) == (owed, "b/1")


def test_a_report_waits_its_delay_and_the_longest_due_comes_first(store: Store) -> None:
    later = store.commitments.owe("1.1", "A", REFERENCES, 3600.0)
    store.commitments.owe("1.2", "B", REFERENCES, 0.0)
    first = store.commitments.claim(ME, 60.0)
    assert first is not None
    assert first.transaction_uid == "1.2"
    store.commitments.postpone(first, 7200.0)
    assert store.commitments.claim(ME, 60.0) is None
    store.commitments.hasten("a")
    due = store.commitments.claim(ME, 60.0)
    assert due is not None
    assert due.id == later
    store.commitments.end(later)
    left = store.commitments.claim(ME, 60.0)
    assert left is not None
    assert (left.transaction_uid, left.attempts) == ("1.2", 1)
    store.commitments.end(left.id)
    assert store.commitments.claim(ME, 60.0) is None


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


def test_a_report_that_is_told_at_once_is_in_hand_until_its_delay_is_over(bench: Bench, store: Store) -> None:
    store.commitments.owe("1.1", "A", REFERENCES, 30.0, ME)
    store.commitments.hasten("b")  # another node starts
    assert store.commitments.claim("b/1", 60.0) is None
    store.commitments.hasten("a")  # this one died, and starts again
    due = store.commitments.claim("a/2", 60.0)
    assert due is not None
    assert due.transaction_uid == "1.1"
    with pytest.raises(LeaseLost):
        store.commitments.postpone(replace(due, owner=ME), 5.0)
