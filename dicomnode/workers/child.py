"""Child processes: a module's name and its settings in, a running process with a lifeline out.

The lifeline is a socket pair. Its end of file tells a child that its parent is gone, however that died, so no child
outlives the node. Everything sent over it comes from this program: it is not a port.
"""

import os
import select
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from socket import socketpair
from typing import Any

from dicomnode.workers import limits

WAITING = {"OMP_WAIT_POLICY": "passive"}  # threads that spin while they wait take the other workers' cores


class Child:
    """One running child. Its module is started as `python -m MODULE FD` and receives `settings` as first message."""

    def __init__(self, module: str, settings: Any) -> None:
        ours, theirs = socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | WAITING,
            )
        self.connection = Connection(os.dup(ours.fileno()))
        ours.close()
        self.connection.send(settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wake(self) -> None:
        """A message without content. Never blocks: where the lifeline is full, wake-ups are waiting already."""
        try:
            _, writable, _ = select.select([], [self.connection], [], 0)
            if writable:
                self.connection.send(None)
        except OSError:
            return  # it ended: whoever watches it sees that

    def hang_up(self) -> None:
        """Close the lifeline: the child ends after what it is doing."""
        self.connection.close()

    def join(self, timeout_s: float) -> None:
        """Wait for the end; kill when it does not come."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """End it now. Safe while another thread waits for an answer: that sees the end of file."""
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End it now and close the lifeline."""
        self.end()
        self.connection.close()


def lifeline() -> tuple[Connection, Any]:
    """In a child: the connection to the parent and the settings it sent. Ctrl-C is the parent's to act on."""
    limits.without_core_dumps()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    return connection, connection.recv()


def parent_gone(connection: Connection, wait_s: float) -> bool:
    """Wait up to `wait_s` for a wake-up from the parent; True when the parent hung up or died."""
    try:
        while connection.poll(wait_s):
            connection.recv()
            wait_s = 0.0
    except (EOFError, OSError):
        return True
    return False
