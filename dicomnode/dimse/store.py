"""C-STORE: bytes from an association become one durable instance, and only then 0x0000.

The pieces go to a scratch file as they arrive; `dicomnode.intake` does the rest, in the order of invariant 1. What
goes wrong becomes a status and a log line when the whole data set has come: until then it is read and dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pynetdicom.association import Association

from dicomnode.attributes import part10
from dicomnode.audit import subjects
from dicomnode.audit.auditor import Auditor, Party, silent
from dicomnode.dimse import contexts, status
from dicomnode.dimse.lane import Arrival
from dicomnode.dimse.parties import requestor_of
from dicomnode.dimse.wire import StoreRequest
from dicomnode.errors import InvalidInstance, NotPermitted, SopClassDiffers
from dicomnode.intake import Begun, Intake, begun, new_instance
from dicomnode.sr.reader import ASKING_CLASSES
from storage.files import Scratch
from storage.records import NewInstance

STORAGE_CLASSES = frozenset(contexts.STORAGE_CLASSES)
EARLY = 64 << 10  # bytes of a data set in which a header is looked for, while its sender is busy with the rest


@dataclass(frozen=True)
class Questions:
    """What is done with an SR that comes to the query AE title."""

    called: str  # that AE title
    ask: Callable[[str, str], object]  # SOP Instance UID and who asks; durable on return

    def meant(self, called: str, sop_class_uid: str) -> bool:
        """Whether an instance sent so is a question."""
        return called == self.called and sop_class_uid in ASKING_CLASSES


@dataclass(frozen=True)
class Sender:
    """Who sends an instance, and how."""

    calling: str
    called: str
    channel: int  # the association's number for the audit trail
    party: Callable[[], Party]  # the caller for it
    services: frozenset[str]  # of `settings.SERVICES`
    sop_class_uid: str  # of the presentation context
    transfer_syntax_uid: str


class Dropped:
    """A data set that is read off the wire and not kept."""

    def __init__(self, calling: str, why: Exception) -> None:
        self._calling = calling
        self._why = why

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Drop them."""

    def end(self) -> tuple[int, str]:
        """Why it was dropped."""
        return _told(self._calling, self._why)

    def close(self) -> None:
        """Nothing is open."""


class StoreService:
    """Receives data sets and makes them instances."""

    def __init__(self, intake: Intake, questions: Questions | None = None, auditor: Auditor | None = None) -> None:
        self._intake = intake
        self._auditor = auditor or silent()
        self._questions = questions

    def receive(self, association: Association, request: StoreRequest) -> Arrival:
        """Where the data set of this request goes; nowhere when the disk is above its watermark. Never raises."""
        sender = _sender(association, request)
        try:
            head = _head(request, sender)
            return _Received(self, request, sender, head, self._intake.scratch())
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a status and a log line
            return Dropped(sender.calling, error)

    def keep(self, scratch: Scratch, new: NewInstance, request: StoreRequest, sender: Sender) -> None:
        """Make the received file an instance, and a question where it is one. Raises what makes it none."""
        asks = self._questions
        is_question = asks is not None and asks.meant(sender.called, request.sop_class_uid)
        if is_question and "query" not in sender.services:
            raise NotPermitted("region queries are not permitted")
        taken = self._intake.keep_as(scratch, new, lambda new: _check_command(new, request, sender))
        if self._auditor.is_on:
            self._auditor.received(sender.channel, sender.party(), subjects.arrived(new), taken.added.outcome)
        if asks is not None and is_question:  # before 0x0000: killed in between, the peer sends it again
            asks.ask(new.sop_instance_uid, sender.calling)


class _Received:
    """The data set of one C-STORE as it arrives, behind a Part 10 head."""

    def __init__(
        self, service: StoreService, request: StoreRequest, sender: Sender, head: bytes, scratch: Scratch
    ) -> None:
        self._service = service
        self._request = request
        self._sender = sender
        self._scratch = scratch
        self._failure: Exception | None = None
        self._head = part10.Head(request.sop_class_uid, request.sop_instance_uid, sender.transfer_syntax_uid, len(head))
        self._begun: Begun | None = None
        self._ahead: tuple[bytes, ...] = (head,)  # written with the first of the data set
        self._part: bytearray | None = bytearray()  # how the data set begins, until the header has been looked for

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Take what came. After a failure the rest is read off the wire and dropped."""
        if self._failure is not None:
            return
        try:
            self._scratch.write(*self._ahead, *pieces)
            self._ahead = ()
            if self._part is not None:
                self._look(self._part, pieces)
        except Exception as error:  # noqa: BLE001 - told at the end, as every error
            self._failure = error

    def _look(self, part: bytearray, pieces: Sequence[memoryview]) -> None:
        if not part and pieces and len(pieces[0]) >= EARLY:  # no copy of what lies in one piece
            self._read(pieces[0])
            return
        for piece in pieces:
            part += piece[: EARLY - len(part)]
        if len(part) >= EARLY:
            self._read(memoryview(part))

    def _read(self, part: memoryview) -> None:
        self._part = None
        self._begun = begun(part, self._head, self._sender.calling)

    def end(self) -> tuple[int, str]:
        """0x0000 only when the instance is durable and catalogued."""
        try:
            self._keep()
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a status and a log line
            return _told(self._sender.calling, error)
        finally:
            self.close()
        return status.SUCCESS, ""

    def close(self) -> None:
        """Discard what was not kept."""
        self._scratch.discard()

    def _keep(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._scratch.size <= self._head.size:
            raise InvalidInstance("empty data set")
        self._service.keep(self._scratch, self._new_instance(), self._request, self._sender)

    def _new_instance(self) -> NewInstance:
        if self._begun is None:
            return new_instance(self._scratch, self._head, self._sender.calling)
        if self._scratch.size < self._begun.least:
            raise InvalidInstance("data set ends inside an element")
        return self._begun.new


def _sender(association: Any, request: StoreRequest) -> Sender:
    context = association._accepted_cx[request.context_id]
    requestor = association.requestor
    return Sender(
        calling=str(requestor.ae_title),
        called=str(requestor.primitive.called_ae_title).strip(),
        channel=association.channel,
        party=partial(requestor_of, association),
        services=association.permitted,
        sop_class_uid=str(context.abstract_syntax),
        transfer_syntax_uid=str(context.transfer_syntax[0]),
    )


def _head(request: StoreRequest, sender: Sender) -> bytes:
    """Preamble and File Meta Information (PS3.10 7.1) for the data set that follows."""
    if sender.sop_class_uid not in STORAGE_CLASSES:
        raise SopClassDiffers("no instances on this presentation context")
    return part10.head(request.sop_class_uid, request.sop_instance_uid, sender.transfer_syntax_uid)


def _check_command(new: NewInstance, request: StoreRequest, sender: Sender) -> None:
    """PS3.7 9.1.1.1, PS3.4 B.2.3: context, command and data set name one SOP class, command and data set one UID."""
    if new.sop_instance_uid != request.sop_instance_uid:
        raise InvalidInstance("SOP Instance UID differs from the command's")
    if new.sop_class_uid != request.sop_class_uid:
        raise SopClassDiffers("SOP class differs from the command's")
    if new.sop_class_uid != sender.sop_class_uid:
        raise SopClassDiffers("SOP class differs from its presentation context's")


def _told(calling: str, error: Exception) -> tuple[int, str]:
    """Status and comment of an error, after its log line."""
    status.tell("C-STORE", calling, error)
    return status.failure(error)
