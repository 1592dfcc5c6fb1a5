"""C-MOVE and C-GET: an identifier becomes sub-operations, Pending responses and a final status. PS3.4 C.4.2, C.4.3.

Pending responses are told at intervals and not at each sub-operation, which the standard leaves open (PS3.7 9.1.4.2.2).
Memory bound: the list of what is to be sent, and one block of a file.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag
from pynetdicom.presentation import PresentationContext

from dicomnode import log
from dicomnode.attributes import elements
from dicomnode.audit import subjects
from dicomnode.audit.auditor import Auditor, Party, silent
from dicomnode.dimse import outgoing, status
from dicomnode.dimse.contexts import PATIENT_ROOTS
from dicomnode.dimse.exchange import Exchange, Suboperations
from dicomnode.dimse.find import RELATIONAL, granted
from dicomnode.dimse.outgoing import Caller, Watch
from dicomnode.dimse.parties import requestor_of
from dicomnode.dimse.suboperations import Origin, Outcome, Sender, Shelf, batches
from dicomnode.dimse.wire import Element, Field, Writer
from dicomnode.errors import PeerError, UnknownDestination
from dicomnode.query import retrieval
from dicomnode.query.keys import Model
from dicomnode.query.retrieval import Stored
from dicomnode.settings import PeerSettings
from storage.store import Store

logger = logging.getLogger(__name__)

PENDING_EVERY_S: Final = 0.25
ALIVE_EVERY_S: Final = 5.0  # without news: an asker with a time-out waits for a slow destination
CANCEL_GRACE_S: Final = 2.0  # for an object in the middle to end before its association is aborted
FAILED_LIST: Final = Tag(tag_for_keyword("FailedSOPInstanceUIDList") or 0)
MOST_COUNTED: Final = 0xFFFF  # counts are US


class _Stopped(Exception):
    """Nobody waits for the rest, and what is in hand takes too long."""


class Progress:
    """What became of the sub-operations so far, told to the asker now and then."""

    def __init__(self, exchange: Exchange, found: list[Stored], clock: Callable[[], float] = time.monotonic) -> None:
        self._exchange = exchange
        self._found = found  # in the order in which they are sent
        self._clock = clock
        self._done = dict.fromkeys(Outcome, 0)
        self._failed: list[str] = []
        self._sent: list[str] = []
        self._told_at = float("-inf")
        self._is_news = False

    @property
    def left(self) -> int:
        """How many sub-operations remain."""
        return len(self._found) - sum(self._done.values())

    def note(self, outcome: Outcome) -> None:
        """The next sub-operation ended."""
        uids = self._failed if outcome is Outcome.FAILED else self._sent
        uids.append(self._found[-self.left].sop_instance_uid)
        self._done[outcome] += 1
        self._is_news = True

    @property
    def outcomes(self) -> tuple[tuple[list[str], bool], ...]:
        """SOP Instance UIDs, and whether these could not be sent."""
        return (self._sent, False), (self._failed, True)

    def fail_rest(self) -> None:
        """None of the others can be sent."""
        for _ in range(self.left):
            self.note(Outcome.FAILED)

    def tell(self) -> None:
        """A Pending response, when the last one was long enough ago."""
        now = self._clock()
        if now - self._told_at >= (PENDING_EVERY_S if self._is_news else ALIVE_EVERY_S):
            self._told_at, self._is_news = now, False
            self._exchange.respond(status.PENDING, counts=self._counts(remaining=True))

    def finish(self, why: str = "") -> None:
        """The final response. PS3.4 C.4.2.1.5; the identifier: C.4.2.1.4.2. `why`: of what failed."""
        cancelled = self._exchange.is_cancelled and self.left > 0
        code = status.CANCEL if cancelled else self._code()
        identifier = None if code == status.SUCCESS else failed_list(self._failed, self._exchange)
        counts = self._counts(remaining=cancelled)
        self._exchange.respond(code, comment=why if code != status.SUCCESS else "", data_set=identifier, counts=counts)

    def _code(self) -> int:
        completed, warning, failed = (self._done[outcome] for outcome in Outcome)
        if failed and not completed + warning:
            return status.UNABLE_TO_PERFORM
        return status.SOME_FAILED if failed + warning else status.SUCCESS

    def _counts(self, *, remaining: bool) -> Suboperations:
        completed, warning, failed = (min(self._done[outcome], MOST_COUNTED) for outcome in Outcome)
        return Suboperations(completed, failed, warning, min(self.left, MOST_COUNTED) if remaining else None)


def failed_list(uids: Sequence[str], exchange: Exchange) -> bytes:
    """The identifier of a response that is no success."""
    frame = elements.implicit if exchange.transfer_syntax.is_implicit_VR else elements.explicit
    return frame(FAILED_LIST, "UI", "\\".join(uids).encode("ascii"))


@dataclass(frozen=True)
class RetrieveService:
    """Answers C-MOVE and C-GET from the catalogue and the files."""

    store: Store
    shelf: Shelf
    caller: Caller
    peers: tuple[PeerSettings, ...]
    auditor: Auditor = field(default_factory=silent)

    def on_get(self, exchange: Exchange) -> None:
        """Send what matches on the same association. It is aborted when the asker breaks the protocol."""
        try:
            found = self._found(exchange)
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a status and a log line
            exchange.fail("C-GET", error, failed_list((), exchange))
            return
        progress = Progress(exchange, found)
        sender = Sender(
            exchange.association,
            exchange.writer,
            self.shelf,
            Origin(_priority(exchange)),
            self.caller.settings.network_timeout_s,
            _while_asked(exchange),
        )
        asker = requestor_of(exchange.association)
        try:
            _send(exchange, sender, found, progress)
        finally:
            self._audit(asker, asker, progress)
        progress.finish()

    def on_move(self, exchange: Exchange) -> None:
        """Send what matches to a configured peer."""
        try:
            destination = self._destination(str(exchange.message.MoveDestination or "").strip())
            found = self._found(exchange)
        except Exception as error:  # noqa: BLE001 - as above
            exchange.fail("C-MOVE", error, failed_list((), exchange))
            return
        progress = Progress(exchange, found)
        try:
            why = self._move(exchange, destination, found, progress)
        finally:
            self._audit(requestor_of(exchange.association), Party(destination.ae_title), progress)
        if exchange.is_over:
            raise PeerError("the asker has left")
        progress.finish(why)

    def _audit(self, asker: Party, to: Party, progress: Progress) -> None:
        for uids, failed in progress.outcomes:
            self.auditor.counted_sent(len(uids), failed=failed)
            if uids and self.auditor.is_on:
                self.auditor.sent(to, subjects.named(self.store.catalog, uids), asked_by=asker, failed=failed)

    def _move(self, exchange: Exchange, peer: PeerSettings, found: list[Stored], progress: Progress) -> str:
        """Every sub-operation, on as many associations as their contexts need; why some could not be made."""
        try:
            for batch, contexts in batches(found):
                self._move_batch(exchange, peer, batch, contexts, progress)
        except PeerError as error:
            logger.warning("C-MOVE of %s to %s: %s", log.printable(exchange.calling_ae), outgoing.told(peer), error)
            progress.fail_rest()
            return str(error)
        except _Stopped:
            return ""
        return ""

    def _move_batch(
        self,
        exchange: Exchange,
        peer: PeerSettings,
        batch: list[Stored],
        contexts: list[PresentationContext],
        progress: Progress,
    ) -> None:
        if exchange.is_cancelled:
            return
        with self.caller.association(peer, contexts) as association, Writer(association) as writer:
            sender = Sender(
                association,
                writer,
                self.shelf,
                Origin(_priority(exchange), _move_originator(exchange)),
                self.caller.settings.network_timeout_s,
                _while_wanted(exchange, progress),
            )
            _send(exchange, sender, batch, progress)

    def _destination(self, ae_title: str) -> PeerSettings:
        for peer in self.peers:
            if peer.ae_title == ae_title and peer.host:
                return peer
        raise UnknownDestination("move destination is no configured peer with a host")

    def _found(self, exchange: Exchange) -> list[Stored]:
        sop_class = exchange.sop_class_uid
        asked = exchange.association.requestor.sop_class_extended.get(sop_class, b"")
        model = Model.PATIENT_ROOT if sop_class in PATIENT_ROOTS else Model.STUDY_ROOT
        conditions = retrieval.parse(exchange.data_set(), model, relational=granted(asked, RELATIONAL))
        return retrieval.instances(self.store.catalog, conditions)


def _send(exchange: Exchange, sender: Sender, batch: list[Stored], progress: Progress) -> None:
    """One sub-operation after the other, until the asker cancels."""
    for stored in batch:
        if exchange.is_cancelled:
            return
        progress.note(sender.send(stored))
        progress.tell()


def _while_asked(exchange: Exchange) -> Watch:
    """For a C-GET, where a message that has begun must be ended."""

    def watch() -> None:
        if exchange.is_over:
            raise PeerError("the asker has left")

    return watch


def _while_wanted(exchange: Exchange, progress: Progress) -> Watch:
    """For a C-MOVE: the asker hears that it goes on; when it cancels, what is in hand has CANCEL_GRACE_S to end."""
    since: list[float] = []

    def watch() -> None:
        if exchange.is_cancelled and not since:
            since.append(time.monotonic())
        if exchange.is_over or (since and time.monotonic() - since[0] > CANCEL_GRACE_S):
            raise _Stopped
        progress.tell()

    return watch


def _priority(exchange: Exchange) -> int:
    return int(exchange.message.Priority or 0)


def _move_originator(exchange: Exchange) -> tuple[Field, ...]:
    """PS3.7 9.1.1.1.7 and 9.1.1.1.8."""
    return (
        (Element.MOVE_ORIGINATOR_AE_TITLE, exchange.calling_ae),
        (Element.MOVE_ORIGINATOR_MESSAGE_ID, exchange.message_id),
    )
