"""A TCP connection in, PDUs out: a socket on which one PDU has a size cap and a deadline. PS3.8 9.3."""

import logging
import math
import select
import socket
import ssl
import time
from contextlib import suppress

from pynetdicom.transport import AssociationSocket

from dicomnode.dimse import request

log = logging.getLogger(__name__)

BEFORE_ASSOCIATION = 1 << 20  # bytes one PDU may hold before anything is negotiated
POLL_S = 0.001  # how long what is to be sent may wait for the thread that also reads
ASSOCIATE_RQ = 0x01
INVALID_PARAMETER = bytes.fromhex("07000000000400000206")  # A-ABORT by the provider, PS3.8 Table 9-26
PDU_SLACK = 1 << 10  # bytes above the negotiated maximum that are forgiven


class GuardedSocket(AssociationSocket):  # type: ignore[misc]
    """A socket on which one PDU has a size cap and a deadline, read in large pieces."""

    pdu_timeout_s: float = 30.0
    poll_s: float = POLL_S  # longer while nothing is sent through that thread
    _kind: int | None = None  # of the PDU whose body comes next
    request_by: float = math.inf  # monotonic; when an acceptor's peer must have asked for its association

    @property
    def ready(self) -> bool:
        """Whether there is something to read, waited for up to poll_s: pynetdicom's own poll sleeps through it."""
        connection = self.socket
        if connection is None or not self._is_connected:
            time.sleep(POLL_S)
            return False
        try:
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                return True
            return bool(select.select([connection], [], [], self.poll_s)[0])
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed, PS3.8 9.2
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, or what had come when the peer closed. OSError past the cap or the deadline."""
        connection: socket.socket = self.socket
        if nr_bytes > self._cap():
            self._gone()
            raise OSError(f"PDU of {nr_bytes} bytes is over the maximum")
        buffer = bytearray(nr_bytes)
        view, received = memoryview(buffer), 0
        deadline = min(time.monotonic() + self.pdu_timeout_s, self._request_deadline())
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
        except OSError:
            self._gone()
            raise
        finally:
            with suppress(OSError):
                connection.settimeout(self.assoc.network_timeout)
        self._check(buffer)
        return buffer

    def _check(self, read: bytearray) -> None:
        """Heads and bodies of PDUs come in turn. OSError over the body of a request that cannot be negotiated."""
        if self._kind is None:
            self._kind = read[0]
            return
        kind, self._kind = self._kind, None
        why = request.objection(read) if kind == ASSOCIATE_RQ else ""
        if why:
            log.warning("association request refused: %s", why)
            self.send(INVALID_PARAMETER)
            self._gone()
            raise OSError(why)

    def _request_deadline(self) -> float:
        """One deadline for all of the association request, however slowly its bytes come: ARTIM, PS3.8 9.1.4."""
        return self.request_by if self.assoc.requestor.primitive is None else math.inf

    def _gone(self) -> None:
        """The peer went, or was too slow. Without an association it would keep its place until the ACSE time-out."""
        if self.assoc.is_acceptor and self.assoc.requestor.primitive is None:
            self.assoc.dul.to_user_queue.put(None)  # what the acceptor takes for that time-out

    def _cap(self) -> int:
        if not self.assoc.is_established:
            return BEFORE_ASSOCIATION
        return max(BEFORE_ASSOCIATION, int(self.assoc.acceptor.maximum_length) + PDU_SLACK)
