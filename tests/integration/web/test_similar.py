"""POST /similar on an indexed archive: the answer of C-FIND as JSON, however it is asked; and what is wrong."""

import httpx
import pytest
from pydicom import dcmread

from dicomnode.demo import films as drawn
from dicomnode.dimse import client
from dicomnode.query import request as asking
from dicomnode.query.request import Keys
from encoder.boxes import Box
from storage.store import Store
from tests import nodes
from tests.integration.web.reports import report

COUNT = 4
HEART = 24  # in the vocabulary


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A node that has indexed a few drawn films; they; and where it found the heart in the first."""
    folder = tmp_path_factory.mktemp("similar")
    with nodes.running_node(folder / "root", "--workers", "2", "--http-port", "0") as node:
        paths = drawn.drawn(folder, COUNT, lambda *_: None)
        assert all(sent.ok for sent in client.send(node.peer, paths))
        nodes.dicomnode("wait", "--root", node.root, "--timeout", "120")
        films = [dcmread(path) for path in paths]
        yield node, films, found_at(node, films[0])


def found_at(node, film) -> Box:
    with Store.open(node.root) as store:
        instance, live = store.catalog.instance(str(film.SOPInstanceUID)), store.generations.live()
        regions = store.regions.of_instance(live.id, instance.id)
    return Box(*next(region.box for region in regions if region.anatomy == HEART))


def question(archive, **more):
    _, films, heart = archive
    return {"image": str(films[0].SOPInstanceUID), "box": [heart.x1, heart.y1, heart.x2, heart.y2], **more}


def asked(node, body, **options) -> httpx.Response:
    return httpx.post(node.url + "/similar", json=body, timeout=60, **options)


def found(answer) -> dict:
    assert answer.status_code == 200, answer.text
    return answer.json()


def by_c_find(archive, keys: Keys) -> list:
    node, (image, *_), heart = archive
    identifier = asking.by_box(str(image.SOPInstanceUID), str(image.SOPClassUID), heart, keys)
    return [asking.read_hit(match).as_dict() for match in client.find(node.peer, identifier)]


def test_the_answer_is_that_of_c_find(archive):
    answer = found(asked(archive[0], question(archive, k=3)))
    by_dicom = by_c_find(archive, Keys(matches=3))
    assert len(by_dicom) == 3
    for told, hit in zip(answer["hits"], by_dicom, strict=True):
        assert told["box"] == pytest.approx(hit.pop("box"), abs=1e-3)  # Graphic Data is float32
        assert {name: told[name] for name in hit} == hit
    best = answer["hits"][0]
    assert (best["rank"], best["anatomy"], best["modality"]) == (1, "cardiac silhouette", "DX")
    assert best["url"].endswith(f"/instances/{best['sop_instance_uid']}")
    assert answer["generation"] == best["generation"] != ""
    assert httpx.get(best["url"]).status_code == 200


def test_conditions_narrow_before_ranking(archive):
    node, films, _ = archive
    other = str(films[3].PatientID)
    hits = found(asked(node, question(archive, keys={"PatientID": other}, minimum_score=-1, scope="any")))["hits"]
    assert {hit["patient_id"] for hit in hits} == {other}
    lungs = found(asked(node, question(archive, anatomy="Right Lung", k=2)))["hits"]
    assert [hit["anatomy"] for hit in lungs] == ["right lung", "right lung"]
    assert found(asked(node, question(archive, keys={"PatientID": "NOBODY"})))["hits"] == []
    assert found(asked(node, question(archive, minimum_score=1)))["hits"] == []


def test_the_answer_is_kept_for_who_asked(archive):
    answer = asked(archive[0], question(archive))
    assert httpx.get(answer.headers["location"]).json() == answer.json()
    assert httpx.get(archive[0].url + "/similar/unknown").status_code == 404


def test_a_stored_sr_and_one_in_the_body_ask_the_same(archive, tmp_path):
    node, films, heart = archive
    document = report(films[0], heart)
    document.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    body = (tmp_path / "sr.dcm").read_bytes()
    kind = {"Content-Type": "application/dicom"}
    by_body = found(httpx.post(node.url + "/similar?k=3&PatientSex=", content=body, headers=kind, timeout=60))
    stowed = httpx.post(node.url + "/dicom-web/studies", content=body, headers=kind)
    assert stowed.status_code == 200
    by_uid = found(asked(node, {"sr": str(document.SOPInstanceUID), "k": 3}))
    assert len(by_body["hits"]) == 3
    assert by_body["hits"] == by_uid["hits"]


def test_an_sr_that_is_stored_by_http_is_a_question(archive, tmp_path):
    node, films, heart = archive
    document = report(films[1], heart)
    document.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    headers = {"Content-Type": "application/dicom"}
    body = (tmp_path / "sr.dcm").read_bytes()
    assert httpx.post(node.url + "/dicom-web/studies", content=body, headers=headers).status_code == 200
    with Store.open(node.root) as store:
        assert store.questions.of_sr(str(document.SOPInstanceUID)) is not None


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"image": "1.2.3"}, 404, "send it first"),
        ({"image": "../1"}, 400, "no UID"),
        ({"box": [1, 2, 3]}, 400, "box is"),
        ({"box": [5, 5, 5, 9]}, 400, "box is"),
        ({"box": [1, 2, "3", 4]}, 400, "box is"),
        ({"box": [5000, 5000, 6000, 6000]}, 400, ""),
        ({"k": 0}, 400, "k is"),
        ({"k": True}, 400, "k is"),
        ({"scope": "MINE"}, 400, "scope"),
        ({"anatomy": "tail"}, 400, "vocabulary"),
        ({"minimum_score": 2}, 400, "minimum_score"),
        ({"keys": {"NoKeyword": "1"}}, 400, "keyword"),
        ({"keys": {"Rows": {}}}, 400, "texts"),
        ({"keys": {"StudyDate": "soon"}}, 400, "StudyDate"),
        ({"sr": "1.2.3"}, 400, "image and box, or sr"),
        ({"unknown": 1}, 400, "object of"),
    ],
)
def test_questions_that_mean_nothing_are_refused_in_words(archive, change, status, words):
    answer = asked(archive[0], question(archive, **change))
    assert answer.status_code == status
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"no SR", "application/dicom", 400),
        (b"x" * (17 << 20), "application/json", 413),
    ],
)
def test_bodies_that_are_no_questions_are_refused(archive, body, kind, status):
    answer = httpx.post(archive[0].url + "/similar", content=body, headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == status


def test_the_node_says_that_it_is_ready_and_counts(archive):
    node = archive[0]
    asked(node, question(archive))
    ready = httpx.get(node.url + "/health/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    metrics = httpx.get(node.url + "/metrics").text
    assert f'dicomnode_jobs{{state="indexed"}} {COUNT}.0' in metrics
    assert 'dicomnode_query_seconds_count{kind="region"}' in metrics
    received = next(line for line in metrics.splitlines() if line.startswith("dicomnode_received_instances_total"))
    assert float(received.split()[1]) >= COUNT
    assert str(archive[1][0].PatientName) not in metrics
