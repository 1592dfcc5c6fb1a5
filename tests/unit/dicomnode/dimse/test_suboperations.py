"""What is proposed for what is to be sent, and what a destination's status means."""

import pytest

from dicomnode.dimse.suboperations import Outcome, batches
from dicomnode.query.retrieval import Stored

EXPLICIT, IMPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"


def stored(number: int, sop_class: str, syntax: str = EXPLICIT) -> Stored:
    return Stored(f"1.2.{number}", sop_class, syntax, "files/x", 1)


def proposed(contexts) -> list[tuple[str, tuple[str, ...]]]:
    return [(str(each.abstract_syntax), tuple(map(str, each.transfer_syntax))) for each in contexts]


def test_each_class_in_each_stored_syntax_and_uncompressed():
    found = [stored(1, "1.1", JPEG), stored(2, "1.2"), stored(3, "1.1", IMPLICIT), stored(4, "1.1", JPEG)]
    ((batch, contexts),) = batches(found)
    assert batch == found
    assert proposed(contexts) == [
        ("1.1", (JPEG,)),
        ("1.1", (IMPLICIT,)),
        ("1.1", (EXPLICIT,)),
        ("1.2", (EXPLICIT,)),
        ("1.2", (IMPLICIT,)),
    ]


def test_more_kinds_than_an_association_carries_go_on_several_in_order():
    found = [stored(number, f"1.{number % 100}", JPEG) for number in range(150)]
    made = list(batches(found))
    assert [one for batch, _ in made for one in batch] == found
    assert all(len(contexts) <= 128 for _, contexts in made)
    for batch, contexts in made:
        assert {each.sop_class_uid for each in batch} == {uid for uid, _ in proposed(contexts)}
    assert len(made) < 5


def test_nothing_needs_no_association():
    assert list(batches([])) == []


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0x0000, Outcome.COMPLETED),
        (0xB000, Outcome.WARNING),
        (0xB006, Outcome.WARNING),
        (0x0107, Outcome.WARNING),
        (0xA700, Outcome.FAILED),
        (0xC123, Outcome.FAILED),
        (0x0122, Outcome.FAILED),
        (0xFF00, Outcome.FAILED),
    ],
)
def test_the_meaning_of_a_status(code, outcome):
    assert Outcome.of(code) is outcome
