"""More than a node can do at once: it refuses or queues, within its memory, and nobody waits for who is slow.

SOAK=1 in the environment: the large object has 2 GB, else a part of that.
"""

import os
import struct
import threading
from pathlib import Path

import psutil
import pytest

from dicomnode.dimse import client, status
from storage.store import Store
from tests import nodes, raw
from tests.encoded import element, instance
from tests.faults import oracle, senders
from tests.faults.oracle import Place
from tests.faults.senders import Ledger
from tests.faults.storm import PROGRAM
from tests.faults.test_full import INDEXER, films, sent
from tests.nodes import RunningNode

MIB = 1 << 20
LARGE = (2048 if os.environ.get("SOAK") else 256) * MIB
GROWS_MIB = 64  # the receiver, whatever comes
EACH_MIB = 1.5  # and for each association: its buffer, its threads
ASSOCIATIONS = (8, 64)
UID = "2.25.4711"


def pss(node: RunningNode) -> float:
    """MiB of memory that is the receiver's own, and its share of what is not."""
    return psutil.Process(node.process.pid).memory_full_info().pss / MIB


class Peak:
    """The most that the receiver had, from entry to exit, above what it had at entry."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._before = self._most = pss(self._node)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grown_mib(self) -> float:
        return self._most - self._before

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._most = max(self._most, pss(self._node))


def large_object(peer: raw.RawPeer, size: int) -> int:
    """Send a film whose pixels are so many bytes, made as they are sent; the status."""
    side = struct.pack("<H", 65_000)
    pixels = element(0x7FE00010, b"OW", length=size)
    head = instance(UID, element(0x00280010, b"US", side), element(0x00280011, b"US", side), pixels)
    assert peer.associate() == raw.ASSOCIATE_AC
    begun = raw.store_message(b"", UID) + raw.pdu(raw.P_DATA, raw.pdv(3, 0, head))
    assert peer.send(begun)
    piece = raw.pdu(raw.P_DATA, raw.pdv(3, 0, bytes(65_536)))
    for _ in range(size // 65_536 - 1):
        assert peer.send(piece)
    assert peer.send(raw.pdu(raw.P_DATA, raw.pdv(3, raw.LAST, bytes(65_536))))
    answer = peer.answer()
    assert answer is not None
    return answer.status


@pytest.mark.timeout(900)
def test_associations_and_a_large_object_take_bounded_memory_while_the_worker_sleeps(tmp_path):
    """8 and 64 associations at once, then an object of gigabytes; the only worker does nothing meanwhile."""
    root, ledger, sending = tmp_path / "root", Ledger(), tmp_path / "sent"
    environment = {"DICOMNODE_DIMSE__MAXIMUM_PER_ADDRESS": "64", "DICOMNODE_DIMSE__MAXIMUM_ASSOCIATIONS": "64"}
    with nodes.running_node(root, "--workers", "1", environment=environment, module=PROGRAM) as node:
        assert sent(node, films(sending, 1, 1), ledger) == [0]
        (worker,) = [each for each in psutil.Process(node.process.pid).children() if INDEXER in each.cmdline()]
        worker.suspend()
        for number in ASSOCIATIONS:
            with Peak(node) as peak:
                assert at_once(node, sending, number, ledger) == [0] * number
            assert peak.grown_mib < GROWS_MIB + EACH_MIB * number, f"{number}: {peak.grown_mib:.0f} MiB"
        with Peak(node) as peak, raw.RawPeer(node.port, 300.0) as peer:
            assert large_object(peer, LARGE) == status.SUCCESS
        assert peak.grown_mib < GROWS_MIB, f"{peak.grown_mib:.0f} MiB"
        with Store.open(root) as store:
            live = store.generations.live()
            counts = store.jobs.counts(live.id)
            assert counts.instances == 2 + sum(ASSOCIATIONS)
            assert counts.queued >= counts.instances - 1  # nothing was done, and all of it was taken
        worker.resume()
        place = Place(root, "")
        assert oracle.settle(place, node) or list(oracle.violations(place, ledger, node, [])) == []
        with Store.open(root) as store:
            (unindexed,) = store.jobs.failures()
            assert (unindexed.sop_instance_uid, bool(unindexed.reason)) == (UID, True)


def at_once(node: RunningNode, folder: Path, number: int, ledger: Ledger) -> list[int | None]:
    """A film on each of so many associations, all open at the same time; the statuses."""
    made = films(folder, 1000 * number, number, side=senders.SIDE)
    together, found = threading.Barrier(number), list[int | None]()

    def one(film: senders.Made) -> None:
        with raw.RawPeer(node.port, 120.0) as peer:
            assert peer.associate(body()) == raw.ASSOCIATE_AC
            together.wait(120)
            peer.send(raw.store_message(senders.data_set_of(film.path), film.uid, context_id=3))
            answer = peer.answer()
            found.append(answer and answer.status)
            if answer and answer.status == 0:
                ledger.acknowledged(film)

    threads = [threading.Thread(target=one, args=(film,)) for film in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def body() -> bytes:
    """An A-ASSOCIATE-RQ for films in Explicit VR Little Endian."""
    contexts = raw.context_item(3, senders.DX, ["1.2.840.10008.1.2.1"])
    return raw.request_body(contexts + raw.user_item())


@pytest.mark.timeout(300)
def test_above_the_watermark_nothing_is_taken_and_status_says_so(tmp_path):
    root, ledger = tmp_path / "root", Ledger()
    high = {"DICOMNODE_STORAGE__MINIMUM_FREE_MIB": str(10**9)}
    with nodes.running_node(root, "--workers", "0", environment=high, module=PROGRAM) as node:
        assert sent(node, films(tmp_path / "sent", 1, 2), ledger) == [status.OUT_OF_RESOURCES] * 2
        assert client.echo(node.peer) == 0
        os.environ.update(high)
        try:
            told = nodes.answered("status", "--root", root)
        finally:
            for name in high:
                del os.environ[name]
    assert (told["instances"], told["accepting"]) == (0, False)
    assert told["free_mib"] > 0
    assert nodes.answered("status", "--root", root)["accepting"] is True
