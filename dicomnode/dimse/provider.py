"""Fragments in, DIMSE messages out, those of C-STORE requests apart: their data sets are not for memory. PS3.7 6.3."""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, N_EVENT_REPORT
from pynetdicom.pdu_primitives import P_DATA

from dicomnode.dimse.wire import StoreRequest, StoreResponse
from dicomnode.log import printable

log = logging.getLogger(__name__)

MOST_WAITING = 16  # requests; asynchronous operations are not negotiated, so an honest peer has one
COMMAND_IN_MEMORY = 64 << 10  # bytes of a command set
MESSAGE_IN_MEMORY = 8 << 20  # bytes of a message that is no C-STORE
# A peer that sends a byte now and then keeps its place for ever: each PDU is in time, the association never silent.
GRACE_S = 60.0
PATIENCE_S = 5.0  # how long a C-STORE waits for the request before it to be served
IDLE_S = 0.05  # how long the reactor of an accepted association waits for something to happen
_WHOLE_COMMAND = 3  # message control header of a command set in one fragment, PS3.8 E.2
SLOWEST = 512  # bytes a second, on average, of a message that takes longer than the grace: a quarter of a modem's


class _Requests(queue.Queue[Any]):
    """Complete messages for the services. A request that lacks what the standard requires would never be answered."""

    def __init__(self, provider: "MessageProvider") -> None:
        super().__init__()
        self._provider = provider
        self._unserved = 0  # requests that were passed on and not served to their end yet
        self._served = threading.Condition()

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
            self._count(1 if message.is_valid_request else 0)
            super().put(item, block, timeout)
        self._provider.stir()

    def served(self) -> None:
        """A request was served to its end."""
        self._count(-1)

    def all_served(self, timeout_s: float) -> bool:
        """Whether nothing is being served, waited for so long: who served may not have come round to saying so."""
        with self._served:
            return self._served.wait_for(lambda: self._unserved <= 0, timeout_s)

    def _count(self, step: int) -> None:
        with self._served:
            self._unserved += step
            self._served.notify_all()


class OutOfPlace(Exception):
    """What a peer may not send at this point; the text is for the log."""


class Arriving:
    """A message whose fragments come in: all of one context, the command set first. PS3.7 6.3.1, PS3.8 E.2."""

    def __init__(self, context_id: int, clock: Callable[[], float] = time.monotonic, *, is_store: bool = False) -> None:
        """`is_store`: the command set is there, and it is one of a C-STORE request."""
        self.message: Any = DIMSEMessage()
        self._context_id = context_id
        self._clock = clock
        self._since = clock()
        self._size = 0
        self._is_store = is_store

    @property
    def _has_command(self) -> bool:
        # pynetdicom changes the class when the command set is there
        return self._is_store or type(self.message) is not DIMSEMessage

    def check(self, context_id: int, control: int, size: int, assoc: Association) -> None:
        """Count one more fragment; OutOfPlace when it cannot be the next one of this message, or comes too late."""
        self._size += size
        if context_id != self._context_id or context_id not in assoc._accepted_cx:
            raise OutOfPlace("a fragment of another presentation context")
        if bool(control & 1) == self._has_command:
            raise OutOfPlace("a command set and a data set out of order")
        if self._size > self._most():
            raise OutOfPlace(f"a message of over {self._most()} bytes")
        if self._size < (self._clock() - self._since - GRACE_S) * SLOWEST:
            raise OutOfPlace(f"a message that comes at under {SLOWEST} bytes a second")

    def _most(self) -> float:
        if not self._has_command:
            return COMMAND_IN_MEMORY
        return math.inf if self._is_store else MESSAGE_IN_MEMORY


class MessageProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """The DIMSE provider of every association here: messages in bounds, requests that lack nothing.

    Memory bound: one message of each association.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._arriving: Arriving | None = None
        self._refused = False
        self._stirred = threading.Event()
        self.msg_queue = _Requests(self)

    def get_msg(self, block: bool = False) -> Any:
        """The next message, or (None, None). On an accepted association the one who asks is the reactor, in a loop."""
        if not block and self.assoc.is_acceptor and self.msg_queue.empty():
            self._stirred.wait(IDLE_S)
            self._stirred.clear()
        return super().get_msg(block)

    def stir(self) -> None:
        """Something happened that the reactor should look at now."""
        self._stirred.set()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """One P-DATA primitive of an association that has no lane: nobody there takes instances."""
        for context_id, data in primitive.presentation_data_value_list:
            if self._refused:
                return
            try:
                if self.receive(context_id, data) is not None:
                    self.refuse("an instance that nobody asked for")
            except OutOfPlace as error:
                self.refuse(str(error))

    def receive(self, context_id: int, data: bytes) -> StoreRequest | None:
        """One fragment: message control header (PS3.8 E.2) and content. A C-STORE request, when its command is there.

        OutOfPlace, fit for the log, when the association has to end.
        """
        try:
            return self._receive(context_id, data)
        except OutOfPlace:
            raise
        except Exception as error:
            raise OutOfPlace(f"no DIMSE message ({type(error).__name__})") from error

    def _receive(self, context_id: int, data: bytes) -> StoreRequest | None:
        if self._arriving is None:
            if context_id in self.assoc._accepted_cx and data[0] & 3 == _WHOLE_COMMAND:
                request = StoreRequest.read(context_id, memoryview(data)[1:])
                if request is not None:
                    return self._alone(request)
                if (answer := StoreResponse.read(data)) is not None:
                    self.msg_queue.put((context_id, answer))
                    return None
            self._arriving = Arriving(context_id)
        message, arriving = self._arriving.message, self._arriving
        arriving.check(context_id, data[0], len(data), self.assoc)
        single = P_DATA()
        single.presentation_data_value_list.append((context_id, data))
        is_complete = message.decode_msg(single, self.assoc)
        if isinstance(message, C_STORE_RQ):  # its command set came in pieces
            return self._assembled(context_id, message)
        if is_complete:
            self._complete(message, context_id)
        return None

    def _assembled(self, context_id: int, message: C_STORE_RQ) -> StoreRequest:
        self._arriving = None
        request = StoreRequest.read(context_id, message.encoded_command_set.getvalue())
        if request is None:
            raise OutOfPlace("a request without its required elements")
        return self._alone(request)

    def _alone(self, request: StoreRequest) -> StoreRequest:
        """Whoever reads the connection answers it, which must not mix with what another thread is sending."""
        if not self.msg_queue.all_served(PATIENCE_S):
            raise OutOfPlace("requests without waiting for their answers")
        return request

    def _complete(self, message: Any, context_id: int) -> None:
        """Hand a message to who serves it."""
        primitive = message.message_to_primitive()
        self._arriving = None
        if isinstance(primitive, N_EVENT_REPORT) and primitive.is_valid_request:
            raise OutOfPlace("an event report to a node that asked for none")  # pynetdicom starts a thread for each
        if not isinstance(primitive, C_CANCEL):
            self.msg_queue.put((context_id, primitive))
        elif len(self.cancel_req) < MOST_WAITING:
            self.cancel_req[primitive.MessageIDBeingRespondedTo] = primitive
        else:
            raise OutOfPlace("cancels of requests that were never made")

    def refuse(self, why: str) -> None:
        """End the association: the peer broke the protocol."""
        log.warning("association of %s aborted: %s", printable(self.assoc.requestor.ae_title), why)
        self._refused = True
        self._arriving = None
        self.dul.event_queue.put("Evt19")  # unrecognised or invalid PDU, PS3.8 9.2.4: abort
