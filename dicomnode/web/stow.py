"""STOW-RS: the parts of a body become durable instances, each as a C-STORE would; the answer says which. PS3.18 10.5.

A part goes to a scratch file as it arrives, behind a head of the node's own, so that an instance is the same file
through either port. One that fails does not stop the others; one that is cut leaves nothing. Memory bound: one piece
of the body, and of each part what the answer says of it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from dicomnode.attributes import model, part10
from dicomnode.attributes.model import Json
from dicomnode.dimse import status
from dicomnode.errors import InvalidInstance
from dicomnode.intake import Intake, Taken
from dicomnode.web import media, multipart, resources
from dicomnode.web.access import Caller
from dicomnode.web.errors import BadRequest, BodyTooLarge, BodyTooSlow, UnsupportedBody
from dicomnode.web.resources import Resource
from storage.errors import StorageError, StorageFull
from storage.files import Scratch
from storage.records import NewInstance

logger = logging.getLogger(__name__)
T = TypeVar("T")
MIB: Final = 1 << 20
GATHERED: Final = 1 << 20  # bytes of the body that are handed to a thread together
LEAST: Final = 16 << 10  # bytes of a body in each time-out
MAXIMUM_PARTS: Final = 10_000  # of one body
PART_TYPES: Final = frozenset({"", media.DICOM, media.OCTETS})  # octets: seen, of clients that do not say
Run = Callable[..., Awaitable[Any]]
Stored = Callable[[Taken, Caller], None]


@dataclass(frozen=True)
class Failure:
    """An instance that was not stored, as far as it could be read, and why."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: int  # PS3.3 C.14.1.1, as the status of a C-STORE
    is_full: bool


@dataclass
class Outcome:
    """What became of the parts so far."""

    stored: list[NewInstance] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    @property
    def status(self) -> int:
        """PS3.18 Table 10.5.3-1; a full disk by RFC 4918 11.5."""
        if not self.failed:
            return 200
        if self.stored:
            return 202
        return 507 if any(failure.is_full for failure in self.failed) else 409


class PartReceiver:
    """Keeps each part of a body; `close` drops what was not."""

    def __init__(self, intake: Intake, caller: Caller, study: str, stored: Stored) -> None:
        """`study`: the only one that instances may be of; empty: any."""
        self.outcome = Outcome()
        self._intake = intake
        self._caller = caller
        self._study = study
        self._stored = stored
        self._scratch: Scratch | None = None
        self._begun = b""  # of a part whose head is not complete
        self._head: part10.Head | None = None
        self._error: Exception | None = None

    def begin(self, content_type: str) -> None:
        """A part begins: room for it, or a reason why there is none."""
        if len(self.outcome.stored) + len(self.outcome.failed) >= MAXIMUM_PARTS:
            raise BodyTooLarge(f"more than {MAXIMUM_PARTS} parts")
        self._begun, self._head, self._error = b"", None, None
        try:
            if media.parsed(content_type).name not in PART_TYPES:
                raise InvalidInstance("a part is no application/dicom")
            self._scratch = self._intake.scratch()
        except (InvalidInstance, StorageError, OSError) as error:
            self._error = error

    def take(self, data: memoryview) -> None:
        """More of the part. After a failure it is read and dropped, but for the head, which says what failed."""
        try:
            rest = self._after_head(data) if self._head is None else data
            if self._error is None and self._scratch is not None:
                self._scratch.write(rest)
        except (InvalidInstance, StorageError, OSError) as error:
            self._error = self._error or error

    def _after_head(self, data: memoryview) -> bytes:
        """What comes behind the client's head, a head of the node's own in its place; nothing while it is not whole."""
        if len(self._begun) > part10.MAXIMUM_HEAD:
            return b""
        self._begun += data
        self._head = head = part10.read(self._begun)
        if head is not None:
            begun, self._begun = self._begun, b""
            own = part10.head(head.sop_class_uid, head.sop_instance_uid, head.transfer_syntax_uid)
            return own + begun[head.size :]
        if len(self._begun) > part10.MAXIMUM_HEAD:
            raise InvalidInstance("file meta information too long")
        return b""

    def end(self) -> None:
        """The part is complete: keep it, or note why not."""
        try:
            if self._error is not None:
                raise self._error
            self._keep()
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a reason and a log line
            status.tell("STOW-RS", self._caller.name or "nobody known", error)
            self.outcome.failed.append(_failure(self._head, error))
        finally:
            self.close()

    def _keep(self) -> None:
        if self._scratch is None or self._head is None:
            raise InvalidInstance("not a DICOM file")
        taken = self._intake.keep(self._scratch, self._caller.name or None, self._check)
        self.outcome.stored.append(taken.new)
        self._stored(taken, self._caller)

    def _check(self, new: NewInstance) -> None:
        """The head and the data set name one instance; PS3.18 10.5.1.1: of the study that the path names."""
        assert self._head is not None
        if (new.sop_instance_uid, new.sop_class_uid) != (self._head.sop_instance_uid, self._head.sop_class_uid):
            raise InvalidInstance("file meta information names another instance")
        if self._study and new.study.study_instance_uid != self._study:
            raise InvalidInstance("instance is of another study than the path")

    def close(self) -> None:
        """Discard what was not kept."""
        if self._scratch is not None:
            with suppress(StorageError):
                self._scratch.discard()
            self._scratch = None


class Stow:
    """Answers store requests."""

    def __init__(self, intake: Intake, stored: Stored, maximum_mib: int, timeout_s: float, public_url: str) -> None:
        """`stored` is told of each instance once it is durable; it must not block."""
        self._intake = intake
        self._stored = stored
        self._maximum = maximum_mib * MIB
        self._timeout_s = timeout_s
        self._public_url = public_url

    async def store(self, request: Request, caller: Caller, run: Run) -> Response:
        """Read the body and say what became of each part. `run` calls a function in a thread."""
        kind = media.chosen(request, (media.JSON, media.PLAIN_JSON, media.XML), fallback=media.JSON)
        resource = resources.of_request(request)
        receiver = PartReceiver(self._intake, caller, resource.study, self._stored)
        try:
            await self._receive(request, receiver, run)
        finally:
            await run(receiver.close)
        return _answer(receiver.outcome, resource, resources.base_url(request, self._public_url), kind)

    async def _receive(self, request: Request, receiver: PartReceiver, run: Run) -> None:
        """The body, as multipart or as one instance. UnsupportedBody for anything else."""
        body = media.parsed(request.headers.get("content-type", ""))
        if body.name == media.DICOM:
            receiver.begin(media.DICOM)
            async for piece in self.pieces(request):
                await run(receiver.take, memoryview(piece))
            await run(receiver.end)
            return
        if body.name != media.RELATED or body.content not in {media.DICOM, media.ANY}:
            raise UnsupportedBody('the body must be multipart/related; type="application/dicom", or application/dicom')
        reader = multipart.Reader(body.parameters.get("boundary", ""), receiver)
        async for piece in self.pieces(request):
            await run(reader.feed, piece)
        reader.finish()
        if not receiver.outcome.stored and not receiver.outcome.failed:
            raise BadRequest("the body has no part")

    def pieces(self, request: Request) -> AsyncIterator[bytes]:
        """The body under its limits. BodyTooLarge, BodyTooSlow."""
        return pieces(request, self._maximum, self._timeout_s)


async def pieces(request: Request, maximum: int, timeout_s: float) -> AsyncIterator[bytes]:
    """A request's body, some of it at once. BodyTooLarge over `maximum` bytes, BodyTooSlow after a long pause.

    One that comes by a few bytes at a time is as one that pauses.
    """
    claimed = request.headers.get("content-length", "0")
    if claimed.isdecimal() and int(claimed[:19]) > maximum:
        raise BodyTooLarge(f"bodies have at most {maximum >> 20} MiB")
    held, size, stream = bytearray(), 0, request.stream()
    pace = _Pace(timeout_s)
    while (chunk := await _next(stream, timeout_s)) is not None:
        size += len(chunk)
        pace.check(size)
        if size > maximum:
            raise BodyTooLarge(f"bodies have at most {maximum >> 20} MiB")
        held += chunk
        if len(held) >= GATHERED:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


class _Pace:
    """A body must grow by LEAST bytes in each time-out."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._until, self._least = time.monotonic() + timeout_s, LEAST

    def check(self, size: int) -> None:
        """BodyTooSlow."""
        now = time.monotonic()
        if now < self._until:
            return
        if size < self._least:
            raise BodyTooSlow("the body comes too slowly")
        self._until, self._least = now + self._timeout_s, size + LEAST


async def _next(stream: Any, timeout_s: float) -> bytes | None:
    try:
        return bytes(await asyncio.wait_for(anext(stream), timeout_s))
    except StopAsyncIteration:
        return None
    except (TimeoutError, ClientDisconnect) as slow:
        raise BodyTooSlow("the body did not go on") from slow


def _failure(head: part10.Head | None, error: Exception) -> Failure:
    return Failure(
        head.sop_class_uid if head else "",
        head.sop_instance_uid if head else "",
        status.status_of(error),
        isinstance(error, StorageFull),
    )


def _answer(outcome: Outcome, resource: Resource, base: str, kind: str) -> Response:
    """The Store Instances Response Module, PS3.18 I.2.2."""
    found = _told(outcome, resource, base)
    if kind == media.XML:
        return Response(model.as_xml(found), outcome.status, media_type=kind)
    return JSONResponse(found, outcome.status, media_type=kind)


def _told(outcome: Outcome, resource: Resource, base: str) -> Json:
    studies = {new.study.study_instance_uid for new in outcome.stored} or {resource.study}
    found: Json = {}
    if len(studies) == 1 and (study := studies.pop()):
        found |= _element("RetrieveURL", "UR", Resource(study).url(base))
    known = [failure for failure in outcome.failed if failure.sop_instance_uid]
    others = [failure for failure in outcome.failed if not failure.sop_instance_uid]
    for keyword, items in (
        ("FailedSOPSequence", [_failed_item(failure) for failure in known]),
        ("ReferencedSOPSequence", [_stored_item(new, base) for new in outcome.stored]),
        ("OtherFailuresSequence", [_element("FailureReason", "US", failure.reason) for failure in others]),
    ):
        if items:
            found[_key(keyword)] = model.sequence(items)
    return dict(sorted(found.items()))


def _failed_item(failure: Failure) -> Json:
    return {
        **_element("ReferencedSOPClassUID", "UI", failure.sop_class_uid),
        **_element("ReferencedSOPInstanceUID", "UI", failure.sop_instance_uid),
        **_element("FailureReason", "US", failure.reason),
    }


def _stored_item(new: NewInstance, base: str) -> Json:
    held = Resource(new.study.study_instance_uid, new.series.series_instance_uid, new.sop_instance_uid)
    return {
        **_element("ReferencedSOPClassUID", "UI", new.sop_class_uid),
        **_element("ReferencedSOPInstanceUID", "UI", new.sop_instance_uid),
        **_element("RetrieveURL", "UR", held.url(base)),
    }


def _element(keyword: str, vr: str, value: str | int) -> Json:
    return {_key(keyword): {"vr": vr, "Value": [value]}}


def _key(keyword: str) -> str:
    return model.key_of(Tag(tag_for_keyword(keyword) or 0))
