"""Names of callers in, when each was last heard of out: what the admin page says of peers. Memory only."""

import threading
import time
from collections.abc import Callable, Iterable


class Contacts:
    """When the peers of the table last called, by any port. Safe for threads. Memory bound: one number a peer."""

    def __init__(self, ae_titles: Iterable[str], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last: dict[str, float | None] = dict.fromkeys(ae_titles)
        self._lock = threading.Lock()

    def heard(self, ae_title: str) -> None:
        """It called just now, and was let in; anybody else is nobody's peer."""
        with self._lock:
            if ae_title in self._last:
                self._last[ae_title] = self._clock()

    def last(self, ae_title: str) -> float | None:
        """Seconds since 1970; None when it has not called since the node started."""
        with self._lock:
            return self._last.get(ae_title)
