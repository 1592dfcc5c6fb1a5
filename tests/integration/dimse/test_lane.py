"""C-STORE by the lane: P-DATA cut anywhere, in any company, and the order of the steps before an answer."""

import struct
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from dicomnode.dimse import client
from storage.store import Store
from tests import nodes, raw
from tests.encoded import element, instance
from tests.integration.dimse import steps
from tests.raw import DX, RawPeer

ASSOCIATIONS, EACH = 8, 12
LONG = element(0x7FE00010, b"OW", bytes(range(256)) * 4096)  # 1 MiB: four times what is read ahead


@pytest.fixture
def peer(node):
    with RawPeer(node.port) as connected:
        assert connected.associate() == raw.ASSOCIATE_AC
        yield connected


def stored(node, uid: str) -> bytes | None:
    """The data set of an instance as it is kept; None where it is not."""
    with Store.open(node.root) as store:
        row = store.catalog.instance(uid)
        if row is None:
            return None
        kept = store.files.path(row.path).read_bytes()
    (meta,) = struct.unpack_from("<L", kept, 140)
    return kept[144 + meta :]


def command_of(uid: str, message_id: int = 1) -> bytes:
    return raw.command(raw.C_STORE_RQ, DX, has_data=True, uid=uid, message_id=message_id)


def values(*parts: bytes) -> bytes:
    """One PDU of these values."""
    return raw.pdu(raw.P_DATA, b"".join(parts))


def in_pieces(command: bytes, data: bytes) -> bytes:
    """The command set in two fragments, in PDUs of their own."""
    return values(raw.pdv(3, raw.COMMAND, command[:20])) + values(raw.pdv(3, 3, command[20:])) + data_of(data)


def data_of(data: bytes, size: int = 10_000) -> bytes:
    return b"".join(
        values(raw.pdv(3, raw.LAST if at + size >= len(data) else 0, data[at : at + size]))
        for at in range(0, len(data), size)
    )


SHAPES = {
    "one PDU": lambda command, data: values(raw.pdv(3, 3, command), raw.pdv(3, raw.LAST, data)),
    "a command in pieces": in_pieces,
    "many values in a PDU": lambda command, data: (
        values(raw.pdv(3, 3, command))
        + values(*[raw.pdv(3, 0, data[at : at + 333]) for at in range(0, len(data), 333)])
        + values(raw.pdv(3, raw.LAST, b""))
    ),
    "PDUs of odd sizes": lambda command, data: values(raw.pdv(3, 3, command)) + data_of(data, 7),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_instance_is_kept_bit_for_bit_whatever_the_fragments_are(node, peer, shape):
    uid = f"1.2.826.1.{list(SHAPES).index(shape)}"
    data = instance(uid, element(0x7FE00010, b"OW", bytes(3000)))
    peer.send(SHAPES[shape](command_of(uid), data))
    assert peer.answer().status == 0
    assert stored(node, uid) == data


def test_bytes_may_come_one_by_one(node, peer):
    uid = "1.2.826.2"
    data = instance(uid)
    for byte in raw.message(3, command_of(uid), data):
        peer.send(bytes((byte,)))
    assert peer.answer().status == 0
    assert stored(node, uid) == data


@pytest.mark.parametrize("size", [16_378, 100_000])
def test_an_instance_larger_than_what_is_read_ahead(node, peer, size):
    uid = f"1.2.826.3.{size}"
    data = instance(uid, LONG)
    peer.send(values(raw.pdv(3, 3, command_of(uid))) + data_of(data, size))
    assert peer.answer().status == 0
    assert stored(node, uid) == data


def test_pixels_that_end_early_are_found_out_when_the_header_was_read_long_before(node, peer):
    uid = "1.2.826.4"
    peer.send(values(raw.pdv(3, 3, command_of(uid))) + data_of(instance(uid, LONG)[:-2]))
    answer = peer.answer()
    assert (answer.status, "ends" in answer.comment) == (0xC000, True)
    assert stored(node, uid) is None
    assert list((node.root / "scratch").iterdir()) == []


def test_requests_that_do_not_wait_are_answered_in_turn(node, peer):
    uids = [f"1.2.826.5.{number}" for number in range(20)]
    peer.send(b"".join(raw.message(3, command_of(uid), instance(uid)) for uid in uids))
    assert [peer.answer().status for _ in uids] == [0] * len(uids)
    assert all(stored(node, uid) == instance(uid) for uid in uids)


def test_other_services_of_the_association_go_on_between(node, peer):
    identifier = raw.element(0x0008, 0x0052, b"STUDY ") + raw.element(0x0020, 0x000D, b"")
    for number in range(5):
        uid = f"1.2.826.6.{number}"
        peer.send(raw.echo_message())
        assert (peer.answer().field, stored(node, uid)) == (raw.C_ECHO_RQ | raw.RESPONSE, None)
        peer.send(raw.store_message(instance(uid), uid))
        answer = peer.answer()
        assert (answer.field, answer.status) == (raw.C_STORE_RQ | raw.RESPONSE, 0)
        peer.send(raw.find_message(identifier))
        answer = peer.answer()
        assert (answer.field, answer.status) == (raw.C_FIND_RQ | raw.RESPONSE, 0)


def test_a_store_on_a_context_of_another_service_is_refused(node, peer):
    uid = "1.2.826.7"
    peer.send(raw.message(1, raw.command(raw.C_STORE_RQ, DX, has_data=True, uid=uid), instance(uid)))
    assert peer.answer().status == 0xA900
    assert stored(node, uid) is None


def test_eight_associations_at_once(node):
    """Each waits for its answers; every instance is there when its answer is."""
    missing: list[str] = []

    def send(number: int) -> None:
        with RawPeer(node.port) as peer, Store.open(node.root) as store:
            assert peer.associate() == raw.ASSOCIATE_AC
            for each in range(EACH):
                uid = f"1.2.826.8.{number}.{each}"
                peer.send(raw.store_message(instance(uid, LONG, study=f"1.2.8.{each % 3}"), uid))
                answer = peer.answer()
                if answer is None or answer.status or store.catalog.instance(uid) is None:
                    missing.append(uid)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(ASSOCIATIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    with Store.open(node.root) as store:
        assert store.check() == []


def test_an_idle_association_is_no_work(node, peer):
    """Half a second of an established association takes next to no time of the processor."""
    import psutil

    peer.send(raw.echo_message())
    assert peer.answer().status == 0
    process = psutil.Process(node.process.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(2)
    assert sum(process.cpu_times()[:2]) - before < 1


# The order of the steps, and death behind each


def store_through(tmp_path: Path, uid: str, die_at: str) -> tuple[Path, list[str], bool]:
    """The root, the steps that were taken, and whether the peer was told 0x0000."""
    root, log = tmp_path / "root", tmp_path / "steps"
    environment = {"STEPS": str(log), "DIE_AT": die_at}
    with nodes.running_node(root, "--workers", "0", environment=environment, module=steps.__name__) as node:
        with RawPeer(node.port) as peer:
            assert peer.associate() == raw.ASSOCIATE_AC
            peer.send(raw.store_message(instance(uid, LONG), uid))
            answer = peer.answer()
        if die_at:
            node.process.wait(30)
    return root, log.read_text().splitlines(), answer is not None and answer.status == 0


def test_file_folder_and_row_are_durable_in_this_order_before_the_answer(tmp_path):
    _, taken, is_told = store_through(tmp_path, "1.2.826.9", die_at="")
    assert is_told
    assert sorted(set(taken), key=taken.index) == list(steps.STEPS)
    assert all(steps.STEPS.index(one) <= steps.STEPS.index(other) for one, other in pairwise(taken))
    assert taken.count(steps.SYNCED) == taken.count(steps.RENAMED) == taken.count(steps.COMMITTED) == 1


@pytest.mark.parametrize("die_at", steps.STEPS)
def test_killed_behind_each_step(tmp_path, die_at):
    """What was acknowledged is there; what was not is there as a whole or leaves nothing."""
    uid = "1.2.826.10"
    root, taken, is_told = store_through(tmp_path, uid, die_at)
    assert taken[-1] == die_at
    with Store.open(root) as store:
        store.sweep(age_s=0.0)  # as a node does when it starts
        row = store.catalog.instance(uid)
        files = [*root.glob("files/*/*/*"), *root.glob("scratch/*")]
        assert (row is not None) == (die_at in {steps.COMMITTED, steps.ANSWERED}) == bool(files)
        assert row is not None or not is_told
        assert store.check() == []


def test_what_died_before_its_answer_is_a_success_when_it_is_sent_again(tmp_path):
    uid = "1.2.826.11"
    root, _, is_told = store_through(tmp_path, uid, steps.COMMITTED)
    assert not is_told
    with nodes.running_node(root, "--workers", "0") as node:
        with RawPeer(node.port) as peer:
            assert peer.associate() == raw.ASSOCIATE_AC
            peer.send(raw.store_message(instance(uid, LONG), uid))
            assert peer.answer().status == 0
        assert stored(node, uid) == instance(uid, LONG)
        assert client.echo(node.peer) == 0
