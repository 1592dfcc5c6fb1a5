"""TCP connections in, guarded associations out: pynetdicom's server with deadlines, caps and data sets on disk.

pynetdicom keeps association control. Its accept loop is kept free of everything that can wait: a connection is counted
(`lobby.Places`), waits until it speaks (`lobby.Lobby`; over TLS its handshake is made there too) and only then becomes
an association with threads of its own. Parts of that are ours: the socket (`transport`: a cap and a deadline for each
PDU), how P-DATA is read (`lane`: a C-STORE data set goes to a scratch file as it arrives, so memory does not grow with
the size of an object) and the DIMSE provider (`provider`: all other messages, in bounds).
"""

import logging
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from socketserver import BaseServer
from typing import Any

from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.transport import AddressInformation, AssociationServer

from dicomnode.audit.auditor import Auditor, Party
from dicomnode.dimse.annexes import Annexes
from dicomnode.dimse.association import NodeAssociation, Services
from dicomnode.dimse.lane import LaneProvider, Stores
from dicomnode.dimse.lobby import Guest, Lobby, Places
from dicomnode.dimse.parties import address_of
from dicomnode.dimse.provider import MessageProvider
from dicomnode.dimse.states import GuardedStates
from dicomnode.dimse.tls import Certificates, names_of
from dicomnode.dimse.transport import GuardedSocket

log = logging.getLogger(__name__)

BACKLOG = 128  # connections the kernel queues; 5 stalls the connection of a burst for a second


@dataclass(frozen=True)
class House:
    """What the plain and the TLS port share."""

    stores: Stores
    services: Services
    places: Places
    lobby: Lobby
    pdu_timeout_s: float
    auditor: Auditor
    annexes: Annexes | None = None  # other processes, for connections that only store


class CountedAssociation(NodeAssociation):
    """An association that knows what its peer may ask for, and leaves its place when it ends."""

    permitted: frozenset[str] = frozenset()  # of `settings.SERVICES`, decided by `access`
    certificate_names: frozenset[str] | None = None  # None: it came without TLS
    channel: int = 0  # its number for the audit trail
    ended: Callable[[], None]

    def __init__(self, entity: AE, stores: Stores) -> None:
        """With our parts in the place of pynetdicom's, and the time-outs that it has given its own."""
        super().__init__(entity, MODE_ACCEPTOR)
        self.dul = LaneProvider(self, stores)
        self.dul.state_machine = GuardedStates(self.dul)
        self.dul._run_loop_delay = 0  # the socket's own poll is the pause
        self.dimse = MessageProvider(self)
        self.acse_timeout, self.network_timeout = entity.acse_timeout, entity.network_timeout

    def run_reactor(self) -> None:
        """The association's thread, from its first byte to its end."""
        try:
            super().run_reactor()
        finally:
            self.dul.lane.abandon()
            self.ended()


class GuardedServer(AssociationServer):  # type: ignore[misc]
    """One listening socket. Its loop accepts, counts and shows into the lobby; it never waits for a peer."""

    request_queue_size = BACKLOG

    def __init__(
        self, *arguments: Any, house: House, certificates: Certificates | None = None, **keywords: Any
    ) -> None:
        """With certificates it speaks TLS only."""
        self.house = house
        self._certificates = certificates
        super().__init__(*arguments, **keywords)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a place for one more connection; it is taken."""
        return self.house.places.take(_counted_as(client_address))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Show a counted connection into the lobby."""
        leave = partial(self.house.places.leave, _counted_as(client_address))
        try:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            guest = Guest(
                self._secured(request),
                welcome=partial(self._welcome, client_address, leave),
                dismissed=partial(self._dismissed, client_address, leave),
            )
            self.house.lobby.enter(guest)
        except BaseException:
            leave()
            raise

    def _secured(self, request: socket.socket) -> socket.socket:
        """Over TLS a socket whose handshake is still to be made."""
        if self._certificates is None:
            return request
        request.setblocking(False)
        context = self._certificates.context()
        return context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)

    def _welcome(
        self, client_address: Any, leave: Callable[[], None], connection: socket.socket, request_by: float
    ) -> None:
        """Make a connection that speaks an association, here or in another process."""
        annexes = None if self._certificates else self.house.annexes
        here = len(self.active_associations) if annexes else 0
        if annexes is None or not annexes.hand_over(connection, client_address, request_by, here, leave):
            self.serve(connection, client_address, request_by, leave)

    def serve(
        self, connection: socket.socket, client_address: Any, request_by: float, leave: Callable[[], None]
    ) -> None:
        """Make a connection an association of this process; `leave` is called when it has ended."""
        association = self._association(connection, client_address)
        association.dul.socket.request_by = request_by
        association.channel = self.house.auditor.channel()
        association.ended = partial(self._ended, association.channel, leave)
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": client_address})
        association.start()

    def _ended(self, channel: int, leave: Callable[[], None]) -> None:
        leave()
        self.house.auditor.ended(channel)

    def _dismissed(self, client_address: Any, leave: Callable[[], None], why: str) -> None:
        leave()
        if why:
            log.warning("connection from %s refused: %s", _counted_as(client_address), why)
            self.house.auditor.refused("tls", Party("", _counted_as(client_address)), why)

    def _association(self, connection: socket.socket, client_address: Any) -> CountedAssociation:
        entity, house = self.ae, self.house
        association = CountedAssociation(entity, house.stores)
        association.services = house.services
        association.certificate_names = names_of(connection) if isinstance(connection, ssl.SSLSocket) else None
        association._server = self
        association.name = f"AcceptorThread@{datetime.now(UTC):%H%M%S}"  # by this name pynetdicom finds it again
        guarded = GuardedSocket(association, client_socket=connection)
        guarded.pdu_timeout_s = house.pdu_timeout_s
        association.set_socket(guarded)
        acceptor = association.acceptor
        acceptor.maximum_length = entity.maximum_pdu_size
        acceptor.ae_title = self.ae_title
        acceptor.address_info = AddressInformation.from_tuple(self.server_address)
        acceptor.implementation_class_uid = entity.implementation_class_uid
        acceptor.implementation_version_name = entity.implementation_version_name
        acceptor.supported_contexts = []  # until `access` has decided which
        association.requestor.address_info = AddressInformation.from_tuple(client_address)
        self._bind_all(association)
        return association

    def _bind_all(self, association: CountedAssociation) -> None:
        for event, handlers in self._handlers.items():
            if event.is_intervention and handlers:
                association.bind(event, *handlers)
            elif isinstance(event, evt.NotificationEvent):
                for handler in handlers:
                    association.bind(event, handler[0], handler[1])

    def shutdown(self) -> None:
        """Stop accepting and close the socket. The entity never listed this server: `make_server` does not."""
        BaseServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that could not be set up is closed; the peer sees that."""
        log.warning("a connection could not be served: %s", type(sys.exc_info()[1]).__name__)


def _counted_as(client_address: Any) -> str:
    return str(address_of(client_address[0]))
