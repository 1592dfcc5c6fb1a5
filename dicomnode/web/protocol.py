"""A connection to the HTTP port in, requests out of it, unless it is one too many or says nothing in time.

uvicorn bounds heads, bodies and what a slow reader leaves unsent. Not there: connections that never ask.
"""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

NOBODY: Final = "0.0.0.0"  # noqa: S104 - whom a connection without an address is counted as


class Guard:
    """How many connections there are; used by the event loop's thread alone."""

    def __init__(self, most: int, most_per_address: int, uncounted: Iterable[str], timeout_s: float) -> None:
        """`uncounted`: networks of proxies, from which everybody comes."""
        self.timeout_s = timeout_s
        self._most = most
        self._most_per_address = most_per_address
        self._uncounted = tuple(map(ipaddress.ip_network, uncounted))
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Whether there is room for one more from there; it is counted when there is."""
        full = self._open.total() >= self._most
        crowded = self._open[address] >= self._most_per_address and not self._is_proxy(address)
        if full or crowded:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """It has ended."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def _is_proxy(self, address: str) -> bool:
        return any(ipaddress.ip_address(address.partition("%")[0]) in network for network in self._uncounted)


class GuardedProtocol(H11Protocol):
    """Closed at once when there is no room, and when no request has come in time."""

    guard: ClassVar[Guard]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._address: str | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in, or not."""
        super().connection_made(transport)
        address = str((transport.get_extra_info("peername") or (NOBODY,))[0])
        if not self.guard.enter(address):
            transport.abort()
            return
        self._address = address
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is room for another."""
        super().connection_lost(exc)
        self._in_time()
        if self._address is not None:
            self.guard.leave(self._address)
            self._address = None

    def data_received(self, data: bytes) -> None:
        """A request that has begun must be whole in time, however slowly its bytes come."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._in_time()
        elif self._deadline is None and (before is None or before.response_complete):
            self._wait()

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.guard.timeout_s, self.transport.abort)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def guarded(guard: Guard) -> type[GuardedProtocol]:
    """The protocol class of a port with this guard: uvicorn makes its instances."""
    return type("GuardedProtocol", (GuardedProtocol,), {"guard": guard})
