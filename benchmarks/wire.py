"""A raw DICOM client and a raw sink: requests out, counts of what came back. PS3.8 9.3, PS3.7 9.1 and Annex E.

Nothing that arrives is decoded beyond what an answer to it needs, so that the archive is what is measured.
"""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

from pydicom import dcmread

from dicomnode import uids

CALLING = "BENCHSCU"
MAXIMUM_PDU = 131072  # bytes, offered to everybody
ROOM = 1 << 20  # bytes of one connection's buffer, above the largest PDU
TIMEOUT_S = 120.0
IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
CT = b"1.2.840.10008.5.1.4.1.1.2"
STUDY_FIND, STUDY_MOVE, STUDY_GET = (b"1.2.840.10008.5.1.4.1.2.2." + digit for digit in (b"1", b"2", b"3"))
IMPLEMENTATION = uids.IMPLEMENTATION_CLASS_UID.encode()
# PDU types, PS3.8 9.3.1
ASSOCIATE_RQ, ASSOCIATE_AC, P_DATA, RELEASE_RQ, RELEASE_RP = 1, 2, 4, 5, 6
# Message control header, PS3.8 E.2
COMMAND, LAST = 1, 2
# Command fields, PS3.7 E.1
STORE_RQ, STORE_RSP, GET_RQ, FIND_RQ, MOVE_RQ = 0x0001, 0x8001, 0x0010, 0x0020, 0x0021
NO_DATA_SET, DATA_SET = 0x0101, 0x0001
PENDING = {0xFF00, 0xFF01}
# Elements of a command set, PS3.7 E.1
SOP_CLASS, COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
DESTINATION, PRIORITY, DATA_SET_TYPE, STATUS, SOP_INSTANCE = 0x0600, 0x0700, 0x0800, 0x0900, 0x1000


class PeerFailed(Exception):
    """The archive refused, failed or broke off; the text says which."""


@dataclass(frozen=True)
class Context:
    """A presentation context that is proposed."""

    sop_class: bytes
    syntax: bytes
    as_scp: bool = False  # the SCP role is asked for too, as C-GET needs: PS3.7 D.3.3.4


@dataclass(frozen=True)
class Message:
    """One message that came: its command set, and where."""

    context: int
    command: bytes

    @property
    def status(self) -> int:
        return number(self.command, STATUS)

    @property
    def is_store(self) -> bool:
        return number(self.command, COMMAND_FIELD) == STORE_RQ


class Connection:
    """PDUs and messages on a socket. Memory bound: one buffer; data sets are counted through it, never kept."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(TIMEOUT_S)
        self.socket = connection
        self._view = memoryview(bytearray(ROOM))
        self._start = self._end = 0

    def send(self, *parts: bytes | memoryview) -> None:
        """All of it, in one piece where the kernel takes that."""
        self.socket.sendall(b"".join(parts))

    def hurry(self) -> None:
        """Acknowledge the next segments at once: a peer with Nagle's algorithm on waits 40 ms for that. Linux only."""
        if hasattr(socket, "TCP_QUICKACK"):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def pdu(self) -> tuple[int, memoryview]:
        """The next PDU: its type, and its body until the next call."""
        self._need(6)
        kind, length = struct.unpack_from(">BxI", self._view, self._start)
        self._need(6 + length)
        body = self._view[self._start + 6 : self._start + 6 + length]
        self._start += 6 + length
        return kind, body

    def _need(self, size: int) -> None:
        if self._end - self._start >= size:
            return
        if self._start == self._end:
            self._start = self._end = 0
        if self._start + size > ROOM:
            if size > ROOM:
                raise PeerFailed(f"a PDU of {size} bytes")
            left = bytes(self._view[self._start : self._end])
            self._view[: len(left)] = left
            self._start, self._end = 0, len(left)
        while self._end - self._start < size:
            count = self.socket.recv_into(self._view[self._end :])
            if not count:
                raise PeerFailed("closed the connection")
            self._end += count

    def messages(self) -> Iterator[Message]:
        """Every message until the peer asks for release; anything else ends in PeerFailed."""
        command = b""
        while True:
            kind, body = self.pdu()
            if kind == RELEASE_RQ:
                return
            if kind != P_DATA:
                raise PeerFailed(f"PDU type {kind} in the middle")
            at = 0
            while at < len(body):
                length, context, header = struct.unpack_from(">IBB", body, at)
                if header & COMMAND:
                    command += body[at + 6 : at + 4 + length]
                at += 4 + length
                if header & LAST and (not header & COMMAND or number(command, DATA_SET_TYPE) == NO_DATA_SET):
                    yield Message(context, command)
                    command = b""

    def acknowledge(self, message: Message) -> None:
        """Success to a C-STORE request."""
        fields = _fields(message.command)
        answer = command_set(
            (SOP_CLASS, fields[SOP_CLASS]),
            (COMMAND_FIELD, STORE_RSP),
            (RESPONDED_TO, fields[MESSAGE_ID]),
            (DATA_SET_TYPE, NO_DATA_SET),
            (STATUS, 0),
            (SOP_INSTANCE, fields[SOP_INSTANCE]),
        )
        self.send(p_data(message.context, COMMAND | LAST, answer))


class Association:
    """A client's association with one archive, open until `release`."""

    def __init__(self, port: int, called: str, contexts: Sequence[Context], *, calling: str = CALLING) -> None:
        self._contexts = contexts
        self._message = 0
        self._connection = Connection(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
        self._connection.send(_associate(called, calling, contexts))
        kind, body = self._connection.pdu()
        if kind != ASSOCIATE_AC:
            raise PeerFailed("rejected the association")
        results = dict(_accepted(body))
        for number, context in enumerate(contexts):
            if results.get(2 * number + 1) != 0:
                raise PeerFailed(f"does not accept {context.sop_class.decode()}")
        self.largest = _maximum(body) or MAXIMUM_PDU

    def find(self, identifier: bytes) -> int:
        """C-FIND by an identifier in the context's syntax; how many answers came."""
        return sum(1 for _ in self.answers(identifier))

    def answers(self, identifier: bytes) -> Iterator[Message]:
        """C-FIND: each answer as it comes."""
        self._request(FIND_RQ, identifier)
        for count, message in enumerate(self._connection.messages()):
            if message.status not in PENDING:
                _ended(message, count)
                return
            yield message
        raise PeerFailed("released before the end")

    def get(self, identifier: bytes) -> int:
        """C-GET; how many objects came, each acknowledged."""
        self._request(GET_RQ, identifier)
        count = 0
        for message in self._connection.messages():
            if message.is_store:
                self._connection.acknowledge(message)
                count += 1
            elif message.status not in PENDING:
                return _ended(message, count)
        raise PeerFailed("released before the end")

    def move(self, identifier: bytes, destination: str) -> None:
        """C-MOVE to a destination; returns at its final status."""
        self._request(MOVE_RQ, identifier, (DESTINATION, _even(destination.encode(), b" ")))
        for message in self._connection.messages():
            if message.status not in PENDING:
                _ended(message, 0)
                return
        raise PeerFailed("released before the end")

    def store(self, paths: Sequence[Path]) -> None:
        """C-STORE the data sets of Part 10 files in the first context, one after the other; not measured."""
        for path in paths:
            meta = dcmread(path, stop_before_pixels=True).file_meta
            body = path.read_bytes()[144 + meta.FileMetaInformationGroupLength :]
            uid = _even(str(meta.MediaStorageSOPInstanceUID).encode(), b"\0")
            self._request(STORE_RQ, body, (SOP_INSTANCE, uid))
            self._connection.hurry()
            _ended(next(self._connection.messages()), 0)

    def release(self) -> None:
        """The orderly end."""
        self._connection.send(struct.pack(">BBII", RELEASE_RQ, 0, 4, 0))
        self._connection.pdu()
        self._connection.socket.close()

    def _request(self, field: int, data: bytes, *more: tuple[int, bytes]) -> None:
        self._message = self._message % 65535 + 1
        command = command_set(
            (SOP_CLASS, _even(self._contexts[0].sop_class, b"\0")),
            (COMMAND_FIELD, field),
            (MESSAGE_ID, self._message),
            (PRIORITY, 0),
            (DATA_SET_TYPE, DATA_SET),
            *more,
        )
        room = self.largest - 6
        last = max(0, (len(data) - 1) // room * room)
        parts = [p_data(1, LAST if at == last else 0, data[at : at + room]) for at in range(0, last + 1, room)]
        self._connection.send(p_data(1, COMMAND | LAST, command), *parts)


class Sink:
    """The destination of every C-MOVE: acknowledges what is stored to it and forgets it; `received` counts."""

    def __init__(self, port: int = 0) -> None:
        self._listening = socket.create_server(("127.0.0.1", port), backlog=16)
        self.port = int(self._listening.getsockname()[1])
        self.received = 0
        threading.Thread(target=self._accept, name="sink", daemon=True).start()

    def close(self) -> None:
        """No more associations."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Connection(connection),), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection.socket:
            try:
                _, body = connection.pdu()
                connection.send(_accept_all(body))
                for message in connection.messages():
                    self.received += 1
                    connection.acknowledge(message)
                connection.send(struct.pack(">BBII", RELEASE_RP, 0, 4, 0))
            except (PeerFailed, OSError):
                return  # the archive went; whoever asked it to move sees that


def command_set(*fields: tuple[int, int | bytes]) -> bytes:
    """Elements of group 0000 behind their group length; numbers are US."""
    body = b"".join(_element(element, value) for element, value in sorted(fields, key=itemgetter(0)))
    return _element(0, struct.pack("<I", len(body))) + body


def p_data(context: int, header: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU of one fragment."""
    return struct.pack(">BBIIBB", P_DATA, 0, len(fragment) + 6, len(fragment) + 2, context, header) + fragment


def _element(element: int, value: int | bytes) -> bytes:
    data = struct.pack("<H", value) if isinstance(value, int) else value
    return struct.pack("<HHI", 0, element, len(data)) + data


def _even(text: bytes, padding: bytes) -> bytes:
    return text + padding * (len(text) % 2)


@lru_cache(maxsize=64)  # the Pending responses to one request have one command set
def number(command: bytes, element: int) -> int:
    """A US element of a command set."""
    return int.from_bytes(_fields(command)[element], "little")


def _fields(command: bytes) -> dict[int, bytes]:
    fields, at = {}, 0
    while at < len(command):
        element, length = struct.unpack_from("<2xHI", command, at)
        fields[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return fields


def _ended(message: Message, count: int) -> int:
    if message.status:
        raise PeerFailed(f"ended with 0x{message.status:04X} after {count}")
    return count


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _user_information(roles: bytes = b"") -> bytes:
    return _item(0x50, _item(0x51, struct.pack(">I", MAXIMUM_PDU)) + _item(0x52, IMPLEMENTATION) + roles)


def _associate(called: str, calling: str, contexts: Sequence[Context]) -> bytes:
    items, roles = _item(0x10, b"1.2.840.10008.3.1.1.1"), b""
    for number, context in enumerate(contexts):
        syntaxes = _item(0x30, context.sop_class) + _item(0x40, context.syntax)
        items += _item(0x20, bytes([2 * number + 1, 0, 0, 0]) + syntaxes)
        if context.as_scp:
            roles += _item(0x54, struct.pack(">H", len(context.sop_class)) + context.sop_class + b"\0\1")
    titles = called.encode().ljust(16) + calling.encode().ljust(16)
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + items + _user_information(roles)
    return struct.pack(">BBI", ASSOCIATE_RQ, 0, len(body)) + body


def _items(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        yield kind, bytes(body[at + 4 : at + 4 + length])
        at += 4 + length


def _accepted(body: memoryview) -> Iterator[tuple[int, int]]:
    """Context number and result of an A-ASSOCIATE-AC, PS3.8 9.3.3."""
    for kind, item in _items(bytes(body[68:])):
        if kind == 0x21:
            yield item[0], item[2]


def _maximum(body: memoryview) -> int:
    for kind, item in _items(bytes(body[68:])):
        if kind == 0x50:
            return next((struct.unpack(">I", each)[0] for sub, each in _items(item) if sub == 0x51), 0)
    return 0


def _accept_all(body: memoryview) -> bytes:
    """The A-ASSOCIATE-AC that takes every context: Explicit VR Little Endian where proposed, else what is first."""
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for kind, item in _items(bytes(body[68:])):
        if kind == 0x20:
            syntaxes = [each for sub, each in _items(item[4:]) if sub == 0x40]
            chosen = EXPLICIT if EXPLICIT in syntaxes else syntaxes[0]
            items += _item(0x21, bytes([item[0], 0, 0, 0]) + _item(0x40, chosen))
    body_out = struct.pack(">HH", 1, 0) + bytes(body[4:36]) + bytes(32) + items + _user_information()
    return struct.pack(">BBI", ASSOCIATE_AC, 0, len(body_out)) + body_out
