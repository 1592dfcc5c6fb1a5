"""P-DATA in, DIMSE messages out: the data set of a C-STORE goes to a scratch file as it arrives. PS3.7 6.3."""

import logging
import math
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, N_EVENT_REPORT
from pynetdicom.pdu_primitives import P_DATA

from dicomnode.dimse.wire import StoreResponse
from dicomnode.log import printable

log = logging.getLogger(__name__)

MOST_WAITING = 16  # requests; asynchronous operations are not negotiated, so an honest peer has one
COMMAND_IN_MEMORY = 64 << 10  # bytes of a command set
MESSAGE_IN_MEMORY = 8 << 20  # bytes of a message that is no C-STORE
# A peer that sends a byte now and then keeps its place for ever: each PDU is in time, the association never silent.
GRACE_S = 60.0
SLOWEST = 512  # bytes a second, on average, of a message that takes longer than the grace: a quarter of a modem's


class Spool(Protocol):
    """Where the data set of one C-STORE goes as it arrives. Never raises: what went wrong is kept for the handler."""

    name: str

    def write(self, fragment: bytes) -> int: ...

    def close(self) -> None: ...


SpoolFactory = Callable[[Association, C_STORE_RQ], Spool]


class _Requests(queue.Queue[Any]):
    """Complete messages for the services. A request that lacks what the standard requires would never be answered."""

    def __init__(self, provider: "SpoolingProvider") -> None:
        super().__init__()
        self._provider = provider

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Pass a message on, or end the association."""
        _, message = item
        if message is None:  # the association ended: whoever waits for a message shall know
            super().put(item, block, timeout)
        elif not (message.is_valid_request or message.is_valid_response):
            self._provider.refuse("a request without its required elements")
        elif self.qsize() >= MOST_WAITING:
            self._provider.refuse("requests without waiting for their answers")
        else:
            # A C-CANCEL that came before its request was for an earlier one of the same Message ID.
            self._provider.cancel_req.pop(message.MessageID, None)
            super().put(item, block, timeout)


class _OutOfPlace(Exception):
    """What a peer may not send at this point; the text is for the log."""


class _Arriving:
    """A message whose fragments come in: all of one context, the command set first. PS3.7 6.3.1, PS3.8 E.2."""

    def __init__(self, context_id: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.message: Any = DIMSEMessage()
        self._context_id = context_id
        self._clock = clock
        self._since = clock()
        self._size = 0

    @property
    def _has_command(self) -> bool:
        return type(self.message) is not DIMSEMessage  # pynetdicom changes the class when the command set is there

    def check(self, context_id: int, data: bytes, assoc: Association) -> None:
        """Count one more fragment; _OutOfPlace when it cannot be the next one of this message, or comes too late."""
        self._size += len(data)
        if context_id != self._context_id or context_id not in assoc._accepted_cx:
            raise _OutOfPlace("a fragment of another presentation context")
        if bool(data[0] & 1) == self._has_command:
            raise _OutOfPlace("a command set and a data set out of order")
        if self._size > self._most():
            raise _OutOfPlace(f"a message of over {self._most()} bytes")
        if self._size < (self._clock() - self._since - GRACE_S) * SLOWEST:
            raise _OutOfPlace(f"a message that comes at under {SLOWEST} bytes a second")

    def _most(self) -> float:
        if not self._has_command:
            return COMMAND_IN_MEMORY
        return math.inf if isinstance(self.message, C_STORE_RQ) else MESSAGE_IN_MEMORY


class SpoolingProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """The DIMSE provider that writes the data set of a C-STORE request to a spool, fragment by fragment.

    Memory bound: one PDU of each association, whatever the size of the object.
    """

    def __init__(self, assoc: Association, spool_factory: SpoolFactory) -> None:
        super().__init__(assoc)
        self._spool_factory = spool_factory
        self._open: Spool | None = None
        self._arriving: _Arriving | None = None
        self._refused = False
        self.msg_queue = _Requests(self)

    def receive_primitive(self, primitive: P_DATA) -> None:
        """One P-DATA primitive. Its values are passed on singly, so that a spool is open before the first data."""
        for context_id, data in primitive.presentation_data_value_list:
            if self._refused:
                return
            try:
                self._receive(context_id, data)
            except _OutOfPlace as error:
                self.refuse(str(error))
            except Exception as error:  # noqa: BLE001 - bytes that are no DIMSE message end their association only
                self.refuse(f"no DIMSE message ({type(error).__name__})")

    def _receive(self, context_id: int, data: bytes) -> None:
        """One fragment: message control header (PS3.8 E.2) and content."""
        if self._arriving is None:
            answer = StoreResponse.read(data)
            if answer is not None and context_id in self.assoc._accepted_cx:
                self.msg_queue.put((context_id, answer))
                return
            self._arriving = _Arriving(context_id)
        message, arriving = self._arriving.message, self._arriving
        arriving.check(context_id, data, self.assoc)
        single = P_DATA()
        single.presentation_data_value_list.append((context_id, data))
        if message.decode_msg(single, self.assoc):
            self._complete(message, context_id)
        elif isinstance(message, C_STORE_RQ) and message._data_set_file is None:
            self._open = self._spool_factory(self.assoc, message)
            message._data_set_file = self._open

    def _complete(self, message: Any, context_id: int) -> None:
        """Hand a message to who serves it."""
        primitive = message.message_to_primitive()
        self._arriving = None
        if isinstance(primitive, N_EVENT_REPORT) and primitive.is_valid_request:
            raise _OutOfPlace("an event report to a node that asked for none")  # pynetdicom starts a thread for each
        if not isinstance(primitive, C_CANCEL):
            self.msg_queue.put((context_id, primitive))
        elif len(self.cancel_req) < MOST_WAITING:
            self.cancel_req[primitive.MessageIDBeingRespondedTo] = primitive
        else:
            raise _OutOfPlace("cancels of requests that were never made")
        self._open = None  # closed by who serves it

    def refuse(self, why: str) -> None:
        """End the association: the peer broke the protocol."""
        log.warning("association of %s aborted: %s", printable(self.assoc.requestor.ae_title), why)
        self._refused = True
        self._arriving = None
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
