"""One key's value in, the rule it asks for out: PS3.4 C.2.2.2 Attribute Matching.

A rule tells whether a stored attribute's values match (any of them does, C.2.2.2.1) and, for attributes that the
catalogue keeps, says the same as a condition on a column. No rule (None) is Universal Matching, C.2.2.2.3.
"""

import calendar
import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property
from typing import Protocol

from dicomnode.attributes.names import folded_groups
from dicomnode.attributes.values import normal_date, normal_decimal, normal_time
from dicomnode.errors import IdentifierError
from storage.records import AnyOf, Condition, Equals, InRange, Like, like_pattern

MAXIMUM_VALUES = 10_000  # of a list of UIDs
MAXIMUM_ALTERNATIVES = 64  # patterns, names or ranges in one key: each is held against each row
MAXIMUM_PATTERN = 512  # characters of one value with wild cards
MAXIMUM_WILDCARDS = 16  # `*` in one value: the cost of a match grows with each
MAXIMUM_MESSAGE = 64  # Error Comment (0000,0902) is LO
_UID = re.compile(r"[0-9.]{1,64}")


class Rule(Protocol):
    """What one key asks of an attribute."""

    def accepts(self, values: Sequence[str]) -> bool:
        """Whether an attribute with these normalised values matches. An absent attribute never does."""

    def condition(self, column: str) -> Condition:
        """The same on a column of the catalogue; for names a superset, see `Name`."""


def refusal(keyword: str, complaint: str) -> IdentifierError:
    """The error for one key, cut to what an Error Comment holds. It never quotes a value."""
    return IdentifierError(f"{keyword}: {complaint}"[:MAXIMUM_MESSAGE])


@dataclass(frozen=True)
class OneOf:
    """C.2.2.2.1 Single Value Matching and C.2.2.2.2 List of UID Matching: one of these, case sensitive."""

    values: tuple[str, ...]

    @cached_property
    def _set(self) -> frozenset[str]:
        return frozenset(self.values)

    def accepts(self, values: Sequence[str]) -> bool:
        return not self._set.isdisjoint(values)

    def condition(self, column: str) -> Condition:
        return Equals(column, self.values[0]) if len(self.values) == 1 else AnyOf(column, self.values)


@dataclass(frozen=True)
class Pattern:
    """C.2.2.2.4 Wild Card Matching: `*` any run, `?` one character, case sensitive."""

    pattern: str

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return glob(self.pattern)

    def accepts(self, values: Sequence[str]) -> bool:
        return any(self._expression.match(value) for value in values)

    def condition(self, column: str) -> Condition:
        return Like(column, like_pattern(self.pattern))


@dataclass(frozen=True)
class Span:
    """C.2.2.2.5 Range Matching of dates or times, both ends included; a lone value spans its own precision."""

    low: str | None
    high: str | None

    def accepts(self, values: Sequence[str]) -> bool:
        return any((self.low or "") <= value and (self.high is None or value <= self.high) for value in values)

    def condition(self, column: str) -> Condition:
        if self.low == self.high and self.low is not None:
            return Equals(column, self.low)
        return InRange(column, self.low, self.high)


@dataclass(frozen=True)
class Moments:
    """C.2.2.2.5.3 Range Matching of DT, in UTC; values without an offset are taken as UTC on both sides."""

    low: datetime | None
    high: datetime | None

    def accepts(self, values: Sequence[str]) -> bool:
        return any(self._meets(moment_span(value)) for value in values)

    def _meets(self, span: tuple[datetime, datetime] | None) -> bool:
        if span is None:
            return False
        return (self.high is None or span[0] <= self.high) and (self.low is None or span[1] >= self.low)

    def condition(self, column: str) -> Condition:
        raise KeyError(column)  # no DT is catalogued


@dataclass(frozen=True)
class Numbers:
    """C.2.2.2.1 Single Value Matching by meaning: "07" is 7."""

    values: tuple[float, ...]

    def accepts(self, values: Sequence[str]) -> bool:
        return any(float(value) in self.values for value in values if normal_decimal(value))

    def condition(self, column: str) -> Condition:
        return AnyOf(column, tuple(int(value) for value in self.values if value == int(value)))


@dataclass(frozen=True)
class WholeTexts:
    """As Numbers, for IS attributes, which the catalogue keeps as normalised text."""

    numbers: Numbers

    def accepts(self, values: Sequence[str]) -> bool:
        return self.numbers.accepts(values)

    def condition(self, column: str) -> Condition:
        return AnyOf(column, tuple(str(int(value)) for value in self.numbers.values if value == int(value)))


@dataclass(frozen=True)
class Name:
    """Person names, folded. C.2.2.2.1.1: case is not compared. One group given: it may match any component group of
    the stored name; several given: each that is not empty matches its own. `SMITH^*` matches SMITH too.

    The condition reads the name key (`names.name_key`) and lets some others through: ask `accepts` about each row.
    """

    groups: tuple[str, ...]  # folded, with wild cards

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], ...]:
        return tuple(glob(group) for group in self.groups)

    def accepts(self, values: Sequence[str]) -> bool:
        return any(self._matches(folded_groups(value)) for value in values)

    def _matches(self, stored: tuple[str, ...]) -> bool:
        if len(self.groups) == 1:
            return any(_either(self._expressions[0], group) for group in stored if group)
        padded = stored + ("",) * len(self.groups)
        wanted = zip(self.groups, self._expressions, padded, strict=False)
        return all(_either(expression, group) for asked, expression, group in wanted if asked)

    def condition(self, column: str) -> Condition:
        if len(self.groups) == 1:
            return Like(column, like_pattern(f"*={self.groups[0]}*"))
        return Like(column, like_pattern("".join(f"={group}*" for group in self.groups)))


@dataclass(frozen=True)
class Either:
    """Several values in one key: any may match. PS3.4 C.2.2.2.8 leaves this open unless negotiated."""

    rules: tuple[Rule, ...]

    def accepts(self, values: Sequence[str]) -> bool:
        return any(rule.accepts(values) for rule in self.rules)

    def condition(self, column: str) -> Condition:
        raise KeyError(column)  # no condition says "or": `Query.row_tests` does


def glob(pattern: str) -> re.Pattern[str]:
    """A pattern of `*` and `?` as an expression for `match`; runs without backtracking (fnmatch, Python 3.11)."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def rule_of(keyword: str, vr: str, values: Sequence[str]) -> Rule | None:
    """The rule that a key's values ask for; None for Universal Matching.

    Raises IdentifierError when a value cannot be matched by that value representation.
    """
    given = tuple(value for value in (value.strip(" \0") for value in values) if value)
    if not given or all(set(value) == {"*"} for value in given):
        return None
    if len(given) > MAXIMUM_VALUES:
        raise refusal(keyword, "too many values")
    return _BY_VR.get(vr, _texts)(keyword, given)


def _either(expression: re.Pattern[str], group: str) -> bool:
    return bool(expression.match(group) or expression.match(group + "^"))


def _one(keyword: str, rules: Sequence[Rule]) -> Rule:
    if len(rules) > MAXIMUM_ALTERNATIVES:
        raise refusal(keyword, "too many values that are no plain ones")
    return rules[0] if len(rules) == 1 else Either(tuple(rules))


def _texts(keyword: str, values: Sequence[str]) -> Rule:
    plain = tuple(value for value in values if not _is_wild(value))
    patterns = [Pattern(_bounded(keyword, value)) for value in values if _is_wild(value)]
    return _one(keyword, [*([OneOf(plain)] if plain else []), *patterns])


def _exact(keyword: str, values: Sequence[str]) -> Rule:
    return OneOf(tuple(values))


def _uids(keyword: str, values: Sequence[str]) -> Rule:
    if not all(_UID.fullmatch(value) for value in values):
        raise refusal(keyword, "not a UID")
    return OneOf(tuple(values))


def _names(keyword: str, values: Sequence[str]) -> Rule:
    return _one(keyword, [Name(folded_groups(_bounded(keyword, value))) for value in values])


def _numbers(keyword: str, values: Sequence[str]) -> Numbers:
    if not all(normal_decimal(value) for value in values):
        raise refusal(keyword, "not a number")
    return Numbers(tuple(float(value) for value in values))


def _whole_texts(keyword: str, values: Sequence[str]) -> Rule:
    return WholeTexts(_numbers(keyword, values))


def _dates(keyword: str, values: Sequence[str]) -> Rule:
    return _one(
        keyword, [_span(keyword, value, normal_date, normal_date, "not a date or range of dates") for value in values]
    )


def _times(keyword: str, values: Sequence[str]) -> Rule:
    return _one(
        keyword, [_span(keyword, value, normal_time, last_time, "not a time or range of times") for value in values]
    )


def _span(
    keyword: str, value: str, lowest: Callable[[str], str], highest: Callable[[str], str], complaint: str
) -> Span:
    low, dash, high = (part.strip() for part in value.partition("-"))
    if not dash:
        high = low
    ends = lowest(low) if low else None, highest(high) if high else None
    if "" in ends or ends == (None, None):
        raise refusal(keyword, complaint)
    return Span(*ends)


def last_time(text: str) -> str:
    """The last moment of a time of any precision: 1015 is up to 101559.999999; "" when it is no time."""
    start = normal_time(text)
    if not start:
        return ""
    digits = re.sub(r"[:]", "", text)
    whole, _, fraction = digits.partition(".")
    return f"{whole}{'5959'[len(whole) - 2 :]}.{fraction[:6].ljust(6, '9')}"


_MOMENT = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:\.(\d{1,6}))?([+-]\d{4})?")


def _moments(keyword: str, values: Sequence[str]) -> Rule:
    return _one(keyword, [_moment_range(keyword, value) for value in values])


def _moment_range(keyword: str, value: str) -> Moments:
    """A DT, or two around a hyphen. A hyphen and four digits at most 1400 at the end are an offset from UTC."""
    lone = moment_span(value)
    if lone:
        return Moments(*lone)
    for at in (index for index, char in enumerate(value) if char == "-"):
        low, high = value[:at].strip(), value[at + 1 :].strip()
        ends = moment_span(low) if low else None, moment_span(high) if high else None
        if (ends[0] or not low) and (ends[1] or not high) and (low or high):
            return Moments(ends[0] and ends[0][0], ends[1] and ends[1][1])
    raise refusal(keyword, "not a date-time or range of date-times")


def moment_span(text: str) -> tuple[datetime, datetime] | None:
    """First and last moment of a DT of any precision (PS3.5 6.2), in UTC; None when it is no DT."""
    found = _MOMENT.fullmatch(text.strip())
    if found is None:
        return None
    *parts, fraction, offset = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    try:
        zone = _zone(offset)
        start = datetime(*_filled(numbers, (1, 1, 1, 0, 0, 0)), int((fraction or "0").ljust(6, "0")), zone)
        month_days = calendar.monthrange(start.year, numbers[1] if len(numbers) > 1 else 12)[1]
        end = datetime(*_filled(numbers, (1, 12, month_days, 23, 59, 59)), int((fraction or "9").ljust(6, "9")), zone)
        return start.astimezone(UTC), end.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _filled(numbers: list[int], defaults: tuple[int, int, int, int, int, int]) -> tuple[int, int, int, int, int, int]:
    year, month, day, hour, minute, second = (*numbers, *defaults[len(numbers) :])
    return year, month, day, hour, minute, min(second, 59)  # 60: a leap second


def _zone(offset: str | None) -> timezone:
    """UTC-1200 to UTC+1400, PS3.5 6.2 DT. ValueError outside."""
    if offset is None:
        return UTC
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    signed = -minutes if offset[0] == "-" else minutes
    if not -12 * 60 <= signed <= 14 * 60 or int(offset[3:5]) > 59:
        raise ValueError(offset)
    return timezone(timedelta(minutes=signed))


def _is_wild(value: str) -> bool:
    return "*" in value or "?" in value


def _bounded(keyword: str, value: str) -> str:
    """The value with runs of `*` as one. Raises IdentifierError past the caps."""
    single = re.sub(r"\*+", "*", value)
    if len(single) > MAXIMUM_PATTERN or single.count("*") > MAXIMUM_WILDCARDS:
        raise refusal(keyword, "pattern too long")
    return single


_BY_VR: dict[str, Callable[[str, Sequence[str]], Rule]] = {
    "UI": _uids,
    "PN": _names,
    "DA": _dates,
    "TM": _times,
    "DT": _moments,
    "IS": _whole_texts,
    "AS": _exact,
    "AT": _exact,
    **dict.fromkeys(("DS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), _numbers),
}
