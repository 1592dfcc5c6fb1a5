"""WADO-RS: a resource's path and what the client takes in, its instances, metadata, frames and values out. PS3.18 10.4.

Memory bound: the list of a study's instances, and one piece of a file, for each request.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from dicomnode.attributes import model
from dicomnode.errors import DecodeError
from dicomnode.pixels.frames import PIXEL_DATA, Span
from dicomnode.pixels.transcode import TARGETS
from dicomnode.web import media, multipart, resources, shelf
from dicomnode.web.errors import BadRequest, NotAcceptable, NotFound
from dicomnode.web.media import MediaType
from dicomnode.web.multipart import Part
from dicomnode.web.resources import Held
from dicomnode.web.shelf import PLAIN, Opened, WebShelf
from storage.catalog import Catalog

logger = logging.getLogger(__name__)
_MADE: Final = frozenset(map(str, TARGETS))  # transfer syntaxes that every instance can be had in
AS_STORED: Final = "*"
PRIVATE: Final = {"Cache-Control": "private, no-cache"}  # a browser may keep it, and asks whether it is the same
MAXIMUM_FRAMES: Final = 10_000  # of one request


@dataclass(frozen=True)
class Wish:
    """How content goes out: of which type, encoded how, in parts or alone."""

    content_type: str
    transfer_syntax: str  # AS_STORED, or a UID
    alone: bool = False


class Wado:
    """Answers the retrieval requests but for pictures. Safe for threads."""

    def __init__(self, catalog: Catalog, reader: WebShelf, public_url: str) -> None:
        self._catalog = catalog
        self._reader = reader
        self._public_url = public_url

    def instances(self, request: Request) -> Response:
        """Study, series or instance as Part 10 files. PS3.18 10.4.1.1.1."""
        resource = resources.of_request(request)
        found = resources.instances(self._catalog, resource)
        wish = _instance_wish(media.accepted(request), found, may_be_alone=bool(resource.instance))
        if not wish.alone:
            parts = self._instance_parts(found, wish, resources.base_url(request, self._public_url))
            return multipart.streamed(media.DICOM, _begun(parts))
        (held,) = found
        syntax = _syntax(held, wish)
        content_type = media.described(media.DICOM, (("transfer-syntax", syntax),))
        if syntax == held.stored.transfer_syntax_uid:
            return self._file(held, content_type)
        return StreamingResponse(self._reader.instance(held, syntax), media_type=content_type, headers=PRIVATE)

    def _file(self, held: Held, content_type: str) -> Response:
        """The stored file; Range and ETag by Starlette. RFC 9110 13, 14."""
        path = self._reader.path(held)
        if not path.is_file():
            raise NotFound("no longer stored here")
        return FileResponse(path, media_type=content_type, headers={**PRIVATE, "ETag": held.etag})

    def _instance_parts(self, found: list[Held], wish: Wish, base: str) -> Iterator[Part]:
        """Each instance; what cannot be transcoded goes as it is stored, and its part says so."""
        for held in found:
            syntax = _syntax(held, wish)
            try:
                pieces = self._reader.instance(held, syntax)
            except NotFound:
                if len(found) == 1:
                    raise
                continue  # deleted meanwhile
            except DecodeError as error:
                if len(found) == 1:
                    raise
                logger.warning("%s sent as it is stored: %s", held.stored.sop_instance_uid, error)
                syntax = held.stored.transfer_syntax_uid
                pieces = self._reader.instance(held, syntax)
            content_type = media.described(media.DICOM, (("transfer-syntax", syntax),))
            yield Part(content_type, pieces, held.resource.url(base))

    def metadata(self, request: Request) -> Response:
        """Everything but bulk, of each instance. PS3.18 10.4.1.1.2."""
        kind = media.chosen(request, (media.JSON, media.PLAIN_JSON, media.XML))
        found = resources.instances(self._catalog, resources.of_request(request))
        base = resources.base_url(request, self._public_url)
        if kind == media.XML:
            bodies = (model.as_xml(self._reader.metadata(held, _bulk(held, base))) for held in found)
            return multipart.streamed(kind, _begun(Part(kind, (body,)) for body in bodies))
        headers = PRIVATE | ({"ETag": found[0].etag} if len(found) == 1 else {})
        return StreamingResponse(shelf.begun(self._json(found, base)), media_type=kind, headers=headers)

    def _json(self, found: list[Held], base: str) -> Iterator[bytes]:
        """One array. An instance that cannot be read is left out, unless it is the only one."""
        between = b"["
        for held in found:
            try:
                read = self._reader.metadata(held, _bulk(held, base))
            except (DecodeError, NotFound) as error:
                if len(found) == 1:
                    raise
                logger.warning("no metadata of %s: %s", held.stored.sop_instance_uid, error)
                continue
            yield between + json.dumps(read, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            between = b","
        yield b"]" if between == b"," else b"[]"

    def frames(self, request: Request) -> Response:
        """Frames by number. PS3.18 10.4.1.1.3."""
        (held,) = resources.instances(self._catalog, resources.of_request(request))
        numbers = _numbers(str(request.path_params["frames"]))
        wish = _frame_wish(media.accepted(request), held, several=len(numbers) > 1)
        return self._frames(held, wish, numbers)

    def _frames(self, held: Held, wish: Wish, numbers: list[int]) -> Response:
        context = self._reader.opened(held, decoded=_decodes(held, wish))
        parts = _begun(_frame_parts(context, wish, numbers))
        if not wish.alone:
            return multipart.streamed(wish.content_type, parts)
        part = next(parts)
        return StreamingResponse(_kept(part, parts), media_type=part.content_type, headers=PRIVATE)

    def bulkdata(self, request: Request) -> Response:
        """One value of the data set itself, as /metadata names it. PS3.18 10.4.1.1.4."""
        (held,) = resources.instances(self._catalog, resources.of_request(request))
        tag = _tag(str(request.path_params["tag"]))
        wish = _frame_wish(media.accepted(request), held, several=False, is_pixels=tag == PIXEL_DATA)
        is_encapsulated = tag == PIXEL_DATA and shelf.is_compressed(held.stored.transfer_syntax_uid)
        if is_encapsulated and not _decodes(held, wish):
            return self._frames(held, Wish(wish.content_type, wish.transfer_syntax), [])
        context = self._reader.opened(held, decoded=_decodes(held, wish))
        parts = _begun(_value_part(context, tag))
        if not wish.alone:
            return multipart.streamed(media.OCTETS, parts)
        part = next(parts)
        return StreamingResponse(_kept(part, parts), media_type=part.content_type, headers=PRIVATE)


def _frame_parts(context: AbstractContextManager[Opened], wish: Wish, numbers: list[int]) -> Iterator[Part]:
    """The frames of these numbers; of none given each. NotFound for one that there is not."""
    with context as opened:
        spans = opened.layout.frames(shelf.image_of(opened))
        if any(number > len(spans) for number in numbers):
            raise NotFound(f"the instance has {len(spans)} frames")
        content_type = media.described(wish.content_type, (("transfer-syntax", opened.transfer_syntax_uid),))
        for number in numbers or range(1, len(spans) + 1):
            yield Part(content_type, opened.pieces(spans[number - 1]))


def _value_part(context: AbstractContextManager[Opened], tag: int) -> Iterator[Part]:
    with context as opened:
        if tag not in opened.layout:
            raise NotFound("the instance has no such attribute")
        spans: tuple[Span, ...] = opened.layout.value(tag).spans
        content_type = media.described(media.OCTETS, (("transfer-syntax", opened.transfer_syntax_uid),))
        yield Part(content_type, opened.pieces(spans))


def _instance_wish(wishes: list[MediaType], found: list[Held], *, may_be_alone: bool) -> Wish:
    """The first wish that every instance can meet. NotAcceptable."""
    for wish in wishes:
        if not wish.takes(media.DICOM) or (wish.name == media.DICOM and not may_be_alone):
            continue
        syntax = wish.transfer_syntax or (AS_STORED if wish.content == media.ANY else PLAIN)
        if syntax in _MADE | {AS_STORED} or all(held.stored.transfer_syntax_uid == syntax for held in found):
            return Wish(media.DICOM, syntax, alone=wish.name == media.DICOM)
    raise NotAcceptable('instances are available as multipart/related; type="application/dicom"; transfer-syntax=*')


def _syntax(held: Held, wish: Wish) -> str:
    return held.stored.transfer_syntax_uid if wish.transfer_syntax == AS_STORED else wish.transfer_syntax


def _frame_wish(wishes: list[MediaType], held: Held, *, several: bool, is_pixels: bool = True) -> Wish:
    """As stored where the client takes its codestreams, else as plain octets. PS3.18 8.7.3.3. NotAcceptable."""
    stored = held.stored.transfer_syntax_uid
    as_stored = media.FRAME_TYPES.get(stored, media.OCTETS) if is_pixels else media.OCTETS
    for wish in wishes:
        syntax, alone = wish.transfer_syntax, not wish.is_multipart and wish.name != media.ANY
        if alone and several:
            continue
        if wish.takes(as_stored) and syntax in {None, AS_STORED, stored} and as_stored != media.OCTETS:
            return Wish(as_stored, AS_STORED, alone)
        if wish.takes(media.OCTETS) and syntax in {AS_STORED, stored}:
            return Wish(media.OCTETS, AS_STORED, alone)
        if wish.takes(media.OCTETS) and (syntax is None or syntax == PLAIN):
            return Wish(media.OCTETS, PLAIN, alone)
    raise NotAcceptable(f"available as {as_stored} and as {media.OCTETS}, in multipart/related where several")


def _decodes(held: Held, wish: Wish) -> bool:
    """Whether a copy with plain pixels is needed; what is plain already is sent from its file."""
    stored = UID(held.stored.transfer_syntax_uid)
    return wish.transfer_syntax == PLAIN and bool(stored.is_encapsulated)


def _numbers(text: str) -> list[int]:
    """PS3.18 10.4.1.1.3: a comma-separated list, counted from 1."""
    parts = text.split(",")
    if len(parts) > MAXIMUM_FRAMES or not all(part.isascii() and part.isdecimal() and len(part) < 8 for part in parts):
        raise BadRequest("frames are numbers, separated by commas")
    numbers = [int(part) for part in parts]
    if 0 in numbers:
        raise BadRequest("frames are counted from 1")
    return numbers


def _tag(text: str) -> int:
    if len(text) != 8 or not all(char in "0123456789abcdefABCDEF" for char in text):
        raise BadRequest("an attribute is named by eight hexadecimal digits")
    return int(text, 16)


def _bulk(held: Held, base: str) -> str:
    return f"{held.resource.url(base)}/bulkdata"


def _begun(parts: Iterator[Part]) -> Iterator[Part]:
    """The same, the first part made already: what fails does before the answer begins."""
    first = next(parts, None)

    def all_of_them() -> Iterator[Part]:
        if first is not None:
            yield first
        yield from parts

    return all_of_them()


def _kept(part: Part, parts: Iterator[Part]) -> Iterator[bytes]:
    """The bytes of a part; what it is read from stays open until they are sent."""
    yield from part.pieces
    for _ in parts:
        return
