"""Storage commitment: an N-ACTION with references in, an N-EVENT-REPORT of what is kept out. PS3.4 Annex J.

The answer is worked out and kept before the request is acknowledged; then it is told on the same association, or, where
the peer has left, on one that the node opens, again and again until it is told or given up. A restart loses none.
"""

import logging
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicomnode import log
from dicomnode.attributes import elements, values
from dicomnode.attributes.charsets import UNDECLARED
from dicomnode.dimse import contexts, outgoing, status, wire
from dicomnode.dimse.exchange import Exchange
from dicomnode.dimse.outgoing import Caller
from dicomnode.dimse.wire import Command, Element, Writer
from dicomnode.errors import ActionError, ActionTooLarge, IdentifierError, PeerError, UnknownAction, UnknownObject
from dicomnode.rounds import Rounds
from dicomnode.settings import PeerSettings
from dicomnode.uids import is_uid
from storage.errors import LeaseLost
from storage.leases import named
from storage.records import AnyOf, Commitment, Reference, Row
from storage.store import Store

logger = logging.getLogger(__name__)

SOP_CLASS: Final = str(StorageCommitmentPushModel)
SOP_INSTANCE: Final = "1.2.840.10008.1.20.1.1"  # the well-known one, PS3.4 J.3.5
REQUEST: Final = 1  # Action Type ID, PS3.4 J.3.2
COMPLETE, FAILURES_EXIST = 1, 2  # Event Type ID, PS3.4 J.3.3
MOST_REFERENCES: Final = 20_000  # in one request: some 40 MB as pydicom holds them
MOST_OWED: Final = 1 << 26  # characters of references for one AE title: half a million of them
HEADS: Final = 4  # of a reference: its item, two UIDs, and what else a peer puts there
QUIET_S: Final = 0.3  # a peer that wants the report elsewhere releases at once, and one with more requests sends them
RETRY_S: Final = (5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)  # between attempts, the last again and again
GIVE_UP_S: Final = 86_400.0
TRANSIENT: Final = frozenset({status.PROCESSING_FAILURE, status.RESOURCE_LIMITATION})  # answers that ask for patience
HOLDER: Final = "commitment"  # where no other node is on the database
POLL_S: Final = 1.0
LEASE_S: Final = 600.0  # of one report: an association's time-outs are shorter
_CHUNK: Final = 500  # UIDs looked up at once


def _tag(keyword: str) -> Any:
    return Tag(tag_for_keyword(keyword) or 0)


TRANSACTION_UID, RETRIEVE_AE_TITLE = _tag("TransactionUID"), _tag("RetrieveAETitle")
REFERENCED, FAILED = _tag("ReferencedSOPSequence"), _tag("FailedSOPSequence")
CLASS_UID, INSTANCE_UID, REASON = _tag("ReferencedSOPClassUID"), _tag("ReferencedSOPInstanceUID"), _tag("FailureReason")


class CommitmentService:
    """Answers requests, and tells what is owed in a thread of its own."""

    def __init__(
        self,
        store: Store,
        caller: Caller,
        peers: tuple[PeerSettings, ...],
        holder: str = HOLDER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`holder`: the name of this node among those on its database."""
        self._store = store
        self._holder, self._owner = holder, named(holder)
        self._caller = caller
        self._peers = {peer.ae_title: peer for peer in reversed(peers) if peer.host}
        self._clock = clock
        self._rounds = Rounds("commitment-reports", self._step, POLL_S, "commitments cannot be reported")

    def start(self) -> None:
        """Tell what an earlier run owed, and then what becomes due."""
        self._store.commitments.hasten(self._holder)
        self._rounds.start()

    def stop(self) -> None:
        """End the thread; what it is telling is told again after the next start. Waits for a peer's time-out."""
        self._rounds.stop()
        self._rounds.join()
        self._store.commitments.release(self._owner)

    def on_action(self, exchange: Exchange) -> None:
        """Acknowledge, then report. PS3.7 10.1.4."""
        try:
            transaction_uid, asked = read_request(exchange)
            self._check_owed(exchange.calling_ae)
            references = self._checked(asked)
            hold_s = self._caller.settings.network_timeout_s + QUIET_S  # longer than the report here can take
            owed = self._store.commitments.owe(transaction_uid, exchange.calling_ae, references, hold_s, self._owner)
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a status and a log line
            _refuse(exchange, error)
            return
        _acknowledge(exchange)
        title = exchange.calling_ae
        self._report_here(exchange, Commitment(owed, transaction_uid, title, references, 0, 0.0, self._owner))

    def _check_owed(self, ae_title: str) -> None:
        """A peer that asks and never takes an answer does not fill the database."""
        if self._store.commitments.size(ae_title) > MOST_OWED:
            raise ActionTooLarge("too many reports that nobody has taken")

    def _checked(self, asked: Sequence[tuple[str, str]]) -> tuple[Reference, ...]:
        kept: dict[str, Row] = {}
        for at in range(0, len(asked), _CHUNK):
            uids = tuple(dict.fromkeys(uid for _, uid in asked[at : at + _CHUNK]))
            found = self._store.catalog.find(
                "IMAGE", [AnyOf("sop_instance_uid", uids)], wanted=("sop_class_uid", "path", "size")
            )
            kept |= {row["sop_instance_uid"]: row for row in found}
        return tuple(Reference(sop_class, uid, self._reason(sop_class, kept.get(uid))) for sop_class, uid in asked)

    def _reason(self, sop_class_uid: str, row: Row | None) -> int:
        """0 when the instance is kept: its row is there, and its file with as many bytes. Else PS3.3 C.14.1.1."""
        if row is None:
            return status.NO_SUCH_INSTANCE
        if row["sop_class_uid"] != sop_class_uid:
            return status.CLASS_INSTANCE_CONFLICT
        try:
            size = self._store.files.path(row["path"]).stat().st_size
        except FileNotFoundError:
            return status.NO_SUCH_INSTANCE
        except OSError:
            return status.PROCESSING_FAILURE
        return 0 if size == row["size"] else status.PROCESSING_FAILURE

    def _report_here(self, exchange: Exchange, commitment: Commitment) -> None:
        """On the association of the request, unless the peer leaves or goes on asking."""
        if not _stays(exchange):
            self._later(commitment, 0.0)
            return
        try:
            told = report(exchange.association, exchange.writer, exchange.context_id, commitment, self._own_title)
        except PeerError as error:
            logger.info("commitment not reported to %s yet: %s", log.printable(exchange.calling_ae), error)
            self._later(commitment, 0.0)
            if not exchange.is_over:
                raise
        else:
            self._end(commitment, told)

    @property
    def _own_title(self) -> str:
        return self._caller.settings.ae_title

    def _step(self) -> bool:
        commitment = self._store.commitments.claim(self._owner, LEASE_S)
        if commitment is not None:
            self._tell(commitment)
        return commitment is not None

    def _tell(self, commitment: Commitment) -> None:
        """One attempt on an association that the node opens."""
        peer = self._peers.get(commitment.ae_title)
        shown = log.printable(commitment.ae_title)
        if peer is None:
            logger.warning("commitment not reported to %s: it is no configured peer with a host", shown)
            self._store.commitments.end(commitment.id)
            return
        try:
            self._end(commitment, self._call(peer, commitment))
        except PeerError as error:
            self._try_again(commitment, f"commitment not reported to {shown}: {error}")

    def _call(self, peer: PeerSettings, commitment: Commitment) -> int:
        """The status of the report. The node asks for the association and is SCP on it: PS3.4 J.3.3, PS3.7 D.3.3.4."""
        proposed, role = build_context(SOP_CLASS, list(contexts.QUERY)), build_role(SOP_CLASS, scp_role=True)
        with self._caller.association(peer, [proposed], [role]) as association, Writer(association) as writer:
            context = association.accepted_contexts[0]
            return report(association, writer, int(context.context_id or 0), commitment, self._own_title, self._watch)

    def _watch(self) -> None:
        if self._rounds.stopping:
            raise PeerError("the node is stopping")

    def _end(self, commitment: Commitment, code: int) -> None:
        shown = log.printable(commitment.ae_title)
        if code in TRANSIENT:
            self._try_again(commitment, f"commitment refused by {shown} with 0x{code:04X}")
            return
        if code != status.SUCCESS:
            logger.warning("commitment refused by %s with 0x%04X", shown, code)
        self._store.commitments.end(commitment.id)

    def _try_again(self, commitment: Commitment, why: str) -> None:
        if commitment.requested_at and self._clock() - commitment.requested_at > GIVE_UP_S:
            logger.error("%s; given up after %d attempts", why, commitment.attempts + 1)
            self._store.commitments.end(commitment.id)
            return
        delay_s = RETRY_S[min(commitment.attempts, len(RETRY_S) - 1)]
        logger.warning("%s; again in %d s", why, delay_s)
        self._later(commitment, delay_s)

    def _later(self, commitment: Commitment, delay_s: float) -> None:
        with suppress(LeaseLost):  # it took so long that somebody else is telling it
            self._store.commitments.postpone(commitment, delay_s)
        self._rounds.wake()


def read_request(exchange: Exchange) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID, and SOP class and instance UID of each reference. Raises ActionError. PS3.4 Table J.3-1."""
    message = exchange.message
    if str(message.RequestedSOPInstanceUID) != SOP_INSTANCE:
        raise UnknownObject("not the well-known storage commitment instance")
    if message.ActionTypeID != REQUEST:
        raise UnknownAction("storage commitment has action type 1 only")
    try:
        information = exchange.data_set(most=HEADS * MOST_REFERENCES)
    except IdentifierError as error:
        raise ActionError(str(error)) from error
    items = values.items(information, REFERENCED)
    if not items:
        raise ActionError("no items in the Referenced SOP Sequence")
    if len(items) > MOST_REFERENCES:
        raise ActionTooLarge(f"over {MOST_REFERENCES} references")
    references = [(_uid(item, CLASS_UID, "a class"), _uid(item, INSTANCE_UID, "an instance")) for item in items]
    return _uid(information, TRANSACTION_UID, "the Transaction"), references


def _uid(dataset: Dataset, tag: Any, what: str) -> str:
    found = values.texts(dataset, tag, UNDECLARED)
    if len(found) != 1 or not is_uid(found[0]):
        raise ActionError(f"{what} UID is missing or none")
    return found[0]


def _refuse(exchange: Exchange, error: Exception) -> None:
    """PS3.7 10.1.4.1.10. What is unforeseen is a processing failure here."""
    status.tell("N-ACTION", exchange.calling_ae, error)
    code = status.status_of(error) if isinstance(error, ActionError) else status.PROCESSING_FAILURE
    exchange.respond(code, status.comment_of(error))


def _acknowledge(exchange: Exchange) -> None:
    exchange.respond(
        status.SUCCESS,
        more=((Element.AFFECTED_SOP_INSTANCE_UID, SOP_INSTANCE), (Element.ACTION_TYPE_ID, REQUEST)),
    )


def _stays(exchange: Exchange) -> bool:
    """Whether the peer, acknowledged, waits for the report on this association."""
    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline:
        if exchange.is_over or not exchange.association.dimse.msg_queue.empty():
            return False
        time.sleep(outgoing.PAUSE_S * 10)
    return True


def report(
    association: Association,
    writer: Writer,
    context_id: int,
    commitment: Commitment,
    own_title: str,
    watch: outgoing.Watch = lambda: None,
) -> int:
    """Send the N-EVENT-REPORT; the status of its response. PeerError when none comes. PS3.7 10.1.1, PS3.4 J.3.3."""
    syntax = association._accepted_cx[context_id].transfer_syntax[0]
    failures = any(reference.reason for reference in commitment.references)
    message_id = 1
    command = wire.command_set(
        [
            (Element.AFFECTED_SOP_CLASS_UID, SOP_CLASS),
            (Element.COMMAND_FIELD, Command.N_EVENT_REPORT),
            (Element.MESSAGE_ID, message_id),
            (Element.COMMAND_DATA_SET_TYPE, wire.DATA_SET),
            (Element.AFFECTED_SOP_INSTANCE_UID, SOP_INSTANCE),
            (Element.EVENT_TYPE_ID, FAILURES_EXIST if failures else COMPLETE),
        ]
    )
    writer.send(context_id, command, event_information(commitment, own_title, syntax))
    timeout_s = float(association.dimse_timeout)
    with outgoing.put_aside(association) as aside:
        return int(outgoing.response(association, message_id, timeout_s, watch, aside).Status)


def event_information(commitment: Commitment, own_title: str, syntax: UID) -> bytes:
    """What is committed and what is not, and why; encoded. PS3.4 Table J.3-2."""
    frame = elements.implicit if syntax.is_implicit_VR else elements.explicit
    sequences = (
        (FAILED, [reference for reference in commitment.references if reference.reason]),
        (REFERENCED, [reference for reference in commitment.references if not reference.reason]),
    )
    body = frame(RETRIEVE_AE_TITLE, "AE", own_title.encode("ascii"))
    body += frame(TRANSACTION_UID, "UI", commitment.transaction_uid.encode("ascii"))
    for tag, references in sequences:
        if references:
            body += frame(tag, "SQ", b"".join(map(elements.item, _items(references, frame))))
    return body


def _items(references: Sequence[Reference], frame: Callable[[Any, str, bytes], bytes]) -> Iterator[bytes]:
    for reference in references:
        item = frame(CLASS_UID, "UI", reference.sop_class_uid.encode("ascii"))
        item += frame(INSTANCE_UID, "UI", reference.sop_instance_uid.encode("ascii"))
        if reference.reason:
            item += frame(REASON, "US", struct.pack("<H", reference.reason))
        yield item
