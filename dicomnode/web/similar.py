"""POST /similar and GET /similar/{query}: an ROI as JSON or SR in, the ranked hits of a region query as JSON out.

The question becomes the identifier that C-FIND would carry, and the query service answers it: both doors give one
answer. Answers are kept for a while in memory, for who asked. Memory bound: KEPT answers and KEPT_BYTES.
"""

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from starlette.requests import Request
from starlette.responses import Response

from dicomnode.attributes.values import UNREADABLE
from dicomnode.errors import DecodeError, IdentifierError, ImageNotStored
from dicomnode.pixels import headers
from dicomnode.private import PatientScope
from dicomnode.query import request as asking
from dicomnode.query.request import Keys
from dicomnode.query.search import RANKED_LOCALLY
from dicomnode.query.service import Question
from dicomnode.query.service import Response as Found
from dicomnode.uids import is_uid
from dicomnode.web import media, resources
from dicomnode.web.access import Caller
from dicomnode.web.errors import BadRequest, NotFound, UnsupportedBody
from dicomnode.web.resources import Resource
from encoder.anatomy import VOCABULARY, Anatomy
from encoder.boxes import Box
from storage.catalog import Catalog
from storage.files import Files

KEPT: Final = 1000  # answers
KEPT_BYTES: Final = 32 << 20
MAXIMUM_QUESTION: Final = 16 << 20  # bytes of a body: that of an SR
MAXIMUM_FRAME: Final = 10**7
MAXIMUM_MATCHES: Final = 100_000  # an integer that an IS holds; the query service has the real limit
FIELDS: Final = frozenset({"image", "box", "frame", "sr", "anatomy", "k", "scope", "minimum_score", "keys"})
Answer = Callable[[Question], Iterator[Found]]


@dataclass(frozen=True)
class Kept:
    """An answer and whose question it was."""

    caller: str
    body: bytes


class Answers:
    """The last answers by the id that was given with each. Safe for threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def keep(self, query: str, kept: Kept) -> None:
        """Keep it, and forget the oldest that there is no room for."""
        with self._lock:
            self._kept[query] = kept
            self._size += len(kept.body)
            while len(self._kept) > 1 and (len(self._kept) > KEPT or self._size > KEPT_BYTES):
                self._size -= len(self._kept.popitem(last=False)[1].body)

    def get(self, query: str, caller: str) -> bytes:
        """NotFound for an unknown one, a forgotten one, and another caller's."""
        with self._lock:
            kept = self._kept.get(query)
        if kept is None or kept.caller != caller:
            raise NotFound("no such query, or its answer is no longer kept")
        return kept.body


class Similar:
    """Answers region queries over HTTP."""

    def __init__(self, answer: Answer, catalog: Catalog, files: Files, public_url: str) -> None:
        self._answer = answer
        self._catalog = catalog
        self._files = files
        self._public_url = public_url
        self._answers = Answers()

    def ask(self, request: Request, caller: Caller, body: bytes) -> Response:
        """The hits, best first. Raises BadRequest, and what the query service raises."""
        identifier = self._identifier(media.parsed(request.headers.get("content-type", "")).name, request, body)
        found = [each.match.dataset() for each in self._answer(Question(identifier, patient_root=False))]
        query = secrets.token_urlsafe(16)
        base = resources.base_url(request, self._public_url)
        encoded = json.dumps(told(query, found, base), ensure_ascii=False).encode("utf-8", "replace")
        self._answers.keep(query, Kept(caller.name, encoded))
        return Response(encoded, media_type=media.PLAIN_JSON, headers={"Location": f"{base}/similar/{query}"})

    def kept(self, request: Request, caller: Caller) -> Response:
        """The answer to a question of before."""
        return Response(self._answers.get(str(request.path_params["query"]), caller.name), media_type=media.PLAIN_JSON)

    def _identifier(self, kind: str, request: Request, body: bytes) -> Dataset:
        if kind == media.DICOM:
            return asking.by_sr(self._document(body), _keys(_of_url(request)))
        if kind not in {media.PLAIN_JSON, media.JSON}:
            raise UnsupportedBody("the question is application/json, or an SR as application/dicom")
        asked = _object(body)
        keys = _keys(asked)
        if "sr" in asked:
            return asking.by_stored_sr(_uid(asked, "sr"), keys)
        image = self._catalog.instance(_uid(asked, "image"))
        if image is None:
            raise ImageNotStored("image not stored: send it first")
        return asking.by_box(image.sop_instance_uid, image.sop_class_uid, _box(asked), keys, _frame(asked))

    def _document(self, body: bytes) -> Dataset:
        with self._files.scratch() as scratch:
            scratch.write(body)
            try:
                return headers.document(Path(scratch.path))
            except DecodeError as error:
                raise BadRequest("the SR cannot be read") from error


def told(query: str, found: list[Dataset], base: str) -> dict[str, Any]:
    """The answer as JSON values: what C-FIND's identifiers say."""
    hits = [_hit(match, base) for match in found]
    warnings = dict.fromkeys(code for hit in hits for code in hit["warnings"] if code != RANKED_LOCALLY)
    generation = hits[0]["generation"] if hits else ""
    return {"query": query, "generation": generation, "warnings": list(warnings), "hits": hits}


def _hit(match: Dataset, base: str) -> dict[str, Any]:
    read = asking.read_hit(match)
    resource = Resource(read.study_instance_uid, read.series_instance_uid, read.sop_instance_uid)
    more = {
        "patient_birth_date": "PatientBirthDate",
        "study_time": "StudyTime",
        "accession_number": "AccessionNumber",
        "modality": "Modality",
    }
    return {
        **read.as_dict(),
        **{name: str(match.get(keyword, "") or "") for name, keyword in more.items()},
        "warnings": [code for code in read.warning.split("; ") if code],
        "url": resource.url(base),
    }


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as wrong:
        raise BadRequest("the question is no JSON") from wrong
    if not isinstance(asked, dict) or not asked.keys() <= FIELDS:
        raise BadRequest(f"the question is an object of {', '.join(sorted(FIELDS))}")
    if ("sr" in asked) == ("image" in asked) or ("image" in asked) != ("box" in asked):
        raise BadRequest("give image and box, or sr")
    if "frame" in asked and "image" not in asked:
        raise BadRequest("frame is of an image")
    return asked


def _of_url(request: Request) -> dict[str, Any]:
    """What stands beside an SR, as parameters of the URL."""
    given = dict(request.query_params)
    numbers = {
        name: _parsed(given[name], kind) for name, kind in (("k", int), ("minimum_score", float)) if name in given
    }
    keys = {name: value for name, value in given.items() if name not in FIELDS}
    return {**{name: value for name, value in given.items() if name in {"anatomy", "scope"}}, **numbers, "keys": keys}


def _parsed(text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError as wrong:
        raise BadRequest("k and minimum_score are numbers") from wrong


def _keys(asked: Mapping[str, Any]) -> Keys:
    scope = str(asked.get("scope", PatientScope.OTHER)).upper()
    if scope not in list(PatientScope):
        raise BadRequest(f"scope is one of {', '.join(PatientScope)}")
    return Keys(
        anatomy=_anatomy(asked.get("anatomy")),
        matches=_matches(asked.get("k")),
        scope=scope,
        minimum_score=_score(asked.get("minimum_score")),
        standard=_standard(asked.get("keys", {})),
    )


def _anatomy(name: Any) -> Anatomy | None:
    if name is None:
        return None
    try:
        return VOCABULARY.named(str(name))
    except KeyError as unknown:
        raise BadRequest("anatomy is not in the vocabulary") from unknown


def _matches(k: Any) -> int | None:
    if k is None:
        return None
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAXIMUM_MATCHES:
        raise BadRequest("k is a whole number, 1 or more")
    return k


def _score(score: Any) -> float | None:
    if score is None:
        return None
    if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= 1:
        raise BadRequest("minimum_score lies between -1 and 1")
    return float(score)


def _standard(keys: Any) -> dict[str, str]:
    """Matching keys by keyword, as C-FIND has them."""
    if not isinstance(keys, dict) or not all(isinstance(value, str) for value in keys.values()):
        raise BadRequest("keys are texts by the keyword of their attribute")
    if not all(asking.is_keyword(name) for name in keys):
        raise BadRequest("keys holds something that is no keyword of the data dictionary")
    try:
        _probe(keys)
    except UNREADABLE as wrong:
        raise IdentifierError("a key's value is not of its attribute's kind") from wrong
    return dict(keys)


def _probe(keys: Mapping[str, str]) -> None:
    probe = Dataset()
    for keyword, value in keys.items():
        setattr(probe, keyword, value)


def _uid(asked: Mapping[str, Any], name: str) -> str:
    uid = asked[name]
    if not isinstance(uid, str) or not is_uid(uid):
        raise BadRequest(f"{name} is no UID")
    return uid


def _frame(asked: Mapping[str, Any]) -> int | None:
    """Counted from 1; None for the image as a whole."""
    frame = asked.get("frame")
    if frame is not None and (type(frame) is not int or not 1 <= frame <= MAXIMUM_FRAME):
        raise BadRequest("frame is a whole number, 1 or more")
    return frame


def _box(asked: Mapping[str, Any]) -> Box:
    """x1, y1, x2, y2 in pixels of the stored image."""
    box = asked["box"]
    numbers = isinstance(box, list) and len(box) == 4 and all(type(side) in {int, float} for side in box)
    if not numbers or not all(abs(side) < 1e6 for side in box) or box[0] >= box[2] or box[1] >= box[3]:
        raise BadRequest("box is [x1, y1, x2, y2] in pixels, x1 < x2 and y1 < y2")
    return Box(*map(float, box))
