"""The vocabulary: 29 entries, in order, with codes that lead back to them."""

import pytest

from encoder.anatomy import VOCABULARY


def test_29_entries_in_order_with_distinct_names() -> None:
    assert len(VOCABULARY) == 29
    assert [entry.index for entry in VOCABULARY.entries] == list(range(29))
    assert len(set(VOCABULARY.names)) == 29


@pytest.mark.parametrize("entry", VOCABULARY.entries, ids=lambda entry: entry.name)
def test_each_code_leads_back_to_its_entry(entry) -> None:  # type: ignore[no-untyped-def]
    found = VOCABULARY.coded(entry.scheme, entry.code, entry.laterality, entry.topography)
    assert found == (entry,)


def test_paired_names_carry_their_side() -> None:
    for entry in VOCABULARY.entries:
        side = {"right": "R", "left": "L"}.get(entry.name.split()[0], "")
        assert entry.laterality == ("" if entry.name == "right atrium" else side)


def test_a_lung_without_side_is_both() -> None:
    assert [entry.name for entry in VOCABULARY.coded("SCT", "39607008")] == ["right lung", "left lung"]


def test_an_unknown_code_is_no_entry_and_an_unknown_name_an_error() -> None:
    assert VOCABULARY.coded("SCT", "1") == ()
    with pytest.raises(KeyError):
        VOCABULARY.named("left atrium")
