"""A TCP connection in, PDUs out: a socket on which one PDU has a size cap and a deadline. PS3.8 9.3.

It is read in two ways. pynetdicom asks for exactly the head and then the body of a PDU (`recv`). `dimse.lane` reads
ahead into one buffer (`need`); what it leaves there is what `recv` gives next.
"""

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
AHEAD = 1 << 18  # bytes that are read ahead at most
TICK_S = 1.0  # how exactly the deadline of a PDU is kept that is read ahead


class Inflow:
    """Bytes that have come and were not taken yet, in one buffer, made with the first, that is used again and again."""

    def __init__(self, size: int = AHEAD) -> None:
        self._size = size
        self._view = memoryview(b"")
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def room(self) -> memoryview:
        """Where the next bytes may go; never empty after everything was taken that one PDU head needs."""
        if not self._view:
            self._view = memoryview(bytearray(self._size))
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._view):
            left = bytes(self._view[self._start : self._end])
            self._view[: len(left)] = left
            self._start, self._end = 0, len(left)
        return self._view[self._end :]

    def came(self, count: int) -> None:
        """So many bytes were put into the room."""
        self._end += count

    def release(self) -> None:
        """Forget what came, and the buffer."""
        self._view = memoryview(b"")
        self._start = self._end = 0

    def peek(self, size: int) -> memoryview:
        """The next `size` bytes, which are there; they stay."""
        return self._view[self._start : self._start + size]

    def take(self, most: int) -> memoryview:
        """Up to `most` of the bytes that are there; good until the next `room`."""
        start = self._start
        self._start = min(start + most, self._end)
        return self._view[start : self._start]


class GuardedSocket(AssociationSocket):  # type: ignore[misc]
    """A socket on which one PDU has a size cap and a deadline, read in large pieces."""

    pdu_timeout_s: float = 30.0
    poll_s: float = POLL_S  # longer while nothing is sent through that thread
    _kind: int | None = None  # of the PDU whose body comes next
    request_by: float = math.inf  # monotonic; when an acceptor's peer must have asked for its association
    inflow: Inflow | None = None  # what was read ahead, on the connection of a lane

    @property
    def ready(self) -> bool:
        """Whether there is something to read, waited for up to poll_s: pynetdicom's own poll sleeps through it."""
        return bool(self.inflow and self._is_connected) or self.comes_within(self.poll_s)

    def comes_within(self, seconds: float) -> bool:
        """Whether something comes, or is read by TLS already, in that time."""
        connection = self.socket
        if connection is None or not self._is_connected:
            time.sleep(POLL_S)
            return False
        try:
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                return True
            return bool(select.select([connection], [], [], seconds)[0])
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed, PS3.8 9.2
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, or what had come when the peer closed. OSError past the cap or the deadline."""
        connection: socket.socket = self.socket
        self.check_size(nr_bytes)
        buffer = bytearray(nr_bytes)
        view, received = memoryview(buffer), self._taken_ahead(buffer)
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

    def check_size(self, nr_bytes: int) -> None:
        """OSError when that is more than one PDU may hold now."""
        if nr_bytes > self._cap():
            self._gone()
            raise OSError(f"PDU of {nr_bytes} bytes is over the maximum")

    def _taken_ahead(self, buffer: bytearray) -> int:
        """How many bytes of a PDU had been read ahead; they stand in the buffer now."""
        if not self.inflow:
            return 0
        taken = self.inflow.take(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def need(self, inflow: Inflow, size: int, deadline: float) -> None:
        """Read ahead until `size` bytes are there. TimeoutError past the deadline (monotonic, s), EOFError, OSError."""
        connection = self.socket
        if connection is None:
            raise EOFError
        while len(inflow) < size:
            try:
                count = connection.recv_into(inflow.room())
            except TimeoutError:
                count = -1
            if not count:
                raise EOFError
            inflow.came(max(count, 0))
            if len(inflow) < size and time.monotonic() > deadline:
                raise TimeoutError("PDU not complete in time")

    def tick(self, *, on: bool) -> None:
        """Let `need` look at its deadline now and then, or give the socket its usual time-out back."""
        with suppress(OSError, AttributeError):  # it may be closed
            self.socket.settimeout(min(TICK_S, self.pdu_timeout_s) if on else self.assoc.network_timeout)

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
