"""A C-FIND identifier in, a Query out: what SQL narrows, what is left to compare, and what is to be returned.

PS3.4 C.4.1.2 and C.4.1.3. Keys with a column become conditions of the catalogue; the others are compared with the
stored header. Where a condition can only say a superset (person names, several patterns) the row is compared again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.attributes.charsets import Charset
from dicomnode.attributes.header import read_header
from dicomnode.attributes.values import charset_of, dictionary_vr, items, texts, written
from dicomnode.errors import IdentifierError
from dicomnode.query.keys import BY_TAG, NOT_KEYS, UNIQUE_KEYS, Key, Level, Matching, Model
from dicomnode.query.rules import Either, Name, OneOf, Pattern, Rule, Span, WholeTexts, refusal, rule_of
from storage.catalog import Catalog
from storage.records import AnyModality, AnyOf, Condition, InDateTimeRange, Row

MAXIMUM_KEYS = 512  # in one identifier, those in sequences included
FIRST_GROUP = 0x0008  # those below are of messages and files, PS3.5 7.1; Orthanc sends one along
MAXIMUM_DEPTH = 8  # nested sequences
QUERY_RETRIEVE_LEVEL = Tag(0x0008, 0x0052)
_CHUNK = 500  # UIDs looked up at once
# Matched as one moment where combined date-time matching was negotiated. PS3.4 C.2.2.2.5.4.
_MOMENTS = (("study_date", "study_time"), ("series_date", "series_time"), ("content_date", "content_time"))


@dataclass(frozen=True)
class Wanted:
    """One key of the identifier: what it asks and what it wants returned. `inner`: the keys of a sequence's item."""

    tag: BaseTag
    vr: str
    key: Key | None  # None: not in the table, read from the header
    rule: Rule | None
    inner: tuple["Wanted", ...] = ()

    @property
    def matches_something(self) -> bool:
        return self.rule is not None or any(inner.matches_something for inner in self.inner)

    def accepts(self, dataset: Dataset, charset: Charset) -> bool:
        """Whether a stored data set's attribute matches. C.2.2.2.6: one item must match every inner key."""
        if self.vr != "SQ":
            return self.rule is None or self.rule.accepts(texts(dataset, self.tag, charset))
        if not self.matches_something:
            return True
        return any(self.accepts_item(item, charset_of(item, charset)) for item in items(dataset, self.tag))

    def accepts_item(self, item: Dataset, charset: Charset) -> bool:
        """Whether one item of this sequence matches every inner key."""
        return all(inner.accepts(item, charset) for inner in self.inner)


@dataclass(frozen=True)
class RowTest:
    """A rule that conditions say too widely, on a column of the row."""

    column: str
    rule: Rule

    def passes(self, row: Row) -> bool:
        value = row.get(self.column)
        return value is not None and self.rule.accepts((str(value),))


@dataclass(frozen=True)
class Query:
    """One question at one level."""

    level: Level
    conditions: tuple[Condition, ...]
    row_tests: tuple[RowTest, ...]
    header_tests: tuple[Wanted, ...]  # keys without a column that ask for something
    wanted: tuple[Wanted, ...]  # to be returned, in tag order
    unsupported: tuple[BaseTag, ...]  # optional keys neither matched nor returned: status 0xFF01
    charset: Charset  # of the identifier

    def passes_header(self, header: Dataset) -> bool:
        charset = charset_of(header)
        return all(test.accepts(header, charset) for test in self.header_tests)

    def passes_row(self, row: Row) -> bool:
        return all(test.passes(row) for test in self.row_tests)


@dataclass(frozen=True)
class Narrowing:
    """The standard keys beside a region query: which instances may be ranked at all."""

    conditions: tuple[Condition, ...]
    residual: Callable[[Row], bool] | None  # on IMAGE level rows; None: the conditions say it all

    def instance_ids(self, catalog: Catalog, conditions: Sequence[Condition] | None = None) -> NDArray[np.int64]:
        """Row ids of the instances left, (n,) int64 ascending, under `conditions` (default: its own)."""
        asked = self.conditions if conditions is None else tuple(conditions)
        if self.residual is None:
            return catalog.candidates(asked)
        uids = [str(row["sop_instance_uid"]) for row in catalog.find("IMAGE", asked) if self.residual(row)]
        chunks = (tuple(uids[at : at + _CHUNK]) for at in range(0, len(uids), _CHUNK))
        found = [catalog.candidates([AnyOf("sop_instance_uid", chunk)]) for chunk in chunks]
        return np.sort(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def parse(identifier: Dataset, model: Model, *, relational: bool = False, combined_date_time: bool = False) -> Query:
    """The query that an identifier asks under a model.

    `relational`: keys of every level may be given and no unique key is due (PS3.4 C.4.1.2.2.1);
    `combined_date_time`: a date range and a time range are one range of moments. Both as negotiated.
    Raises IdentifierError.
    """
    charset = charset_of(identifier)
    level = level_of(identifier, model, charset)
    wanted, unsupported = _supported(_read(identifier, charset, 0, _Budget(MAXIMUM_KEYS)), level, relational)
    if not relational:
        _check_hierarchy(wanted, level, model)
    return _planned(level, wanted, unsupported, charset, combined_date_time)


def narrowing(identifier: Dataset) -> Narrowing:
    """The standard keys of a region query's identifier, at IMAGE level, whatever keys of upper levels are there."""
    query = parse(identifier, Model.PATIENT_ROOT, relational=True, combined_date_time=False)
    if not query.row_tests and not query.header_tests:
        return Narrowing(query.conditions, None)

    def residual(row: Row) -> bool:
        return query.passes_row(row) and (not query.header_tests or query.passes_header(read_header(row["header"])))

    return Narrowing(query.conditions, residual)


def level_of(identifier: Dataset, model: Model, charset: Charset) -> Level:
    """The Query/Retrieve Level (0008,0052). IdentifierError when it is missing or none of the model."""
    given = texts(identifier, QUERY_RETRIEVE_LEVEL, charset)
    if not given:
        raise IdentifierError("QueryRetrieveLevel is missing")
    level = next((level for level in model.levels if level.value == given[0].upper()), None)
    if level is None or len(given) > 1:
        raise IdentifierError(f"QueryRetrieveLevel is no level of {model.value.title()}")
    return level


class _Budget:
    """Counts keys down over a whole identifier."""

    def __init__(self, keys: int) -> None:
        self._left = keys

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise IdentifierError("identifier has too many keys")


def _read(dataset: Dataset, charset: Charset, depth: int, budget: _Budget) -> tuple[Wanted, ...]:
    """The keys of an identifier or of a sequence's item, in tag order."""
    if depth > MAXIMUM_DEPTH:
        raise IdentifierError("identifier is nested too deep")
    return tuple(
        _one(dataset, tag, charset, depth, budget)
        for tag in sorted(dataset.keys())
        if tag.group >= FIRST_GROUP and tag.element != 0 and not tag.is_private and tag not in NOT_KEYS
    )


def _one(dataset: Dataset, tag: BaseTag, charset: Charset, depth: int, budget: _Budget) -> Wanted:
    budget.spend()
    key = BY_TAG.get(tag) if depth == 0 else None
    vr = key.vr if key else dictionary_vr(tag)
    keyword = keyword_for_tag(tag) or str(tag)
    if vr == "SQ":
        return Wanted(tag, vr, key, None, _inner(keyword, items(dataset, tag), charset, depth, budget))
    if key and key.matching is Matching.NONE:
        return Wanted(tag, vr, key, None)
    return Wanted(tag, vr, key, rule_of(keyword, vr, written(dataset, tag, charset)[1]))


def _inner(
    keyword: str, given: tuple[Dataset, ...], charset: Charset, depth: int, budget: _Budget
) -> tuple[Wanted, ...]:
    if len(given) > 1:
        raise refusal(keyword, "more than one item in a key")
    return _read(given[0], charset_of(given[0], charset), depth + 1, budget) if given else ()


def _supported(
    read: tuple[Wanted, ...], level: Level, relational: bool
) -> tuple[tuple[Wanted, ...], tuple[BaseTag, ...]]:
    """Keys of the level and those above; keys of levels below only where relational queries were negotiated."""
    kept = tuple(one for one in read if relational or one.key is None or one.key.level.depth <= level.depth)
    # In a relational query a key below the level is matched through its column ("some instance below has it").
    kept = tuple(one for one in kept if one.key is None or one.key.level.depth <= level.depth or one.key.column)
    kept_tags = {one.tag for one in kept}
    return kept, tuple(one.tag for one in read if one.tag not in kept_tags)


def _check_hierarchy(wanted: tuple[Wanted, ...], level: Level, model: Model) -> None:
    """PS3.4 C.4.1.2.1: one value of the unique key of every level above."""
    rules = {one.key.keyword: one.rule for one in wanted if one.key}
    for above in model.levels[: model.levels.index(level)]:
        keyword = UNIQUE_KEYS[above].keyword
        rule = rules.get(keyword)
        if not isinstance(rule, OneOf) or len(rule.values) != 1:
            raise refusal(keyword, f"one value is required at level {level.value}")


def _planned(
    level: Level,
    wanted: tuple[Wanted, ...],
    unsupported: tuple[BaseTag, ...],
    charset: Charset,
    combined_date_time: bool,
) -> Query:
    asking = [one for one in wanted if one.matches_something]
    columned = {one.key.column: one for one in asking if one.key and one.key.column}
    conditions: list[Condition] = []
    if combined_date_time:
        conditions += _combined(columned)
    tests: list[RowTest] = []
    for one in columned.values():
        condition, test = _column_match(one, level)
        conditions += [condition] if condition else []
        tests += [test] if test else []
    return Query(
        level=level,
        conditions=tuple(conditions),
        row_tests=tuple(tests),
        header_tests=tuple(one for one in asking if not (one.key and one.key.column)),
        wanted=tuple(one for one in wanted if one.key is None or one.key.level.depth <= level.depth),
        unsupported=unsupported,
        charset=charset,
    )


def _combined(columned: dict[str, Wanted]) -> list[Condition]:
    """Date and time ranges of one form as ranges of moments; the keys that were taken leave `columned`."""
    found: list[Condition] = []
    for date_column, time_column in _MOMENTS:
        date, time = columned.get(date_column), columned.get(time_column)
        if date is None or time is None:
            continue
        days, hours = date.rule, time.rule
        if isinstance(days, Span) and isinstance(hours, Span) and _same_form(days, hours):
            low, high = _joined(days.low, hours.low), _joined(days.high, hours.high)
            found.append(InDateTimeRange(date_column, time_column, low, high))
            del columned[date_column], columned[time_column]
    return found


def _same_form(days: Span, hours: Span) -> bool:
    return (days.low is None, days.high is None) == (hours.low is None, hours.high is None)


def _joined(day: str | None, hour: str | None) -> str | None:
    return None if day is None or hour is None else day + hour


def _column_match(one: Wanted, level: Level) -> tuple[Condition | None, RowTest | None]:
    """What SQL can say of a key with a column, and what must be compared again."""
    key, rule = one.key, one.rule
    assert key is not None and key.column is not None and rule is not None
    if key.matching is Matching.ANY_IN_STUDY:
        return _any_in_study(key, rule), None
    if isinstance(rule, Either) and key.level.depth > level.depth:
        raise refusal(key.keyword, "one value only, below the query's level")
    if isinstance(rule, Either):
        return None, RowTest(key.column, rule)
    if isinstance(rule, Name):
        again = RowTest(key.column, rule) if key.level.depth <= level.depth else None
        return rule.condition(key.search_column or key.column), again
    if key.is_number and isinstance(rule, WholeTexts):
        return rule.numbers.condition(key.column), None
    return rule.condition(key.column), None


def _any_in_study(key: Key, rule: Rule) -> Condition:
    """Modalities and SOP Classes in Study. A pattern, and a SOP class below the study's level, means the row's own."""
    if isinstance(rule, OneOf):
        return AnyModality(rule.values) if key.keyword == "ModalitiesInStudy" else rule.condition("sop_class_uid")
    if isinstance(rule, Pattern):
        return rule.condition("modality")
    raise refusal(key.keyword, "one pattern or a list of values")
