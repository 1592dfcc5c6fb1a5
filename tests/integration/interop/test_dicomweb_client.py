"""The JavaScript dicomweb-client, which viewers in browsers load by, against the node, with a token."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset

from storage.store import Store
from tests.integration.interop import objects
from tests.integration.interop.javascript import WebClient
from tests.integration.interop.objects import PLACES, SIDE, Place

FRAMES = Place("WEBJS", "webjs", "webjs1", 1)
STORED = tuple(Place("WEBJS2", "webjs2", "webjs2", number) for number in range(2))
PRIVATE = bytes(range(256)) * 300


def where(place: Place) -> dict[str, str]:
    """The options that name an instance."""
    return {
        "studyInstanceUID": place.study_uid,
        "seriesInstanceUID": place.series_uid,
        "sopInstanceUID": place.uid,
    }


def film_of_frames() -> FileDataset:
    """Three frames, and a large private value."""
    dataset = objects.instance(FRAMES)
    first = np.frombuffer(dataset.PixelData, np.uint16)
    dataset.NumberOfFrames = 3
    dataset.PixelData = np.concatenate([first, first + 1, first + 2]).tobytes()
    dataset.private_block(0x0011, "MAKER 1", create=True).add_new(0x02, "OB", PRIVATE)
    return dataset


def stored(web_client: WebClient, path: Path, dataset: FileDataset) -> None:
    dataset.save_as(path, enforce_file_format=True)
    web_client.call("storeInstances", files=[path])


def values(answers: list[dict], tag: str) -> set[str]:
    return {answer[tag]["Value"][0] for answer in answers}


def test_nothing_is_told_without_the_token(sent, web_client):
    stranger = WebClient(web_client.url, "", web_client.folder)
    assert stranger.outcome("searchForStudies") == {"status": 401}
    assert stranger.outcome("retrieveInstance", **where(PLACES[0])) == {"status": 401}


def test_it_searches_at_every_level(sent, web_client):
    studies = web_client.call("searchForStudies", queryParams={"PatientID": "IOP1", "includefield": "00081030"})
    assert values(studies, "0020000D") == {PLACES[0].study_uid, PLACES[3].study_uid}
    named = web_client.call("searchForStudies", queryParams={"PatientName": "山田*"})
    assert [answer["00100010"]["Value"][0]["Alphabetic"] for answer in named] == ["山田^太郎"]
    series = web_client.call("searchForSeries", studyInstanceUID=PLACES[0].study_uid)
    assert values(series, "0020000E") == {PLACES[0].series_uid, PLACES[2].series_uid}
    instances = web_client.call("searchForInstances", studyInstanceUID=PLACES[0].study_uid)
    assert values(instances, "00080018") == {place.uid for place in PLACES if place.study == "a"}


def test_nothing_found_is_an_empty_list(sent, web_client):
    assert web_client.call("searchForStudies", queryParams={"PatientID": "NOBODY"}) == []


def test_an_instance_comes_back_bit_for_bit(sent, web_client, tmp_path):
    (content,) = web_client.bodies("retrieveInstance", **where(PLACES[1]))
    back = tmp_path / "back.dcm"
    back.write_bytes(content)
    assert objects.body(back) == objects.body(sent[1])


def test_a_study_comes_back_whole(sent, web_client, tmp_path):
    for number, content in enumerate(web_client.bodies("retrieveStudy", studyInstanceUID=PLACES[0].study_uid)):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    originals = objects.bodies(sent)
    expected = {place.uid: originals[place.uid] for place in PLACES if place.study == "a"}
    assert objects.bodies(sorted(tmp_path.glob("*.dcm"))) == expected


def test_metadata_frames_and_bulk_data_are_those_of_the_file(node, web_client, tmp_path):
    dataset = film_of_frames()
    stored(web_client, tmp_path / "frames.dcm", dataset)
    (told,) = web_client.call("retrieveInstanceMetadata", **where(FRAMES))
    assert (told["00280008"]["Value"], told["00280010"]["Value"]) == ([3], [SIDE])
    frames = web_client.bodies("retrieveInstanceFrames", frameNumbers=[1, 3], **where(FRAMES))
    pixels = np.frombuffer(dataset.PixelData, np.uint16).reshape(3, -1)
    assert [np.frombuffer(frame, np.uint16).tolist() for frame in frames] == [pixels[0].tolist(), pixels[2].tolist()]
    (private,) = web_client.bodies("retrieveBulkData", BulkDataURI=told["00111002"]["BulkDataURI"])
    assert private == PRIVATE


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png"])
def test_a_picture_is_rendered(sent, web_client, kind):
    (picture,) = web_client.bodies("retrieveInstanceRendered", mediaTypes=[{"mediaType": kind}], **where(PLACES[0]))
    with Image.open(BytesIO(picture)) as opened:
        assert (opened.get_format_mimetype(), opened.size) == (kind, (SIDE, SIDE))


def test_what_it_stores_is_kept_bit_for_bit(node, web_client, tmp_path):
    paths = objects.written(STORED, tmp_path)
    answer = json.loads(web_client.call("storeInstances", files=paths, studyInstanceUID=STORED[0].study_uid))
    assert {item["00081155"]["Value"][0] for item in answer["00081199"]["Value"]} == {each.uid for each in STORED}
    with Store.open(node.root) as store:
        kept = [store.files.path(store.catalog.instance(place.uid).path) for place in STORED]
    assert objects.bodies(kept) == objects.bodies(paths)
    assert dcmread(kept[0]).PatientID == "WEBJS2"
