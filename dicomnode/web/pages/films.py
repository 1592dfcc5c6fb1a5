"""A stored image in, what its page shows out: the picture, its regions as boxes with labels, and its facts."""

from dataclasses import dataclass
from typing import Final

from dicomnode.web.errors import NotAcceptable, NotFound
from dicomnode.web.pages import links, words
from encoder.boxes import Box
from storage.records import Equals, Generation, Region, Row
from storage.store import Store

COLUMNS: Final = (
    "study_instance_uid", "series_instance_uid", "sop_instance_uid", "rows", "columns", "frames", "instance_number",
    "modality", "series_description", "body_part_examined", "manufacturer", "study_date", "study_time",
    "study_description", "accession_number", "patient_id", "patient_name", "patient_sex", "patient_birth_date",
)  # fmt: skip
TEXT: Final = 46  # of a film's longer side, in label heights
WIDE: Final = 0.56  # of a letter, in label heights


@dataclass(frozen=True)
class Film:
    """An image, the frame of it that is shown, and what is known of it."""

    row: Row
    frame: int = 1

    @property
    def uid(self) -> str:
        return str(self.row["sop_instance_uid"])

    @property
    def uids(self) -> tuple[str, str, str]:
        return str(self.row["study_instance_uid"]), str(self.row["series_instance_uid"]), self.uid

    @property
    def size(self) -> tuple[int, int]:
        """Columns, rows."""
        return int(self.row["columns"]), int(self.row["rows"])

    @property
    def name(self) -> str:
        return words.person(self.row["patient_name"])

    @property
    def date(self) -> str:
        return words.day(self.row["study_date"])

    @property
    def picture(self) -> str:
        return links.film(self.uids, self.size, self.frame)

    @property
    def frames(self) -> int:
        return int(self.row["frames"] or 1)

    @property
    def letter(self) -> float:
        """Height of a label, in pixels of the image."""
        return max(self.size) / TEXT

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What is written beside the picture."""
        row, (columns, rows) = self.row, self.size
        known = (
            ("Patient", self.name),
            ("Patient ID", row["patient_id"]),
            ("Sex, age", words.sex_and_age(row["patient_sex"], row["patient_birth_date"], row["study_date"])),
            ("Born", words.day(row["patient_birth_date"]) if row["patient_birth_date"] else ""),
            ("Study", " ".join(part for part in (self.date, words.time_of_day(row["study_time"])) if part)),
            ("Description", row["study_description"] or row["series_description"]),
            ("Accession", row["accession_number"]),
            ("Modality", " · ".join(part for part in (row["modality"], row["body_part_examined"]) if part)),
            ("Device", row["manufacturer"]),
            ("Size", f"{columns} × {rows} pixels" + (f", {self.frames} frames" if self.frames > 1 else "")),
        )
        return tuple((name, str(value)) for name, value in known if value)


@dataclass(frozen=True)
class Mark:
    """A region as it is drawn: its box, its label beside it, and what is asked by choosing it."""

    name: str
    box: Box
    url: str
    text_x: float
    text_y: float
    anchor: str


def film(store: Store, uid: str, frame: int = 1) -> Film:
    """The image of that UID. NotFound, also of a frame; NotAcceptable for what has no pixels."""
    rows = store.catalog.find("IMAGE", [Equals("sop_instance_uid", uid)], limit=1, wanted=COLUMNS)
    for row in rows:
        if not row["rows"] or not row["columns"]:
            raise NotAcceptable("this object is no image")
        found = Film(row, frame)
        if frame > found.frames:
            raise NotFound(f"the image has {found.frames} frame{'s' if found.frames > 1 else ''}")
        return found
    raise NotFound("no such image is stored here")


@dataclass(frozen=True)
class Steps:
    """Where an image's other frames are; empty where there is none that way."""

    previous: str
    next: str


def steps(film: Film, marked: Box | None) -> Steps:
    """From one frame to the next, with what is marked."""
    at, last = film.frame, film.frames
    return Steps(
        previous=links.image(film.uid, marked, at - 1) if at > 1 else "",
        next=links.image(film.uid, marked, at + 1) if at < last else "",
    )


def regions(store: Store, film: Film, generation: Generation | None) -> list[Region]:
    """The image's regions of a generation, the largest first: where they overlap the smallest is on top."""
    row = store.catalog.instance(film.uid)
    if row is None or generation is None:
        return []
    found = store.regions.of_instance(generation.id, row.id)
    return sorted(found, key=lambda region: (-Box(*region.box).area, region.anatomy))


def marks(film: Film, found: list[Region]) -> list[Mark]:
    """The regions ready to be drawn."""
    return [_mark(film, region) for region in found]


def _mark(film: Film, region: Region) -> Mark:
    width, height = film.size
    box, name = Box(*region.box).clipped(width, height), words.anatomy(region.anatomy)
    long = WIDE * film.letter * len(name)
    above = box.y1 > 1.6 * film.letter
    at_left = box.x1 + long < width
    return Mark(
        name=name,
        box=box,
        url=links.hits(film.uid, box, {"anatomy": name.lower()}),
        text_x=box.x1 if at_left else box.x2,
        text_y=box.y1 - 0.4 * film.letter if above else box.y1 + 1.2 * film.letter,
        anchor="start" if at_left else "end",
    )
