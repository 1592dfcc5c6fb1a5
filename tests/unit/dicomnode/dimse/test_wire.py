"""Command sets and PDUs as bytes, and the writer on a real pair of sockets."""

import socket
import struct
import threading
from io import BytesIO
from types import SimpleNamespace

import pytest
from pynetdicom.dsutils import decode
from pynetdicom.pdu import P_DATA_TF

from dicomnode.dimse import wire
from dicomnode.dimse.wire import Command, Element, StoreRequest, StoreResponse, Writer
from dicomnode.errors import PeerError

FIELDS = [
    (Element.STATUS, 0xB007),
    (Element.AFFECTED_SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.2"),
    (Element.COMMAND_FIELD, Command.C_STORE | wire.RESPONSE),
    (Element.MESSAGE_ID_BEING_RESPONDED_TO, 7),
    (Element.COMMAND_DATA_SET_TYPE, wire.NO_DATA_SET),
    (Element.AFFECTED_SOP_INSTANCE_UID, "1.2.3"),
]


def test_a_command_set_is_what_pynetdicom_reads():
    encoded = wire.command_set([*FIELDS, (Element.ERROR_COMMENT, "odd")])
    read = decode(BytesIO(encoded), True, True)
    assert read.CommandGroupLength == len(encoded) - 12
    assert (read.Status, read.CommandField, read.MessageIDBeingRespondedTo) == (0xB007, 0x8001, 7)
    assert (read.AffectedSOPInstanceUID, read.ErrorComment) == ("1.2.3", "odd")
    assert [element.tag for element in read] == sorted(element.tag for element in read)


REQUEST = [
    (Element.AFFECTED_SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.2"),
    (Element.COMMAND_FIELD, Command.C_STORE),
    (Element.MESSAGE_ID, 7),
    (Element.PRIORITY, 0),
    (Element.COMMAND_DATA_SET_TYPE, wire.DATA_SET),
    (Element.AFFECTED_SOP_INSTANCE_UID, "1.2.3"),
]


def test_a_store_request_is_read_without_pynetdicom():
    found = StoreRequest.read(5, wire.command_set(REQUEST))
    assert found == StoreRequest(5, 7, "1.2.840.10008.5.1.4.1.1.2", "1.2.3", has_data=True)


@pytest.mark.parametrize("missing", range(len(REQUEST)))
def test_a_store_request_that_lacks_something_is_none(missing):
    fields = [field for number, field in enumerate(REQUEST) if number != missing]
    assert StoreRequest.read(5, wire.command_set(fields)) is None


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (Element.COMMAND_FIELD, Command.C_FIND),
        (Element.COMMAND_FIELD, Command.C_STORE | wire.RESPONSE),
        (Element.AFFECTED_SOP_INSTANCE_UID, ""),
        (Element.AFFECTED_SOP_INSTANCE_UID, "1." * 33),
        (Element.MESSAGE_ID, "1.2.3"),
    ],
)
def test_what_is_no_store_request_is_left_to_others(element, value):
    fields = dict(REQUEST) | {element: value}
    assert StoreRequest.read(5, wire.command_set(fields.items())) is None


def test_a_command_set_that_is_cut_is_no_store_request():
    whole = wire.command_set(REQUEST)
    assert all(StoreRequest.read(5, whole[:cut]) is None for cut in range(len(whole)))


@pytest.mark.parametrize("maximum", [0, 128, 16384])
def test_the_response_to_a_store_is_what_pynetdicom_reads(maximum):
    request = StoreRequest(5, 7, "1.2.840.10008.5.1.4.1.1.2", "1.2.3", has_data=True)
    stream, values = BytesIO(request.response(0xC000, "odd", maximum)), []
    while head := stream.read(6):
        pdu = P_DATA_TF()
        pdu.decode(head + stream.read(struct.unpack(">L", head[2:])[0]))
        assert not maximum or pdu.pdu_length <= maximum
        values += [value for item in pdu.presentation_data_value_items for value in [item.presentation_data_value]]
    assert [value[0] & 2 for value in values] == [0] * (len(values) - 1) + [2]
    read = decode(BytesIO(b"".join(value[1:] for value in values)), True, True)
    assert (read.CommandField, read.Status, read.ErrorComment) == (0x8001, 0xC000, "odd")
    assert (read.MessageIDBeingRespondedTo, read.AffectedSOPInstanceUID) == (7, "1.2.3")


def test_a_store_response_is_read_without_pynetdicom():
    answer = StoreResponse.read(b"\x03" + wire.command_set(FIELDS))
    assert answer is not None
    assert (answer.MessageIDBeingRespondedTo, answer.Status) == (7, 0xB007)
    assert (answer.is_valid_request, answer.is_valid_response) == (False, True)


def changed(element: Element, value: int) -> bytes:
    return b"\x03" + wire.command_set([*(field for field in FIELDS if field[0] != element), (element, value)])


@pytest.mark.parametrize(
    "fragment",
    [
        b"",
        b"\x03",
        b"\x01" + wire.command_set(FIELDS),  # more is to come
        b"\x02" + wire.command_set(FIELDS),  # a data set
        changed(Element.COMMAND_FIELD, Command.C_STORE),
        changed(Element.COMMAND_DATA_SET_TYPE, wire.DATA_SET),
        b"\x03" + wire.command_set(FIELDS[1:]),  # no status
        b"\x03" + wire.command_set(FIELDS)[:-3],
        b"\x03" + wire.command_set(FIELDS) + b"\0\0",
        b"\x03" + b"\x08" + wire.command_set(FIELDS)[1:],  # another group
    ],
)
def test_anything_else_is_left_to_pynetdicom(fragment):
    assert StoreResponse.read(fragment) is None


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def writer_on(connection: socket.socket, pdu: int, timeout_s: float = 5.0) -> Writer:
    association = SimpleNamespace(
        dul=SimpleNamespace(socket=SimpleNamespace(socket=connection)),
        dimse=SimpleNamespace(maximum_pdu_size=pdu),
        network_timeout=timeout_s,
    )
    return Writer(association)


def read_all(connection: socket.socket, into: bytearray) -> threading.Thread:
    def read() -> None:
        while data := connection.recv(1 << 16):
            into.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def pdus_in(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxL", data, at)
        assert kind == 4
        found.append(data[at + 6 : at + 6 + length])
        at += 6 + length
    return found


@pytest.mark.parametrize("stated", [0, 1, 128, 129, 16384, 1 << 24])
@pytest.mark.parametrize("length", [2, 121, 122, 123, 40_000, (1 << 20) + 3])
def test_a_file_goes_in_pdus_of_the_stated_maximum(pair, stated, length):
    content = bytes(range(256)) * (length // 256 + 1)
    came = bytearray()
    reading = read_all(pair[1], came)
    with writer_on(pair[0], stated) as writer:
        writer.send_file(3, b"C" * 130, BytesIO(content), length)
    pair[0].close()
    reading.join()
    bodies = pdus_in(bytes(came))
    largest = max(stated, wire.SMALLEST_PDU) if stated else wire.LARGEST_PDU
    assert max(map(len, bodies)) <= largest
    fragments = [value for body in bodies for value in values_of(body)]
    assert {context for context, _, _ in fragments} == {3}
    assert b"".join(data for _, control, data in fragments if control & 1) == b"C" * 130
    assert b"".join(data for _, control, data in fragments if not control & 1) == content[:length]
    assert [control for _, control, _ in fragments if control & 2] == [3, 2]
    assert fragments[-1][1] == 2


def values_of(body: bytes) -> list[tuple[int, int, bytes]]:
    pdu = P_DATA_TF()
    pdu.decode(struct.pack(">BBL", 4, 0, len(body)) + body)
    return [(each[0], each[1][0], each[1][1:]) for each in pdu.to_primitive().presentation_data_value_list]


def test_a_peer_that_does_not_read_is_waited_for_so_long_and_hung_up_on(pair):
    with writer_on(pair[0], 16384, timeout_s=0.2) as writer, pytest.raises(PeerError, match="does not read"):
        writer.send_file(1, b"C", BytesIO(bytes(32 << 20)), 32 << 20)
    pair[1].settimeout(5)
    while pair[1].recv(1 << 20):
        pass


def test_a_file_that_is_shorter_than_it_was_breaks_the_message(pair):
    came = bytearray()
    reading = read_all(pair[1], came)
    with writer_on(pair[0], 16384) as writer, pytest.raises(PeerError, match="shorter"):
        writer.send_file(1, b"C", BytesIO(b"12"), 4)
    pair[0].close()
    reading.join()


def test_who_watches_is_asked_between_blocks(pair):
    came = bytearray()
    reading = read_all(pair[1], came)

    def watch() -> None:
        raise PeerError("not wanted any more")

    with writer_on(pair[0], 16384) as writer, pytest.raises(PeerError, match="not wanted"):
        writer.send_file(1, b"C", BytesIO(bytes(4 << 20)), 4 << 20, watch)
    pair[0].close()
    reading.join()
    assert len(came) < 2 << 20


def test_responses_wait_for_company_where_they_may(pair):
    with writer_on(pair[0], 16384) as writer:
        writer.send(1, b"one", hold=True)
        pair[1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            pair[1].recv(10)
        writer.send(1, b"two", b"data")
    assert [data for body in pdus_in(pair[1].recv(1000)) for _, _, data in values_of(body)] == [b"one", b"two", b"data"]
