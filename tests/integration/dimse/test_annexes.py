"""More than one receiving process: who goes where, what the node knows of it, and what becomes of it when one dies."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicomnode.dimse import client
from storage.store import Store
from tests import nodes, raw
from tests.encoded import instance
from tests.nodes import RunningNode
from tests.raw import DX, RawPeer

RECEIVERS, MOST = 3, 6
STORING = raw.request_body(
    raw.context_item(1, raw.VERIFICATION, ["1.2.840.10008.1.2.1"])
    + raw.context_item(3, DX, ["1.2.840.10008.1.2.1"])
    + raw.user_item()
)
SETTINGS = f"""
[dimse]
receivers = {RECEIVERS}
maximum_associations = {MOST}
acse_timeout_s = 2.0
[audit]
to = ["audit.xml"]
"""


@contextmanager
def started(folder: Path) -> Iterator[RunningNode]:
    """A node whose receiving processes are ready."""
    settings = folder / "dicomnode.toml"
    settings.write_text(SETTINGS)
    arguments = ("--workers", "0", "--http-port", "0", "--config", str(settings))
    with nodes.running_node(folder / "root", *arguments) as running:
        until(lambda: spread(running))
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with started(tmp_path_factory.mktemp("annexes")) as running:
        yield running


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def annexes(node: RunningNode) -> list[psutil.Process]:
    children = psutil.Process(node.process.pid).children()
    return [child for child in children if "dicomnode.dimse" in child.cmdline()]


def connections(process: psutil.Process) -> int:
    """How many TCP connections it has open."""
    return sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections(kind="tcp"))


@contextmanager
def storing(node: RunningNode, count: int) -> Iterator[list[RawPeer]]:
    """So many peers with an association to store."""
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(node.port)) for _ in range(count)]
        assert [peer.associate(STORING) for peer in peers] == [raw.ASSOCIATE_AC] * count
        yield peers
        for peer in peers:
            peer.send(raw.pdu(raw.RELEASE_RQ, bytes(4)))
    until(lambda: gauge(node, "dicomnode_associations") == 0)


def spread(node: RunningNode) -> bool:
    """Whether each process gets its share."""
    with storing(node, RECEIVERS):
        return [connections(each) for each in annexes(node)] == [1] * (RECEIVERS - 1)


def gauge(node: RunningNode, name: str) -> float:
    found = text_string_to_metric_families(httpx.get(f"{node.url}/metrics").text)
    return sum(sample.value for family in found for sample in family.samples if sample.name == name)


def stored(node: RunningNode) -> int:
    with Store.open(node.root) as store:
        assert store.check() == []
        return store.catalog.count()


def send(peer: RawPeer, uid: str) -> int | None:
    peer.send(raw.store_message(instance(uid), uid))
    answer = peer.answer()
    return None if answer is None else answer.status


def test_the_processes_that_peers_reach_load_no_codec(node: RunningNode) -> None:
    until(lambda: len(annexes(node)) == RECEIVERS - 1)
    until(lambda: spread(node))
    assert not any(nodes.loads(each, *nodes.CODECS) for each in annexes(node))


def test_instances_of_many_associations_are_kept_and_the_node_knows_of_them(node: RunningNode) -> None:
    before = stored(node)
    with storing(node, MOST) as peers:
        assert gauge(node, "dicomnode_associations") == MOST
        assert sorted(connections(each) for each in annexes(node)) == [2, 2]
        answers: list[int | None] = []
        threads = [
            threading.Thread(target=lambda p=peer, n=n: answers.extend(send(p, f"1.2.826.7.{n}.{k}") for k in range(5)))
            for n, peer in enumerate(peers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [0] * 5 * MOST
    assert stored(node) == before + 5 * MOST
    until(lambda: gauge(node, "dicomnode_received_instances_total") == before + 5 * MOST)
    until(lambda: (node.root / "audit.xml").read_text().count("DICOM Instances Transferred") >= MOST)


def test_there_are_no_more_associations_than_may_be_wherever_they_are(node: RunningNode) -> None:
    with storing(node, MOST), RawPeer(node.port) as one_more:
        assert one_more.associate(STORING) == raw.ASSOCIATE_RJ
    with storing(node, MOST):
        pass


def test_who_may_also_ask_stays_with_the_index(node: RunningNode) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(node.port)) for _ in range(3)]
        assert [peer.associate() for peer in peers] == [raw.ASSOCIATE_AC] * 3
        assert [connections(each) for each in annexes(node)] == [0, 0]
        peers[0].send(raw.find_message(raw.element(0x0008, 0x0052, b"STUDY ")))
        answer = peers[0].answer()
        assert answer is not None and answer.field == raw.C_FIND_RQ | raw.RESPONSE


def test_who_is_refused_here_is_refused_there(node: RunningNode) -> None:
    """A malformed object, and a message out of place."""
    with storing(node, RECEIVERS) as peers:
        for peer in peers:
            peer.send(raw.store_message(b"no data set", "1.2.3"))
            answer = peer.answer()
            assert answer is not None and answer.status == 0xC000
        for peer in peers:
            peer.send(raw.pdu(raw.P_DATA, b"\0"))
            ended = peer.next_pdu()
            assert ended is not None and ended[0] == raw.ABORT
            peer.socket.close()


def test_one_that_is_killed_is_replaced_and_takes_its_own_associations_with_it(node: RunningNode) -> None:
    known = {each.pid for each in annexes(node)}
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(node.port)) for _ in range(RECEIVERS)]
        assert [peer.associate(STORING) for peer in peers] == [raw.ASSOCIATE_AC] * RECEIVERS
        killed = annexes(node)[0]
        killed.kill()
        results = [send(peer, f"1.2.826.8.{n}") for n, peer in enumerate(peers)]
        assert sorted(results, key=str) == [0, 0, None]
    until(lambda: gauge(node, "dicomnode_associations") == 0)
    assert client.echo(node.peer) == 0
    until(lambda: len({each.pid for each in annexes(node)} - known) == 1 and spread(node))
    assert f"receiving process {killed.pid} ended unexpectedly" in node.log_text


def test_they_end_with_the_node_however_that_ends(tmp_path: Path) -> None:
    with started(tmp_path) as node, storing_until_the_end(node) as peers:
        children = annexes(node)
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(60) == 0
        assert all(peer.ended() for peer in peers)
        assert psutil.wait_procs(children, timeout=0.5)[1] == []
    with started(tmp_path) as node, storing_until_the_end(node) as peers:
        children = annexes(node)
        node.process.kill()
        node.process.wait()
        assert psutil.wait_procs(children, timeout=30)[1] == []
        assert all(peer.ended() for peer in peers)
    with started(tmp_path) as node:
        assert stored(node) == 0


@contextmanager
def storing_until_the_end(node: RunningNode) -> Iterator[list[RawPeer]]:
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(node.port)) for _ in range(RECEIVERS)]
        assert [peer.associate(STORING) for peer in peers] == [raw.ASSOCIATE_AC] * RECEIVERS
        yield peers
