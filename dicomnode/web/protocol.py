"""A connection to the HTTP port in, requests out of it, unless it is one too many or says or takes nothing in time.

uvicorn bounds heads, and how much of an answer waits for a slow reader. Not there: connections that never ask, readers
that take a byte now and then, and room for somebody else when both have taken all of it: then who has stood still for
longest goes, of those from the address that has most connections.
"""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

NOBODY: Final = "0.0.0.0"  # noqa: S104 - whom a connection without an address is counted as
LEAST: Final = 16 << 10  # bytes of an answer that a reader takes in each time-out, while more of it waits


class Guard:
    """How many connections there are, and which of them wait for their peer; used by the event loop's thread alone."""

    def __init__(self, most: int, most_per_address: int, uncounted: Iterable[str], timeout_s: float) -> None:
        """`uncounted`: networks of proxies, from which everybody comes."""
        self.timeout_s = timeout_s
        self._most = most
        self._most_per_address = most_per_address
        self._uncounted = tuple(map(ipaddress.ip_network, uncounted))
        self._open: Counter[str] = Counter()
        self._still: dict[str, dict[GuardedProtocol, None]] = {}  # by address, those that wait for longest first

    def enter(self, address: str) -> bool:
        """Whether there is room for one more from there, or is made for it; it is counted when there is."""
        if self._open[address] >= self._most_per_address and not self._is_proxy(address):
            return False
        if self._open.total() >= self._most and not self._make_room():
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """It has ended."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def waits(self, connection: "GuardedProtocol") -> None:
        """It is its peer's turn, as it may have been before."""
        self._still.setdefault(connection.address, {}).setdefault(connection)

    def goes_on(self, connection: "GuardedProtocol") -> None:
        """Something has come or was taken, or it has ended."""
        beside = self._still.get(connection.address, {})
        beside.pop(connection, None)
        if not beside:
            self._still.pop(connection.address, None)

    def _make_room(self) -> bool:
        if not self._still:
            return False
        crowded = max(self._still, key=self._open.__getitem__)
        next(iter(self._still[crowded])).end()
        return True

    def _is_proxy(self, address: str) -> bool:
        return any(ipaddress.ip_address(address.partition("%")[0]) in network for network in self._uncounted)


class GuardedProtocol(H11Protocol):
    """Closed at once when there is no room, and when no request comes, or too little of an answer is taken, in time."""

    guard: ClassVar[Guard]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.address = NOBODY
        self._is_in = False  # counted
        self._deadline: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes of answers when the deadline was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in, or not."""
        super().connection_made(transport)
        self.address = str((transport.get_extra_info("peername") or (NOBODY,))[0])
        self._is_in = self.guard.enter(self.address)
        if self._is_in:
            self._wait()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is room for another."""
        super().connection_lost(exc)
        self._leave()

    def end(self) -> None:
        """Cut it off: somebody else needs the room."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        self._go_on()
        if self._is_in:
            self.guard.leave(self.address)
            self._is_in = False

    def data_received(self, data: bytes) -> None:
        """A request that has begun must be whole in time, however slowly its bytes come."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._go_on()
        elif self._deadline is None and (before is None or before.response_complete):
            self._wait()

    def pause_writing(self) -> None:
        """So much of an answer is not taken that no more of it is made."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """Nearly all of that was taken."""
        super().resume_writing()
        self._go_on()

    def on_response_complete(self) -> None:
        """What is left of the answer must be taken in time, too; then uvicorn waits for another request."""
        super().on_response_complete()
        if not self._is_in or not (self.cycle is None or self.cycle.response_complete):
            return
        if self.transport.get_write_buffer_size():
            self._wait()
        self.guard.waits(self)

    def _wait(self) -> None:
        """For the peer."""
        if not self._is_in:
            return
        if self._deadline is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._deadline = self.loop.call_later(self.guard.timeout_s, self._look)
        self.guard.waits(self)

    def _look(self) -> None:
        """The time is over. Who reads slowly is given more of it, who does not is cut off."""
        taken = self._unsent - self.transport.get_write_buffer_size()
        self._go_on()
        if taken < LEAST:
            self.transport.abort()
        else:
            self._wait()

    def _go_on(self) -> None:
        self.guard.goes_on(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def guarded(guard: Guard) -> type[GuardedProtocol]:
    """The protocol class of a port with this guard: uvicorn makes its instances."""
    return type("GuardedProtocol", (GuardedProtocol,), {"guard": guard})
