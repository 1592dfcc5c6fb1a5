"""What is read ahead: taken in order, whatever the pieces are; under the deadline of a PDU."""

import random
import socket
import threading
import time

import pytest

from dicomnode.dimse.transport import GuardedSocket, Inflow


class Connected:
    """As much of a guarded socket as reading ahead needs."""

    need = GuardedSocket.need

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(0.05)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connected(ours), theirs


def test_bytes_are_taken_in_the_order_in_which_they_came(pair):
    connected, theirs = pair
    chance, inflow = random.Random(1), Inflow(64)
    sent, taken = chance.randbytes(5000), b""
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()
    while len(taken) < len(sent):
        size = min(chance.randint(1, 40), len(sent) - len(taken))
        connected.need(inflow, size, time.monotonic() + 10)
        assert bytes(inflow.peek(size)) == sent[len(taken) : len(taken) + size]
        taken += inflow.take(size)
    sender.join()
    assert (taken, len(inflow)) == (sent, 0)


def test_no_more_is_taken_than_there_is(pair):
    connected, theirs = pair
    inflow = Inflow(64)
    theirs.sendall(b"abc")
    connected.need(inflow, 1, time.monotonic() + 10)
    assert bytes(inflow.take(100)) == b"abc"


def test_a_byte_now_and_then_meets_the_deadline(pair):
    connected, theirs = pair
    theirs.sendall(b"a")
    with pytest.raises(TimeoutError):
        connected.need(Inflow(64), 6, time.monotonic() + 0.1)


def test_the_end_of_the_connection_is_an_error(pair):
    connected, theirs = pair
    theirs.sendall(b"abc")
    theirs.close()
    with pytest.raises(EOFError):
        connected.need(Inflow(64), 6, time.monotonic() + 10)


def test_what_was_released_is_gone_and_may_be_used_again(pair):
    connected, theirs = pair
    inflow = Inflow(64)
    theirs.sendall(b"abc")
    connected.need(inflow, 3, time.monotonic() + 10)
    inflow.release()
    assert (len(inflow), bytes(inflow.take(3))) == (0, b"")
    theirs.sendall(b"def")
    connected.need(inflow, 3, time.monotonic() + 10)
    assert bytes(inflow.take(3)) == b"def"
