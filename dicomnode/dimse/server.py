"""TCP connections in, guarded associations out: pynetdicom's server with deadlines, caps and data sets on disk.

pynetdicom keeps association control. Three of its parts are given others here, through its own hooks
(`AE.make_server(server_class=...)` and the request handler): the socket (a cap and a deadline for each PDU), the
connection handler (caps by address, no Nagle delay) and the DIMSE provider (a C-STORE data set goes to a scratch
file as it arrives, so memory does not grow with the size of an object).
"""

import logging
import queue
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from socketserver import BaseServer
from typing import Any, Protocol

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

log = logging.getLogger(__name__)

MESSAGE_IN_MEMORY = 8 << 20  # bytes of a command set, and of a data set that is no C-STORE
BEFORE_ASSOCIATION = 1 << 20  # bytes one PDU may hold before anything is negotiated
PDU_SLACK = 1 << 10  # bytes above the negotiated maximum that are forgiven
BACKLOG = 128  # connections the kernel queues; 5 stalls the connection of a burst for a second


class Spool(Protocol):
    """Where the data set of one C-STORE goes as it arrives. Never raises: what went wrong is kept for the handler."""

    name: str

    def write(self, fragment: bytes) -> int: ...

    def close(self) -> None: ...


SpoolFactory = Callable[[Association, C_STORE_RQ], Spool]


@dataclass(frozen=True)
class Guards:
    """Limits of the port."""

    pdu_timeout_s: float
    maximum_per_address: int
    maximum_connections: int


class GuardedSocket(AssociationSocket):  # type: ignore[misc]
    """A socket on which one PDU has a size cap and a deadline, read in large pieces."""

    pdu_timeout_s: float = 30.0

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, or what had come when the peer closed. OSError past the cap or the deadline."""
        connection: socket.socket = self.socket
        if nr_bytes > self._cap():
            raise OSError(f"PDU of {nr_bytes} bytes is over the maximum")
        buffer = bytearray(nr_bytes)
        view, received = memoryview(buffer), 0
        deadline = time.monotonic() + self.pdu_timeout_s
        try:
            while received < nr_bytes:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("PDU not complete in time")
                connection.settimeout(left)
                count = connection.recv_into(view[received:])
                if not count:
                    self._gone()
                    return buffer[:received]
                received += count
        except ConnectionError:
            self._gone()
            raise
        finally:
            with suppress(OSError):
                connection.settimeout(self.assoc.network_timeout)
        return buffer

    def _gone(self) -> None:
        """The peer went. One that never asked for an association would keep its place until the ACSE time-out."""
        if self.assoc.is_acceptor and self.assoc.requestor.primitive is None:
            self.assoc.dul.to_user_queue.put(None)  # what the acceptor takes for that time-out

    def _cap(self) -> int:
        if not self.assoc.is_established:
            return BEFORE_ASSOCIATION
        return max(BEFORE_ASSOCIATION, int(self.assoc.acceptor.maximum_length) + PDU_SLACK)


class _Requests(queue.Queue[Any]):
    """Complete messages for the handlers. A request that lacks what the standard requires would never be answered."""

    def __init__(self, refuse: Callable[[str], None]) -> None:
        super().__init__()
        self._refuse = refuse

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Pass a message on, or end the association."""
        _, message = item
        if isinstance(message, C_STORE | C_FIND | C_ECHO) and not (
            message.is_valid_request or message.is_valid_response
        ):
            self._refuse("a request without its required elements")
            return
        super().put(item, block, timeout)


class SpoolingProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """The DIMSE provider that writes the data set of a C-STORE request to a spool, fragment by fragment.

    Memory bound: one PDU of each association, whatever the size of the object.
    """

    def __init__(self, assoc: Association, spool_factory: SpoolFactory) -> None:
        super().__init__(assoc)
        self._spool_factory = spool_factory
        self._open: Spool | None = None
        self._in_memory = 0  # bytes of the message that is arriving, where it is not spooled
        self._refused = False
        self.msg_queue = _Requests(self.refuse)

    def receive_primitive(self, primitive: P_DATA) -> None:
        """One P-DATA primitive. Its values are passed on singly, so that a spool is open before the first data."""
        for value in primitive.presentation_data_value_list:
            if self._refused:
                return
            single = P_DATA()
            single.presentation_data_value_list.append(value)
            try:
                self._receive(single, len(value[1]))
            except Exception as error:  # noqa: BLE001 - bytes that are no DIMSE message end their association only
                self.refuse(f"no DIMSE message ({type(error).__name__})")

    def _receive(self, single: P_DATA, size: int) -> None:
        super().receive_primitive(single)
        message: Any = self.message
        if message is None:  # complete: it is the handler's now
            self._open, self._in_memory = None, 0
            return
        if isinstance(message, C_STORE_RQ):
            if message._data_set_file is None:
                self._open = self._spool_factory(self.assoc, message)
                message._data_set_file = self._open
            return
        self._in_memory += size
        if self._in_memory > MESSAGE_IN_MEMORY:
            self.refuse(f"a message of over {MESSAGE_IN_MEMORY} bytes")

    def refuse(self, why: str) -> None:
        """End the association: the peer broke the protocol."""
        log.warning("association of %s aborted: %s", self.assoc.requestor.ae_title, why)
        self._refused = True
        self.message = None
        self.dul.event_queue.put("Evt19")  # unrecognised or invalid PDU, PS3.8 9.2.4: abort

    def abandon(self) -> None:
        """The connection ended: forget the data set that was arriving, and those that nobody had served yet."""
        if self._open is not None:
            self._open.close()
            self._open = None
        with suppress(queue.Empty):
            while True:
                _, request = self.msg_queue.get(block=False)
                waiting: Spool | None = getattr(request, "_dataset_file", None)
                if waiting is not None:
                    waiting.close()


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
        association = Association(entity, MODE_ACCEPTOR)
        association._server = server
        association.name = f"AcceptorThread@{datetime.now(UTC):%H%M%S}"  # by this name pynetdicom finds it again
        association.dimse = SpoolingProvider(association, server.spool_factory)
        connection = GuardedSocket(association, client_socket=self.request)
        connection.pdu_timeout_s = server.guards.pdu_timeout_s
        association.set_socket(connection)
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
        guards: Guards,
        **keywords: Any,
    ) -> None:
        self.spool_factory = spool_factory
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
