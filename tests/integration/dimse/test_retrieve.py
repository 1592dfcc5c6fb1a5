"""C-GET and C-MOVE over real associations: to DCMTK's programs, to pynetdicom, and to peers that misbehave."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filereader import read_dataset
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelGet

from dicomnode.dimse import client
from storage.store import Store
from tests import nodes
from tests.integration.dimse import retrieving
from tests.integration.dimse.retrieving import (
    CLASSES,
    CT,
    DX,
    EXPLICIT,
    GET,
    IMPLICIT,
    JPEG,
    MOVE,
    OTHER,
    SC,
    STUDY,
    Told,
    body,
    got,
    identifier,
    instance_uid,
    moved,
    series_uid,
)
from tests.integration.interop import programs
from tests.nodes import RunningNode
from tests.raw import wait_until

COUNT = 6
TIMEOUT_S = 3.0  # the node's patience with a silent peer
PEERS = ("STORESCP", "SINK", "DOWN", "NOHOST")
EVERY_CLASS = {uid: [EXPLICIT] for uid in CLASSES}
LARGE = "2.25.1234567890"  # the study of one object that no socket buffers


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: programs.free_port() for name in PEERS}


@pytest.fixture(scope="module")
def node(ports, tmp_path_factory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("retrieve")
    tables = []
    for name, port in ports.items():
        host = "" if name == "NOHOST" else "127.0.0.1"
        tables.append(f'[peers.{name.lower()}]\nae_title = "{name}"\nhost = "{host}"\nport = {port}\n')
    settings = folder / "dicomnode.toml"
    settings.write_text(
        '[dimse]\nunknown_peers = "accept"\n' + f"network_timeout_s = {TIMEOUT_S}\n" + "\n".join(tables)
    )
    with nodes.running_node(folder / "root", "--workers", "0", "--config", str(settings)) as running:
        yield running


@pytest.fixture(scope="module")
def kept(node, dcmtk, tmp_path_factory) -> dict[str, Path]:
    """What the node holds, by SOP Instance UID: two studies, the first object in JPEG Lossless, and a large one."""
    folder = tmp_path_factory.mktemp("kept")
    paths = retrieving.written(folder / "a", STUDY, COUNT, dcmtk / "dcmcjpeg")
    paths += retrieving.written(folder / "b", OTHER, 3)
    large = folder / "large.dcm"
    retrieving.film(LARGE, 0, side=2500).save_as(large, enforce_file_format=True)
    assert all(sent.ok for sent in client.send(node.peer, [*paths, large]))
    return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in [*paths, large]}


def uids_of(study: str, *numbers: int) -> set[str]:
    return {instance_uid(study, number) for number in numbers or range(COUNT if study == STUDY else 3)}


def the_study(study: str = STUDY):
    return identifier("STUDY", StudyInstanceUID=study)


def node_log(node) -> str:
    return (node.root.parent / f"{node.root.name}.log").read_text()


# --- C-GET -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "keys", "study", "numbers"),
    [
        ("STUDY", {"StudyInstanceUID": STUDY}, STUDY, ()),
        ("STUDY", {"StudyInstanceUID": OTHER, "PatientName": ""}, OTHER, ()),
        ("SERIES", {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series_uid(STUDY, 2)}, STUDY, (2, 3)),
        (
            "SERIES",
            {"StudyInstanceUID": STUDY, "SeriesInstanceUID": [series_uid(STUDY, 0), series_uid(STUDY, 4)]},
            STUDY,
            (0, 1, 4, 5),
        ),
        (
            "IMAGE",
            {
                "StudyInstanceUID": STUDY,
                "SeriesInstanceUID": series_uid(STUDY, 2),
                "SOPInstanceUID": [instance_uid(STUDY, 2), instance_uid(STUDY, 3), "1.2.3"],
            },
            STUDY,
            (2, 3),
        ),
    ],
)
def test_get_at_every_level(node, kept, level, keys, study, numbers):
    told = got(node, identifier(level, **keys), EVERY_CLASS)
    wanted = uids_of(study, *numbers)
    assert set(told.bodies) == wanted
    assert told.statuses[-1] == 0x0000
    assert told.counts[-1] == (None, len(wanted), 0, 0)
    assert told.failed == []


def test_get_of_a_patient_and_of_several_studies(node, kept):
    model = PatientRootQueryRetrieveInformationModelGet
    told = got(node, identifier("PATIENT", PatientID="RET1"), EVERY_CLASS, model=model)
    assert told.statuses[-1] == 0x0000
    assert set(told.bodies) == set(kept)
    told = got(node, identifier("STUDY", PatientID="RET1", StudyInstanceUID=[STUDY, OTHER]), EVERY_CLASS, model=model)
    assert set(told.bodies) == uids_of(STUDY) | uids_of(OTHER)


def test_what_is_sent_is_what_was_stored_byte_for_byte(node, kept):
    told = got(node, the_study(), {DX: [JPEG], CT: [EXPLICIT], SC: [EXPLICIT]})
    assert told.statuses[-1] == 0xB000  # the other DX is not JPEG, and nothing makes it so
    assert told.failed == [instance_uid(STUDY, 4)]
    assert told.counts[-1] == (None, COUNT - 1, 1, 0)
    for uid, data in told.bodies.items():
        assert data == body(kept[uid])


def test_what_the_asker_cannot_take_is_transcoded(node, kept):
    """JPEG Lossless and Explicit VR as Implicit VR: every attribute and every pixel the same."""
    told = got(node, the_study(), {uid: [IMPLICIT] for uid in CLASSES})
    assert told.statuses[-1] == 0x0000
    for uid, data in told.bodies.items():
        from io import BytesIO

        sent, stored = read_dataset(BytesIO(data), True, True), dcmread(kept[uid])
        number = next(each for each in range(COUNT) if instance_uid(STUDY, each) == uid)
        assert sent.PixelData == retrieving.film(STUDY, number).PixelData
        assert sent[0x00111001].value == bytes(range(6))
        assert [element.tag for element in sent] == [element.tag for element in stored]
        assert str(sent.PatientName) == str(stored.PatientName)


def test_relational_retrieval_is_granted_where_asked_for(node, kept):
    asked = identifier("IMAGE", SOPInstanceUID=instance_uid(STUDY, 1))
    assert got(node, asked, EVERY_CLASS).statuses == [0xA900]
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = GET, b"\x01\x01"
    told = got(node, asked, EVERY_CLASS, ext=[item])
    assert (told.statuses[-1], set(told.bodies)) == (0x0000, uids_of(STUDY, 1))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (identifier("STUDY"), "StudyInstanceUID"),
        (identifier("STUDY", StudyInstanceUID="1.2.*"), "StudyInstanceUID: not a UID"),
        (identifier("SERIES", SeriesInstanceUID="1.2.3"), "StudyInstanceUID: one value"),
        (identifier("STUDY", StudyInstanceUID="1.2", SOPInstanceUID="1.2.3"), "SOPInstanceUID: not at level STUDY"),
        (identifier("FRAME", StudyInstanceUID="1.2"), "QueryRetrieveLevel"),
    ],
)
def test_identifiers_that_break_the_model_are_refused_with_a_comment(node, kept, asked, words):
    told = got(node, asked, EVERY_CLASS)
    assert (told.statuses, told.bodies) == ([0xA900], {})
    assert words in told.comment


def test_nothing_that_matches_is_a_success_without_sub_operations(node, kept):
    told = got(node, the_study("1.2.3.4"), EVERY_CLASS)
    assert (told.statuses, told.counts) == ([0x0000], [(None, 0, 0, 0)])


def test_no_storage_context_at_all_fails_every_sub_operation(node, kept):
    told = got(node, the_study(), {})
    assert told.statuses[-1] == 0xA702
    assert set(told.failed) == uids_of(STUDY)
    assert told.counts[-1] == (None, 0, COUNT, 0)


@pytest.mark.parametrize(
    ("answers", "final", "counts"),
    [
        (0xB007, 0xB000, (None, 0, 0, COUNT)),
        (0xA700, 0xA702, (None, 0, COUNT, 0)),
        (0x0107, 0xB000, (None, 0, 0, COUNT)),
    ],
)
def test_the_asker_s_statuses_are_counted(node, kept, answers, final, counts):
    told = got(node, the_study(), EVERY_CLASS, status=answers)
    assert (told.statuses[-1], told.counts[-1]) == (final, counts)
    assert len(told.failed) == counts[2]


def test_one_that_the_asker_refuses_is_in_the_failed_list(node, kept):
    refused = instance_uid(STUDY, 3)

    def status(event):
        return 0xC000 if event.request.AffectedSOPInstanceUID == refused else 0x0000

    told = got(node, the_study(), EVERY_CLASS, status=status)
    assert (told.statuses[-1], told.failed) == (0xB000, [refused])
    assert told.counts[-1] == (None, COUNT - 1, 1, 0)


@pytest.mark.parametrize("pdu", [0, 128, 131072])
def test_every_maximum_pdu_is_kept_to(node, kept, pdu):
    told = got(node, the_study(OTHER), EVERY_CLASS, pdu=pdu)
    assert told.statuses[-1] == 0x0000
    assert told.bodies == {uid: body(kept[uid]) for uid in uids_of(OTHER)}


def test_cancel_of_a_get_stops_between_objects(node, kept):
    entity = AE("ASKER")
    entity.requested_contexts = [build_context(GET, EXPLICIT), *(build_context(*each) for each in EVERY_CLASS.items())]

    def keep(event):
        if not count:
            event.assoc.send_c_cancel(9, query_model=GET)
            time.sleep(0.3)
        count.append(1)
        return 0

    count: list[int] = []
    from pynetdicom import build_role

    association = entity.associate(
        "127.0.0.1",
        node.port,
        ext_neg=[build_role(uid, scp_role=True) for uid in EVERY_CLASS],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    told = Told().hear(association.send_c_get(the_study(), GET, msg_id=9))
    association.release()
    assert told.statuses[-1] == 0xFE00
    assert told.counts[-1] == (COUNT - 1, 1, 0, 0)
    assert len(count) == 1


def test_a_response_to_another_message_ends_the_association(node, kept):
    def lie(event):
        send = event.assoc.dimse.send_msg

        def other(primitive, context_id):
            primitive.MessageIDBeingRespondedTo = 999
            send(primitive, context_id)

        event.assoc.dimse.send_msg = other
        return 0

    told = got(node, the_study(), EVERY_CLASS, status=lie)
    assert told.statuses[-1] == -1  # aborted
    assert len(told.bodies) == 1
    assert client.echo(node.peer) == 0


def test_an_asker_that_stops_reading_is_let_go_in_time(node, kept):
    entity = AE("ASKER")
    entity.requested_contexts = [build_context(GET, EXPLICIT), build_context(DX, EXPLICIT)]
    gate = threading.Event()
    from pynetdicom import build_role

    association = entity.associate(
        "127.0.0.1",
        node.port,
        ext_neg=[build_role(DX, scp_role=True)],
        evt_handlers=[(evt.EVT_DATA_RECV, lambda event: gate.wait(30) if event.data[:1] == b"\x04" else None)],
    )
    before = node_log(node).count("does not read")
    asking = threading.Thread(target=lambda: list(association.send_c_get(the_study(LARGE), GET)), daemon=True)
    asking.start()
    try:
        assert wait_until(lambda: node_log(node).count("does not read") > before, 3 * TIMEOUT_S)
    finally:
        gate.set()
        asking.join(20)
    assert client.echo(node.peer) == 0
    assert "Traceback" not in node_log(node)


# --- C-MOVE ------------------------------------------------------------------------------------------------------


@dataclass
class Sink:
    """What came to a destination."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    proposed: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


@contextmanager
def sink(port: int, storage: dict[str, list[str]], keep=lambda event: 0x0000, more=()) -> Iterator[Sink]:
    """A destination on pynetdicom; `keep` answers each C-STORE."""
    came = Sink()

    def store(event):
        came.requests.append(event.request)
        came.bodies[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
        return keep(event)

    def requested(event):
        contexts = event.assoc.requestor.primitive.presentation_context_definition_list
        came.proposed += [(str(each.abstract_syntax), tuple(map(str, each.transfer_syntax))) for each in contexts]

    entity = AE("SINK")
    for uid, syntaxes in storage.items():
        entity.add_supported_context(uid, syntaxes)
    handlers = [
        (evt.EVT_C_STORE, store),
        (evt.EVT_REQUESTED, requested),
        (evt.EVT_RELEASED, lambda event: came.ended.append("released")),
        (evt.EVT_ABORTED, lambda event: came.ended.append("aborted")),
        *more,
    ]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield came
    finally:
        server.shutdown()


def test_movescu_to_a_storescp_that_takes_everything(node, kept, ports, dcmtk, tmp_path):
    port = ports["STORESCP"]
    with programs.serving(port, tmp_path / "log", dcmtk / "storescp", "+xa", "+B", "-od", tmp_path, port):
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
        called = ["-S", "-aec", "DICOMNODE", "-aem", "STORESCP", "127.0.0.1", node.port]
        said = programs.run(dcmtk / "movescu", "-v", *called, *keys).stdout
    assert "Final Move Response (Success)" in said
    files = [path for path in tmp_path.iterdir() if path.name != "log"]
    assert {str(dcmread(path).SOPInstanceUID): body(path) for path in files} == {
        uid: body(kept[uid]) for uid in uids_of(STUDY)
    }


def test_movescu_to_a_storescp_that_takes_implicit_vr_only(node, kept, ports, dcmtk, tmp_path):
    port = ports["STORESCP"]
    with programs.serving(port, tmp_path / "log", dcmtk / "storescp", "+xi", "-od", tmp_path, port):
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
        called = ["-S", "-aec", "DICOMNODE", "-aem", "STORESCP", "127.0.0.1", node.port]
        programs.run(dcmtk / "movescu", *called, *keys)
    files = [path for path in tmp_path.iterdir() if path.name != "log"]
    found = {str(dataset.SOPInstanceUID): dataset for dataset in map(dcmread, files)}
    assert set(found) == uids_of(STUDY)
    for number in range(COUNT):
        dataset = found[instance_uid(STUDY, number)]
        assert dataset.file_meta.TransferSyntaxUID == IMPLICIT
        assert np.array_equal(dataset.pixel_array, retrieving.film(STUDY, number).pixel_array)


@pytest.mark.parametrize("options", [["--refuse"], ["--abort-after"], ["--abort-during"]])
def test_a_destination_that_refuses_or_aborts_fails_every_sub_operation(node, kept, ports, dcmtk, tmp_path, options):
    port = ports["STORESCP"]
    with programs.serving(port, tmp_path / "log", dcmtk / "storescp", "+xa", *options, "-od", tmp_path, port):
        told = moved(node, the_study(), "STORESCP")
    assert told.statuses[-1] == 0xA702
    assert told.counts[-1] == (None, 0, COUNT, 0)
    assert set(told.failed) == uids_of(STUDY)
    assert "peers.storescp" in told.comment or "peer" in told.comment
    assert client.echo(node.peer) == 0


def test_a_destination_that_is_down_fails_every_sub_operation(node, kept):
    told = moved(node, the_study(), "DOWN")
    assert (told.statuses[-1], set(told.failed)) == (0xA702, uids_of(STUDY))
    assert told.comment == "peers.down does not answer"


@pytest.mark.parametrize("destination", ["NOBODY", "NOHOST"])
def test_an_unknown_destination_is_said(node, kept, destination):
    told = moved(node, the_study(), destination)
    assert told.statuses == [0xA801]
    assert "destination" in told.comment


def test_sub_operations_name_who_asked_and_carry_the_priority(node, kept, ports):
    with sink(ports["SINK"], EVERY_CLASS | {DX: [JPEG, EXPLICIT]}) as came:
        entity = AE("ASKER")
        entity.requested_contexts = [build_context(MOVE, EXPLICIT)]
        association = entity.associate("127.0.0.1", node.port)
        told = Told().hear(association.send_c_move(the_study(), "SINK", MOVE, msg_id=77, priority=1))
        association.release()
    assert told.statuses[-1] == 0x0000
    assert told.counts[-1] == (None, COUNT, 0, 0)
    assert [request.AffectedSOPInstanceUID for request in came.requests] == sorted(
        uids_of(STUDY),
        key=lambda uid: (next(series_uid(STUDY, n) for n in range(COUNT) if instance_uid(STUDY, n) == uid), uid),
    )
    for request in came.requests:
        assert request.MoveOriginatorApplicationEntityTitle == "ASKER"
        assert (request.MoveOriginatorMessageID, request.Priority) == (77, 1)
    assert came.bodies == {uid: body(kept[uid]) for uid in uids_of(STUDY)}
    assert (DX, (JPEG,)) in came.proposed
    assert (CT, (EXPLICIT,)) in came.proposed
    assert (CT, (IMPLICIT,)) in came.proposed


def test_a_file_that_is_gone_is_one_failed_sub_operation(node, kept, tmp_path):
    study = "2.25.987"
    paths = retrieving.written(tmp_path, study, 3)
    assert all(sent.ok for sent in client.send(node.peer, paths))
    with Store.open(node.root) as store:
        rows = [store.catalog.instance(instance_uid(study, number)) for number in (0, 1)]
        store.files.path(rows[0].path).unlink()
        damaged = store.files.path(rows[1].path)
        damaged.write_bytes(damaged.read_bytes()[:-10])
    told = got(node, the_study(study), EVERY_CLASS)
    assert told.statuses[-1] == 0xB000
    assert set(told.failed) == {instance_uid(study, 0), instance_uid(study, 1)}
    assert set(told.bodies) == {instance_uid(study, 2)}


def asked_to_move(node, destination: str, study: str = STUDY):
    entity = AE("ASKER")
    entity.requested_contexts = [build_context(MOVE, EXPLICIT)]
    association = entity.associate("127.0.0.1", node.port)
    return association, association.send_c_move(the_study(study), destination, MOVE, msg_id=5)


def test_cancel_stops_a_move_to_a_slow_destination(node, kept, ports):
    with sink(ports["SINK"], EVERY_CLASS, keep=lambda event: time.sleep(0.4) or 0x0000) as came:
        association, answers = asked_to_move(node, "SINK")
        told = Told().hear([next(answers)])
        association.send_c_cancel(5, query_model=MOVE)
        told.hear(answers)
        association.release()
        assert wait_until(lambda: came.ended == ["released"])
    assert told.statuses[-1] == 0xFE00
    remaining, completed, failed, warning = told.counts[-1]
    assert (remaining + completed, failed, warning) == (COUNT, 0, 0)
    assert 0 < completed < COUNT
    assert len(came.bodies) == completed


def test_cancel_does_not_wait_for_a_destination_that_hangs(node, kept, ports):
    gate = threading.Event()
    with sink(ports["SINK"], EVERY_CLASS, keep=lambda event: gate.wait(20) and 0) as came:
        association, answers = asked_to_move(node, "SINK")
        assert wait_until(lambda: came.requests)
        started = time.monotonic()
        association.send_c_cancel(5, query_model=MOVE)
        told = Told().hear(answers)
        gate.set()
        association.release()
    assert time.monotonic() - started < TIMEOUT_S + 2
    assert (told.statuses[-1], told.counts[-1]) == (0xFE00, (COUNT, 0, 0, 0))


def test_a_destination_that_never_answers_fails_in_time(node, kept, ports):
    gate = threading.Event()
    started = time.monotonic()
    with sink(ports["SINK"], EVERY_CLASS, keep=lambda event: gate.wait(30) and 0):
        told = moved(node, the_study(), "SINK")
        gate.set()
    assert (told.statuses[-1], told.counts[-1]) == (0xA702, (None, 0, COUNT, 0))
    assert "did not answer" in told.comment
    assert time.monotonic() - started < TIMEOUT_S + 5


def test_a_destination_that_stops_reading_fails_in_time(node, kept, ports):
    gate = threading.Event()
    stop = (evt.EVT_DATA_RECV, lambda event: gate.wait(30) if event.data[:1] == b"\x04" else None)
    started = time.monotonic()
    with sink(ports["SINK"], EVERY_CLASS, more=[stop]):
        told = moved(node, the_study(LARGE), "SINK")
        gate.set()
    assert (told.statuses[-1], told.counts[-1]) == (0xA702, (None, 0, 1, 0))
    assert time.monotonic() - started < TIMEOUT_S + 5


def test_an_asker_that_leaves_ends_the_move(node, kept, ports):
    with sink(ports["SINK"], EVERY_CLASS, keep=lambda event: time.sleep(0.3) or 0x0000) as came:
        association, answers = asked_to_move(node, "SINK")
        next(answers)
        association.abort()
        assert wait_until(lambda: came.ended)
        assert len(came.bodies) < COUNT
    assert client.echo(node.peer) == 0


def test_a_destination_that_answers_another_message_is_not_believed(node, kept, ports):
    def lie(event):
        send = event.assoc.dimse.send_msg

        def other(primitive, context_id):
            primitive.MessageIDBeingRespondedTo = 999
            send(primitive, context_id)

        event.assoc.dimse.send_msg = other
        return 0

    with sink(ports["SINK"], EVERY_CLASS, keep=lie):
        told = moved(node, the_study(), "SINK")
    assert (told.statuses[-1], told.counts[-1]) == (0xA702, (None, 0, COUNT, 0))


# --- DCMTK's getscu, and the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "keys", "study", "numbers"),
    [
        ("-P", ["PATIENT", "PatientID=RET1"], None, ()),
        ("-S", ["STUDY", f"StudyInstanceUID={STUDY}"], STUDY, ()),
        ("-S", ["SERIES", f"StudyInstanceUID={OTHER}", f"SeriesInstanceUID={series_uid(OTHER, 0)}"], OTHER, (0, 1)),
        (
            "-P",
            [
                *("IMAGE", "PatientID=RET1", f"StudyInstanceUID={OTHER}", f"SeriesInstanceUID={series_uid(OTHER, 2)}"),
                f"SOPInstanceUID={instance_uid(OTHER, 2)}",
            ],
            OTHER,
            (2,),
        ),
    ],
)
def test_getscu_gets_several_classes_at_every_level(node, kept, dcmtk, tmp_path, root, keys, study, numbers):
    options = [part for key in [f"QueryRetrieveLevel={keys[0]}", *keys[1:]] for part in ("-k", key)]
    programs.run(dcmtk / "getscu", root, "+B", "-od", tmp_path, "-aec", "DICOMNODE", "127.0.0.1", node.port, *options)
    found = {str(dcmread(path).SOPInstanceUID): path for path in tmp_path.iterdir()}
    wanted = uids_of(study, *numbers) if study else set(kept)
    assert wanted <= set(found)
    for uid in wanted - {instance_uid(STUDY, 0)}:  # that one is stored compressed, which getscu does not propose
        assert body(found[uid]) == body(kept[uid])


def test_fetch_saves_what_is_kept_as_it_is_kept(node, kept, tmp_path):
    done = nodes.answered("fetch", node.address, "--study", STUDY, "--to", tmp_path)
    assert (done["status"], done["completed"], done["failed"]) == (0, COUNT, 0)
    assert {path.name for path in tmp_path.iterdir()} == {f"{uid}.dcm" for uid in uids_of(STUDY)}
    compressed = tmp_path / f"{instance_uid(STUDY, 0)}.dcm"
    assert dcmread(compressed).PixelData


def test_fetch_of_one_image_of_nothing_and_by_move(node, kept, ports, tmp_path):
    done = nodes.answered("fetch", node.address, "--image", instance_uid(STUDY, 0), "--to", tmp_path / "new")
    assert done["files"] == [str(tmp_path / "new" / f"{instance_uid(STUDY, 0)}.dcm")]
    nothing = nodes.dicomnode("fetch", node.address, "--study", "1.2.3", "--to", tmp_path, check=False)
    assert (nothing.returncode, "nothing matches" in nothing.stderr) == (1, True)
    with sink(ports["SINK"], EVERY_CLASS) as came:
        done = nodes.answered("fetch", node.address, "--series", series_uid(OTHER, 0), "--move-to", "SINK")
    assert (done["completed"], set(came.bodies)) == (2, uids_of(OTHER, 0, 1))
