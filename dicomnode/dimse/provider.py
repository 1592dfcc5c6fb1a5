"""P-DATA in, DIMSE messages out: the data set of a C-STORE goes to a scratch file as it arrives. PS3.7 6.3."""

import logging
import queue
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu_primitives import P_DATA

from dicomnode.log import printable

log = logging.getLogger(__name__)

MOST_WAITING = 16  # requests; asynchronous operations are not negotiated, so an honest peer has one
MESSAGE_IN_MEMORY = 8 << 20  # bytes of a command set, and of a data set that is no C-STORE


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
        self.msg_queue = _Requests(self)

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
        log.warning("association of %s aborted: %s", printable(self.assoc.requestor.ae_title), why)
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
