"""A child that answers: a request in, its reply out, one at a time, whatever becomes of the child meanwhile."""

import threading
from collections.abc import Callable
from typing import Any

from dicomnode.errors import NotReady
from dicomnode.workers.child import Child


class NoAnswer(Exception):
    """The child died of the request, or hung over it and was ended."""

    def __init__(self, *, hung: bool) -> None:
        super().__init__("no answer in time" if hung else "died")
        self.hung = hung


class AskedChild:
    """Started when told to or when first asked; one that died or hangs is replaced for the next request."""

    def __init__(self, module: str, settings: Any, timeout_s: float, start: Callable[..., Child] = Child) -> None:
        self._module = module
        self._settings = settings
        self._timeout_s = timeout_s
        self._start = start
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Of the running child; None before the first request and after a failure."""
        return None if self._child is None else self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, ready or still loading."""
        current = self._child
        return current is not None and current.alive

    def start(self) -> None:
        """Begin loading what it needs, unless it runs; does not wait for it."""
        if self.alive:
            return
        with self._lock:
            if not self._stopping and not self.alive:
                self._drop()
                self._child = self._start(self._module, self._settings)

    def ask(self, request: Any) -> Any:
        """Its reply. Raises NoAnswer, and NotReady while stopping."""
        with self._lock:
            return self._asked(request)

    def stop(self) -> None:
        """End it now; requests in hand or waiting fail."""
        self._stopping = True
        current = self._child
        if current is not None:
            current.end()
        with self._lock:
            self._drop()

    def _asked(self, request: Any) -> Any:
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
            raise NoAnswer(hung=False) from error
        self._drop()
        raise NoAnswer(hung=True)

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


def serve(connection: Any, answer: Callable[[Any], Any]) -> None:
    """The child's side: answer requests until the parent hangs up. `answer` must not raise."""
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(answer(request))
