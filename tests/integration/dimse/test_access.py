"""The peers table on the wire, and a port that idle and slow peers do not close to others."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO

import numpy as np
import psutil
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicomnode import private
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.errors import PeerError
from dicomnode.query import request
from encoder.boxes import Box
from tests import nodes, raw
from tests.nodes import RunningNode

REQUEST_S, SILENT_S = 2.0, 3.0
CONFIG = f"""
[dimse]
check_called_ae = true
called_ae_titles = ["REGIONMIR"]
acse_timeout_s = {REQUEST_S}
network_timeout_s = {SILENT_S}
[peers.CT]
ae_title = "CT1"
addresses = ["127.0.0.2", "fd00::/8"]
services = ["echo", "store"]
[peers.CT-elsewhere]
ae_title = "CT1"
addresses = ["127.0.0.3"]
services = ["echo"]
[peers.workstation]
ae_title = "WORK"
services = ["echo", "find"]
[peers.searcher]
ae_title = "SEARCH"
services = ["echo", "query"]
[peers.getter]
ae_title = "GETTER"
services = ["get"]
[peers.anything]
ae_title = "DICOMNODE_SCU"
"""


def every_address() -> str:
    """A host that takes IPv4 connections as mapped IPv6 addresses, where the machine has IPv6."""
    try:
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True):
            return "::"
    except (OSError, ValueError):
        return "0.0.0.0"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    file = folder / "dicomnode.toml"
    file.write_text(CONFIG)
    arguments = ("--workers", "0", "--config", str(file), "--host", every_address())
    with nodes.running_node(folder / "root", *arguments) as running:
        yield running


FIND, DX = StudyRootQueryRetrieveInformationModelFind, DigitalXRayImageStorageForPresentation


def association(node, calling, address="127.0.0.1", called="DICOMNODE", roles=()):
    """Whatever became of a request for echo, store and find from that address."""
    entity = AE(ae_title=calling)
    for sop_class in (Verification, DX, FIND):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    return entity.associate("127.0.0.1", node.port, ae_title=called, bind_address=(address, 0), ext_neg=list(roles))


@contextmanager
def associated(node, calling, address="127.0.0.1", **more):
    made = association(node, calling, address, **more)
    assert made.is_established
    yield made
    if made.is_established:
        made.release()


def rejection(node, *arguments, **more):
    """Result, source and reason of PS3.8 Table 9-21."""
    made = association(node, *arguments, **more)
    assert made.is_rejected
    answer = made.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def lines(node, words):
    return [line for line in node.log_text.splitlines() if words in line]


def test_an_unknown_caller_is_rejected_with_a_line_that_says_why(node):
    assert rejection(node, "NOBODY") == (1, 1, 3)
    (line,) = lines(node, "NOBODY")
    assert "WARNING" in line
    assert line.endswith(
        "association from NOBODY (127.0.0.1) to DICOMNODE refused: calling AE title not in the peers table"
    )


def test_another_called_ae_title_is_rejected(node):
    assert rejection(node, "WORK", called="SOMEBODY") == (1, 1, 7)
    assert lines(node, "from WORK (127.0.0.1) to SOMEBODY refused: called AE title is none of the node's")


def test_a_further_called_ae_title_is_answered(node):
    with associated(node, "WORK", called="REGIONMIR") as made:
        assert made.send_c_echo().Status == 0


def test_a_known_ae_title_from_another_address_is_rejected(node):
    assert rejection(node, "CT1", "127.0.0.1") == (1, 1, 3)
    assert lines(node, "from CT1 (127.0.0.1) to DICOMNODE refused: address is none")


@pytest.mark.parametrize(
    ("calling", "address", "accepted", "denied"),
    [
        ("CT1", "127.0.0.2", {Verification, DX}, "find"),
        ("CT1", "127.0.0.3", {Verification}, "find, store"),
        ("WORK", "127.0.0.1", {Verification, FIND}, "store"),
        ("SEARCH", "127.0.0.1", {Verification, FIND}, "store"),
        ("DICOMNODE_SCU", "127.0.0.9", {Verification, FIND, DX}, ""),
    ],
)
def test_only_contexts_of_permitted_services_are_accepted(node, calling, address, accepted, denied):
    with associated(node, calling, address) as made:
        assert {context.abstract_syntax for context in made.accepted_contexts} == accepted
        assert all(context.result == 3 for context in made.rejected_contexts)  # PS3.8 9.3.3.2
    told = [line.rpartition("not permitted: ")[2] for line in lines(node, f"from {calling} ({address})")]
    assert told[-1:] == ([denied] if denied else [])


def region_query():
    private.register()
    return request.by_box("1.2.3", DX, Box(1, 1, 9, 9), request.Keys())


def plain_query():
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = ""
    return identifier


@pytest.mark.parametrize(
    ("calling", "identifier", "permitted", "comment"),
    [
        ("WORK", plain_query, True, ""),
        ("WORK", region_query, False, "region queries are not permitted"),
        ("SEARCH", plain_query, False, "plain queries are not permitted"),
        ("SEARCH", region_query, True, ""),
        ("DICOMNODE_SCU", plain_query, True, ""),
        ("DICOMNODE_SCU", region_query, True, ""),
    ],
)
def test_plain_and_region_queries_are_permissions_of_their_own(node, calling, identifier, permitted, comment):
    with associated(node, calling) as made:
        *_, (final, _) = made.send_c_find(identifier(), FIND)
    assert (final.Status != 0x0124) is permitted
    if permitted:
        assert final.Status == (0 if identifier is plain_query else 0xA700)  # nothing is indexed here
    else:
        assert final.ErrorComment == comment
        assert lines(node, f"C-FIND from {calling} refused: {comment}")


def test_who_may_only_retrieve_gets_storage_contexts_for_that_and_may_not_store(node):
    assert not association(node, "GETTER").is_established
    film = dx_dataset(np.full((32, 32), 9, np.uint16), FilmFacts("P", "A^B", "F", "19500101", "20240102", seed="got"))
    with associated(node, "GETTER", roles=[build_role(DX, scu_role=True, scp_role=True)]) as made:
        assert [context.abstract_syntax for context in made.accepted_contexts] == [DX]
        made.accepted_contexts[0]._as_scu = True  # a peer that keeps to no role
        answer = made.send_c_store(film)
    assert (answer.Status, answer.ErrorComment) == (0x0124, "storing is not permitted")
    assert list((node.root / "scratch").iterdir()) == []


@pytest.mark.parametrize("primitive", [C_FIND, C_GET, C_MOVE], ids=lambda each: each.__name__)
@pytest.mark.parametrize("named", [Verification, FIND], ids=["verification", "find"])
def test_a_request_on_the_context_of_another_service_is_refused(node, primitive, named):
    """CT1 may echo: its context for that opens no other service."""
    with associated(node, "CT1", "127.0.0.2") as opened:
        (context,) = [each for each in opened.accepted_contexts if each.abstract_syntax == Verification]
        message = primitive()
        message.MessageID, message.AffectedSOPClassUID, message.Priority = 1, named, 0
        message.Identifier = BytesIO(encode(plain_query(), False, True))
        if primitive is C_MOVE:
            message.MoveDestination = "WORK"
        opened._reactor_checkpoint.clear()  # the answer is ours to read
        while not opened._is_paused:
            time.sleep(0.01)
        opened.dimse.send_msg(message, context.context_id)
        _, answer = opened.dimse.get_msg(block=True)
        opened._reactor_checkpoint.set()
    assert answer.Status == 0x0122


def test_what_a_caller_calls_itself_forges_no_log_line(node):
    with raw.RawPeer(node.port) as peer:
        peer.associate(raw.request_body(calling=b"X\nERROR forged"))
    assert not [line for line in node.log_text.splitlines() if line.startswith("ERROR forged")]


@pytest.mark.dcmtk
def test_our_own_client_says_that_it_was_permitted_nothing_of_what_it_asked(node):
    with pytest.raises(PeerError, match="accepted none of the presentation contexts"):
        list(client.find(client.Peer("127.0.0.1", node.port, calling="GETTER"), plain_query()))


def test_dcmtk_is_told_why_it_is_rejected(node, dcmtk):
    program = str(dcmtk / "echoscu")
    for title, words in (("DICOMNODE", "Calling AE Title Not Recognized"), ("OTHER", "Called AE Title Not Recognized")):
        command = [program, "-v", "-aet", "STRANGER", "-aec", title, "127.0.0.1", str(node.port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert words in done.stdout + done.stderr


# Guards: each attack, and an honest peer that is served meanwhile.


def served_within(node, seconds):
    begun = time.monotonic()
    assert client.echo(node.peer) == 0
    assert time.monotonic() - begun < seconds


def ended_after(connection, begun, longest):
    """Seconds until the node closed the connection."""
    connection.settimeout(longest)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - begun


def test_sixty_idle_connections_hold_no_thread_and_nobody_up(node):
    threads = psutil.Process(node.process.pid).num_threads
    served_within(node, 10)
    before, begun = threads(), time.monotonic()
    with ExitStack() as stack:
        idle = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", node.port), 5, (f"127.0.0.{10 + number % 3}", 0))
            )
            for number in range(60)
        ]
        served_within(node, 1.5)
        assert threads() <= before + 3
        for connection in idle:
            assert ended_after(connection, begun, 20) < REQUEST_S + 3


def test_connections_over_the_cap_of_an_address_are_closed_and_others_served(node):
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port), 5, ("127.0.0.20", 0)))
            for _ in range(40)
        ]
        served_within(node, 1.5)
        begun = time.monotonic()
        at_once = sum(ended_after(connection, begun, 20) < REQUEST_S - 1 for connection in idle[-8:])
    assert at_once == 8
    assert len(lines(node, "connection from 127.0.0.20 refused: too many, 32 from there")) == 1


def test_an_association_request_has_one_deadline_however_its_bytes_come(node):
    whole = raw.pdu(raw.ASSOCIATE_RQ, raw.request_body())
    with socket.create_connection(("127.0.0.1", node.port)) as slow:
        begun = time.monotonic()
        for byte in whole:
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            served_within(node, 1.5)
            time.sleep(0.2)
        assert REQUEST_S - 0.5 < time.monotonic() - begun < REQUEST_S + 2
    assert "Traceback" not in node.log_text


def test_an_association_that_never_releases_is_ended(node):
    with raw.RawPeer(node.port) as peer:
        assert peer.associate(raw.request_body(calling=b"WORK")) == raw.ASSOCIATE_AC
        begun = time.monotonic()
        answer = peer.next_pdu()
        assert answer is not None
        assert answer[0] == raw.ABORT
        assert time.monotonic() - begun < SILENT_S + 3


def test_a_peer_that_aborts_before_it_asks_leaves_nothing_behind(node):
    with raw.RawPeer(node.port) as peer:
        peer.send(raw.pdu(raw.ABORT, bytes(4)))
        assert peer.next_pdu() is None
    assert "Traceback" not in node.log_text
    served_within(node, 5)
