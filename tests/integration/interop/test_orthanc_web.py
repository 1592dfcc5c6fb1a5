"""Orthanc as a DICOMweb client: its plugin sends to the node, searches it and retrieves from it, with a token."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from dicomnode.dimse import client
from storage.store import Store
from tests.integration.interop import objects
from tests.integration.interop.objects import PLACES, Place

PUSHED = tuple(Place("ORTWEB", "ortweb", f"ortweb{number % 2}", number) for number in range(4))
PACKED = Place("ORTJ2K", "ortj2k", "ortj2k", 1)
NODE = "/dicom-web/servers/node"


def test_orthanc_stores_a_study_to_the_node(node, web_pacs, tmp_path):
    paths = objects.written(PUSHED, tmp_path)
    for path in paths:
        web_pacs.upload(path)
    (study,) = web_pacs.get("/studies")
    web_pacs.post(f"{NODE}/stow", {"Resources": [study], "Synchronous": True})
    with Store.open(node.root) as store:
        rows = [store.catalog.instance(place.uid) for place in PUSHED]
        assert None not in rows
        kept = objects.bodies([store.files.path(row.path) for row in rows])
    assert kept == objects.bodies(paths)


@pytest.mark.parametrize(
    ("uri", "arguments", "tag", "expected"),
    [
        ("/studies", {"PatientID": "IOP1"}, "0020000D", {PLACES[0].study_uid, PLACES[3].study_uid}),
        ("/studies", {"PatientName": "grüber*"}, "0020000D", {PLACES[0].study_uid, PLACES[3].study_uid}),
        (
            f"/studies/{PLACES[0].study_uid}/series",
            {},
            "0020000E",
            {PLACES[0].series_uid, PLACES[2].series_uid},
        ),
        ("/instances", {"StudyInstanceUID": PLACES[3].study_uid}, "00080018", {PLACES[3].uid}),
    ],
)
def test_orthanc_searches_the_node(sent, web_pacs, uri, arguments, tag, expected):
    answers = web_pacs.post(f"{NODE}/qido", {"Uri": uri, "Arguments": arguments})
    assert {answer[tag]["Value"] for answer in answers} == expected
    assert len(answers) == len(expected)


def test_orthanc_gets_what_the_node_says_of_an_instance(sent, web_pacs):
    place = PLACES[0]
    path = f"/studies/{place.study_uid}/series/{place.series_uid}/instances/{place.uid}/metadata"
    (told,) = web_pacs.post(f"{NODE}/get", {"Uri": path, "HttpHeaders": {"Accept": "application/dicom+json"}})
    assert told["00080018"]["Value"] == [place.uid]
    assert told["00100010"]["Value"] == [{"Alphabetic": "Grüber^Änne"}]


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ({"Study": PLACES[0].study_uid}, [place for place in PLACES if place.study == "a"]),
        ({"Study": PLACES[0].study_uid, "Series": PLACES[0].series_uid}, list(PLACES[:2])),
        (
            {"Study": PLACES[2].study_uid, "Series": PLACES[2].series_uid, "Instance": PLACES[2].uid},
            [PLACES[2]],
        ),
    ],
)
def test_orthanc_retrieves_from_the_node_bit_for_bit(sent, web_pacs, tmp_path, resource, expected):
    done = web_pacs.post(f"{NODE}/retrieve", {"Resources": [resource], "Synchronous": True})
    assert len(web_pacs.instances()) == len(expected), done
    originals = objects.bodies(sent)
    assert objects.bodies(web_pacs.saved(tmp_path)) == {place.uid: originals[place.uid] for place in expected}


def test_orthanc_retrieves_a_compressed_film_with_its_pixels(node, web_pacs, tmp_path):
    """It does not say which transfer syntaxes it takes: the node gives it the one that every client reads."""
    dataset = objects.instance(PACKED)
    pixels = dataset.pixel_array.copy()
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.save_as(tmp_path / "packed.dcm", enforce_file_format=True)
    assert all(sent.ok for sent in client.send(node.peer, [tmp_path / "packed.dcm"]))
    web_pacs.post(f"{NODE}/retrieve", {"Resources": [{"Study": PACKED.study_uid}], "Synchronous": True})
    (back,) = web_pacs.saved(tmp_path)
    assert np.array_equal(dcmread(back).pixel_array, pixels)
