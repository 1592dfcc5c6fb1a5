"""A node that writes down the steps of each C-STORE, and dies at the one it is told: `python -m THIS serve ...`.

STEPS names the file that the steps go to, a line each; DIE_AT the step behind which the process kills itself. What is
watched are the calls that reach the system: fsync, rename, the database's COMMIT, what is written to the peer.
"""

import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from dicomnode.__main__ import main
from dicomnode.dimse.transport import GuardedSocket
from storage.arrivals import Arrivals
from storage.files import Scratch

RECEIVED, SYNCED, RENAMED, FOLDER, ROW, COMMITTED, ANSWERED = STEPS = (
    "file complete",
    "file synced",
    "renamed",
    "folder synced",
    "row written",
    "committed",
    "answered",
)


class Watch:
    """What one instance goes through: nothing is written down before its file is complete, or after its answer."""

    def __init__(self, log: Path, die_at: str) -> None:
        self._log = log
        self._die_at = die_at
        self._thread = 0  # that serves the instance; others go on meanwhile

    def step(self, name: str) -> None:
        """Write the step down, and die when it is the one."""
        if self._thread == threading.get_ident():
            with self._log.open("a") as log:
                log.write(f"{name}\n")
            if name == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == ANSWERED:
                self._thread = 0

    def behind(self, owner: Any, attribute: str, name: Callable[..., str]) -> None:
        """A step behind each call of a function; no name, no step."""
        called = getattr(owner, attribute)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            result = called(*arguments, **keywords)
            if told := name(*arguments):
                self.step(told)
            return result

        setattr(owner, attribute, watched)

    def begins(self, scratch: Scratch) -> None:
        """The file of an instance is complete: it is about to be synced."""
        self._thread = threading.get_ident()
        self.step(RECEIVED)


def watched(watch: Watch) -> None:
    """Every step of the process from now on."""
    synced = Scratch.sync

    def sync(scratch: Scratch) -> None:
        watch.begins(scratch)
        synced(scratch)

    Scratch.sync = sync  # type: ignore[method-assign]
    watch.behind(os, "fsync", lambda fd: FOLDER if stat.S_ISDIR(os.fstat(fd).st_mode) else SYNCED)
    watch.behind(os, "rename", lambda *_: RENAMED)
    watch.behind(Arrivals, "end", lambda *_: ROW)
    watch.behind(DefaultDialect, "do_commit", lambda *_: COMMITTED)
    watch.behind(GuardedSocket, "send", lambda *_: ANSWERED)


if __name__ == "__main__":
    watched(Watch(Path(os.environ["STEPS"]), os.environ.get("DIE_AT", "")))
    main()
