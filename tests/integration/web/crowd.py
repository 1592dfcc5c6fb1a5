"""A crowd of slow readers, in a process of its own: each connects, asks, and then reads a byte a second, or never.

Command line: port, how many, then the paths that they ask for in turn. Prints a line when nearly all have come, stays
until standard input is closed, and prints JSON: how many connected, how many were cut off, bytes read.
"""

import json
import resource
import select
import selectors
import socket
import sys
import time
from contextlib import suppress
from itertools import cycle

PER_ADDRESS = 50  # readers that come from one address
WINDOW = 2048  # bytes of a reader's receive buffer
ARRIVE_S = 40.0  # that they may take to come: a machine may be busy, and a lost SYN is sent again after 1, 2, 4, 8 s
ENOUGH = 0.95  # of them
BATCH = 500  # connections begun between two looks at the others


class Crowd:
    """The readers and what became of them."""

    def __init__(self, port: int, paths: list[str]) -> None:
        self.connected = self.cut = self.taken = 0
        self._port = port
        self._paths = cycle(paths)
        self._selector = selectors.DefaultSelector()
        self._never: set[socket.socket] = set()  # half of them read nothing
        self._made = 0

    def come(self) -> None:
        """One more, from an address of the loopback network that it shares with a few others."""
        reader = socket.socket()
        reader.setblocking(False)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        number = self._made // PER_ADDRESS
        reader.bind((f"127.1.{number // 250}.{number % 250 + 1}", 0))
        reader.connect_ex(("127.0.0.1", self._port))
        if self._made % 2:
            self._never.add(reader)
        self._made += 1
        self._selector.register(reader, selectors.EVENT_WRITE)

    def look(self, timeout_s: float) -> None:
        """Let those ask that are connected, and take a byte each for those that read."""
        for key, events in self._selector.select(timeout_s):
            reader = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    self._ask(reader)
                else:
                    self._read(reader)
            except OSError:
                self._close(reader)

    def _ask(self, reader: socket.socket) -> None:
        head = f"GET {next(self._paths)} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"
        reader.send(head.encode())
        self.connected += 1
        self._selector.modify(reader, selectors.EVENT_READ)

    def _read(self, reader: socket.socket) -> None:
        if reader in self._never:
            if not reader.recv(1, socket.MSG_PEEK):
                self._close(reader)
            return
        data = reader.recv(1)
        if not data:
            self._close(reader)
        self.taken += len(data)

    def _close(self, reader: socket.socket) -> None:
        self.cut += 1
        self._selector.unregister(reader)
        reader.close()

    def go(self) -> None:
        """All of them at once."""
        for key in list(self._selector.get_map().values()):
            with suppress(OSError):
                key.fileobj.close()


def main(port: str, count: str, *paths: str) -> None:
    """Come in batches, wait until nearly all are there, then read until told to go."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd(int(port), list(paths))
    deadline = time.monotonic() + ARRIVE_S
    for number in range(int(count)):
        crowd.come()
        if number % BATCH == BATCH - 1:
            crowd.look(0)
    while crowd.connected < ENOUGH * int(count) and time.monotonic() < deadline:
        crowd.look(0.1)
        time.sleep(0.4)
    print("they are there", flush=True)
    while not select.select([sys.stdin], [], [], 0.9)[0]:
        crowd.look(0.1)
    print(json.dumps({"connected": crowd.connected, "cut": crowd.cut, "taken": crowd.taken}), flush=True)
    crowd.go()


if __name__ == "__main__":
    main(*sys.argv[1:])
