"""Clients that hold the HTTP port up: silent, half said, reading nothing, too many. Others are served meanwhile."""

import socket
import time
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
import pytest

from dicomnode.dimse import client
from tests import nodes
from tests.integration.web.conftest import film, path_of
from tests.nodes import RunningNode

TIMEOUT_S = 1.0
PER_ADDRESS = 40
READERS = 30
SIDE = 3000
LIMITS = {
    "DICOMNODE_WEB__TIMEOUT_S": str(TIMEOUT_S),
    "DICOMNODE_WEB__MAXIMUM_PER_ADDRESS": str(PER_ADDRESS),
}


@pytest.fixture(scope="module")
def large():
    dataset = film(0)
    dataset.Rows = dataset.Columns = SIDE
    dataset.PixelData = np.zeros((SIDE, SIDE), np.uint16).tobytes()
    return dataset


@pytest.fixture(scope="module")
def short(large, tmp_path_factory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("short")
    large.save_as(folder / "large.dcm", enforce_file_format=True)
    arguments = ("--workers", "0", "--http-port", "0")
    with nodes.running_node(folder / "root", *arguments, environment=LIMITS) as node:
        assert all(sent.ok for sent in client.send(node.peer, [folder / "large.dcm"]))
        yield node


def connected(node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.http_port), timeout=10)


def is_served(node) -> bool:
    return httpx.get(node.url + "/health/live", timeout=10).status_code == 200


def closed_after(peer: socket.socket) -> float:
    """Seconds until the other side closes."""
    started = time.monotonic()
    peer.settimeout(5 * TIMEOUT_S)
    try:
        while peer.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - started


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /dicom-web/st", b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"],
)
def test_who_does_not_ask_in_time_is_hung_up_on(short, said):
    with connected(short) as peer:
        peer.sendall(said)
        assert closed_after(peer) < 4 * TIMEOUT_S
    assert is_served(short)


def test_a_head_that_comes_byte_by_byte_has_the_same_deadline(short):
    started = time.monotonic()
    with connected(short) as peer, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(200):
            peer.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - started < 6 * TIMEOUT_S


def test_a_body_that_pauses_is_ended(short):
    head = b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Type: application/dicom\r\n"
    with connected(short) as peer:
        peer.sendall(head + b"Content-Length: 9999\r\n\r\n" + b"\0" * 100)
        assert b" 408 " in peer.recv(4096)
    assert not list((short.root / "scratch").iterdir())


def test_readers_that_take_nothing_cost_little_and_are_cut_off(short, large):
    process = psutil.Process(short.process.pid)
    assert is_served(short)
    before = process.memory_info().rss
    request = f"GET {path_of(large)} HTTP/1.1\r\nHost: x\r\nAccept: application/dicom; transfer-syntax=*\r\n\r\n"
    peers = [connected(short) for _ in range(READERS)]
    for peer in peers:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(request.encode())
    time.sleep(1)
    assert is_served(short)
    assert process.memory_info().rss - before < READERS * (2 << 20)  # of an 18 MB file each
    deadline = time.monotonic() + 20 * TIMEOUT_S
    while sum(each.status == "ESTABLISHED" for each in process.net_connections()) > 2:
        assert time.monotonic() < deadline, "slow readers are still connected"
        time.sleep(0.2)
    for peer in peers:
        peer.close()


def test_more_connections_than_an_address_may_have_are_closed(short):
    peers = [connected(short) for _ in range(PER_ADDRESS + 5)]
    time.sleep(0.3)
    closed = 0
    for peer in peers:
        peer.setblocking(False)
        try:
            closed += peer.recv(1) == b""
        except BlockingIOError:
            continue
        except ConnectionResetError:
            closed += 1
    for peer in peers:
        peer.close()
    assert closed >= 5
    time.sleep(0.3)
    assert is_served(short)


def test_what_is_no_http_is_refused_and_nothing_of_it_is_logged(short):
    for said in (b"\x00" * 100 + b"\r\n\r\n", b"GET /Secret^Name\xff HTTP/1.1\r\n\r\n", b"BREW / HTTP/9.9\r\n\r\n"):
        with connected(short) as peer:
            peer.sendall(said)
            assert not peer.recv(4096).startswith(b"HTTP/1.1 200")
    httpx.get(short.url + "/dicom-web/studies?PatientName=Secret%5EName")
    assert "Secret" not in short.log_text
    assert is_served(short)


def test_a_port_that_is_taken_is_said_in_one_line(short, tmp_path):
    taken = ("--http-port", str(short.http_port))
    arguments = ("--root", str(tmp_path / "root"), "--host", "127.0.0.1", "--port", "0", "--workers", "0")
    done = nodes.dicomnode("serve", *arguments, *taken, check=False)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{short.http_port}" in done.stderr
