"""One child process that answers one question at a time: a request in, its reply out, for pixels and codecs.

A codec that crashes, hangs or wants too much memory takes one question with it. The child is started when first needed.
"""

import threading
from collections.abc import Callable
from typing import Any

from dicomnode.errors import DecodeError, NotReady
from dicomnode.workers import child


class Desk:
    """Asks the child; one that died or hangs is replaced and the question fails. Safe for threads: they wait."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Any,
        timeout_s: float,
        start: Callable[..., child.Child] = child.Child,
    ) -> None:
        """`name`: who it is in an error's text."""
        self._name = name
        self._module = module
        self._settings = settings
        self._timeout_s = timeout_s
        self._start = start
        self._child: child.Child | None = None
        self._lock = threading.Lock()
        self._stopping = False

    def ask(self, request: Any) -> Any:
        """The reply. DecodeError when there is none, NotReady while stopping."""
        with self._lock:
            return self._ask(request)

    def stop(self) -> None:
        """End it now; what is in hand fails."""
        self._stopping = True
        current = self._child
        if current is not None:
            current.end()
        with self._lock:
            self._drop()

    def _ask(self, request: Any) -> Any:
        if self._stopping:
            raise NotReady("the node is stopping")
        if self._child is None or not self._child.alive:
            self._drop()
            self._child = self._start(self._module, self._settings)
        try:
            self._child.connection.send(request)
            if self._child.connection.poll(self._timeout_s):
                return self._child.connection.recv()
        except (EOFError, OSError) as error:
            self._drop()
            raise DecodeError(f"the {self._name} died of it") from error
        self._drop()
        raise DecodeError(f"the {self._name} did not answer in time")

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
