"""Conditions in, SQL expressions out: every peer's string becomes a bound parameter, never SQL text.

The columns that may be matched are an allow-list: COLUMNS. An unknown one is a fault of the program: KeyError.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Select, and_, case, exists, func, or_, select

from storage.records import AnyModality, AnyOf, Condition, Equals, InDateTimeRange, InRange, Level, Like
from storage.schema import INSTANCE, PATIENT, SERIES, STUDY

LEVELS: tuple[Level, ...] = ("PATIENT", "STUDY", "SERIES", "IMAGE")
TABLES = dict(zip(LEVELS, (PATIENT, STUDY, SERIES, INSTANCE), strict=True))
KEYS = frozenset({"id", "study_row_id", "series_row_id"})  # rows' own numbers; patient_row_id is who it is

COLUMNS: dict[str, Column[Any]] = {
    column.name: column for table in TABLES.values() for column in table.columns if column.name not in KEYS
}
LEVEL_OF: dict[str, Level] = {
    column.name: level for level, table in TABLES.items() for column in table.columns if column.name not in KEYS
}


def joined(tables: Sequence[Level]) -> FromClause:
    """The tables of consecutive levels, joined parent to child."""
    source: FromClause = TABLES[tables[0]]
    for level in tables[1:]:
        table = TABLES[level]
        source = source.join(table, _to_parent(level))
    return source


def _to_parent(level: Level) -> ColumnElement[bool]:
    links: dict[Level, ColumnElement[bool]] = {
        "STUDY": STUDY.c.patient_row_id == PATIENT.c.id,
        "SERIES": SERIES.c.study_row_id == STUDY.c.id,
        "IMAGE": INSTANCE.c.series_row_id == SERIES.c.id,
    }
    return links[level]


def where(level: Level, conditions: Iterable[Condition]) -> list[ColumnElement[bool]]:
    """The conditions on a query that joins the tables down to `level`.

    Those on deeper levels become one EXISTS: some series (or instance) below meets all of them.
    """
    here = LEVELS.index(level)
    shallow: list[ColumnElement[bool]] = []
    deep: list[ColumnElement[bool]] = []
    deepest = here
    for condition in conditions:
        depth = LEVELS.index(_level(condition))
        (deep if depth > here else shallow).append(_expression(condition))
        deepest = max(deepest, depth)
    if deep:
        below = LEVELS[here + 1 : deepest + 1]
        shallow.append(exists().select_from(joined(below)).where(_to_parent(below[0]), *deep).correlate(TABLES[level]))
    return shallow


def _level(condition: Condition) -> Level:
    if isinstance(condition, AnyModality):
        return "STUDY"
    if isinstance(condition, InDateTimeRange):
        return LEVEL_OF[condition.date_column]
    return LEVEL_OF[condition.column]


def _expression(condition: Condition) -> ColumnElement[bool]:
    match condition:
        case Equals(column, value):
            return COLUMNS[column] == value
        case AnyOf(column, values):
            return COLUMNS[column].in_(values)
        case Like(column, pattern):
            return COLUMNS[column].like(pattern, escape="\\")
        case InRange(column, low, high):
            return _between(COLUMNS[column], low, high)
        case InDateTimeRange():
            return _between_moments(condition)
        case AnyModality(modalities):
            return _any_modality(modalities)


def _between(value: ColumnElement[Any], low: str | None, high: str | None) -> ColumnElement[bool]:
    ends = []
    if low is not None:
        ends.append(value >= low)
    if high is not None:
        ends.append(value <= high)
    return and_(*ends) if ends else value.is_not(None)


def _between_moments(condition: InDateTimeRange) -> ColumnElement[bool]:
    date, time = COLUMNS[condition.date_column], COLUMNS[condition.time_column]
    low, high = condition.low, condition.high
    # "12" is noon: times shorter than HHMMSS are filled up before strings are compared.
    full = case((func.length(time) < 6, func.substr(time.concat("000000"), 1, 6)), else_=time)
    days = _between(date, low and low[:8], high and high[:8])  # what an index on the date can narrow
    return and_(days, or_(time.is_(None), time == "", _between(date.concat(full), low, high)))


def _any_modality(modalities: tuple[str, ...]) -> ColumnElement[bool]:
    other = SERIES.alias("series_of_study")  # beside the series a deeper level may join
    return exists().where(other.c.study_row_id == STUDY.c.id, other.c.modality.in_(modalities)).correlate(STUDY)


def instance_ids(conditions: Iterable[Condition]) -> Select[int]:
    """SELECT of the row ids of instances that meet the conditions."""
    asked = list(conditions)
    shallowest = min((LEVELS.index(_level(condition)) for condition in asked), default=len(LEVELS) - 1)
    # Levels above are left out: each costs a look-up for every instance, and says nothing.
    return select(INSTANCE.c.id).select_from(joined(LEVELS[shallowest:])).where(*where("IMAGE", asked))
