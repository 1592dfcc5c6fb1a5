"""Ten thousand slow readers at once, from two hundred addresses: what they cost, and what others still get."""

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import numpy as np
import psutil
import pytest

from dicomnode.dimse import client
from dicomnode.web.server import ACCEPTED, BACKLOG
from tests import nodes
from tests.integration.web.conftest import film, path_of
from tests.integration.web.test_store import other_film, posted, related
from tests.nodes import RunningNode
from tests.raw import wait_until

READERS = 10_000
TIMEOUT_S = 4.0
CONNECTIONS = 256  # web.maximum_connections
LARGE = 2500  # pixels of a side: 12.5 MB
RUSH_S = 45.0  # a search, a film and a store while they all come: a lost SYN is sent again after 1, 2, 4, 8, 16 s
HONEST_S = 10.0  # and when they are there
MEMORY_MIB = 256  # that the node grows by: its connections may have a film's picture each to be sent
MIB = 1 << 20


@dataclass
class Cost:
    """What the node's process takes."""

    memory: int  # bytes, resident
    threads: int
    files: int  # sockets, too

    @classmethod
    def of(cls, process: psutil.Process) -> "Cost":
        return cls(process.memory_info().rss, process.num_threads(), process.num_fds())

    def most(self, other: "Cost") -> "Cost":
        return Cost(max(self.memory, other.memory), max(self.threads, other.threads), max(self.files, other.files))


class Meter:
    """Samples a process in a thread until it is read."""

    def __init__(self, process: psutil.Process) -> None:
        self.before = self.peak = Cost.of(process)
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.peak = self.peak.most(Cost.of(self._process))

    def read(self) -> Cost:
        """The peak."""
        self._over.set()
        self._thread.join()
        return self.peak


@pytest.fixture(scope="module")
def large():
    dataset = film(0)
    dataset.Rows = dataset.Columns = LARGE
    dataset.PixelData = np.zeros((LARGE, LARGE), np.uint16).tobytes()
    return dataset


@pytest.fixture(scope="module")
def busy(large, films, tmp_path_factory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("busy")
    large.save_as(folder / "large.dcm", enforce_file_format=True)
    limits = {"DICOMNODE_WEB__TIMEOUT_S": str(TIMEOUT_S)}
    with nodes.running_node(folder / "root", "--workers", "0", "--http-port", "0", environment=limits) as node:
        paths = [folder / "large.dcm", films.folder / "4.dcm"]
        assert all(sent.ok for sent in client.send(node.peer, paths))
        yield node


def asked(node: RunningNode, films, folder, number: int) -> float:
    """Seconds that a search, a film and a store of somebody else take together; tried again when it is cut off."""
    started = time.monotonic()
    dataset = other_film(100 + number)
    dataset.save_as(folder / "honest.dcm", enforce_file_format=True)
    while True:
        try:
            with httpx.Client(base_url=node.url, timeout=30) as http:
                assert http.get("/dicom-web/studies").status_code == 200
                assert http.get(path_of(films.script)).status_code == 200
                assert posted(http, related((folder / "honest.dcm").read_bytes())).status_code == 200
            return time.monotonic() - started
        except httpx.TransportError:
            assert time.monotonic() - started < RUSH_S, "cut off again and again"


def web_connections(process: psutil.Process, port: int) -> int:
    """Of the HTTP port, that the node has."""
    found = process.net_connections("tcp4")
    return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in found)


@contextmanager
def crowd(node: RunningNode, *paths: str) -> Iterator["subprocess.Popen[str]"]:
    """The readers, in a process that ends with the test."""
    command = [sys.executable, "-m", "tests.integration.web.crowd", node.http_port, READERS, *paths]
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.timeout(120)
def test_ten_thousand_slow_readers_cost_little_and_others_are_served(busy, large, films, tmp_path):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < READERS + 200:
        pytest.skip("the system permits fewer open files")
    process = psutil.Process(busy.process.pid)
    asked(busy, films, tmp_path, 0)
    meter = Meter(process)
    paths = (path_of(large), f"{path_of(films.script)}/rendered", "/dicom-web/instances?includefield=all")
    with crowd(busy, *paths) as readers:
        rush = [asked(busy, films, tmp_path, 1)]
        assert readers.stdout.readline() == "they are there\n"
        held = web_connections(process, busy.http_port)
        honest = [asked(busy, films, tmp_path, number) for number in range(2, 6)]
        readers.stdin.close()
        told = json.loads(readers.stdout.readline())
    peak = meter.read()
    assert told["connected"] > 0.9 * READERS
    assert told["taken"] > 0
    assert told["cut"] > READERS / 2  # as far as they noticed: what was sent before is still there to be read
    assert (max(rush) < RUSH_S, max(honest) < HONEST_S) == (True, True), (rush, honest)
    assert 0 < held <= CONNECTIONS + BACKLOG
    assert peak.files - meter.before.files < 2 * CONNECTIONS + 4 * ACCEPTED
    assert peak.threads - meter.before.threads < 48
    assert peak.memory - meter.before.memory < MEMORY_MIB * MIB, (peak.memory - meter.before.memory) // MIB
    assert wait_until(lambda: web_connections(process, busy.http_port) == 0, 4 * TIMEOUT_S)
    assert client.echo(busy.peer) == 0
    assert "Traceback" not in busy.log_text
