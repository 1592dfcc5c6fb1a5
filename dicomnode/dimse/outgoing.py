"""A configured peer and contexts in, an association that the node opens out: for C-MOVE and for event reports.

pynetdicom negotiates; then its reactor is held and messages are written and read here. PS3.8 7.1, PS3.7 D.3.3.
"""

import logging
import queue
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from dicomnode import log, uids
from dicomnode.dimse.exchange import is_over
from dicomnode.dimse.provider import MessageProvider
from dicomnode.dimse.tls import ClientContext, meaning
from dicomnode.dimse.transport import GuardedSocket
from dicomnode.errors import ConfigError, PeerError, PeerRefused
from dicomnode.settings import DimseSettings, PeerSettings

logger = logging.getLogger(__name__)

MOST_CONTEXTS: Final = 128  # of one association, PS3.8 9.3.2.2: odd numbers of a byte
REJECTED_PERMANENT: Final = 1  # PS3.8 Table 9-21
POLL_S: Final = 0.1  # how soon a wait sees that it is no longer wanted
PAUSE_S: Final = 0.001
TlsContexts = Callable[[PeerSettings], ClientContext | None]
Watch = Callable[[], None]


@dataclass(frozen=True)
class Caller:
    """How the node calls its peers."""

    settings: DimseSettings
    tls: TlsContexts  # a new one for each association; None where the peer is called without

    @contextmanager
    def association(
        self, peer: PeerSettings, proposed: Sequence[PresentationContext], negotiated: Sequence[Any] = ()
    ) -> Iterator[Association]:
        """An established association, released at the end, aborted after an error. PeerError when there is none."""
        association = self._called(peer, proposed, negotiated)
        _hold(association)
        try:
            yield association
        except BaseException:
            _break(association)
            raise
        _release(association)

    def _called(
        self, peer: PeerSettings, proposed: Sequence[PresentationContext], negotiated: Sequence[Any]
    ) -> Association:
        entity = _entity(self.settings)
        tls = self._tls(peer)
        try:
            association = entity.associate(
                peer.host,
                peer.port,
                contexts=list(proposed),
                ae_title=peer.ae_title,
                max_pdu=self.settings.maximum_pdu,
                ext_neg=list(negotiated),
                tls_args=None if tls is None else (tls, peer.host),
            )
        except (OSError, UnicodeError) as error:
            raise PeerError(f"no such host: peers.{peer.name}") from error
        if not association.is_established:
            raise _error(association)(f"peers.{peer.name} {_why_not(association, tls)}")
        return association

    def _tls(self, peer: PeerSettings) -> ClientContext | None:
        try:
            return self.tls(peer)
        except ConfigError as error:
            raise PeerError(f"peers.{peer.name} cannot be called over TLS: {error}") from error


class _Entity(AE):  # type: ignore[misc]
    """An AE whose associations have the node's own socket and DIMSE provider."""

    def _create_socket(self, assoc: Association, address: Any, tls_args: Any) -> GuardedSocket:
        """pynetdicom calls this before it connects."""
        connection = GuardedSocket(assoc, address=address)
        connection.tls_args = tls_args
        assert connection.socket is not None
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assoc.dimse = MessageProvider(assoc)
        assoc.dul._run_loop_delay = 0  # the socket's own poll is the pause
        return connection


def _entity(settings: DimseSettings) -> AE:
    entity = _Entity(ae_title=settings.ae_title)
    entity.connection_timeout = entity.acse_timeout = settings.acse_timeout_s
    entity.dimse_timeout = entity.network_timeout = settings.network_timeout_s
    entity.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = uids.IMPLEMENTATION_VERSION_NAME
    return entity


def _error(association: Association) -> type[PeerError]:
    """Whether calling again can help. PS3.8 Table 9-21: a rejection is permanent or transient."""
    permanent = association.is_rejected and association.acceptor.primitive.result == REJECTED_PERMANENT
    return PeerRefused if permanent or association.rejected_contexts else PeerError


def _why_not(association: Association, tls: ClientContext | None) -> str:
    if tls is not None and tls.failure is not None:
        return f"refused over TLS: {meaning(tls.failure)}"
    if association.is_rejected:
        return "rejected the association"
    return "took none of the presentation contexts" if association.rejected_contexts else "does not answer"


def _hold(association: Association) -> None:
    """Keep pynetdicom's reactor off the messages. It would take responses for requests."""
    association._reactor_checkpoint.clear()
    while not association._is_paused and association.is_alive():
        time.sleep(PAUSE_S)


def _release(association: Association) -> None:
    if is_over(association):
        _break(association)
    else:
        association.release()


def _break(association: Association) -> None:
    """Let the reactor see what the peer did; abort when it did nothing."""
    if is_over(association):
        association._reactor_checkpoint.set()
    else:
        association.abort()


def response(
    association: Association, message_id: int, timeout_s: float, watch: Watch, aside: list[Any] | None = None
) -> Any:
    """The response to a request of ours. `watch` is called while it waits, and may raise.

    PeerError when the peer goes, says something else, or nothing in time. `aside` takes requests of the peer that
    come first; without it they are out of place.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            context_id, message = association.dimse.msg_queue.get(timeout=POLL_S)
        except queue.Empty:
            watch()
            if is_over(association):
                raise PeerError("the peer has gone") from None
            if time.monotonic() > deadline:
                raise PeerError("the peer did not answer in time") from None
            continue
        if message is None:
            raise PeerError("the peer has gone")
        if aside is not None and message.is_valid_request:
            aside.append((context_id, message))
        elif message.MessageIDBeingRespondedTo != message_id:
            raise PeerError("the peer answered what it was not asked")
        else:
            return message


@contextmanager
def put_aside(association: Association) -> Iterator[list[Any]]:
    """A list for requests that come while a response is waited for; at the end they are the next to be served."""
    aside: list[Any] = []
    try:
        yield aside
    finally:
        waiting = association.dimse.msg_queue
        with waiting.mutex:
            waiting.queue.extendleft(reversed(aside))


def told(peer: PeerSettings) -> str:
    """The peer for a log line."""
    return f"peers.{log.printable(peer.name)}"
