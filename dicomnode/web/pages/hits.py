"""A rectangle on an image and filters in, the ranked hits out, grouped by study: the answer that C-FIND would give."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset

from dicomnode.private import PatientScope
from dicomnode.query import request as asking
from dicomnode.query.occlusion import Pair
from dicomnode.query.request import Keys, ReadHit
from dicomnode.query.search import RANKED_LOCALLY, WARNINGS
from dicomnode.query.service import Question, Response
from dicomnode.web.errors import BadRequest
from dicomnode.web.pages import given, links, studies, why, words
from dicomnode.web.pages.films import Film
from dicomnode.web.pages.links import Viewer
from encoder.anatomy import VOCABULARY, Anatomy
from encoder.boxes import Box

SIDE: Final = 300  # pixels of a hit's picture
AROUND: Final = 0.45  # of the box's longer side, shown on each side of it
COUNTS: Final = (10, 20, 50, 100)
SCOPES: Final = {"OTHER": "other patients", "ANY": "all patients", "SAME": "this patient"}
MORE: Final = ("StudyDescription", "Rows", "Columns")  # returned beside what the command asks for
_FILTERS: Final = ("anatomy", "scope", "modality", "since", "until", "sex", "score", "k")
Answer = Callable[[Question], Iterator[Response]]


@dataclass(frozen=True)
class Asked:
    """A question as the URL has it; `given`: the filters as they were typed."""

    image: str
    frame: int  # counted from 1
    box: Box
    given: Mapping[str, str]
    keys: Keys

    @property
    def anatomy(self) -> Anatomy | None:
        return self.keys.anatomy


@dataclass(frozen=True)
class Picture:
    """A part of a film and a box in it, in pixels of the stored image."""

    url: str
    part: Box
    box: Box


@dataclass(frozen=True)
class Hit:
    """One hit as it is shown."""

    rank: int
    score: str
    anatomy: str
    is_place: bool
    picture: Picture
    film_url: str
    more_url: str
    why_url: str


@dataclass(frozen=True)
class Group:
    """The hits of one study, the best first."""

    url: str
    name: str
    facts: str
    born: str
    patient_id: str
    date: str
    description: str
    modality: str
    accession: str
    viewers: tuple[Viewer, ...]
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Found:
    """The answer as it is shown."""

    groups: tuple[Group, ...]
    count: int
    notices: tuple[tuple[bool, str], ...]  # whether it is grave, and the words
    generation: str


def asked(parameters: Mapping[str, str]) -> Asked:
    """The question of a URL's parameters. BadRequest."""
    filters = {name: parameters[name].strip() for name in _FILTERS if parameters.get(name, "").strip()}
    box, frame = given.box(parameters), given.frame(parameters)
    return Asked(given.uid(parameters, "image"), frame, box, filters, _keys(filters))


def _keys(filters: Mapping[str, str]) -> Keys:
    scope = filters.get("scope", PatientScope.OTHER)
    if scope not in SCOPES:
        raise BadRequest(f"scope is one of {', '.join(SCOPES)}")
    standard = {
        "Modality": filters.get("modality", "").upper(),
        "StudyDate": studies.span(filters.get("since", ""), filters.get("until", "")),
        "PatientSex": filters.get("sex", ""),
    }
    return Keys(
        anatomy=_anatomy(filters.get("anatomy", "")),
        matches=_count(filters.get("k", "10")),
        scope=scope,
        minimum_score=given.number(filters, "score", 1.0) if "score" in filters else None,
        standard={keyword: value for keyword, value in standard.items() if value},
    )


def _anatomy(name: str) -> Anatomy | None:
    try:
        return VOCABULARY.named(name) if name else None
    except KeyError as unknown:
        raise BadRequest("anatomy is not in the vocabulary") from unknown


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= COUNTS[-1]):
        raise BadRequest(f"k is a whole number from 1 to {COUNTS[-1]}")
    return int(text)


def found(asked: Asked, film: Film, sop_class_uid: str, answer: Answer, viewers: Callable[[str], Any]) -> Found:
    """The answer to the question. Raises what the query service raises. `viewers`: of a study's UID."""
    frame = asked.frame if film.frames > 1 else None
    identifier = asking.by_box(film.uid, sop_class_uid, asked.box, asked.keys, frame)
    for keyword in MORE:
        setattr(identifier, keyword, None)
    matches = [each.match.dataset() for each in answer(Question(identifier, patient_root=False))]
    read = [(asking.read_hit(match), match) for match in matches]
    groups: dict[str, list[tuple[ReadHit, Dataset]]] = {}
    for hit, match in read:
        groups.setdefault(hit.study_instance_uid, []).append((hit, match))
    return Found(
        groups=tuple(_group(asked, uid, group, viewers(uid)) for uid, group in groups.items()),
        count=len(read),
        notices=tuple(_notices([hit for hit, _ in read])),
        generation=read[0][0].generation if read else "",
    )


def _notices(hits: list[ReadHit]) -> Iterator[tuple[bool, str]]:
    """What the hits are marked with, each once, the weightiest first."""
    said = {code for hit in hits for code in hit.warning.split("; ")}
    for code in sorted(said.intersection(words.NOTICES), key=WARNINGS.index):
        yield code not in {RANKED_LOCALLY}, words.NOTICES[code]


def _group(asked: Asked, uid: str, found: list[tuple[ReadHit, Dataset]], viewers: tuple[Viewer, ...]) -> Group:
    hit, match = found[0]
    birth = str(match.get("PatientBirthDate", "") or "")
    return Group(
        url=links.study(uid),
        name=words.person(hit.patient_name),
        facts=words.sex_and_age(hit.patient_sex, birth, hit.study_date),
        born=words.day(birth) if birth else "",
        patient_id=hit.patient_id,
        date=words.day(hit.study_date),
        description=str(match.get("StudyDescription", "") or ""),
        modality=str(match.get("Modality", "") or ""),
        accession=str(match.get("AccessionNumber", "") or ""),
        viewers=viewers,
        hits=tuple(_hit(asked, hit, match) for hit, match in found),
    )


def _hit(asked: Asked, hit: ReadHit, match: Dataset) -> Hit:
    uids = (hit.study_instance_uid, hit.series_instance_uid, hit.sop_instance_uid)
    size = (int(match.get("Columns") or 0), int(match.get("Rows") or 0))
    box = Box(*hit.box)
    kept = {name: value for name, value in asked.given.items() if name != "anatomy"}
    is_place = RANKED_LOCALLY in hit.warning.split("; ")
    anatomy = VOCABULARY.named(hit.anatomy).index
    pair = Pair(asked.image, asked.frame, asked.box, hit.sop_instance_uid, anatomy, is_place)
    return Hit(
        rank=hit.rank,
        score=f"{hit.score:.3f}",
        anatomy=words.capital(hit.anatomy),
        is_place=is_place,
        picture=picture(uids, size, box),
        film_url=links.image(hit.sop_instance_uid, box),
        more_url=links.hits(hit.sop_instance_uid, box, kept | {"anatomy": hit.anatomy}),
        why_url=links.why(why.parameters(pair)),
    )


def picture(uids: tuple[str, str, str], size: tuple[int, int], box: Box, frame: int = 1, pixels: int = SIDE) -> Picture:
    """A square around the box, as far as the film goes. `size`: columns, rows; `pixels`: of the picture's side."""
    side = max(box.width, box.height) * (1 + 2 * AROUND)
    x, y = (box.x1 + box.x2 - side) / 2, (box.y1 + box.y2 - side) / 2
    around = Box(math.floor(x), math.floor(y), math.ceil(x + side), math.ceil(y + side))
    part = around.clipped(*size)
    return Picture(links.cut(uids, part, pixels, frame), part, box)
