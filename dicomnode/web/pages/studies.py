"""A search form or a study in; the studies that match, or the study's images, out: as C-FIND and QIDO-RS match them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final
from urllib.parse import urlencode

from dicomnode.query import matching
from dicomnode.query.keys import Level, Model
from dicomnode.web import qido
from dicomnode.web.errors import BadRequest, NotFound
from dicomnode.web.pages import links, words
from dicomnode.web.resources import Resource
from storage.catalog import Catalog
from storage.records import AnyOf, Equals, Row

PER_PAGE: Final = 25  # studies
IMAGES: Final = 120  # of a study, on one page
HIGHEST_PAGE: Final = 1_000_000
_STUDY_COLUMNS: Final = (
    "study_instance_uid", "study_date", "study_time", "study_description", "accession_number", "patient_id",
    "patient_name", "patient_sex", "patient_birth_date", "modalities_in_study", "number_of_study_related_instances",
)  # fmt: skip
_IMAGE_COLUMNS: Final = (
    "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "instance_number", "modality",
    "series_number", "series_description", "body_part_examined", "rows", "frames",
)  # fmt: skip


@dataclass(frozen=True)
class Search:
    """The form as it was filled in. Dates as a browser sends them: YYYY-MM-DD."""

    name: str = ""
    patient: str = ""
    since: str = ""
    until: str = ""
    modality: str = ""
    page: int = 1

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "Search":
        """The form of a URL's parameters. BadRequest for a page that is none."""
        texts = {field: given.get(field, "").strip() for field in ("name", "patient", "since", "until", "modality")}
        return cls(**texts, page=page_of(given))

    def keys(self) -> list[tuple[str, str]]:
        """The same as keyword and value of a QIDO-RS search. A name matches anywhere, however it is written."""
        name = self.name.replace(", ", "^").replace(",", "^")
        keys = {
            "PatientName": _wild(name, before="*"),
            "PatientID": _wild(self.patient),
            "StudyDate": span(self.since, self.until),
            "ModalitiesInStudy": self.modality.upper(),
        }
        return [(keyword, value) for keyword, value in keys.items() if value]

    def url(self, page: int) -> str:
        """The same search, another page of it."""
        given = {name: value for name, value in vars(self).items() if value and name != "page"}
        return "/?" + urlencode(given | ({"page": str(page)} if page > 1 else {}))


@dataclass(frozen=True)
class StudyLine:
    """One study of the list."""

    url: str
    name: str
    facts: str
    patient_id: str
    date: str
    time: str
    description: str
    modalities: str
    accession: str
    instances: int


@dataclass(frozen=True)
class StudyList:
    """One page of matches."""

    lines: tuple[StudyLine, ...]
    has_more: bool


@dataclass(frozen=True)
class Thumbnail:
    """One instance of a study. `picture`: empty for what is no image."""

    url: str
    picture: str
    label: str


@dataclass(frozen=True)
class SeriesPart:
    """The instances of a series that are on this page."""

    title: str
    thumbnails: tuple[Thumbnail, ...]


def page_of(given: Mapping[str, str]) -> int:
    """The page that is asked for, counted from 1. BadRequest."""
    text = given.get("page", "1") or "1"
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= HIGHEST_PAGE and len(text) < 9):
        raise BadRequest("page is a whole number, 1 or more")
    return int(text)


def _wild(text: str, before: str = "") -> str:
    """What a person types matches from where it begins; who writes wild cards means them."""
    return text if not text or "*" in text or "?" in text else f"{before}{text}*"


def span(since: str, until: str) -> str:
    """Two dates of a form as a range. PS3.4 C.2.2.2.5.1."""
    return f"{since.replace('-', '')}-{until.replace('-', '')}" if since or until else ""


def found(catalog: Catalog, search: Search) -> StudyList:
    """The studies that match, the newest first. IdentifierError for a value that cannot match."""
    asked = qido.read(search.keys(), Level.STUDY, Resource(), PER_PAGE)
    query = matching.parse(asked.identifier, Model.STUDY_ROOT, relational=True)
    columns = {"study_instance_uid", *(test.column for test in query.row_tests)}
    rows = catalog.find("STUDY", query.conditions, wanted=columns, newest=True)
    matches = (str(row["study_instance_uid"]) for row in rows if query.passes_row(row))
    first = (search.page - 1) * PER_PAGE
    uids = list(islice(matches, first, first + PER_PAGE + 1))
    return StudyList(tuple(_lines(catalog, uids[:PER_PAGE])), len(uids) > PER_PAGE)


def _lines(catalog: Catalog, uids: list[str]) -> Iterator[StudyLine]:
    """What is shown is looked up for the studies of the page only: counting is slow."""
    found = catalog.find("STUDY", [AnyOf("study_instance_uid", tuple(uids))], wanted=_STUDY_COLUMNS)
    rows = {row["study_instance_uid"]: row for row in found}
    return (line(rows[uid]) for uid in uids if uid in rows)


def line(row: Row) -> StudyLine:
    """A study's row as it is shown."""
    return StudyLine(
        url=links.study(row["study_instance_uid"]),
        name=words.person(row["patient_name"]),
        facts=words.patient_facts(row["patient_sex"], row["patient_birth_date"], row["study_date"]),
        patient_id=row["patient_id"],
        date=words.day(row["study_date"]),
        time=words.time_of_day(row["study_time"]),
        description=row["study_description"] or "",
        modalities=", ".join(row["modalities_in_study"]),
        accession=row["accession_number"] or "",
        instances=row["number_of_study_related_instances"],
    )


def study(catalog: Catalog, uid: str) -> StudyLine:
    """A study's facts. NotFound."""
    for row in catalog.find("STUDY", [Equals("study_instance_uid", uid)], wanted=_STUDY_COLUMNS):
        return line(row)
    raise NotFound("no such study is stored here")


def images(catalog: Catalog, uid: str, page: int) -> tuple[tuple[SeriesPart, ...], bool]:
    """A page of the study's instances by series, and whether there are more."""
    conditions = [Equals("study_instance_uid", uid)]
    rows = list(catalog.find("IMAGE", conditions, limit=IMAGES + 1, wanted=_IMAGE_COLUMNS, offset=(page - 1) * IMAGES))
    series = groupby(rows[:IMAGES], key=lambda row: str(row["series_instance_uid"]))
    return tuple(_series(list(group)) for _, group in series), len(rows) > IMAGES


def _series(rows: list[Row]) -> SeriesPart:
    first = rows[0]
    number = f"Series {first['series_number']}" if first["series_number"] else "Series"
    known = (first["modality"], number, first["series_description"], first["body_part_examined"])
    ordered = sorted(rows, key=lambda row: (_number(row["instance_number"]), row["sop_instance_uid"]))
    return SeriesPart(" · ".join(part for part in known if part), tuple(map(_thumbnail, ordered)))


def _thumbnail(row: Row) -> Thumbnail:
    uids = (row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"])
    number = f"Image {row['instance_number']}" if row["instance_number"] else "Image"
    frames = f", {row['frames']} frames" if (row["frames"] or 1) > 1 else ""
    if not row["rows"]:
        return Thumbnail("", "", words.kind(row["sop_class_uid"]))
    return Thumbnail(links.image(uids[2]), links.thumbnail(*uids), number + frames)


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 12 else 0
