"""A C-MOVE or C-GET identifier in, the stored instances that it asks for out, in a fixed order. PS3.4 C.4.2.1.4.

Only unique keys say what is retrieved: one value above the level, a list of UIDs at it. Other keys are ignored. Memory
bound: half a KiB for each instance, and MAXIMUM_VALUES of a list.
"""

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from dicomnode.attributes.charsets import Charset
from dicomnode.attributes.values import charset_of, texts
from dicomnode.errors import IdentifierError
from dicomnode.query import matching
from dicomnode.query.keys import UNIQUE_KEYS, Level, Model
from dicomnode.query.rules import MAXIMUM_VALUES, OneOf, refusal
from dicomnode.uids import is_uid
from storage.catalog import Catalog
from storage.records import Condition

_COLUMNS: Final = ("sop_class_uid", "transfer_syntax_uid", "path", "size")


@dataclass(frozen=True)
class Stored:
    """An instance to be sent: how it is encoded and where it lies."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str  # relative to the root
    size: int  # bytes of the file


def parse(identifier: Dataset, model: Model, *, relational: bool = False) -> tuple[Condition, ...]:
    """What the instances must meet. `relational`: as negotiated; no key is due but one. Raises IdentifierError."""
    charset = charset_of(identifier)
    level = matching.level_of(identifier, Model.PATIENT_ROOT, charset)
    if level is Level.PATIENT:
        model = Model.PATIENT_ROOT  # no level of Study Root, but Orthanc asks for a whole patient so
    given = {each: _values(identifier, each, charset) for each in model.levels}
    for each in model.levels:
        if each.depth > level.depth and given[each]:
            raise refusal(UNIQUE_KEYS[each].keyword, f"not at level {level.value}")
        if not relational:
            _check(each, given[each], level)
    if not any(given.values()):
        raise IdentifierError("identifier has no unique key")
    return tuple(_condition(each, values) for each, values in given.items() if values)


def instances(catalog: Catalog, conditions: tuple[Condition, ...]) -> list[Stored]:
    """Every instance that meets the conditions, by study, series and instance UID."""
    return [
        Stored(row["sop_instance_uid"], *(row[name] for name in _COLUMNS))
        for row in catalog.find("IMAGE", conditions, wanted=_COLUMNS)
    ]


def _values(identifier: Dataset, level: Level, charset: Charset) -> tuple[str, ...]:
    """The values of a level's unique key. Nothing in it is a wild card: PS3.4 C.4.2.1.4."""
    key = UNIQUE_KEYS[level]
    values = tuple(dict.fromkeys(texts(identifier, key.tag, charset)))
    if len(values) > MAXIMUM_VALUES:
        raise refusal(key.keyword, f"over {MAXIMUM_VALUES} values")
    if key.vr == "UI" and not all(map(is_uid, values)):
        raise refusal(key.keyword, "not a UID")
    if key.vr != "UI" and len(values) > 1:
        raise refusal(key.keyword, "more than one value")
    return values


def _check(key_level: Level, values: tuple[str, ...], level: Level) -> None:
    """PS3.4 C.4.2.2.1: one value above the level, at least one at it."""
    keyword = UNIQUE_KEYS[key_level].keyword
    if key_level is level and not values:
        raise refusal(keyword, f"a value is required at level {level.value}")
    if key_level.depth < level.depth and len(values) != 1:
        raise refusal(keyword, f"one value is required at level {level.value}")


def _condition(level: Level, values: tuple[str, ...]) -> Condition:
    column = UNIQUE_KEYS[level].column
    assert column is not None, "the catalogue keeps every unique key"
    return OneOf(values).condition(column)
