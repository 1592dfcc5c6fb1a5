"""A step that does the next thing that is due in, a thread that repeats it while there is one out."""

import logging
import threading
from collections.abc import Callable

from dicomnode import log

logger = logging.getLogger(__name__)


class Rounds:
    """Steps while there is work, then waits to be woken or for `poll_s`. A step that fails is tried again later."""

    def __init__(self, name: str, step: Callable[[], bool], poll_s: float, complaint: str) -> None:
        """`step` returns whether something was due; `complaint`: the log line of one that raised."""
        self._step = step
        self._poll_s = poll_s
        self._complaint = complaint
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether nothing new is begun any more."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin with what is due."""
        self._thread.start()

    def wake(self) -> None:
        """Something became due. From any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping.set()
        self._wake.set()

    def join(self) -> None:
        """Wait for what is in hand."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self.stopping:
            try:
                if self._step():
                    continue
            except Exception as error:  # noqa: BLE001 - the thread goes on: a database comes back
                logger.error("%s, the next round tries again: %s", self._complaint, log.frames(error))
            self._wake.wait(self._poll_s)
            self._wake.clear()
