"""TCP connections in, guarded associations out: pynetdicom's server with deadlines, caps and data sets on disk.

pynetdicom keeps association control. Three of its parts are given others here, through its own hooks
(`AE.make_server(server_class=...)` and the request handler): the socket (`transport`: a cap and a deadline for each
PDU), the connection handler (caps by address, no Nagle delay) and the DIMSE provider (`provider`: a C-STORE data set
goes to a scratch file as it arrives, so memory does not grow with the size of an object).
"""

import logging
import socket
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from socketserver import BaseServer
from typing import Any

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicomnode.dimse.association import NodeAssociation, Services
from dicomnode.dimse.provider import SpoolFactory, SpoolingProvider
from dicomnode.dimse.transport import GuardedSocket

log = logging.getLogger(__name__)

BACKLOG = 128  # connections the kernel queues; 5 stalls the connection of a burst for a second


@dataclass(frozen=True)
class Guards:
    """Limits of the port."""

    pdu_timeout_s: float
    maximum_per_address: int
    maximum_connections: int


class ConnectionHandler(RequestHandler):  # type: ignore[misc]
    """One accepted connection: counted, set up and made an association."""

    server: "GuardedServer"

    def handle(self) -> None:
        """Start an association, or close at once when the address or the node has too many."""
        address = str(self.client_address[0])
        if not self.server.admit(address):
            self.request.close()
            return
        try:
            association = self._create_association()
            evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
            farewell = threading.Thread(target=self._farewell, args=(association, address), daemon=True)
            association.start()
        except BaseException:
            self.server.leave(address)
            raise
        farewell.start()

    def _farewell(self, association: Association, address: str) -> None:
        association.join()
        association.dimse.abandon()
        self.server.leave(address)

    def _create_association(self) -> Association:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server, entity = self.server, self.ae
        association = NodeAssociation(entity, MODE_ACCEPTOR)
        association.services = server.services
        association._server = server
        association.name = f"AcceptorThread@{datetime.now(UTC):%H%M%S}"  # by this name pynetdicom finds it again
        association.dimse = SpoolingProvider(association, server.spool_factory)
        connection = GuardedSocket(association, client_socket=self.request)
        connection.pdu_timeout_s = server.guards.pdu_timeout_s
        association.set_socket(connection)
        association.dul._run_loop_delay = 0  # the socket's own poll is the pause
        acceptor = association.acceptor
        acceptor.maximum_length = entity.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = entity.implementation_class_uid
        acceptor.implementation_version_name = entity.implementation_version_name
        acceptor.supported_contexts = server.contexts  # read only: negotiation makes its own
        association.requestor.address_info = self.remote
        for event, handlers in server._handlers.items():
            if event.is_intervention and handlers:
                association.bind(event, *handlers)
            elif isinstance(event, evt.NotificationEvent):
                for handler in handlers:
                    association.bind(event, handler[0], handler[1])
        return association


class GuardedServer(ThreadedAssociationServer):  # type: ignore[misc]
    """The listening socket, with the number of connections capped in all and by address."""

    request_queue_size = BACKLOG
    daemon_threads = True

    def __init__(
        self,
        *arguments: Any,
        spool_factory: SpoolFactory,
        services: Services,
        guards: Guards,
        **keywords: Any,
    ) -> None:
        self.spool_factory = spool_factory
        self.services = services
        self.guards = guards
        self._lock = threading.Lock()
        self._by_address: Counter[str] = Counter()
        super().__init__(*arguments, request_handler=ConnectionHandler, **keywords)

    def admit(self, address: str) -> bool:
        """Count one more connection from `address`, if it may have one."""
        with self._lock:
            full = self._by_address.total() >= self.guards.maximum_connections
            if full or self._by_address[address] >= self.guards.maximum_per_address:
                return False
            self._by_address[address] += 1
            return True

    def leave(self, address: str) -> None:
        """One connection from `address` ended."""
        with self._lock:
            self._by_address[address] -= 1
            if self._by_address[address] <= 0:
                del self._by_address[address]

    def shutdown(self) -> None:
        """Stop accepting and close the socket. The entity never listed this server: `make_server` does not."""
        BaseServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that could not be set up is closed; the peer sees that."""
        log.warning("a connection could not be served: %s", type(sys.exc_info()[1]).__name__)
