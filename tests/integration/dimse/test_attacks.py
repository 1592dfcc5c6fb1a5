"""What must not hurt: each line of the table of attacks, and more, on a real node, with what it cost measured.

During and after each attack another peer is served in seconds, memory and threads stay under the stated bounds, no
traceback is written or sent, and nothing is left over (`tests.watch`).
"""

import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from storage.store import Store
from tests import nodes, raw
from tests.encoded import ITEM, SEQUENCE_END, UNDEFINED, element, implicit, instance, nested, wide
from tests.nodes import RunningNode
from tests.raw import DX, RawPeer, even
from tests.watch import Watch, log_of

ELSEWHERE = "127.0.0.2"  # the attacker's address: an honest peer's is another
PDU_S, ACSE_S, NETWORK_S = 2.0, 2.0, 4.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A receiver whose deadlines are short enough to wait for."""
    environment = {
        "DICOMNODE_DIMSE__PDU_TIMEOUT_S": str(PDU_S),
        "DICOMNODE_DIMSE__ACSE_TIMEOUT_S": str(ACSE_S),
        "DICOMNODE_DIMSE__NETWORK_TIMEOUT_S": str(NETWORK_S),
        "DICOMNODE_DIMSE__MAXIMUM_PER_ADDRESS": "24",
    }
    root = tmp_path_factory.mktemp("attacked") / "root"
    with nodes.running_node(root, "--workers", "0", environment=environment) as running:
        yield running


@pytest.fixture
def watch(node, tmp_path) -> Watch:
    return Watch(node, tmp_path)


@pytest.fixture
def peer(node) -> Iterator[RawPeer]:
    """An association with nothing said on it yet."""
    with RawPeer(node.port, source=ELSEWHERE) as connected:
        assert connected.associate() == raw.ASSOCIATE_AC
        yield connected


def stored(node, uid: str) -> Path | None:
    """The file of an instance; None where there is none."""
    with Store.open(node.root) as store:
        row = store.catalog.instance(uid)
        return store.files.path(row.path) if row else None


# The connection, before anything is agreed


def test_a_pdu_that_claims_256_mib_is_refused_before_it_is_buffered(node, watch):
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        attacker.send(raw.pdu(raw.ASSOCIATE_RQ, bytes(1 << 20), length=256 << 20))
        watch.honest()
        assert attacker.ended()
    assert watch.grown_mib < 16


def test_a_pdu_half_sent_is_waited_for_no_longer_than_its_deadline(node, watch):
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        started = time.monotonic()
        attacker.send(raw.pdu(raw.ASSOCIATE_RQ, raw.request_body())[:100])
        watch.honest()
        assert attacker.ended()
        assert time.monotonic() - started < PDU_S + 3


def test_sixty_idle_connections_leave_room_for_others_and_are_closed(node, watch):
    idle = []
    with watch:
        idle = [RawPeer(node.port, source=ELSEWHERE) for _ in range(60)]
        watch.honest()
        assert all(connection.ended() for connection in idle)
    for connection in idle:
        connection.socket.close()
    assert watch.more_threads <= 8


def test_associations_that_never_release_end_when_they_are_silent(node, watch):
    watch.threads = 60  # two for each association that was accepted
    silent = []
    with watch:
        silent = [RawPeer(node.port, source=ELSEWHERE) for _ in range(20)]
        assert {each.associate() for each in silent} == {raw.ASSOCIATE_AC}
        watch.honest()
        assert all(each.ended() for each in silent)
    for each in silent:
        each.socket.close()


def context(number: int, *syntaxes: str) -> bytes:
    return raw.context_item(number, raw.VERIFICATION, syntaxes or ("1.2.840.10008.1.2",))


SHORT = raw.context_item(1, "1.2", ["1.2"])
MANY_SYNTAXES = [f"1.2.{number}" for number in range(4000)]
REQUESTS: dict[str, bytes] = {
    "thousands of contexts": raw.request_body(SHORT * 50_000 + raw.user_item())[: (1 << 20) - 1],
    "thousands of syntaxes": raw.request_body(
        b"".join(context(2 * number + 1, *MANY_SYNTAXES) for number in range(20)) + raw.user_item()
    ),
    "one number twice": raw.request_body(context(1) * 2 + raw.user_item()),
    "an even number": raw.request_body(context(2) + raw.user_item()),
    "number zero": raw.request_body(context(0) + raw.user_item()),
    "no syntax": raw.request_body(raw.item(0x20, bytes((1, 0, 0, 0))) + raw.user_item()),
    "no user information": raw.request_body(context(1)),
    "much user information": raw.request_body(context(1) + raw.user_item() * 3000),
    "many roles": raw.request_body(
        context(1) + raw.user_item(*[raw.item(0x54, b"\x00\x051.2.3\x01\x01") for _ in range(4000)])
    ),
    "answers of one byte": raw.request_body(
        context(1) + raw.item(0x50, raw.item(0x51, struct.pack(">L", 7)) + raw.item(0x52, b"1.2"))
    ),
    "an item longer than the request": raw.request_body(raw.item(0x20, b"abc", 65535) + raw.user_item()),
    "an unknown item": raw.request_body(raw.item(0x77, b"abc") + raw.user_item()),
    "no text where text is due": raw.request_body(raw.item(0x20, bytes((1, 0, 0, 0)) + raw.item(0x30, b"\xff\xfe"))),
    "a UID of 200 characters": raw.request_body(raw.context_item(1, "1" * 200, ["1.2"]) + raw.user_item()),
    "no request at all": b"",
    "half a request": raw.request_body()[:40],
    "nothing but zeros": bytes(5000),
    "a name of zeros": raw.request_body(calling=bytes(16)),
    "a name that breaks the line": raw.request_body(calling=b"A\nERROR forged"),
    "an identity without its end": raw.request_body(
        context(1) + raw.user_item(raw.item(0x58, struct.pack(">BBH", 9, 1, 600) + b"x" * 60))
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_cannot_be_negotiated_ends_at_once(node, watch, name):
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        started = time.monotonic()
        assert attacker.associate(REQUESTS[name]) in {raw.ABORT, raw.ASSOCIATE_RJ, 0}
        assert time.monotonic() - started < 2
        assert attacker.ended()


def test_a_user_identity_of_60_kb_is_nothing_special(node, watch):
    identity = raw.item(0x58, struct.pack(">BBH", 1, 0, 60_000) + b"x" * 60_000 + struct.pack(">H", 0))
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        assert attacker.associate(raw.request_body(context(1) + raw.user_item(identity))) == raw.ASSOCIATE_AC
        attacker.send(raw.echo_message())
        assert attacker.answer().status == 0
    assert "xxxx" not in log_of(node)


def test_names_cannot_write_lines_of_the_log(node, watch):
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        attacker.associate(raw.request_body(calling=b"EVIL\x1b[31m\\\r"))
        attacker.send(raw.store_message(b"", "1.2.3") + raw.store_message(b"\0" * 20, "1.2.3"))
        attacker.ended()
    assert not any(char < " " and char != "\n" for char in log_of(node))


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5, 6, 7, 8, 255])
def test_any_other_pdu_before_the_request_ends_the_connection(node, watch, kind):
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        attacker.send(raw.pdu(kind, bytes(40)))
        assert attacker.ended()


# Messages on an association

ECHO = raw.command(raw.C_ECHO_RQ, raw.VERIFICATION)
STORE = raw.command(raw.C_STORE_RQ, DX, has_data=True, uid="1.2.3.1")
FIND = raw.command(raw.C_FIND_RQ, raw.STUDY_ROOT_FIND, has_data=True)
EVENT = raw.command(raw.N_EVENT_REPORT_RQ, raw.VERIFICATION, uid="1.2.3") + raw.element(0, 0x1002, b"\1\0")

CANCEL = raw.element(0, 0x100, b"\xff\x0f") + raw.element(0, 0x800, b"\1\1")


def data(*values: bytes) -> bytes:
    return raw.pdu(raw.P_DATA, b"".join(values))


def first(context_id: int, command: bytes) -> bytes:
    """A P-DATA PDU with a whole command set."""
    return data(raw.pdv(context_id, raw.COMMAND | raw.LAST, command))


MESSAGES: dict[str, bytes] = {
    "a second request": raw.pdu(raw.ASSOCIATE_RQ, raw.request_body()),
    "an acceptance": raw.pdu(raw.ASSOCIATE_AC, raw.request_body()),
    "a pdu over the maximum": raw.pdu(raw.P_DATA, b"", length=64 << 20),
    "a pdu of 4 GiB": raw.pdu(raw.P_DATA, b"", length=0xFFFFFFFF),
    "a value longer than its pdu": data(raw.pdv(1, 3, ECHO, length=0x7FFFFFFF)),
    "a value of no length": data(raw.pdv(1, 3, b"", length=0)),
    "a value without a header": data(struct.pack(">LB", 1, 1)),
    "a value of a context never agreed": first(99, ECHO),
    "an unknown command": first(1, raw.command(0x0666, raw.VERIFICATION)),
    "no command field": first(1, raw.element(0, 0x0110, b"\1\0")),
    "an element longer than the command": first(1, raw.element(0, 2, b"1.2", length=0x7FFFFFF0)),
    "a command of zeros": first(1, bytes(200)),
    "a command without end": data(*[raw.pdv(1, raw.COMMAND, bytes(16_000))] * 6),
    "a data set before its command": data(raw.pdv(3, raw.LAST, b"abcd")),
    "a command inside a data set": first(3, STORE) + data(raw.pdv(3, 0, b"abcd")) + first(3, STORE),
    "two contexts in turn": first(3, STORE) + first(5, FIND),
    "a data set on another context": first(3, STORE) + data(raw.pdv(5, raw.LAST, b"abcd")),
    "a hundred event reports": first(1, EVENT) * 100,
    "a thousand cancels": b"".join(
        first(5, CANCEL + raw.element(0, 0x120, bytes(divmod(n, 256)))) for n in range(1000)
    ),
    "a UID of 65 characters": raw.store_message(instance("1.2.3"), "1." + "3" * 63),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_out_of_place_ends_its_association_only(node, peer, watch, name):
    with watch:
        peer.send(MESSAGES[name])
        assert peer.ended()
        assert b"Traceback" not in peer.received
    assert watch.grown_mib < 32


def test_answers_that_nobody_asked_for_are_passed_over(node, peer, watch):
    with watch:
        for field in (raw.C_ECHO_RQ, raw.C_STORE_RQ):
            command = raw.command(field | raw.RESPONSE, raw.VERIFICATION) + raw.element(0, 0x120, b"\1\0")
            peer.send(first(1, command + raw.element(0, 0x900, b"\0\0")))
        peer.send(raw.echo_message())
        assert peer.answer().status == 0


def test_ten_thousand_requests_without_waiting_are_not_queued(node, peer, watch):
    with watch:
        peer.send(raw.echo_message() * 10_000)
        watch.honest()
        peer.ended()
    assert watch.grown_mib < 32


def test_a_data_set_a_byte_at_a_time_meets_the_deadline_of_its_pdu(node, peer, watch):
    whole = raw.store_message(instance("1.2.3.50"), "1.2.3.50")
    split = len(first(3, raw.command(raw.C_STORE_RQ, DX, has_data=True, uid="1.2.3.50")))
    with watch:
        started = time.monotonic()
        peer.send(whole[: split + 6])
        for byte in whole[split + 6 : split + 30]:
            if not peer.send(bytes((byte,))):
                break
            time.sleep(0.25)
        assert peer.ended()
        assert time.monotonic() - started < PDU_S + 6
        watch.honest()
    assert stored(node, "1.2.3.50") is None


@pytest.mark.parametrize("cut", ["abort", "close", "release"])
def test_a_store_that_is_broken_off_leaves_no_half_file(node, peer, watch, cut):
    uid = "1.2.3.51"
    parts = first(3, raw.command(raw.C_STORE_RQ, DX, has_data=True, uid=uid))
    parts += data(raw.pdv(3, 0, instance(uid) + bytes(10_000)))
    ends = {"abort": raw.pdu(raw.ABORT, bytes(4)), "close": b"", "release": raw.pdu(raw.RELEASE_RQ, bytes(4))}
    with watch:
        peer.send(parts + ends[cut])
        if cut != "release":
            peer.socket.close()
        else:
            peer.ended()
    assert stored(node, uid) is None


# Data sets of C-STORE

PIXELS = element(0x7FE00010, b"OW", bytes(64))
TINY = b"".join(element(0x00100000 + number, b"LO") for number in range(0x10, 0xFFFF)) * 16  # a million, 8 MB
BIG_ENDIAN = struct.pack(">HH2sH", 0x0008, 0x0016, b"UI", 4) + b"1.2\0"
REFUSED, ACCEPTED = 0xC000, 0x0000
STORES: dict[str, tuple[Callable[[str], bytes], int, str]] = {
    "200 nested sequences": (lambda uid: instance(uid, nested(200)), REFUSED, "nested"),
    "200 nested sequences of defined length": (lambda uid: instance(uid, nested(200, defined=True)), REFUSED, "nested"),
    "10,000 nested sequences": (lambda uid: instance(uid, nested(10_000)), REFUSED, "nested"),
    "200 nested private sequences": (lambda uid: instance(uid, nested(200, 0x00991001)), REFUSED, "nested"),
    "20,000 items": (lambda uid: instance(uid, wide(20_000)), ACCEPTED, ""),
    "2,000,000 items": (lambda uid: instance(uid, wide(2_000_000)), REFUSED, "too many"),
    "a million tiny elements": (lambda uid: instance(uid, TINY), REFUSED, "too many"),
    "a value of 2 GiB": (lambda uid: instance(uid, element(0x00400555, b"UT", b"a", 0x7FFFFFFE)), REFUSED, "ends"),
    "a value of 4 GiB": (lambda uid: instance(uid, element(0x00400555, b"UT", b"a", 0xFFFFFFFE)), REFUSED, "ends"),
    "a sequence of 4 GiB": (lambda uid: instance(uid, element(0x0040A730, b"SQ", b"", 0xFFFFFFFE)), REFUSED, "ends"),
    "an item of 4 GiB": (
        lambda uid: instance(uid, element(0x0040A730, b"SQ", implicit(ITEM, b"", 0xFFFFFFFE), UNDEFINED)),
        REFUSED,
        "ends",
    ),
    "a sequence without end": (lambda uid: instance(uid, element(0x0040A730, b"SQ", b"", UNDEFINED)), REFUSED, "ends"),
    "no items in a sequence": (
        lambda uid: instance(uid, element(0x0040A730, b"SQ", element(0x00100020, b"LO", b"ab"), UNDEFINED)),
        REFUSED,
        "no item",
    ),
    "an item longer than its sequence": (
        lambda uid: instance(uid, element(0x0040A730, b"SQ", implicit(ITEM, b"", 0x7000)), PIXELS),
        ACCEPTED,
        "",
    ),
    "pixels that end early": (lambda uid: instance(uid, PIXELS)[:-10], REFUSED, "ends"),
    "an end in the middle": (lambda uid: instance(uid)[:-10], REFUSED, "ends"),
    "a group length that lies": (
        lambda uid: instance(uid, before=element(0x00080000, b"UL", b"\xff\xff\xff\x7f")),
        ACCEPTED,
        "",
    ),
    "odd lengths": (lambda uid: instance(uid, element(0x00200010, b"SH", b"abc")), ACCEPTED, ""),
    "private elements": (
        lambda uid: instance(uid, element(0x00290010, b"LO", b"X "), element(0x00291001, b"OB", bytes(9000))),
        ACCEPTED,
        "",
    ),
    "an unknown value representation": (lambda uid: instance(uid, element(0x00200010, b"ZZ", b"ab")), ACCEPTED, ""),
    "no value representation": (lambda uid: instance(uid, implicit(0x00200010, b"ab")), ACCEPTED, ""),
    "another SOP class": (lambda uid: instance(uid, sop_class="1.2.840.10008.5.1.4.1.1.2"), 0xA900, "SOP class"),
    "another byte order": (lambda uid: BIG_ENDIAN * 10, REFUSED, ""),
    "a polyglot in front": (lambda uid: b"MZ" + bytes(126) + b"DICM" + instance(uid), REFUSED, ""),
    "a script in front": (lambda uid: b"#!/bin/sh\nexit\n" + instance(uid), REFUSED, ""),
    "another UID": (lambda uid: instance("1.2.3.4.5.6"), REFUSED, "UID"),
    "a UID that is a path": (lambda uid: instance("../escaped"), REFUSED, "UID"),
    "no data set": (lambda uid: b"", REFUSED, "empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", STORES)
def test_a_data_set_is_kept_whole_or_refused_with_a_comment(node, peer, watch, name):
    make, status, words = STORES[name]
    uid = f"1.2.3.60.{list(STORES).index(name)}"
    body = make(uid)
    watch.threads = 8
    with watch:
        command = raw.command(raw.C_STORE_RQ, DX, has_data=bool(body), uid=uid)
        peer.send(raw.message(3, command, body, chunk=100_000))
        answer = peer.answer()
        assert (answer.status, words in answer.comment) == (status, True), answer
        assert bool(answer.comment) == (status != ACCEPTED)
    kept = stored(node, uid)
    assert (kept is not None) == (status == ACCEPTED)
    if kept is not None:
        content = kept.read_bytes()
        assert content[:132] == bytes(128) + b"DICM"  # nothing of a peer's in front: no polyglot
        assert content.endswith(body)
    assert list(node.root.parent.rglob("*escaped*")) == []


@pytest.mark.parametrize("uid", ["../escaped", "1.2.3\n4", "1..2", "a", "1.2 3", "%s%n", "\xe9.1"])
def test_what_is_no_uid_names_nothing(node, peer, watch, uid):
    with watch:
        peer.send(raw.store_message(instance(uid), uid))
        answer = peer.answer()
        assert answer is None or (answer.status == REFUSED and answer.comment)
    assert list(node.root.parent.rglob("*escaped*")) == []
    assert stored(node, uid) is None


def contexts(*more: tuple[int, str, tuple[str, ...]]) -> bytes:
    return raw.request_body(b"".join(raw.context_item(*each) for each in (*raw.CONTEXTS, *more)) + raw.user_item())


def test_a_deflated_data_set_is_inflated_no_further_than_its_header(node, watch):
    """300 KB that are 300 MB."""
    uid = "1.2.3.70"
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflate.compress(instance(uid) + element(0x7FE00010, b"OW", b"", 300 << 20))
    bomb += b"".join(deflate.compress(bytes(1 << 20)) for _ in range(300)) + deflate.flush()
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        attacker.associate(contexts((7, DX, (DeflatedExplicitVRLittleEndian,))))
        attacker.send(raw.store_message(bomb, uid, context_id=7))
        assert attacker.answer().status == ACCEPTED
    assert stored(node, uid) is not None


def test_a_header_that_claims_a_huge_picture_costs_nothing_to_receive(node, watch):
    """RLE of 20000 x 20000: what decodes it is a worker, and that refuses it by its header."""
    from dicomnode.errors import NotIndexable
    from dicomnode.pixels import decode

    uid = "1.2.3.71"
    size = struct.pack("<H", 20_000)
    picture = instance(
        uid,
        element(0x00280002, b"US", struct.pack("<H", 1)),
        element(0x00280004, b"CS", b"MONOCHROME2 "),
        element(0x00280010, b"US", size),
        element(0x00280011, b"US", size),
        element(0x00280100, b"US", struct.pack("<H", 16)),
        element(0x00280101, b"US", struct.pack("<H", 16)),
        element(0x00280102, b"US", struct.pack("<H", 15)),
        element(0x7FE00010, b"OB", implicit(ITEM) + implicit(ITEM, bytes(64)) + implicit(SEQUENCE_END), UNDEFINED),
    )
    with watch, RawPeer(node.port, source=ELSEWHERE) as attacker:
        attacker.associate(contexts((7, DX, (RLELossless,))))
        attacker.send(raw.store_message(picture, uid, context_id=7))
        assert attacker.answer().status == ACCEPTED
    with pytest.raises(NotIndexable, match="too large"):
        decode.image(stored(node, uid), 1, decode.DecodeLimits())


# Identifiers of C-FIND, in Implicit VR

STUDY = implicit(0x00080052, b"STUDY ")
UIDS = b"\\".join(b"1.2.%d" % number for number in range(10_000))
FINDS: dict[str, tuple[bytes, int, str]] = {
    "200 nested sequences": (STUDY + nested(200, explicit=False), 0xA900, "nested"),
    "200 nested of defined length": (STUDY + nested(200, explicit=False, defined=True), 0xA900, "nested"),
    "20,000 items": (STUDY + wide(20_000, explicit=False), 0xA900, "item"),
    "900,000 items": (STUDY + wide(900_000, explicit=False), 0xA900, "too many"),
    "10,000 values": (STUDY + implicit(0x0020000D, UIDS + b" " * (len(UIDS) % 2)), 0x0000, ""),
    "10,001 values": (STUDY + implicit(0x0020000D, UIDS + b"\\1.2"), 0xA900, "values"),
    "10,000 patterns": (STUDY + implicit(0x00081030, b"a*\\" * 10_000), 0xA900, "values"),
    "10,000 names": (STUDY + implicit(0x00100010, b"a^b\\" * 10_000), 0xA900, "values"),
    "too many stars": (STUDY + implicit(0x00081030, b"*a" * 100), 0xA900, "pattern"),
    "as many stars as may be": (STUDY + implicit(0x00081030, b"*a" * 15 + b"*b"), 0x0000, ""),
    "stars in a name": (STUDY + implicit(0x00100010, b"*a" * 15 + b"*b"), 0x0000, ""),
    "a value of 2 GiB": (STUDY + implicit(0x00100010, b"a", 0x7FFFFFFE), 0xA900, "ends"),
    "no level": (implicit(0x00100010, b"a "), 0xA900, "Level"),
    "nothing": (b"\0\0", 0xA900, ""),
    "600 keys": (STUDY + b"".join(implicit(0x00100100 + number) for number in range(600)), 0xA900, "keys"),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDS)
def test_an_identifier_is_answered_or_refused_with_a_comment(node, peer, watch, name):
    identifier, status, words = FINDS[name]
    long_texts = element(0x00081030, b"LO", b"a" * 1000) + element(0x00100010, b"PN", b"a" * 1000)
    with RawPeer(node.port) as honest:  # something that the stars can be compared with
        honest.associate()
        honest.send(raw.store_message(instance("1.2.3.80", long_texts, study="1.2.80"), "1.2.3.80"))
        assert honest.answer().status == ACCEPTED
    with watch:
        started = time.monotonic()
        peer.send(raw.find_message(identifier))
        answer = peer.answer()
        assert (answer.status, words in answer.comment) == (status, True), answer
        assert time.monotonic() - started < 5
    assert watch.grown_mib < 48


def test_even_is_even():
    """The builder's own promise: values of even length, as the standard wants them."""
    assert [len(even(text)) % 2 for text in ("", "1", "1.2", "1.23")] == [0, 0, 0, 0]
