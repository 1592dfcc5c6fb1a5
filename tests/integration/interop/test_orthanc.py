"""Orthanc as a PACS: it stores to the node, queries it and moves from it; the node's commands push to it and ask it."""

import pytest
from pydicom.dataset import Dataset

from dicomnode.dimse import client
from storage.store import Store
from tests import nodes
from tests.integration.interop import objects
from tests.integration.interop.objects import PLACES, Place

DX_PUSHED = tuple(Place("ORT", "ort", f"ort{number % 2}", number) for number in range(4))


def test_each_verifies_the_other(pacs):
    assert pacs.post("/modalities/node/echo", {}) == {}
    assert nodes.answered("echo", pacs.address, "--called", "ORTHANC") == {"status": 0}


def test_orthanc_stores_to_the_node(node, empty, tmp_path):
    paths = objects.written(DX_PUSHED, tmp_path)
    for path in paths:
        empty.upload(path)
    done = empty.post("/modalities/node/store", {"Resources": empty.instances(), "Synchronous": True})
    assert (done["InstancesCount"], done["FailedInstancesCount"]) == (len(paths), 0)
    with Store.open(node.root) as store:
        rows = [store.catalog.instance(place.uid) for place in DX_PUSHED]
        assert None not in rows
        kept = objects.bodies([store.files.path(row.path) for row in rows])
    assert kept == objects.bodies(paths)


@pytest.mark.parametrize(
    ("level", "keys", "tag", "expected"),
    [
        ("Patient", {"PatientID": "IOP*"}, "PatientID", {"IOP1", "IOP2"}),
        ("Study", {"PatientID": "IOP1"}, "StudyInstanceUID", {PLACES[0].study_uid, PLACES[3].study_uid}),
        ("Study", {"PatientName": "grüber*"}, "StudyInstanceUID", {PLACES[0].study_uid, PLACES[3].study_uid}),
        (
            "Series",
            {"StudyInstanceUID": PLACES[0].study_uid},
            "SeriesInstanceUID",
            {PLACES[0].series_uid, PLACES[2].series_uid},
        ),
        (
            "Instance",
            {"StudyInstanceUID": PLACES[0].study_uid, "SeriesInstanceUID": PLACES[0].series_uid},
            "SOPInstanceUID",
            {PLACES[0].uid, PLACES[1].uid},
        ),
    ],
)
def test_orthanc_queries_the_node_at_every_level(sent, pacs, level, keys, tag, expected):
    query = pacs.post("/modalities/node/query", {"Level": level, "Query": keys})
    answers = pacs.get(f"{query['Path']}/answers?expand&simplify")
    assert {answer[tag] for answer in answers} == expected
    assert len(answers) == len(expected)


def test_the_node_pushes_a_folder_to_orthanc(empty, tmp_path):
    paths = objects.written(DX_PUSHED, tmp_path / "sent")
    pushed = nodes.answered("send", empty.address, tmp_path / "sent", "--called", "ORTHANC")
    assert pushed == {"sent": len(paths), "failed": []}
    (tmp_path / "saved").mkdir()
    assert objects.bodies(empty.saved(tmp_path / "saved")) == objects.bodies(paths)


def test_the_node_s_client_queries_orthanc(empty, tmp_path):
    for path in objects.written(PLACES, tmp_path):
        empty.upload(path)
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.PatientID, identifier.StudyInstanceUID, identifier.PatientName = "IOP1", "", ""
    matches = list(client.find(empty.peer, identifier))
    assert {match.StudyInstanceUID for match in matches} == {PLACES[0].study_uid, PLACES[3].study_uid}
    assert {str(match.PatientName) for match in matches} == {"Grüber^Änne"}


def test_a_region_query_to_orthanc_has_no_hits(empty, tmp_path):
    """It matches what it knows nothing of as plain keys, so nothing comes; its image is found, by plain C-FIND."""
    empty.upload(*objects.written(PLACES[:1], tmp_path))
    asked = ["query", empty.address, "--called", "ORTHANC", "--box", "1,1,50,50", "--image"]
    assert nodes.answered(*asked, PLACES[0].uid) == {"hits": []}
    unknown = nodes.dicomnode(*asked, "1.2.3", check=False)
    assert (unknown.returncode, "Traceback" in unknown.stderr) == (1, False)
    assert "image not stored" in unknown.stderr


@pytest.mark.parametrize(
    ("level", "keys", "expected"),
    [
        ("Study", {"StudyInstanceUID": PLACES[0].study_uid}, [place for place in PLACES if place.study == "a"]),
        (
            "Series",
            {"StudyInstanceUID": PLACES[0].study_uid, "SeriesInstanceUID": PLACES[0].series_uid},
            list(PLACES[:2]),
        ),
        (
            "Instance",
            {"StudyInstanceUID": PLACES[2].study_uid, "SeriesInstanceUID": PLACES[2].series_uid},
            [PLACES[2]],
        ),
    ],
)
def test_orthanc_moves_from_the_node_bit_for_bit(sent, empty, tmp_path, level, keys, expected):
    retrieved(empty, level, keys)
    originals = objects.bodies(sent)
    assert objects.bodies(empty.saved(tmp_path)) == {place.uid: originals[place.uid] for place in expected}


def retrieved(pacs, level: str, keys: dict[str, str]) -> None:
    """Ask the node by C-FIND, and have the one answer moved to Orthanc."""
    query = pacs.post("/modalities/node/query", {"Level": level, "Query": keys})
    assert len(pacs.get(f"{query['Path']}/answers")) == 1
    pacs.post(f"{query['Path']}/answers/0/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})


def test_orthanc_moves_a_patient(sent, empty):
    """Orthanc asks for a patient in Study Root, which has no such level: PS3.4 C.6.2.1."""
    retrieved(empty, "Patient", {"PatientID": "IOP1"})
    assert len(empty.instances()) == len([place for place in PLACES if place.patient == "IOP1"])


def test_orthanc_finds_an_instance_by_its_uid(sent, pacs):
    """Orthanc sends Media Storage SOP Instance UID (0002,0003) along, which is no attribute of a data set."""
    place = PLACES[1]
    keys = {
        "StudyInstanceUID": place.study_uid,
        "SeriesInstanceUID": place.series_uid,
        "SOPInstanceUID": place.uid,
    }
    query = pacs.post("/modalities/node/query", {"Level": "Instance", "Query": keys})
    assert len(pacs.get(f"{query['Path']}/answers")) == 1
