"""Connections in that only want to store, handed to processes that receive beside the node's own.

Python runs one thread of a process at a time: where many associations store at once, a second process takes as many
again. It gets the connection before its association is negotiated, and does all the rest; what it tells comes back
here. Whatever else is asked for, and all that comes over TLS, stays with the process that has the index and the keys.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, Final

from dicomnode.audit.trail import Trail
from dicomnode.dimse import contexts, request
from dicomnode.settings import Config
from dicomnode.workers.child import Child

logger = logging.getLogger(__name__)

MODULE: Final = "dicomnode.dimse"
LOOK: Final = 1 << 16  # bytes of an association request that are looked at; one that is longer stays here
RESTART_S: Final = 2.0  # before one that died is replaced
STOP_S: Final = 15.0  # one that is committing an instance ends after it
VERIFICATION: Final = "1.2.840.10008.1.1"
STORING: Final = frozenset((*contexts.STORAGE_CLASSES, VERIFICATION))


@dataclass(frozen=True)
class AnnexPlan:
    """What a process is told when it starts. `address`: of the port whose connections it gets."""

    config: Config
    address: tuple[str, int]
    audits: bool  # whether anybody keeps audit messages


@dataclass(frozen=True)
class Handed:
    """Of a connection that follows. `request_by_s`: seconds that are left for its association request."""

    number: int
    client_address: tuple[Any, ...]
    request_by_s: float


@dataclass(frozen=True)
class Told:
    """What happened in a process: the name of one of `Hearers`, and what it is called with."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Hearers:
    """Whom to tell."""

    arrived: Callable[[], None]
    took: Callable[[float], None]  # seconds
    heard: Callable[[str], None]  # an AE title
    refused: Callable[[str], None]  # a door
    trail: Trail | None

    def tell(self, told: Told) -> None:
        """Pass it on."""
        if told.name == "record" and self.trail is not None:
            self.trail.record(*told.values)
        elif told.name in ("arrived", "took", "heard", "refused"):
            getattr(self, told.name)(*told.values)


class _Annex:
    """One process and the connections that it has."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.leaving: dict[int, Callable[[], None]] = {}  # by number: to be called when the connection has ended
        self.handing = threading.Lock()


class Annexes:
    """The processes beside this one. `hand_over` is called by the lobby, so it waits for nobody."""

    def __init__(
        self, config: Config, count: int, hearers: Hearers, start: Callable[[str, Any], Child] = Child
    ) -> None:
        self._config = config
        self._count = count
        self._hearers = hearers
        self._start = start
        self._annexes: list[_Annex] = []
        self._ending: list[_Annex] = []
        self._numbers = iter(range(1, 1 << 62))
        self._changing = threading.Lock()
        self._stopping = threading.Event()

    @property
    def open(self) -> int:
        """How many connections they have."""
        with self._changing:
            return sum(len(each.leaving) for each in self._annexes)

    def start(self, address: tuple[str, int]) -> None:
        """Begin. `address`: of the port without TLS."""
        plan = AnnexPlan(self._config, address, self._hearers.trail is not None)
        for number in range(self._count):
            threading.Thread(target=self._keep, args=(plan,), name=f"dicom-annex-{number}", daemon=True).start()

    def stop(self) -> None:
        """Have each abort what is open and end; an instance that is being committed is. Does not wait for it."""
        self._stopping.set()
        with self._changing:
            self._ending = list(self._annexes)
        for each in self._ending:
            # A close would wait for the thread that reads; what they still tell is read to the end.
            with (
                suppress(OSError),
                socket.fromfd(each.child.connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as line,
            ):
                line.shutdown(socket.SHUT_WR)

    def join(self, deadline: float) -> None:
        """Wait until they have ended, up to a moment (monotonic, s); then kill."""
        for each in self._ending:
            each.child.join(max(0.0, deadline - time.monotonic()))

    def hand_over(
        self,
        connection: socket.socket,
        client_address: tuple[Any, ...],
        request_by: float,
        here: int,
        left: Callable[[], None],
    ) -> bool:
        """Whether another process has the connection now; `left` is called when it has ended. `here`: how many are."""
        if not self._wants_to_store(connection):
            return False
        with self._changing:
            annex = self._with_room(here)
            if annex is None:
                return False
            number = next(self._numbers)
            annex.leaving[number] = left
        try:
            with annex.handing:
                annex.child.connection.send(Handed(number, client_address, request_by - time.monotonic()))
                reduction.send_handle(annex.child.connection, connection.fileno(), annex.child.pid)
        except OSError:
            with self._changing:
                return annex.leaving.pop(number, None) is None  # it died: who watches it may have let it leave
        connection.close()
        return True

    def _with_room(self, here: int) -> _Annex | None:
        """The one with the fewest connections; None where this process has fewer, or has to say that it is full."""
        annex = min(self._annexes, key=lambda each: len(each.leaving), default=None)
        everywhere = here + sum(len(each.leaving) for each in self._annexes)
        is_full = everywhere >= self._config.dimse.maximum_associations
        if annex is None or is_full or len(annex.leaving) > here or self._stopping.is_set():
            return None
        return annex

    def _wants_to_store(self, connection: socket.socket) -> bool:
        """And nothing else, and not to ask by a stored SR."""
        with suppress(OSError):
            found = request.asked(connection.recv(LOOK, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            if found is not None:
                return found.sop_classes <= STORING and found.called != self._config.query.ae_title
        return False

    def _keep(self, plan: AnnexPlan) -> None:
        """A process, and another when it has died."""
        while not self._stopping.is_set():
            try:
                self._serve(_Annex(self._start(MODULE, plan)))
            except OSError as error:
                logger.warning("a receiving process cannot be started yet: %s", error.strerror)
            self._stopping.wait(RESTART_S)

    def _serve(self, annex: _Annex) -> None:
        is_ready = False
        try:
            while True:
                told: Told = annex.child.connection.recv()
                if told.name == "ready":
                    is_ready = True
                    with self._changing:
                        self._annexes.append(annex)
                elif told.name == "ended":
                    self._leave(annex, *told.values)
                else:
                    self._hearers.tell(told)
        except (EOFError, OSError):
            self._gone(annex, is_ready=is_ready)

    def _leave(self, annex: _Annex, number: int) -> None:
        with self._changing:
            left = annex.leaving.pop(number, None)
        if left is not None:
            left()

    def _gone(self, annex: _Annex, *, is_ready: bool) -> None:
        with self._changing:
            if is_ready:
                self._annexes.remove(annex)
        for number in list(annex.leaving):
            self._leave(annex, number)
        if not self._stopping.is_set():
            logger.warning("receiving process %d ended unexpectedly and is replaced", annex.child.pid)
            annex.child.kill()
