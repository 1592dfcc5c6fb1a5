"""Audit messages in, what became of them counted: handed to every sink by a thread of its own, or dropped.

Memory bound: `maximum` messages for each sink. A door never waits: when a sink does not keep up, its newest messages
are dropped, counted and told of in the log, without a word of what they said.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final, Protocol

from dicomnode import log
from dicomnode.audit.message import Message
from dicomnode.audit.sinks import Sink, sink_of
from dicomnode.settings import Config

logger = logging.getLogger(__name__)

RETRY_S: Final = (0.2, 1.0, 5.0, 30.0)  # between attempts at one message, the last again and again
STOP_S: Final = 5.0  # for what waits when the node stops


class Trail(Protocol):
    """Takes messages. Safe for threads; neither waits nor raises."""

    def record(self, message: Message) -> None: ...


class FakeTrail:
    """Keeps messages in memory, for tests."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def record(self, message: Message) -> None:
        self.messages.append(message)


class _Lane:
    """One sink, what waits for it, and the thread that writes."""

    def __init__(self, sink: Sink, maximum: int) -> None:
        self._sink = sink
        self._maximum = maximum
        self._waiting: SimpleQueue[tuple[str, float] | None] = SimpleQueue()  # None: the end
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self._is_full = False
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="audit-trail", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._waiting.qsize()

    def put(self, xml: str, at: float) -> None:
        if self.waiting < self._maximum:
            self._waiting.put((xml, at))
            return
        self._lose(1)
        if not self._is_full:
            self._is_full = True
            logger.error("audit trail %s does not keep up: messages are lost until it does", self._sink.name)

    def _lose(self, count: int) -> None:
        with self._counting:
            self.lost += count

    def close(self) -> None:
        """Write what waits, for a while."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(STOP_S)
        left = max(0, self.waiting - 1)
        if left:
            self._lose(left)
            logger.error("audit trail %s: %d messages could not be written", self._sink.name, left)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            if not self._write(*message):
                break
        self._sink.close()

    def _write(self, xml: str, at: float) -> bool:
        """Whether it was written; tried until it is, or the node stops."""
        attempt = 0
        while True:
            try:
                self._sink.write(xml, at)
            except OSError as error:
                self._tell(attempt, error)
                if self._stopping.wait(RETRY_S[min(attempt, len(RETRY_S) - 1)]):
                    self._lose(1)
                    return False
                attempt += 1
            else:
                break
        self._recovered(attempt)
        return True

    def _tell(self, attempt: int, error: OSError) -> None:
        if not attempt:
            why = log.printable(error.strerror or error)
            logger.error("audit trail %s cannot be written, it is tried again: %s", self._sink.name, why)

    def _recovered(self, attempt: int) -> None:
        if attempt:
            logger.warning("audit trail %s is written again", self._sink.name)
        if self._is_full and self.waiting < self._maximum:
            self._is_full = False
            logger.error("audit trail %s: %d messages lost so far", self._sink.name, self.lost)


class SinkTrail:
    """Hands messages to sinks; without a sink it does nothing."""

    def __init__(self, source: str, sinks: tuple[Sink, ...], maximum: int) -> None:
        """`source`: which system reports; `maximum`: messages that may wait for each sink."""
        self._source = source
        self._lanes = [_Lane(sink, maximum) for sink in sinks]

    @property
    def lost(self) -> int:
        """Messages that no longer reach a sink."""
        return sum(lane.lost for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Messages that are to be written."""
        return sum(lane.waiting for lane in self._lanes)

    @property
    def is_on(self) -> bool:
        """Whether anybody writes anything down."""
        return bool(self._lanes)

    def record(self, message: Message) -> None:
        """Write it soon."""
        if self._lanes:
            xml = message.xml(self._source)
            for lane in self._lanes:
                lane.put(xml, message.at)

    def close(self) -> None:
        """Write what waits, and end."""
        for lane in self._lanes:
            lane.close()


def of_config(config: Config, host: str) -> SinkTrail:
    """The trail that the settings ask for; `host`: the name of this machine."""
    sinks = tuple(sink_of(where, config) for where in config.audit.to)
    return SinkTrail(f"{config.dimse.ae_title}@{host}", sinks, max(1, config.audit.maximum_waiting))


@contextmanager
def opened(config: Config, host: str) -> Iterator[SinkTrail]:
    """The same for a command: written to the end before it returns."""
    trail = of_config(config, host)
    try:
        yield trail
    finally:
        trail.close()
