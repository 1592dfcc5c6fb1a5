"""dcmjs-dimse, a third DICOM stack, against the node."""

import pytest

from storage.store import Store
from tests.integration.interop import objects
from tests.integration.interop.objects import PLACES, Place

SENT = tuple(Place("JS", "js", "js", number) for number in range(3))


def test_echo(dcmjs):
    assert dcmjs.ask("echo")["statuses"] == [0]


def test_store(node, dcmjs, tmp_path):
    paths = objects.written(SENT, tmp_path)
    assert dcmjs.ask("store", files=paths)["statuses"] == [0] * len(SENT)
    with Store.open(node.root) as store:
        rows = [store.catalog.instance(place.uid) for place in SENT]
        assert None not in rows
        kept = [store.files.path(row.path) for row in rows]
    objects.assert_same_content(kept, paths)


@pytest.mark.parametrize(
    ("level", "keys", "expected"),
    [
        ("STUDY", {"PatientID": "IOP*"}, {place.study_uid for place in PLACES}),
        ("STUDY", {"PatientName": "山田*", "SpecificCharacterSet": "ISO_IR 192"}, {PLACES[4].study_uid}),
        ("SERIES", {"StudyInstanceUID": PLACES[0].study_uid}, {PLACES[0].series_uid, PLACES[2].series_uid}),
        (
            "IMAGE",
            {"StudyInstanceUID": PLACES[0].study_uid, "SeriesInstanceUID": PLACES[0].series_uid},
            {PLACES[0].uid, PLACES[1].uid},
        ),
    ],
)
def test_find_at_every_level(sent, dcmjs, level, keys, expected):
    answer = dcmjs.ask("find", level=level, keys=keys)
    keyword = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
    assert {match[keyword] for match in answer["datasets"]} == expected
    assert answer["statuses"] == [0xFF00] * len(expected) + [0]


STUDY_A = [number for number, place in enumerate(PLACES) if place.study == "a"]


@pytest.mark.parametrize("command", ["get", "move"])
def test_retrieval(sent, dcmjs, tmp_path, command):
    answer = dcmjs.ask(command, study=PLACES[0].study_uid, folder=tmp_path)
    assert answer["statuses"][-1] == 0
    assert set(answer["statuses"][:-1]) <= {0xFF00}
    assert (answer["completed"], answer["failures"]) == (len(STUDY_A), 0)
    objects.assert_same_content(objects.received(tmp_path), [sent[number] for number in STUDY_A])
