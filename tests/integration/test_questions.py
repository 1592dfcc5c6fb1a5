"""Door B: an SR stored to the query AE title by other programs is a question; the answer comes back as objects."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import BasicTextSRStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from dicomnode import private
from dicomnode.dimse import client
from dicomnode.dimse.client import Peer
from dicomnode.errors import PeerError
from dicomnode.query import request
from dicomnode.sr import reader
from encoder.anatomy import VOCABULARY
from storage.store import Store
from tests import nodes
from tests.integration import asking
from tests.integration.asking import HEART, HEART_BOX
from tests.integration.interop import programs
from tests.nodes import RunningNode
from tests.raw import wait_until

TITLE = "REGIONMIR"
FILMS = 14
WAIT_S = 4
PATIENT = {"DICOMNODE_QUERY__WAIT_S": "600"}  # where a start of the node lies in between


@pytest.fixture(scope="module")
def films() -> list[Dataset]:
    """The first two are of the asking patient."""
    return [asking.film(number, "ASKER-1" if number < 2 else "") for number in range(FILMS)]


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: programs.free_port() for name in ("VIEWER", "PICKY", "LATER", "CLOSED")}


@pytest.fixture(scope="module")
def arguments(ports, tmp_path_factory) -> list[str]:
    settings = tmp_path_factory.mktemp("settings") / "dicomnode.toml"
    tables = [
        f'[peers.{name}]\nae_title = "{name}"\nhost = "127.0.0.1"\nport = {port}\n' for name, port in ports.items()
    ]
    tables.append('[peers.modality]\nae_title = "MODALITY"\nservices = ["echo", "store"]\n')
    settings.write_text(
        '[dimse]\nunknown_peers = "accept"\nnetwork_timeout_s = 4.0\ncheck_called_ae = true\n'
        f"[query]\nwait_s = {WAIT_S}\n" + "\n".join(tables)
    )
    return ["--workers", "0", "--config", str(settings)]


@pytest.fixture(scope="module")
def node(arguments, films, tmp_path_factory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("questions")
    asking.indexed(folder / "root", folder, films)
    with nodes.running_node(folder / "root", *arguments) as running:
        yield running


def store(node: RunningNode, *documents: Dataset, folder: Path, calling: str = "STRANGER", called: str = TITLE) -> int:
    """The last status of storing data sets to an AE title."""
    peer = Peer("127.0.0.1", node.port, called, calling)
    sent = list(client.send(peer, [asking.saved(document, folder) for document in documents]))
    return sent[-1].status


@contextmanager
def taking(
    port: int, title: str, answer: int = 0x0000, classes=(Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
):
    """A peer that takes result objects, or does not; what it was sent."""
    taken: list[Dataset] = []

    def take(event):
        dataset = event.dataset
        taken.append(dataset)
        return answer

    entity = AE(title)
    for uid in classes:
        entity.add_supported_context(uid)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        yield taken
    finally:
        server.shutdown()


def deliveries(node: RunningNode, uid: str) -> dict[str, tuple[str, str, int]]:
    """Of a question: AE title and which object -> state, reason, attempts."""
    with Store.open(node.root) as opened:
        found = opened.questions.of_sr(uid)
        kinds = {found.report_uid: "report", found.panel_uid: "panel"}
        return {
            kinds[each.sop_instance_uid]: (each.state, each.reason, each.attempts)
            for each in opened.deliveries.of_question(found.id)
        }


def by_stored_sr(uid: str, **keys: str) -> Dataset:
    """A query identifier that names a stored SR (xx13)."""
    private.register()
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    for keyword in request.RETURNED:
        setattr(identifier, keyword, keys.get(keyword, ""))
    private.write_request(identifier, private.QueryKeys(sr_instance_uid=uid, rois=()))
    return identifier


# What viewers wrote, and what becomes of it when it is stored as a question: hits, or the reason.
SAMPLES = {
    "highdicom_bounding_box": "",
    "highdicom_planar_roi": "",
    "ohif_arrow": "",
    "ohif_circle": "",
    "ohif_drawn_in_viewer": "",
    "ohif_ellipse": "",
    "ohif_free": "",
    "ohif_rect": "",
    "ohif_rect0": "",
    "ohif_rect_nostats": "SR has no region",
}


@pytest.mark.data
@pytest.mark.dcmtk
def test_what_viewers_write_is_answered_and_comes_back(node, films, ports, data_dir, dcmtk, tmp_path):
    """storescu sends, storescp receives: every sample is answered or refused in the right words."""
    old = str(dcmread(data_dir / "sr" / "dx_image.dcm").SOPInstanceUID)
    documents = {}
    for name in SAMPLES:
        document = asking.about(data_dir / "sr" / f"{name}.dcm", films[0], old)
        if name == "ohif_drawn_in_viewer":  # drawn on another image than the others
            drawn = reader.rois(document)[0].image_uid
            document = asking.about(data_dir / "sr" / f"{name}.dcm", films[0], drawn)
        documents[name] = document
    paths = [asking.saved(document, tmp_path) for document in documents.values()]
    taken = tmp_path / "taken"
    taken.mkdir()
    listener = [dcmtk / "storescp", "-aet", "VIEWER", "-od", taken, ports["VIEWER"]]
    with programs.serving(ports["VIEWER"], tmp_path / "storescp.log", *listener):
        programs.run(dcmtk / "storescu", "-R", "-aet", "VIEWER", "-aec", TITLE, "127.0.0.1", node.port, *paths)
        found = {name: asking.ended(node.root, document.SOPInstanceUID) for name, document in documents.items()}
        answered = [each for each in found.values() if each.state == "stored"]
        told = len(found) + len(answered)  # a report and a panel of each answer, a notice of what has none
        assert wait_until(lambda: len(list(taken.iterdir())) == told)
    assert {name: each.reason for name, each in found.items()} == SAMPLES
    assert {name: each.state for name, each in found.items() if each.reason} == {"ohif_rect_nostats": "failed"}
    for each in answered:
        assert 1 <= len(each.answer["hits"]) <= 10
    classes = sorted(str(dcmread(path, stop_before_pixels=True).SOPClassUID) for path in taken.iterdir())
    assert set(classes) == {BasicTextSRStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage}


def test_the_result_is_drawn_on_the_askers_image_and_names_nobody_else(node, films, tmp_path):
    document = asking.question(films[0])
    assert store(node, document, folder=tmp_path) == 0x0000
    done = asking.ended(node.root, document.SOPInstanceUID)
    assert (done.state, done.reason, len(done.answer["hits"])) == ("stored", "", 10)
    report = dcmread(asking.stored_file(node.root, done.report_uid))
    rois = reader.rois(report)
    assert {(roi.image_uid, roi.box, roi.sites) for roi in rois} == {(films[0].SOPInstanceUID, HEART_BOX, (HEART,))}
    assert [roi.tracking_identifier.split()[0] for roi in rois] == [f"#{rank}" for rank in range(1, 11)]
    assert (report.PatientID, str(report.PatientName)) == ("ASKER-1", "Asking^Änne")
    assert report.StudyInstanceUID == films[0].StudyInstanceUID
    for uid in (done.report_uid, done.panel_uid):
        assert uid.startswith("2.25.")
        content = asking.stored_file(node.root, uid).read_bytes()
        assert [text for text in asking.strangers(films[2:]) if text in content] == []
        assert films[0].PatientID.encode() in content


def test_the_result_is_found_and_retrieved_like_any_instance(node, films, tmp_path):
    document = asking.question(films[0], HEART_BOX)
    store(node, document, folder=tmp_path)
    done = asking.ended(node.root, document.SOPInstanceUID)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID, identifier.SOPInstanceUID = films[0].StudyInstanceUID, done.report_uid
    identifier.SeriesInstanceUID = identifier.Modality = ""
    (found,) = client.find(node.peer, identifier)
    assert found.Modality == "SR"
    nodes.dicomnode("fetch", node.address, "--series", found.SeriesInstanceUID, "--to", tmp_path / "fetched")
    (path,) = (tmp_path / "fetched").iterdir()
    assert dcmread(path).SOPInstanceUID == done.report_uid
    with Store.open(node.root) as opened:
        asking.index(opened)
        panel = opened.catalog.instance(done.panel_uid)
        assert opened.regions.of_instance(opened.generations.live().id, panel.id) == []


def test_the_kept_answer_is_told_to_who_names_the_sr_or_its_result(node, films, tmp_path):
    document = asking.question(films[1])
    store(node, document, folder=tmp_path)
    done = asking.ended(node.root, document.SOPInstanceUID)
    told = [list(client.find(node.peer, by_stored_sr(uid))) for uid in (document.SOPInstanceUID, done.report_uid)]
    hits = [request.read_hit(each) for each in told[0]]
    assert hits == [request.read_hit(each) for each in told[1]]
    assert [hit.sop_instance_uid for hit in hits] == [hit["sop_instance_uid"] for hit in done.answer["hits"]]
    assert {hit.patient_id for hit in hits}.isdisjoint({"ASKER-1"})
    names = [reader.rois(private.read_response(each).matched_roi)[0].tracking_uid for each in told[0]]
    assert names == [roi.tracking_uid for roi in reader.rois(dcmread(asking.stored_file(node.root, done.report_uid)))]
    one = films[5].PatientID
    narrowed = [request.read_hit(each) for each in client.find(node.peer, by_stored_sr(done.report_uid, PatientID=one))]
    assert [hit.patient_id for hit in narrowed] == [one]


def test_an_answer_without_hits_is_an_answer(node, films, tmp_path):
    document = asking.question(films[0], anatomy=VOCABULARY.named("trachea"))
    store(node, document, folder=tmp_path)
    done = asking.ended(node.root, document.SOPInstanceUID)
    assert (done.state, done.reason, done.answer["hits"]) == ("stored", "", [])
    (roi,) = reader.rois(dcmread(asking.stored_file(node.root, done.report_uid)))
    assert (roi.tracking_identifier, roi.box) == ("no similar region", HEART_BOX)
    assert list(client.find(node.peer, by_stored_sr(document.SOPInstanceUID))) == []


def test_an_sr_asks_once(node, films, tmp_path):
    document = asking.question(films[0])
    for _ in range(2):
        assert store(node, document, folder=tmp_path) == 0x0000
    first = asking.ended(node.root, document.SOPInstanceUID)
    assert store(node, document, folder=tmp_path) == 0x0000
    again = asking.asked(node.root, document.SOPInstanceUID)
    assert (again.id, again.answered_at, again.report_uid) == (first.id, first.answered_at, first.report_uid)


def test_an_sr_stored_to_the_node_itself_is_no_question(node, films, tmp_path):
    document = asking.question(films[0])
    assert store(node, document, folder=tmp_path, called="DICOMNODE") == 0x0000
    assert asking.asked(node.root, document.SOPInstanceUID) is None
    assert store(node, document, folder=tmp_path) == 0x0000
    assert asking.ended(node.root, document.SOPInstanceUID).state == "stored"


def test_other_titles_are_refused_where_they_are_checked(node, films, tmp_path):
    with pytest.raises(PeerError, match="called ae title not recognised"):
        store(node, asking.question(films[0]), folder=tmp_path, called="NOBODY")


def test_a_result_that_comes_back_is_no_question(node, films, tmp_path):
    document = asking.question(films[0])
    store(node, document, folder=tmp_path)
    done = asking.ended(node.root, document.SOPInstanceUID)
    report = dcmread(asking.stored_file(node.root, done.report_uid))
    panel = dcmread(asking.stored_file(node.root, done.panel_uid))
    assert store(node, report, panel, folder=tmp_path) == 0x0000
    assert asking.asked(node.root, done.report_uid) is None
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "2.25.77"  # as of another node
    assert store(node, report, folder=tmp_path) == 0x0000
    again = asking.ended(node.root, "2.25.77")
    assert (again.state, again.reason) == ("failed", "SR is a result of a region search")


def test_who_may_not_query_may_not_ask_by_storing(node, films, tmp_path):
    document = asking.question(films[0])
    assert store(node, document, folder=tmp_path, calling="MODALITY") == 0x0124
    assert asking.asked(node.root, document.SOPInstanceUID) is None
    assert store(node, document, folder=tmp_path, calling="MODALITY", called="DICOMNODE") == 0x0000


def test_a_question_waits_for_its_image(node, tmp_path):
    late = asking.film(501)
    document = asking.question(late)
    assert store(node, document, folder=tmp_path) == 0x0000
    waiting = asking.when(node.root, document.SOPInstanceUID, lambda question: question.attempts > 0)
    assert (waiting.state, waiting.reason) == ("waiting", "image not stored: send it first")
    assert store(node, late, folder=tmp_path, called="DICOMNODE") == 0x0000
    assert asking.ended(node.root, document.SOPInstanceUID).state == "stored"


def test_a_question_without_its_image_expires_and_may_be_asked_again(node, tmp_path):
    late = asking.film(502)
    document = asking.question(late)
    store(node, document, folder=tmp_path)
    expired = asking.ended(node.root, document.SOPInstanceUID)
    assert (expired.state, expired.reason) == ("failed", f"image not stored: send it first (waited {WAIT_S} s)")
    store(node, late, folder=tmp_path, called="DICOMNODE")
    store(node, document, folder=tmp_path)
    assert asking.ended(node.root, document.SOPInstanceUID).state == "stored"
    listed = {each["sop_instance_uid"]: each for each in nodes.answered("questions", "--root", node.root)}
    assert listed[document.SOPInstanceUID]["state"] == "stored"
    assert "Forget" not in nodes.dicomnode("questions", "--root", node.root).stdout


def wrong_patient(films: list[Dataset]) -> Dataset:
    document = asking.question(films[0])
    document.PatientID = "SOMEBODY-ELSE"
    return document


def two_patients(films: list[Dataset]) -> Dataset:
    document = asking.question(films[0], HEART_BOX, HEART_BOX)
    document.PatientID = ""
    drawn = [each for each in document.iterall() if each.keyword == "ReferencedSOPInstanceUID"]
    drawn[-1].value = films[3].SOPInstanceUID
    return document


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (wrong_patient, "SR names another patient than its image"),
        (two_patients, "SR is about images of several patients"),
        (lambda films: asking.question(films[0], *[HEART_BOX] * 65), "SR has more than 64 regions"),
        (lambda films: asking.question(films[0], asking.Box(300, 300, 400, 400)), "region lies outside the image"),
        (lambda films: asking.question(films[0], asking.Box(10, 10, 12, 12)), "region is under 4 pixels"),
    ],
)
def test_what_cannot_be_answered_is_failed_in_words(node, films, tmp_path, make, reason):
    document = make(films)
    assert store(node, document, folder=tmp_path) == 0x0000
    failed = asking.ended(node.root, document.SOPInstanceUID)
    assert (failed.state, failed.reason) == ("failed", reason)


def test_a_peer_that_refuses_is_never_sent_it_again(node, films, ports, tmp_path):
    document = asking.question(films[0])
    with taking(ports["PICKY"], "PICKY", 0xA900, classes=[Comprehensive3DSRStorage]) as taken:
        store(node, document, folder=tmp_path, calling="PICKY")
        uid = document.SOPInstanceUID
        asking.ended(node.root, uid)
        assert wait_until(lambda: {each[0] for each in deliveries(node, uid).values()} == {"refused"})
        assert wait_until(lambda: len(taken) > 1, 2.5) is False
    assert deliveries(node, uid) == {
        "report": ("refused", "refused with 0xA900", 0),
        "panel": ("refused", "peers.PICKY took none of the presentation contexts", 0),
    }


def test_a_peer_that_is_down_is_sent_it_when_it_is_up(node, films, ports, tmp_path):
    document = asking.question(films[0])
    store(node, document, folder=tmp_path, calling="LATER")
    uid = document.SOPInstanceUID
    asking.ended(node.root, uid)
    assert wait_until(
        lambda: {each[:2] for each in deliveries(node, uid).values()} == {("owed", "peers.LATER does not answer")}
    )
    with taking(ports["LATER"], "LATER") as taken:
        assert wait_until(lambda: {each[0] for each in deliveries(node, uid).values()} == {"sent"}, 40)
    assert len(taken) == 2


def test_killed_anywhere_a_question_is_answered_once_and_its_result_sent(arguments, films, ports, tmp_path):
    """Killed as soon as it is acknowledged, while it waits for its image, and while its result is owed."""
    asking.indexed(tmp_path / "root", tmp_path, films[:8])
    late = asking.film(503)
    at_once, waiting = asking.question(films[0]), asking.question(late)
    with nodes.running_node(tmp_path / "root", *arguments, environment=PATIENT) as node:
        assert store(node, at_once, waiting, folder=tmp_path, calling="CLOSED") == 0x0000
        node.kill_tree()
    with nodes.running_node(tmp_path / "root", *arguments, environment=PATIENT) as node:
        assert store(node, late, folder=tmp_path, called="DICOMNODE") == 0x0000
        done = [asking.ended(node.root, each.SOPInstanceUID) for each in (at_once, waiting)]
        assert [each.state for each in done] == ["stored", "stored"]
        node.kill_tree()
    with (
        taking(ports["CLOSED"], "CLOSED") as taken,
        nodes.running_node(tmp_path / "root", *arguments, environment=PATIENT) as node,
    ):
        expected = {uid for each in done for uid in (each.report_uid, each.panel_uid)}
        assert wait_until(lambda: {str(each.SOPInstanceUID) for each in taken} == expected, 30)
        assert [asking.asked(node.root, each.sop_instance_uid).report_uid for each in done] == [
            each.report_uid for each in done
        ]
    assert len(taken) == len(expected)


def test_deleting_the_sr_takes_its_question_along(node, films, tmp_path):
    document = asking.question(films[0])
    store(node, document, folder=tmp_path)
    done = asking.ended(node.root, document.SOPInstanceUID)
    nodes.dicomnode("delete", "--root", node.root, "--instance", document.SOPInstanceUID, "--yes")
    assert asking.asked(node.root, document.SOPInstanceUID) is None
    listed = nodes.answered("questions", "--root", node.root)
    assert document.SOPInstanceUID not in {each["sop_instance_uid"] for each in listed}
    assert asking.stored_file(node.root, done.report_uid).is_file()
