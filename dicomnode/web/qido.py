"""QIDO-RS: a search URL becomes the identifier of a relational C-FIND, its matches become JSON or XML. PS3.18 10.6.

What a parameter matches is C-FIND's business (`query.matching`); here are only its names and the page.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dicomnode.attributes import model
from dicomnode.attributes.model import Json
from dicomnode.attributes.plain import Element
from dicomnode.attributes.values import SPECIFIC_CHARACTER_SET, UNREADABLE, dictionary_vr
from dicomnode.errors import IdentifierError
from dicomnode.query import identifiers, matching
from dicomnode.query.identifiers import Match
from dicomnode.query.keys import KEYS, Level, Model
from dicomnode.web import media, multipart, resources
from dicomnode.web.errors import BadRequest
from dicomnode.web.resources import Resource
from storage.catalog import Catalog

# What comes back without being asked for, PS3.18 Tables 10.6.3-3 to 10.6.3-5.
RETURNED: Final[Mapping[Level, tuple[str, ...]]] = {
    Level.STUDY: (
        "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "PatientName",
        "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDescription",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: (
        "Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence",
    ),
    Level.IMAGE: (
        "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames",
    ),
}  # fmt: skip
_UNIQUE: Final = {Level.STUDY: "study", Level.SERIES: "series", Level.IMAGE: "instance"}
_UID_TAGS: Final = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_LISTED: Final = Tag(tag_for_keyword("ModalitiesInStudy") or 0)  # comma-separated, as lists of UIDs are
_RETRIEVE_URL: Final = Tag(tag_for_keyword("RetrieveURL") or 0)
_NOT_PARAMETERS: Final = frozenset({"accept", "charset", "emptyvaluematching", "multiplevaluematching"})
MAXIMUM_DEPTH: Final = 8  # of a path of attributes
_MORE: Final = '299 dicomnode "There are additional results that can be requested."'
_NOT_FUZZY: Final = '299 dicomnode "The fuzzymatching parameter is not supported. Only literal matching has been done."'
_UNKNOWN: Final = '299 dicomnode "Unknown parameters were ignored."'


@dataclass
class Search:
    """What a search URL asks: read from it one parameter after the other."""

    identifier: Dataset
    limit: int
    offset: int = 0
    includes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def answer(request: Request, level: Level, catalog: Catalog, most: int, retrieve_ae: str, public_url: str) -> Response:
    """The page of matches that was asked for. Raises BadRequest, IdentifierError, NotAcceptable."""
    kind = media.chosen(request, (media.JSON, media.PLAIN_JSON, media.XML))
    resource = resources.of_request(request)
    search = read(request.query_params.multi_items(), level, resource, most)
    query = matching.parse(search.identifier, Model.STUDY_ROOT, relational=True)
    found = list(identifiers.matches(catalog, query, retrieve_ae, offset=search.offset, limit=search.limit + 1))
    if len(found) > search.limit:
        search.warnings.append(_MORE)
    base = resources.base_url(request, public_url)
    results = [_result(match, level, resource, base) for match in found[: search.limit]]
    response = _in_xml(results) if kind == media.XML else JSONResponse(results, media_type=kind)
    for warning in search.warnings:
        response.headers.append("Warning", warning)
    return response


def _in_xml(results: list[Json]) -> Response:
    """One part a match; an answer without parts is no multipart."""
    if not results:
        return Response(status_code=204)
    return multipart.of_parts(media.XML, (model.as_xml(result) for result in results))


def read(parameters: Iterable[tuple[str, str]], level: Level, resource: Resource, most: int) -> Search:
    """The search of a URL's parameters. BadRequest where one means nothing, IdentifierError where it cannot match."""
    search = Search(Dataset(), most)
    search.identifier.QueryRetrieveLevel = level.value
    search.identifier.SpecificCharacterSet = "ISO_IR 192"
    given: dict[tuple[BaseTag, ...], list[str]] = {}
    for name, value in parameters:
        _read_one(search, name, value, given, most)
    for path, values in given.items():
        _match(search.identifier, path, values)
    for keyword in _wanted(search, level, resource):
        _ask(search.identifier, keyword)
    for name, uid in vars(resource).items():
        if uid:
            setattr(search.identifier, _UID_TAGS[name], uid)
    return search


def _read_one(search: Search, name: str, value: str, given: dict[tuple[BaseTag, ...], list[str]], most: int) -> None:
    match name:
        case "limit":
            search.limit = min(_count(value), most)
        case "offset":
            search.offset = _count(value)
        case "includefield":
            search.includes += [part.strip() for part in value.split(",") if part.strip()]
        case "fuzzymatching":
            if value.lower() == "true":
                search.warnings.append(_NOT_FUZZY)
        case _ if name.lower() not in _NOT_PARAMETERS:
            path = _path(name)
            if path:
                given.setdefault(path, []).append(value)
            elif _UNKNOWN not in search.warnings:
                search.warnings.append(_UNKNOWN)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest("limit and offset must be whole numbers")
    return int(text)


def _path(name: str) -> tuple[BaseTag, ...]:
    """The tags of `00081110.00081150` or `ReferencedStudySequence.ReferencedSOPClassUID`; () when one is none."""
    tags = [_tag(part) for part in name.split(".")]
    known = [tag for tag in tags if tag is not None]
    return tuple(known) if len(known) == len(tags) <= MAXIMUM_DEPTH else ()


def _tag(text: str) -> BaseTag | None:
    """A keyword of the data dictionary or eight hexadecimal digits; None for anything else and for private tags."""
    number = tag_for_keyword(text)
    if number is None and len(text) == 8 and all(char in "0123456789abcdefABCDEF" for char in text):
        number = int(text, 16)
    tag = Tag(number) if number is not None else None
    return None if tag is None or tag.is_private or tag.group < 0x0008 or tag.element == 0 else tag


def _match(identifier: Dataset, path: tuple[BaseTag, ...], values: list[str]) -> None:
    """Put a matching key in, in the one item of each sequence on the way."""
    *above, tag = path
    for sequence in above:
        if dictionary_vr(sequence) != "SQ":
            raise BadRequest("a parameter goes through an attribute that is no sequence")
        if sequence not in identifier:
            identifier.add_new(sequence, "SQ", [Dataset()])
        identifier = identifier[sequence].value[0]
    try:
        identifier.add(_key(tag, values))
    except UNREADABLE as wrong:
        raise IdentifierError("a parameter's value is not of its attribute's kind") from wrong


def _key(tag: BaseTag, given: list[str]) -> DataElement:
    vr = dictionary_vr(tag)
    if vr == "SQ":
        return DataElement(tag, "SQ", [])
    is_list = vr == "UI" or tag == _LISTED
    texts = [part for text in given for part in (text.replace(",", "\\") if is_list else text).split("\\")]
    values: list[Any] = [int(text, 16) for text in texts] if vr == "AT" else texts
    return DataElement(tag, vr, values[0] if len(values) == 1 else values, validation_mode=config.IGNORE)


def _wanted(search: Search, level: Level, resource: Resource) -> Iterator[str | BaseTag]:
    """What is to be returned besides the keys: of the level, of those above that the URL does not name, and more."""
    for each in (Level.STUDY, Level.SERIES, Level.IMAGE):
        if each.depth > level.depth:
            return
        yield _UID_TAGS[_UNIQUE[each]]
        if each is level or not getattr(resource, _UNIQUE[each]):
            yield from RETURNED[each]
        yield from _included(search, each)


def _included(search: Search, level: Level) -> Iterator[str | BaseTag]:
    if "all" in search.includes:
        upper = (Level.PATIENT, level) if level is Level.STUDY else (level,)
        yield from (key.keyword for key in KEYS if key.level in upper)
        return
    for name in search.includes:
        path = _path(name)
        if path:
            yield path[0]
        elif _UNKNOWN not in search.warnings:
            search.warnings.append(_UNKNOWN)


def _ask(identifier: Dataset, wanted: str | BaseTag) -> None:
    """An empty key, where none is given."""
    tag = Tag(tag_for_keyword(wanted) or 0) if isinstance(wanted, str) else wanted
    if tag in identifier:
        return
    vr = dictionary_vr(tag)
    identifier.add(DataElement(tag, vr, [] if vr == "SQ" else None))


def _result(match: Match, level: Level, resource: Resource, base: str) -> Json:
    """One match, with where it is retrieved from."""
    found = {model.key_of(element.tag): of_element(element) for element in match.elements}
    del found[model.key_of(matching.QUERY_RETRIEVE_LEVEL)]
    if match.charset.terms:
        found[model.key_of(SPECIFIC_CHARACTER_SET)] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    named = {name: _uid(match, keyword) for name, keyword in _UID_TAGS.items()}
    found[model.key_of(_RETRIEVE_URL)] = {"vr": "UR", "Value": [Resource(**named).url(base)]}
    return dict(sorted(found.items()))


def _uid(match: Match, keyword: str) -> str:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return next((element.values[0] for element in match.elements if element.tag == tag and element.values), "")


def of_element(element: Element) -> Json:
    """An attribute of a response as JSON."""
    if element.vr != "SQ":
        return model.valued(element.vr, element.values)
    return model.sequence({model.key_of(inner.tag): of_element(inner) for inner in item} for item in element.items)
