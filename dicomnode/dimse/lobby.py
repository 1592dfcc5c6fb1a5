"""Connections in; those that have spoken, and over TLS shaken hands, out: the rest wait here, in one thread.

A connection that says nothing costs a descriptor and no thread, and a handshake that does not go on blocks nobody:
every socket here is non-blocking and stands under a deadline. PS3.8 9.1.4 (ARTIM) is the deadline of an association
request; it runs on after the first byte, in `transport`.
"""

import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

from dicomnode import log
from dicomnode.dimse import tls

logger = logging.getLogger(__name__)

TICK_S: Final = 0.25  # how exactly deadlines are kept
LINGER_S: Final = 1.0  # for a peer to read why its handshake failed: closed with unread data, TCP would take it back
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Places:
    """How many connections there are and may be, in all and by address, whatever port they came to."""

    def __init__(
        self, maximum: int, maximum_per_address: int, refused: Callable[[str], None] = lambda door: None
    ) -> None:
        """`refused` counts the connections that get no place."""
        self._refused = refused
        self._maximum = maximum
        self._maximum_per_address = maximum_per_address
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._full: set[str] = set()  # addresses that were told of as full

    def take(self, address: str) -> bool:
        """Count one more connection from `address`, if it may have one. The first that may not is logged."""
        with self._lock:
            crowded = self._taken[address] >= self._maximum_per_address
            if not crowded and self._taken.total() < self._maximum:
                self._taken[address] += 1
                return True
            self._refused("connection")
            if address not in self._full:
                self._full.add(address)
                whose = f"{self._taken[address]} from there" if crowded else f"{self._taken.total()} in all"
                logger.warning("connection from %s refused: too many, %s", address, whose)
            return False

    def leave(self, address: str) -> None:
        """One connection from `address` ended."""
        with self._lock:
            self._taken[address] -= 1
            self._full.discard(address)
            if self._taken[address] <= 0:
                del self._taken[address]


@dataclass(eq=False)
class Guest:
    """A connection that has not spoken yet.

    `welcome` takes the socket, blocking again, and the moment (monotonic, s) by which it must have asked for an
    association. `dismissed` is called instead when it was closed, with the reason when that is worth a log line.
    """

    connection: socket.socket  # an SSLSocket: its handshake is to be made
    welcome: Callable[[socket.socket, float], None]
    dismissed: Callable[[str], None]
    deadline: float = 0.0
    is_shaking: bool = False
    refused: str = ""  # why, while it is given the time to read that


class Lobby:
    """The thread in which connections wait."""

    def __init__(self, request_timeout_s: float, handshake_timeout_s: float) -> None:
        self._request_timeout_s = request_timeout_s
        self._handshake_timeout_s = handshake_timeout_s
        self._arrivals: SimpleQueue[Guest] = SimpleQueue()
        self._bell, self._ringer = socket.socketpair()
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, READ)
        self._thread = threading.Thread(target=self._run, name="dicom-lobby", daemon=True)

    def start(self) -> None:
        """Begin to serve those who enter."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection that waits, and end."""
        self._stopping = True
        self._ring()
        if self._thread.is_alive():  # a port that could not be had ends before it has begun
            self._thread.join()

    def enter(self, guest: Guest) -> None:
        """Let a connection wait. From any thread."""
        guest.connection.setblocking(False)
        guest.is_shaking = isinstance(guest.connection, ssl.SSLSocket)
        guest.deadline = time.monotonic() + (self._handshake_timeout_s if guest.is_shaking else self._request_timeout_s)
        self._arrivals.put(guest)
        self._ring()

    def _ring(self) -> None:
        with suppress(OSError):  # after the end, or so many rings that one more changes nothing
            self._ringer.send(b"\0", socket.MSG_DONTWAIT)

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(TICK_S):
                if key.fileobj is self._bell:
                    self._bell.recv(4096)
                else:
                    self._serve(key.data)
            self._show_in()
            self._expire()
        self._show_in()
        for guest in self._waiting():
            self._dismiss(guest, "")
        for part in (self._selector, self._bell, self._ringer):
            part.close()

    def _show_in(self) -> None:
        with suppress(Empty):
            while True:
                guest = self._arrivals.get(block=False)
                self._selector.register(guest.connection, READ, guest)

    def _waiting(self) -> list[Guest]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _expire(self) -> None:
        now = time.monotonic()
        for guest in self._waiting():
            if guest.deadline <= now:
                self._dismiss(guest, guest.refused or ("TLS handshake not complete in time" * guest.is_shaking))

    def _serve(self, guest: Guest) -> None:
        """One step of a guest whose socket is ready. Nothing of it may end the thread."""
        try:
            if guest.refused:
                self._linger(guest)
            elif guest.is_shaking:
                self._shake(guest)
            elif _has_left(guest.connection):
                self._dismiss(guest, "")
            else:
                self._hand_over(guest)
        except OSError as error:
            self._refuse(guest, tls.meaning(error))

    def _hand_over(self, guest: Guest) -> None:
        self._let_go(guest)
        try:
            guest.connection.setblocking(True)
            guest.welcome(guest.connection, guest.deadline)
        except Exception as error:  # noqa: BLE001 - the others wait here too
            logger.error("a connection could not be served: %s", log.frames(error))
            self._dismiss(guest, "")

    def _shake(self, guest: Guest) -> None:
        connection: Any = guest.connection
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            self._selector.modify(connection, READ, guest)
        except ssl.SSLWantWriteError:
            self._selector.modify(connection, WRITE, guest)
        else:
            self._selector.modify(connection, READ, guest)
            guest.is_shaking = False
            guest.deadline = time.monotonic() + self._request_timeout_s

    def _refuse(self, guest: Guest, why: str) -> None:
        """Close a connection; one that was told why by an alert of TLS, only when it has read that."""
        if guest.refused or not why:
            self._dismiss(guest, guest.refused)
            return
        guest.refused, guest.deadline = why, time.monotonic() + LINGER_S
        with suppress(OSError):
            guest.connection.shutdown(socket.SHUT_WR)
        self._selector.modify(guest.connection, READ, guest)

    def _linger(self, guest: Guest) -> None:
        if not guest.connection.recv(1 << 16):
            self._dismiss(guest, guest.refused)

    def _dismiss(self, guest: Guest, why: str) -> None:
        self._let_go(guest)
        guest.connection.close()
        guest.dismissed(why)

    def _let_go(self, guest: Guest) -> None:
        with suppress(KeyError, ValueError):  # let go already
            self._selector.unregister(guest.connection)


def _has_left(connection: socket.socket) -> bool:
    """Whether a connection that is ready has nothing but its end, as that of a monitor has. TLS cannot look ahead."""
    return not isinstance(connection, ssl.SSLSocket) and not connection.recv(1, socket.MSG_PEEK)
