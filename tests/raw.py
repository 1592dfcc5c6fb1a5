"""A peer made of bytes: PDUs, items and commands as they are wanted, true or false, and a socket to send them on.

Nothing here checks anything: that is what it is for. PS3.8 9.3, PS3.7 E.1.
"""

import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

VERIFICATION = "1.2.840.10008.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
COMMAND, LAST = 1, 2  # bits of the message control header, PS3.8 E.2
NO_DATA_SET, DATA_SET = 0x0101, 0x0001
C_STORE_RQ, C_FIND_RQ, C_ECHO_RQ, C_CANCEL_RQ, N_EVENT_REPORT_RQ = 0x0001, 0x0020, 0x0030, 0x0FFF, 0x0100
RESPONSE = 0x8000
CONTEXTS = (
    (1, VERIFICATION, (ExplicitVRLittleEndian, ImplicitVRLittleEndian)),
    (3, DX, (ExplicitVRLittleEndian,)),
    (5, STUDY_ROOT_FIND, (ImplicitVRLittleEndian,)),
)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """One PDU; `length`: what its header claims."""
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes, length: int | None = None) -> bytes:
    """One item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BBH", kind, 0, len(body) if length is None else length) + body


def context_item(context_id: int, abstract: str, syntaxes: Iterable[str]) -> bytes:
    """A presentation context item of a request."""
    inner = item(0x30, abstract.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    return item(0x20, struct.pack(">BBBB", context_id, 0, 0, 0) + inner)


def user_item(*more: bytes) -> bytes:
    """The user information item: maximum length, implementation class, and what else is given."""
    return item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4") + b"".join(more))


def request_body(
    items: bytes | None = None, called: bytes = b"DICOMNODE", calling: bytes = b"RAW", version: int = 1
) -> bytes:
    """The body of an A-ASSOCIATE-RQ: by default one that asks for CONTEXTS."""
    if items is None:
        items = b"".join(context_item(*each) for each in CONTEXTS) + user_item()
    name = item(0x10, b"1.2.840.10008.3.1.1.1")
    return struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + bytes(32) + name + items


def pdv(context_id: int, header: int, data: bytes, length: int | None = None) -> bytes:
    """One presentation data value item."""
    return struct.pack(">LBB", len(data) + 2 if length is None else length, context_id, header) + data


def element(group: int, number: int, value: bytes, length: int | None = None) -> bytes:
    """One element in Implicit VR Little Endian, as a command set has them."""
    return struct.pack("<HHL", group, number, len(value) if length is None else length) + value


def command(field: int, sop_class: str, *, has_data: bool = False, uid: str = "", message_id: int = 1) -> bytes:
    """The command set of a request."""
    elements = element(0, 0x0002, even(sop_class)) + element(0, 0x0100, struct.pack("<H", field))
    elements += element(0, 0x0110, struct.pack("<H", message_id))
    elements += element(0, 0x0700, struct.pack("<H", 0)) if field in {C_STORE_RQ, C_FIND_RQ} else b""
    elements += element(0, 0x0800, struct.pack("<H", DATA_SET if has_data else NO_DATA_SET))
    elements += element(0, 0x1000, even(uid)) if uid else b""
    return element(0, 0, struct.pack("<L", len(elements))) + elements


def even(text: str) -> bytes:
    data = text.encode("latin-1")
    return data + b"\0" * (len(data) % 2)


def message(context_id: int, command_set: bytes, data_set: bytes = b"", chunk: int = 16000) -> bytes:
    """The P-DATA PDUs of one message."""
    parts = [pdu(P_DATA, pdv(context_id, COMMAND | LAST, command_set))]
    for at in range(0, len(data_set), chunk):
        last = LAST if at + chunk >= len(data_set) else 0
        parts.append(pdu(P_DATA, pdv(context_id, last, data_set[at : at + chunk])))
    return b"".join(parts)


def echo_message() -> bytes:
    return message(1, command(C_ECHO_RQ, VERIFICATION))


def store_message(data_set: bytes, uid: str, sop_class: str = DX, context_id: int = 3) -> bytes:
    return message(context_id, command(C_STORE_RQ, sop_class, has_data=True, uid=uid), data_set)


def find_message(identifier: bytes, context_id: int = 5) -> bytes:
    return message(context_id, command(C_FIND_RQ, STUDY_ROOT_FIND, has_data=True), identifier)


@dataclass(frozen=True)
class Answer:
    """A response's command set."""

    field: int
    status: int
    comment: str


class RawPeer:
    """One connection. Every wait ends: by bytes, by the end of the connection, or by the time-out."""

    def __init__(self, port: int, timeout_s: float = 60.0, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s, (source, 0))
        self.received = b""  # everything the node said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether the node took it all."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def finish(self) -> None:
        """Say that nothing more comes; what the node says is still read."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def associate(self, body: bytes | None = None) -> int:
        """Ask for an association; the kind of PDU that answers, 0 when the connection ends."""
        self.send(pdu(ASSOCIATE_RQ, request_body() if body is None else body))
        answer = self.next_pdu()
        return answer[0] if answer else 0

    def next_pdu(self) -> tuple[int, bytes] | None:
        """Kind and body; None when the connection ends."""
        head = self._exactly(6)
        if head is None:
            return None
        body = self._exactly(struct.unpack(">L", head[2:])[0])
        return None if body is None else (head[0], body)

    def answer(self) -> Answer | None:
        """The next response that is no Pending one; None when the association ends first."""
        while (found := self._next_answer()) is not None and found.status in {0xFF00, 0xFF01}:
            pass
        return found

    def ended(self) -> bool:
        """Read until the node ends the connection. False when it does not within the time-out."""
        with suppress(ConnectionError):
            try:
                while data := self.socket.recv(65536):
                    self.received += data
            except TimeoutError:
                return False
        return True

    def _next_answer(self) -> Answer | None:
        while (found := self.next_pdu()) is not None and found[0] == P_DATA:
            for _, header, data in values_of(found[1]):
                if header & COMMAND:
                    return _answer(data)
        return None

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        try:
            while len(data) < size:
                more = self.socket.recv(size - len(data))
                if not more:
                    return None
                data += more
        except ConnectionError:
            return None
        finally:
            self.received += data
        return data


def values_of(body: bytes) -> list[tuple[int, int, bytes]]:
    """Context, message control header and data of each value of a P-DATA PDU."""
    found, at = [], 0
    while at < len(body):
        length, context_id, header = struct.unpack_from(">LBB", body, at)
        found.append((context_id, header, body[at + 6 : at + 4 + length]))
        at += 4 + length
    return found


def _answer(command_set: bytes) -> Answer:
    elements, at = {}, 0
    while at < len(command_set):
        _, number, length = struct.unpack_from("<HHL", command_set, at)
        elements[number] = command_set[at + 8 : at + 8 + length]
        at += 8 + length
    short = {number: int.from_bytes(elements.get(number, b"\0\0"), "little") for number in (0x0100, 0x0900)}
    return Answer(short[0x0100], short[0x0900], elements.get(0x0902, b"").decode("latin-1").strip(" \0"))


def wait_until(condition, timeout_s: float = 20.0) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
