"""A Query and the catalogue in, response identifiers out: the requested keys of every match. PS3.4 C.4.1.1.3.2.

A Match is plain values: `attributes.plain`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.attributes import plain
from dicomnode.attributes.charsets import UNDECLARED, Charset, best
from dicomnode.attributes.header import read_header
from dicomnode.attributes.plain import Element
from dicomnode.attributes.values import (
    SPECIFIC_CHARACTER_SET,
    charset_of,
    dictionary_vr,
    items,
    normalised,
    written,
)
from dicomnode.errors import ImageNotStored
from dicomnode.query import matching
from dicomnode.query.keys import UNIQUE_KEYS, Level, Model
from dicomnode.query.matching import QUERY_RETRIEVE_LEVEL, Query, Wanted
from storage.catalog import COUNTS, EXTRAS, UIDS, Catalog
from storage.records import Condition, Equals, Row

RETRIEVE_AE_TITLE: Final = Tag(0x0008, 0x0054)
INSTANCE_AVAILABILITY: Final = Tag(0x0008, 0x0056)
_NO_COUNTS: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True)
class Match:
    """One response identifier."""

    elements: tuple[Element, ...]  # in tag order, without Specific Character Set
    preferred: tuple[Charset, ...]  # the asker's, then the stored one

    @cached_property
    def charset(self) -> Charset:
        """The first of the preferred sets that carries every value, else UTF-8; none where all is ASCII."""
        return best([text for element in self.elements for text in element.texts()], self.preferred)

    def dataset(self) -> Dataset:
        """The identifier as pydicom holds it."""
        return plain.dataset((*self._declared(), *self.elements))

    def encoded(self, *, implicit_vr: bool = False) -> bytes:
        """The identifier in Explicit or Implicit VR Little Endian."""
        # Nothing with a lower tag than Specific Character Set is ever returned.
        return plain.encoded((*self._declared(), *self.elements), self.charset, implicit_vr=implicit_vr)

    def _declared(self) -> tuple[Element, ...]:
        return (Element(SPECIFIC_CHARACTER_SET, "CS", self.charset.terms),) if self.charset.terms else ()


def find(
    catalog: Catalog,
    identifier: Dataset,
    *,
    patient_root: bool,
    relational: bool,
    combined_date_time: bool = False,
    retrieve_ae: str,
) -> Iterator[Dataset]:
    """The response identifiers of a plain C-FIND, streamed. Raises IdentifierError before the first."""
    model = Model.PATIENT_ROOT if patient_root else Model.STUDY_ROOT
    query = matching.parse(identifier, model, relational=relational, combined_date_time=combined_date_time)
    return (match.dataset() for match in matches(catalog, query, retrieve_ae))


def matches(
    catalog: Catalog, query: Query, retrieve_ae: str, *, offset: int = 0, limit: int | None = None
) -> Iterator[Match]:
    """What matches a query, in the catalogue's order, streamed: `limit` of them from `offset` on.

    SQL counts where conditions say all that is asked; else rows are compared until there are enough.
    """
    responder = _Responder(catalog, query, retrieve_ae)
    if query.row_tests or query.header_tests:
        return islice(_compared(catalog, query, responder), offset, None if limit is None else offset + limit)
    rows = catalog.find(query.level.value, query.conditions, limit, responder.columns, offset)
    return (responder.unchecked(row) for row in rows)


def _compared(catalog: Catalog, query: Query, responder: "_Responder") -> Iterator[Match]:
    for row in catalog.find(query.level.value, query.conditions, wanted=responder.columns):
        if query.passes_row(row):
            match = responder.match(row)
            if match is not None:
                yield match


def of_instances(catalog: Catalog, asked: Dataset, retrieve_ae: str) -> Callable[[Sequence[str]], list[Match]]:
    """SOP Instance UIDs -> the IMAGE level match of each, in their order, with the keys of `asked`; what they
    match is not compared again.

    Raises IdentifierError; what is returned, ImageNotStored when an instance is gone.
    """
    responder = _Responder(catalog, matching.parse(asked, Model.PATIENT_ROOT, relational=True), retrieve_ae)
    wanted = responder.columns | {"sop_instance_uid"}

    def made(uids: Sequence[str]) -> list[Match]:
        rows = {row["sop_instance_uid"]: row for row in catalog.images(list(dict.fromkeys(uids)), wanted)}
        if any(uid not in rows for uid in uids):
            raise ImageNotStored("image is no longer stored")
        return [responder.unchecked(rows[uid]) for uid in uids]

    return made


class _Responder:
    """Makes matches of rows; knows the query's keys, and asks the catalogue for what a row does not hold."""

    def __init__(self, catalog: Catalog, query: Query, retrieve_ae: str) -> None:
        self._catalog = catalog
        self._query = query
        self._wanted = _with_unique_key(query)
        fixed = (
            Element(QUERY_RETRIEVE_LEVEL, "CS", (query.level.value,)),
            Element(RETRIEVE_AE_TITLE, "AE", (retrieve_ae,) if retrieve_ae else ()),
            Element(INSTANCE_AVAILABILITY, "CS", ("ONLINE",)),
        )
        self._slots: tuple[Wanted | Element, ...] = tuple(sorted((*fixed, *self._wanted), key=_tag))
        self._columns = {one.tag: _column(one) for one in self._wanted}
        self._reads_header = bool(query.header_tests) or any(not _column(one) for one in self._wanted)
        self._counts_above = tuple(one.key for one in self._wanted if one.key and _is_counted_above(one, query.level))
        self._counts: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), _NO_COUNTS)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that rows must hold."""
        level = self._query.level
        own = {column for one in self._wanted if (column := _column(one)) and not _is_counted_above(one, level)}
        own |= {test.column for test in self._query.row_tests}
        if self._reads_header:
            own.add("header")
        for above in {key.level for key in self._counts_above}:
            own |= set(UIDS[above.value])
        return frozenset(own)

    def match(self, row: Row) -> Match | None:
        """The match of a row; None when its header does not pass."""
        header = self._header(row)
        if self._query.header_tests and (header is None or not self._query.passes_header(header)):
            return None
        return self._made(row, header)

    def unchecked(self, row: Row) -> Match:
        """The match of a row that is known to be one."""
        return self._made(row, self._header(row))

    def _made(self, row: Row, header: Dataset | None) -> Match:
        stored = charset_of(header) if header is not None else UNDECLARED
        values = {**row, **self._counts_of(row)} if self._counts_above else row
        found = tuple(self._element(slot, values, header, stored) for slot in self._slots)
        return Match(found, (self._query.charset, stored))

    def _element(
        self, one: Wanted | Element, values: Mapping[str, Any], header: Dataset | None, stored: Charset
    ) -> Element:
        if isinstance(one, Element):
            return one
        column = self._columns[one.tag]
        if column:
            return Element(one.tag, one.vr, _texts_of(values.get(column)))
        return Element(one.tag, one.vr) if header is None else _from_header(one, header, stored)

    def _header(self, row: Row) -> Dataset | None:
        """The row's own header, or that of the first instance below it; None where no key needs it."""
        held = row["header"] if self._reads_header else None
        return read_header(held) if held else None

    def _counts_of(self, row: Row) -> Mapping[str, Any]:
        """What levels above count; rows of one parent come together, so the last answer is kept."""
        parents = {key.level for key in self._counts_above}
        identity = tuple(row[name] for level in sorted(parents) for name in UIDS[level.value])
        if self._counts[0] != identity:
            found: dict[str, Any] = {}
            for level in parents:
                names = [key.column for key in self._counts_above if key.level is level and key.column]
                above = self._catalog.find(level.value, _identity(row, level), limit=1, wanted=names)
                found |= {name: found_row[name] for found_row in above for name in names}
            self._counts = (identity, found)
        return self._counts[1]


def _with_unique_key(query: Query) -> tuple[Wanted, ...]:
    """The wanted keys, and the unique key of the level, which tells one response from another."""
    unique = UNIQUE_KEYS[query.level]
    if any(one.tag == unique.tag for one in query.wanted):
        return query.wanted
    return (*query.wanted, Wanted(unique.tag, unique.vr, unique, None))


def _column(one: Wanted) -> str | None:
    return one.key.column if one.key else None


def _is_counted_above(one: Wanted, level: Level) -> bool:
    """Whether a level above counts it, and a row does not hold it."""
    key = one.key
    if key is None or key.level is level or key.column not in COUNTS[key.level.value]:
        return False
    return key.column not in EXTRAS[level.value]


def _identity(row: Row, level: Level) -> list[Condition]:
    return [Equals(name, row[name]) for name in UIDS[level.value]]


def _tag(slot: Wanted | Element) -> int:
    return int(slot.tag)


def _texts_of(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(str(one) for one in value) if isinstance(value, tuple) else (str(value),)


def _from_header(one: Wanted, header: Dataset, charset: Charset) -> Element:
    """An attribute of a stored header; of a sequence the matching items, with the keys that were asked for."""
    if one.vr != "SQ":
        return _text_of(one.tag, header, charset)
    held = ((item, charset_of(item, charset)) for item in items(header, one.tag))
    kept = [(item, inherited) for item, inherited in held if one.accepts_item(item, inherited)]
    return Element(one.tag, "SQ", (), tuple(_item(one, item, inherited) for item, inherited in kept))


def _item(one: Wanted, item: Dataset, charset: Charset) -> tuple[Element, ...]:
    inner = one.inner or tuple(
        Wanted(tag, dictionary_vr(tag), None, None) for tag in sorted(item.keys()) if tag != SPECIFIC_CHARACTER_SET
    )
    return tuple(_from_header(each, item, charset) for each in inner)


def _text_of(tag: BaseTag, header: Dataset, charset: Charset) -> Element:
    vr, values = written(header, tag, charset)
    known = dictionary_vr(tag) if vr == "UN" else vr
    normal = tuple(normalised(known, value) for value in values)
    return Element(tag, known, normal if any(normal) else ())
