"""PDUs with a structure and wrong contents, against a real node: an answer or an end, within its deadlines."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.dimse import client
from dicomnode.dimse.request import objection
from tests import nodes, raw
from tests.fuzz import run
from tests.fuzz.settings import BOUNDED, EXAMPLES
from tests.raw import RawPeer
from tests.watch import log_of

sizes = st.none() | st.sampled_from([0, 1, 5, 0x7FFF, 0xFFFF])
uids = st.sampled_from([raw.VERIFICATION, raw.DX, raw.STUDY_ROOT_FIND, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
names = uids.map(str.encode) | st.binary(max_size=70)
sub_items = st.builds(raw.item, st.sampled_from([0x30, 0x40, 0x40]) | st.integers(0, 255), names, sizes)
contexts = st.builds(
    lambda number, inner, size: raw.item(0x20, bytes((number, 0, 0, 0)) + b"".join(inner), size),
    st.integers(0, 255), st.lists(sub_items, max_size=4), sizes,
)  # fmt: skip
users = st.builds(
    lambda inner, size: raw.item(0x50, b"".join(inner), size),
    st.lists(st.builds(raw.item, st.integers(0x51, 0x59), st.binary(max_size=40), sizes), max_size=4), sizes,
)  # fmt: skip
whole = st.sampled_from([raw.context_item(*each) for each in raw.CONTEXTS] + [raw.user_item()])
items = st.lists(st.one_of(whole, whole, contexts, users), max_size=6).map(b"".join)
requests = st.builds(
    raw.request_body,
    st.none() | st.none() | items,
    st.just(b"DICOMNODE") | st.binary(min_size=16, max_size=16),
    st.just(b"RAW") | st.binary(min_size=16, max_size=16),
    st.sampled_from([1, 1, 1, 0, 2, 0xFFFF]),
)
commands = st.sampled_from(
    [
        raw.command(raw.C_ECHO_RQ, raw.VERIFICATION),
        raw.command(raw.C_FIND_RQ, raw.STUDY_ROOT_FIND, has_data=True),
        raw.command(raw.C_STORE_RQ, raw.DX, has_data=True, uid="1.2.3"),
        raw.command(raw.N_EVENT_REPORT_RQ, raw.VERIFICATION, uid="1.2.3"),
    ]
) | st.builds(
    lambda number, value, size: raw.element(0, number, value, size),
    st.sampled_from([0x0002, 0x0100, 0x0110, 0x0120, 0x0700, 0x0800, 0x0900, 0x1000]), st.binary(max_size=20), sizes,
)  # fmt: skip
values = st.builds(
    raw.pdv,
    st.sampled_from([1, 3, 5]) | st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 3, 3]) | st.integers(0, 255),
    st.lists(commands, max_size=3).map(b"".join) | st.just(run.IDENTIFIER) | st.binary(max_size=60),
    st.none() | st.none() | st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF]),
)
pdus = st.builds(
    raw.pdu,
    st.sampled_from([4, 4, 4, 4, 1, 5, 6, 7]) | st.integers(0, 255),
    st.lists(values, max_size=3).map(b"".join) | st.binary(max_size=30),
    st.none() | st.none() | st.none() | st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]),
)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    root = tmp_path_factory.mktemp("pdus") / "root"
    with nodes.running_node(root, "--workers", "0", environment=run.ENVIRONMENT) as running:
        yield running
        assert client.echo(running.peer) == 0
        assert "Traceback" not in log_of(running)


def ends(node, stream: bytes) -> None:
    with RawPeer(node.port, run.HANG_S) as peer:
        peer.send(stream)
        peer.finish()
        with suppress(ConnectionError):  # reset: it ended
            assert peer.ended(), "the connection was left open"
        assert b"Traceback" not in peer.received


ON_THE_WIRE = settings(BOUNDED, max_examples=EXAMPLES or 50, deadline=None)


@ON_THE_WIRE
@given(requests)
def test_any_request_is_answered_or_ended(node, body):
    ends(node, raw.pdu(raw.ASSOCIATE_RQ, body) + raw.echo_message() + raw.pdu(raw.RELEASE_RQ, bytes(4)))


@ON_THE_WIRE
@given(st.lists(pdus, max_size=5))
def test_any_pdus_on_an_association_are_answered_or_end_it(node, sent):
    ends(node, raw.pdu(raw.ASSOCIATE_RQ, raw.request_body()) + b"".join(sent) + raw.pdu(raw.RELEASE_RQ, bytes(4)))


@ON_THE_WIRE
@given(st.lists(pdus, max_size=3))
def test_any_pdus_before_an_association_end_the_connection(node, sent):
    ends(node, b"".join(sent))


@BOUNDED
@given(st.binary(max_size=200) | requests | requests.map(lambda body: body[: len(body) // 2]))
def test_any_request_body_is_judged(body):
    assert isinstance(objection(body), str)


def test_an_honest_request_has_no_objection():
    assert objection(raw.request_body()) == ""
    assert objection(struct.pack(">HH", 1, 0)) != ""
