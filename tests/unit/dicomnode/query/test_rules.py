"""PS3.4 C.2.2.2 Attribute Matching, value by value."""

import pytest

from dicomnode.attributes.values import normalised
from dicomnode.errors import IdentifierError
from dicomnode.query.rules import MAXIMUM_PATTERN, MAXIMUM_WILDCARDS, rule_of


def accepts(vr: str, asked: str, stored: str) -> bool:
    rule = rule_of("Keyword", vr, asked.split("\\"))
    values = tuple(normalised(vr, value) for value in stored.split("\\"))
    return rule is None or rule.accepts(values)


@pytest.mark.parametrize(
    ("vr", "asked", "stored", "matches"),
    [
        # C.2.2.2.1 single value: case sensitive, trailing spaces not significant
        ("LO", "Chest", "Chest", True),
        ("LO", "Chest  ", "Chest", True),
        ("LO", "chest", "Chest", False),
        ("CS", "PRIMARY", "ORIGINAL\\PRIMARY", True),
        ("CS", "PRIMARY", "", False),
        ("IS", "7", "007", True),
        ("DS", "1.50", "1.5", True),
        ("US", "512", "512", True),
        ("US", "512", "256", False),
        ("AS", "040Y", "040Y", True),
        # several values: any
        ("CS", "CR\\DX", "DX", True),
        ("LO", "A*\\B", "B", True),
        ("LO", "A*\\B", "C", False),
        # C.2.2.2.2 list of UID
        ("UI", "1.2\\1.3", "1.3", True),
        ("UI", "1.2\\1.3", "1.30", False),
        # C.2.2.2.3 universal
        ("LO", "", "anything", True),
        ("LO", "*", "", True),
        ("UI", "*", "1.2", True),
        # C.2.2.2.4 wild card
        ("LO", "C?e*", "Chest", True),
        ("LO", "C?e*", "Cest", False),
        ("LO", "*%*", "50% dose", True),
        ("LO", "*%*", "50 dose", False),
        ("LO", "[ab]*", "[ab]c", True),
        ("LO", "[ab]*", "abc", False),
        ("UT", "*two\nlines*", "of two\nlines.", True),
        # C.2.2.2.5.1 dates
        ("DA", "20200101-20200131", "20200131", True),
        ("DA", "20200101-20200131", "20200201", False),
        ("DA", "-20200131", "19990101", True),
        ("DA", "20200101-", "20191231", False),
        ("DA", "1998.01.28", "19980128", True),
        ("DA", "20200101-", "no date", False),
        # C.2.2.2.5.2 times, by meaning
        ("TM", "1000-1800", "100000", True),
        ("TM", "1000-1800", "180059.9", True),
        ("TM", "1000-1800", "180100", False),
        ("TM", "2230", "223000", True),
        ("TM", "223000", "22:30:00", True),
        ("TM", "223000.0000", "223000", True),
        ("TM", "-12", "1259", True),
        ("TM", "101530.5-", "101530.4", False),
        # C.2.2.2.5.3 date-times
        ("DT", "19980128103000.0000", "19980128103000", True),
        ("DT", "19980128103000", "19980128073000-0300", True),
        ("DT", "19980128103000-0500", "19980128153000+0000", True),
        ("DT", "199801-199802", "19980228235959", True),
        ("DT", "199801-199802", "19980301", False),
        ("DT", "19980128-", "19980127235959", False),
        ("DT", "-1997", "19971231235959.999999", True),
        ("DT", "20000229-20000301", "20000229", True),
        ("DT", "1998-", "garbage", False),
    ],
)
def test_matching(vr: str, asked: str, stored: str, matches: bool) -> None:
    assert accepts(vr, asked, stored) is matches


@pytest.mark.parametrize(
    ("asked", "stored", "matches"),
    [
        ("SMITH^JOHN", "Smith^John", True),
        ("smith*", "SMITH^John", True),
        ("Smith^*", "Smith", True),
        ("Smith", "Smith^John", False),
        ("Smith^^", "Smith", True),
        ("山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("yamada^tarou=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("=山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("=山田*", "山田^太郎", False),
        ("yamada*=佐藤*", "Yamada^Tarou=山田^太郎", False),
        ("ﾔﾏﾀﾞ*", "ヤマダ^タロウ", True),
        ("홍^*", "Hong^Gildong=洪^吉洞=홍^길동", True),
        ("διονυσιοσ", "Διονυσιος", True),
        ("*^John", "Smith^John", True),
        ("Sm?th^John", "Smyth^John", True),
        ("O'Neil%", "O'Neil_", False),
        ("Doe\\Smith*", "Smith^John", True),
    ],
)
def test_names(asked: str, stored: str, matches: bool) -> None:
    assert accepts("PN", asked, stored) is matches


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("DA", "2020"), ("DA", "20200230"), ("DA", "2020*"), ("DA", "20200101-20200102-20200103"), ("DA", "-"),
        ("TM", "25"), ("TM", "noon"), ("TM", "10-xx"),
        ("DT", "19981301"), ("DT", "1998-01-28"), ("DT", "-"),
        ("UI", "1.2.*"), ("UI", "../x"), ("UI", "1." * 40),
        ("IS", "seven"), ("US", "*1"),
        ("LO", "a" * MAXIMUM_PATTERN + "*"), ("LO", "a*" * (MAXIMUM_WILDCARDS + 1)),
        ("PN", "?" * (MAXIMUM_PATTERN + 1)),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_without_quoting_it(vr: str, value: str) -> None:
    with pytest.raises(IdentifierError) as refused:
        rule_of("PerformedProcedureStepStartDate", vr, [value])
    assert str(refused.value).startswith("PerformedProcedureStepStartDate: ")
    assert len(str(refused.value)) <= 64
    assert len(value) < 3 or value not in str(refused.value)


def test_a_hostile_pattern_takes_no_time() -> None:
    rule = rule_of("PatientComments", "LT", ["*a" * MAXIMUM_WILDCARDS + "b"])
    assert rule is not None
    assert not rule.accepts(("a" * 4000,))
