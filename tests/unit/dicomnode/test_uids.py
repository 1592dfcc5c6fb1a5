"""uids: what is made is valid and repeatable where asked; what comes in is checked."""

import uuid

import pytest

from dicomnode import uids


def test_made_uids_are_uids_and_differ() -> None:
    made = {uids.new_uid() for _ in range(50)}
    assert len(made) == 50
    assert all(uids.is_uid(uid) and uid.startswith("2.25.") for uid in made)


def test_the_longest_uuid_fits() -> None:
    assert uids.is_uid(uids.new_uid(lambda: uuid.UUID(int=2**128 - 1)))


def test_derived_uids_repeat_and_parts_do_not_run_together() -> None:
    assert uids.derived_uid("a", "b") == uids.derived_uid("a", "b")
    assert uids.derived_uid("a", "b") != uids.derived_uid("ab")
    assert uids.is_uid(uids.derived_uid("a", "b"))


def test_implementation() -> None:
    assert uids.is_uid(uids.IMPLEMENTATION_CLASS_UID)
    assert 1 <= len(uids.IMPLEMENTATION_VERSION_NAME) <= 16


@pytest.mark.parametrize("text", ["1.2.840.10008.1.1", "2.25.0", "1", "1.02.3", "1." + "2" * 62])
def test_valid(text: str) -> None:
    assert uids.is_uid(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".1", "1..2", "../escaped", "1.2/3", "1.2 ", "1.2\n", "1.a", "1.2\0", "1." + "2" * 63, "١.٢"],
)
def test_invalid(text: str) -> None:
    assert not uids.is_uid(text)
