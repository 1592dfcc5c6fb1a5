"""The benchmark's raw client and sink: they count what other programs count."""

import pytest

from benchmarks import wire
from benchmarks.dimse import FIND, GET, MOVE, identifier_of
from benchmarks.wire import Association, Context
from tests.integration.interop import objects, programs
from tests.integration.interop.objects import DX, PLACES

OBJECTS = Context(DX.encode(), wire.EXPLICIT, as_scp=True)
STUDY_A = identifier_of("STUDY", {"StudyInstanceUID": PLACES[0].study_uid})


@pytest.fixture
def associate(node):
    """Associations, released at the end."""
    opened = []

    def call(*contexts: Context) -> Association:
        opened.append(Association(node.port, "DICOMNODE", contexts, calling="DCMJS"))
        return opened[-1]

    yield call
    for association in opened:
        association.release()


def test_answers_are_counted(sent, associate):
    association = associate(FIND)
    for patient, studies in (("IOP*", 3), ("IOP1", 2), ("NOBODY", 0)):
        assert association.find(identifier_of("STUDY", {"PatientID": patient, "StudyInstanceUID": ""})) == studies


def test_a_failure_is_no_count(sent, associate):
    with pytest.raises(wire.PeerFailed, match="0xA900"):
        associate(FIND).find(identifier_of("FRAME", {}))


def test_a_context_that_is_not_accepted_is_said(node):
    with pytest.raises(wire.PeerFailed, match=r"does not accept 1\.2\.3"):
        Association(node.port, "DICOMNODE", [Context(b"1.2.3", wire.IMPLICIT)], calling="DCMJS")


def test_objects_are_stored(node, dcmtk, associate, tmp_path):
    places = [objects.Place("RAW", "raw", "raw", number) for number in range(3)]
    associate(Context(DX.encode(), wire.EXPLICIT)).store(objects.written(tuple(places), tmp_path))
    answered = programs.run(
        *(dcmtk / "findscu", "-v", "-S", "-aec", "DICOMNODE", "127.0.0.1", node.port),
        *("-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={places[0].study_uid}"),
        *("-k", f"SeriesInstanceUID={places[0].series_uid}", "-k", "SOPInstanceUID"),
    )
    assert answered.stdout.count("(Pending)") == len(places)


def test_objects_are_got(sent, associate):
    assert associate(GET, OBJECTS).get(STUDY_A) == 3


def test_the_sink_takes_what_is_moved(sent, associate, sink):
    associate(MOVE).move(STUDY_A, "STORESCP")
    assert sink.received == 3


@pytest.fixture
def sink(ports):
    """The sink where STORESCP listens."""
    running = wire.Sink(ports["STORESCP"])
    yield running
    running.close()


@pytest.mark.parametrize("message_id", [1, 0x0208, 0x0209, 65535])
def test_elements_are_read_from_where_they_are(message_id):
    """A value can look like another element's tag and length: (0000,0120) of 0x0208 looks like (0000,0800)."""
    command = wire.command_set(
        (wire.SOP_CLASS, wire.CT + b"\0"),
        (wire.COMMAND_FIELD, wire.STORE_RSP),
        (wire.RESPONDED_TO, message_id),
        (wire.DATA_SET_TYPE, wire.NO_DATA_SET),
        (wire.STATUS, 0xFF00),
    )
    assert wire.number(command, wire.DATA_SET_TYPE) == wire.NO_DATA_SET
    assert wire.number(command, wire.RESPONDED_TO) == message_id
    assert wire.number(command, wire.STATUS) == 0xFF00
