"""Command fields and encoded data sets in, P-DATA-TF PDUs on a socket out. PS3.7 6.3 and E.1, PS3.8 9.3.5 and Annex E.

pynetdicom makes some six objects and copies of each message it sends; what is sent by the thousand goes straight to
the socket from here. Over TLS it goes through pynetdicom's own thread: an SSL socket is not safe for two.
"""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from io import BufferedIOBase
from typing import Any, Final, Self

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from dicomnode.dimse.transport import POLL_S
from dicomnode.errors import PeerError
from dicomnode.uids import MAXIMUM_LENGTH

LARGEST_PDU: Final = 1 << 18  # bytes, for a peer that states no maximum
SMALLEST_PDU: Final = 128  # bytes; a maximum below this is no PDU that could carry anything, and is not kept to
BLOCK: Final = 1 << 20  # bytes of a file that are read and sent at once
MOST_BUFFERED: Final = 1 << 16  # bytes of responses that wait for company
MOST_QUEUED: Final = 8  # PDUs that may wait for pynetdicom's thread
WAIT_S: Final = 0.001
LONG_POLL_S: Final = 0.005  # of pynetdicom's thread while messages go past it: each of its turns costs the others one
NO_DATA_SET: Final = 0x0101
DATA_SET: Final = 0x0001

Field = tuple["Element", int | str]


class Command(IntEnum):
    """Command Field (0000,0100) of requests; a response has the highest bit set. PS3.7 E.1."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    N_EVENT_REPORT = 0x0100
    N_ACTION = 0x0130


RESPONSE: Final = 0x8000


class Element(IntEnum):
    """Elements of group 0000, in the order of a command set. PS3.7 E.1."""

    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    PRIORITY = 0x0700
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    EVENT_TYPE_ID = 0x1002
    ACTION_TYPE_ID = 0x1008
    REMAINING_SUBOPERATIONS = 0x1020
    COMPLETED_SUBOPERATIONS = 0x1021
    FAILED_SUBOPERATIONS = 0x1022
    WARNING_SUBOPERATIONS = 0x1023
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031


def command_set(fields: Iterable[Field]) -> bytes:
    """The fields in Implicit VR Little Endian behind their group length: numbers are US, text is UI, AE or LO."""
    body = b"".join(_element(element, value) for element, value in sorted(fields))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _element(element: Element, value: int | str) -> bytes:
    if isinstance(value, int):
        return struct.pack("<HHIH", 0, element, 2, value)
    text = value.encode("ascii")
    if len(text) % 2:
        text += b"\0" if element in _UIDS else b" "
    return struct.pack("<HHI", 0, element, len(text)) + text


_UIDS: Final = frozenset({Element.AFFECTED_SOP_CLASS_UID, Element.AFFECTED_SOP_INSTANCE_UID})

# Message Control Header, PS3.8 E.2.
_COMMAND, _LAST = 1, 2


@dataclass(frozen=True)
class StoreResponse:
    """A C-STORE response as far as who asked needs it, under pynetdicom's names: it waits in the same queue.

    A retrieval gets thousands, and pynetdicom takes 0.15 ms to decode one.
    """

    MessageIDBeingRespondedTo: int
    Status: int
    MessageID: None = None
    msg_type: str = "C-STORE"
    is_valid_request: bool = False
    is_valid_response: bool = True

    @classmethod
    def read(cls, fragment: bytes) -> "StoreResponse | None":
        """Of a whole command set behind its Message Control Header; None where it is anything else, or malformed."""
        if not fragment or fragment[0] & 3 != _COMMAND | _LAST:
            return None
        found = _shorts(fragment, 1)
        field, kind = found.get(Element.COMMAND_FIELD), found.get(Element.COMMAND_DATA_SET_TYPE)
        message_id, status = found.get(Element.MESSAGE_ID_BEING_RESPONDED_TO), found.get(Element.STATUS)
        if field != Command.C_STORE | RESPONSE or kind != NO_DATA_SET or message_id is None or status is None:
            return None
        return cls(message_id, status)


@dataclass(frozen=True)
class StoreRequest:
    """The command set of a C-STORE request. PS3.7 9.3.1.1"""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data: bool  # whether it announces a data set

    @classmethod
    def read(cls, context_id: int, command: bytes | memoryview) -> "StoreRequest | None":
        """Of a whole command set. None where it is another request, malformed, or lacks what the standard requires."""
        found = _elements(command, 0)
        numbers = {element: found.get(element, b"") for element in _OF_A_STORE}
        if any(len(value) != 2 for value in numbers.values()):
            return None
        field, message_id, _, kind = (int.from_bytes(value, "little") for value in numbers.values())
        sop_class, sop_instance = (_uid(found.get(element, b"")) for element in sorted(_UIDS))
        if field != Command.C_STORE or not sop_class or not sop_instance:
            return None
        return cls(context_id, message_id, sop_class, sop_instance, kind != NO_DATA_SET)

    def response(self, status: int, comment: str, maximum: int) -> bytes:
        """The PDUs that answer it, for a peer that takes so many bytes in one (0: any number)."""
        fields: list[Field] = [
            (Element.AFFECTED_SOP_CLASS_UID, self.sop_class_uid),
            (Element.COMMAND_FIELD, Command.C_STORE | RESPONSE),
            (Element.MESSAGE_ID_BEING_RESPONDED_TO, self.message_id),
            (Element.COMMAND_DATA_SET_TYPE, NO_DATA_SET),
            (Element.STATUS, status),
            *([(Element.ERROR_COMMENT, comment)] if comment else []),
            (Element.AFFECTED_SOP_INSTANCE_UID, self.sop_instance_uid),
        ]
        size = _pdu_size(maximum)
        return b"".join(_pdus(_values(self.context_id, _COMMAND, command_set(fields), size), size))


_OF_A_STORE: Final = (Element.COMMAND_FIELD, Element.MESSAGE_ID, Element.PRIORITY, Element.COMMAND_DATA_SET_TYPE)


def _uid(value: bytes) -> str:
    """A UID without its padding; "" when it is none that a command may carry: PS3.5 9.1, 64 characters."""
    text = value.rstrip(b"\0 ")
    return text.decode("ascii") if text.isascii() and len(text) <= MAXIMUM_LENGTH else ""


def _elements(data: bytes | memoryview, at: int) -> dict[int, bytes]:
    """The elements of a command set by number; none where it is malformed."""
    found: dict[int, bytes] = {}
    end = len(data)
    while at + 8 <= end:
        group, element, length = _HEAD.unpack_from(data, at)
        at += 8
        if group or length > end - at:
            return {}
        found[element] = bytes(data[at : at + length])
        at += length
    return found if at == end else {}


def _shorts(data: bytes, at: int) -> dict[int, int]:
    """The US elements of a command set by number; none where it is malformed."""
    found = _elements(data, at)
    return {element: int.from_bytes(value, "little") for element, value in found.items() if len(value) == 2}


_HEAD: Final = struct.Struct("<HHL")


class Writer:
    """Sends messages on one association, from the thread that serves it. Raises PeerError when the peer is gone.

    Responses may be held back until there is a packet full of them: `flush` before waiting for anything. Memory bound:
    one block of a file.
    """

    def __init__(self, association: Association) -> None:
        connection = association.dul.socket.socket if association.dul.socket else None
        if connection is None:
            raise PeerError("the peer has gone")
        self._association = association
        self._timeout_s = float(association.network_timeout or 60.0)
        self._encrypted = isinstance(connection, ssl.SSLSocket)
        self._size = _pdu_size(association.dimse.maximum_pdu_size)
        self._waiting = bytearray()
        self._block = memoryview(
            b""
        )  # for files, made with the first: the system would give each a new one, page by page
        if not self._encrypted:
            association.dul.socket.poll_s = LONG_POLL_S
        # A second handle of the connection: pynetdicom's thread changes the time-out of its own while it reads.
        self._socket = connection if self._encrypted else _second(connection, self._timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._encrypted:
            self._socket.close()
            if self._association.dul.socket is not None:
                self._association.dul.socket.poll_s = POLL_S

    def send(self, context_id: int, command: bytes, data: bytes | None = None, *, hold: bool = False) -> None:
        """One message whose data set is in memory. `hold`: it may wait for more, up to MOST_BUFFERED bytes."""
        values = [*_values(context_id, _COMMAND, command, self._size)]
        if data is not None:
            values += _values(context_id, 0, data, self._size)
        if self._encrypted:
            return self._queue(values)
        for pdu in _pdus(values, self._size):
            self._waiting += pdu
        if not hold or len(self._waiting) >= MOST_BUFFERED:
            self.flush()
        return None

    def send_file(
        self,
        context_id: int,
        command: bytes,
        file: BufferedIOBase,
        length: int,
        watch: Callable[[], None] | None = None,
    ) -> None:
        """One message whose data set is the next `length` bytes of a file. PeerError when the file is shorter.

        `watch` is called between blocks and may raise: the association is of no use after that.
        """
        self.send(context_id, command, hold=True)
        left, fragment = length, self._size - 6
        if not self._block:
            self._block = memoryview(bytearray(BLOCK - BLOCK % fragment or fragment))
        while left:
            read = _read(file, self._block[:left])
            left -= len(read)
            self._send_fragments(context_id, read, fragment, last=not left)
            if left and watch:
                watch()

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, bytearray()
            self._write([waiting])

    def _send_fragments(self, context_id: int, data: memoryview, size: int, *, last: bool) -> None:
        starts = range(0, len(data), size)
        values = [(context_id, _LAST if last and at == starts[-1] else 0, data[at : at + size]) for at in starts]
        if self._encrypted:
            return self._queue(values)
        parts: list[bytes | memoryview | bytearray] = [self._waiting]
        self._waiting = bytearray()
        for value in values:
            parts += [_pdu_head(len(value[2]) + 6) + _value_head(value), value[2]]
        return self._write(parts)

    def _write(self, parts: list[Any]) -> None:
        """All of the parts, within the association's time-out: a peer that reads slowly is not waited for longer."""
        deadline = time.monotonic() + self._timeout_s
        try:
            while parts:
                sent = self._socket.sendmsg(parts[:MOST_PARTS])
                parts = _behind(parts, sent)
                if parts and time.monotonic() > deadline:
                    raise TimeoutError
        except OSError as error:
            self._hang_up()
            raise PeerError("the peer has gone or does not read") from error

    def _hang_up(self) -> None:
        """End the connection: an abort would wait for the same peer to read."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _queue(self, values: Iterable["Value"]) -> None:
        deadline = time.monotonic() + self._timeout_s
        for context_id, control, fragment in values:
            primitive = P_DATA()
            primitive.presentation_data_value_list.append([context_id, bytes([control]) + bytes(fragment)])
            while self._association.dul.to_provider_queue.qsize() >= MOST_QUEUED:
                if time.monotonic() > deadline or not self._association.dul.is_alive():
                    raise PeerError("the peer has gone or does not read")
                time.sleep(WAIT_S)
            self._association.dul.send_pdu(primitive)


MOST_PARTS: Final = 512  # of one sendmsg; the system's own bound is 1024
Value = tuple[int, int, bytes | memoryview]  # context id, control header, fragment


def _values(context_id: int, kind: int, message: bytes, size: int) -> Iterator[Value]:
    """The fragments of a command or data set, each small enough for a PDU of its own."""
    most = size - 6
    for start in range(0, len(message) or 1, most):
        last = _LAST if start + most >= len(message) else 0
        yield context_id, kind | last, message[start : start + most]


def _pdus(values: Iterable[Value], size: int) -> Iterator[bytes]:
    """PDUs of as many values as each may hold."""
    body = b""
    for value in values:
        item = _value_head(value) + value[2]
        if body and len(body) + len(item) > size:
            yield _pdu_head(len(body)) + body
            body = b""
        body += item
    yield _pdu_head(len(body)) + body


def _pdu_head(length: int) -> bytes:
    return struct.pack(">BBL", 4, 0, length)


def _value_head(value: Value) -> bytes:
    return struct.pack(">LBB", len(value[2]) + 2, value[0], value[1])


def _pdu_size(stated: int) -> int:
    """Bytes of a PDU's variable field; even, as fragments must be. 0 states no maximum (PS3.8 D.1)."""
    size = min(stated, LARGEST_PDU) if stated else LARGEST_PDU
    return max(size, SMALLEST_PDU) & ~1


def _read(file: BufferedIOBase, block: memoryview) -> memoryview:
    """The next bytes of a file, read into `block`. PeerError where it is short: half a message cannot be taken back."""
    try:
        count = file.readinto(block)
    except OSError as error:
        raise PeerError("a stored file cannot be read to its end") from error
    if count != len(block):
        raise PeerError("a stored file is shorter than its record")
    return block


def _second(connection: Any, timeout_s: float) -> Any:
    try:
        second = connection.dup()
    except OSError as error:
        raise PeerError("the peer has gone") from error
    second.settimeout(timeout_s)
    return second


def _behind(parts: list[Any], sent: int) -> list[Any]:
    """What is left of the parts after `sent` bytes."""
    for number, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[number + 1 :]]
        sent -= len(part)
    return []
