"""QIDO-RS by another people's client and by raw requests: every path form, names, paging, kinds of answers."""

from xml.etree import ElementTree

import pytest
from pydicom.dataset import Dataset

from dicomnode.dimse import client
from tests.integration.dimse.test_find import STUDY, find
from tests.integration.web.conftest import NAMES, path_of, uids_of


def found(matches) -> list[Dataset]:
    return [Dataset.from_json(match) for match in matches]


def test_studies_come_back_with_what_the_standard_names(dicomweb, films):
    (match,) = found(dicomweb.search_for_studies(search_filters={"PatientID": "WEB0", "StudyDate": "20230101"}))
    assert match.StudyInstanceUID == films.plain.StudyInstanceUID
    assert (str(match.PatientName), match.StudyTime, match.ModalitiesInStudy) == (NAMES[0], "103000", "DX")
    assert (match.NumberOfStudyRelatedSeries, match.NumberOfStudyRelatedInstances) == (1, 1)
    assert match.RetrieveURL.endswith(f"/dicom-web/studies/{films.plain.StudyInstanceUID}")


def test_series_and_instances_are_found_below_their_parents_and_without(dicomweb, films):
    study, series, instance = uids_of(films.j2k)
    assert [match.SeriesInstanceUID for match in found(dicomweb.search_for_series(study))] == [series]
    assert [match.SOPInstanceUID for match in found(dicomweb.search_for_instances(study))] == [instance]
    assert [match.SOPInstanceUID for match in found(dicomweb.search_for_instances(study, series))] == [instance]
    assert len(dicomweb.search_for_series()) == len(dicomweb.search_for_instances()) == len(films.all())
    (match,) = found(dicomweb.search_for_instances(search_filters={"SOPInstanceUID": instance}))
    assert (match.Rows, match.BitsAllocated, match.StudyInstanceUID, match.Modality) == (64, 16, study, "DX")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("PatientID=WEB*", 5),
        ("00100020=WEB2&includefield=00081030", 2),
        ("PatientName=*script*", 1),
        ("PatientName=gr%C3%BCber*", 2),
        ("ModalitiesInStudy=CT,DX", 5),
        ("ModalitiesInStudy=CT%5CMR", 0),
        ("StudyDate=20230102-20230103", 2),
        ("PatientSex=F&AccessionNumber=A0", 1),
        ("limit=2", 2),
        ("limit=2&offset=4", 1),
        ("limit=0", 0),
        ("PatientName=*&limit=3&offset=1&PatientID=WEB?", 3),
        ("PatientID=&includefield=PatientID,StudyDescription&includefield=all", 5),
    ],
)
def test_what_viewers_ask(http, query, count):
    answer = http.get(f"/dicom-web/studies?{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert len(answer.json()) == count


def test_lists_of_uids_are_split_at_commas(http, films):
    wanted = [str(films.plain.StudyInstanceUID), str(films.rle.StudyInstanceUID)]
    answer = http.get("/dicom-web/studies", params={"StudyInstanceUID": ",".join(wanted)})
    assert {match["0020000D"]["Value"][0] for match in answer.json()} == set(wanted)


def test_the_same_matches_as_c_find(http, node, films):
    for keys in ({"PatientName": "*r^*"}, {"PatientSex": "M"}, {"ModalitiesInStudy": "DX"}, {"StudyTime": "1030-1130"}):
        matches, _, _ = find(node, STUDY, QueryRetrieveLevel="STUDY", StudyInstanceUID="", **keys)
        answer = http.get("/dicom-web/studies", params=keys)
        assert [match["0020000D"]["Value"][0] for match in answer.json()] == [
            match.StudyInstanceUID for match in matches
        ]


def test_more_matches_than_the_page_holds_are_told(http):
    assert "additional results" in http.get("/dicom-web/studies?limit=2").headers["warning"]
    assert "warning" not in http.get("/dicom-web/studies?limit=5").headers
    paged = [
        match["0020000D"]["Value"][0]
        for offset in range(0, 6, 2)
        for match in http.get(f"/dicom-web/studies?limit=2&offset={offset}").json()
    ]
    assert paged == [match["0020000D"]["Value"][0] for match in http.get("/dicom-web/studies").json()]


def test_fuzzy_matching_is_not_done_and_said(http):
    answer = http.get("/dicom-web/studies?PatientName=Gruber&fuzzymatching=true")
    assert answer.json() == []
    assert "fuzzymatching" in answer.headers["warning"]
    assert "warning" not in http.get("/dicom-web/studies?PatientName=Gruber&fuzzymatching=false").headers


def test_attributes_in_sequences_are_matched(http, films):
    answer = http.get("/dicom-web/instances", params={"ViewCodeSequence.CodeValue": "nothing has this"})
    assert (answer.status_code, answer.json()) == (200, [])


def test_xml_is_one_part_a_match(http, films):
    answer = http.get("/dicom-web/studies?PatientID=WEB1", headers={"Accept": "application/dicom+xml"})
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == 'multipart/related; type="application/dicom+xml"'
    parts = answer.content.split(f"--{boundary}".encode())[1:-1]
    (document,) = [ElementTree.fromstring(part.partition(b"\r\n\r\n")[2]) for part in parts]
    names = [element for element in document if element.get("keyword") == "PatientName"]
    assert "".join(names[0].itertext()) == NAMES[1]
    assert (http.get("/dicom-web/studies?PatientID=X", headers={"Accept": "application/dicom+xml"})).status_code == 204


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=-1", "whole numbers"),
        ("offset=1e9", "whole numbers"),
        ("StudyDate=yesterday", "StudyDate"),
        ("StudyInstanceUID=1.2%00.3x", "StudyInstanceUID"),
        ("PatientID.CodeValue=1", "no sequence"),
        ("PatientName=" + "*a" * 40, "PatientName"),
        ("SeriesNumber=abc&limit=1", "kind"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_words(http, query, words):
    level = "series" if "Series" in query else "studies"
    answer = http.get(f"/dicom-web/{level}?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def test_unknown_parameters_are_ignored_and_said(http):
    answer = http.get("/dicom-web/studies?nonsense=1")
    assert "ignored" in answer.headers["warning"]


def test_what_no_search_can_be_is_not_acceptable(http):
    assert http.get("/dicom-web/studies", headers={"Accept": "text/html"}).status_code == 406


@pytest.mark.parametrize("host", ["pacs.example", "pacs.example:8042", "[::1]:99", "bad host/../"])
def test_urls_in_answers_are_those_that_the_client_uses(http, node, films, host):
    answer = http.get("/dicom-web/studies?limit=1", headers={"Host": host})
    if host.startswith("bad"):
        assert answer.status_code == 400 or answer.json()[0]["00081190"]["Value"][0].startswith(node.url)
        return
    shown = host if ":" in host else f"{host}:{node.http_port}"
    assert answer.json()[0]["00081190"]["Value"][0].startswith(f"http://{shown}/dicom-web/studies/")


def test_a_script_in_a_name_is_only_ever_json(http, films):
    answer = http.get(path_of(films.script) + "/metadata")
    assert answer.json()[0]["00100010"]["Value"] == [{"Alphabetic": NAMES[1]}]
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_names_in_every_character_set_come_as_unicode(http, node, tmp_path, films):
    latin = Dataset.from_json(films.plain.to_json())
    latin.file_meta = films.plain.file_meta
    latin.SpecificCharacterSet, latin.PatientID = "ISO_IR 100", "LATIN"
    for keyword, uid in (
        ("SOPInstanceUID", "1.2.3.1"),
        ("StudyInstanceUID", "1.2.3.2"),
        ("SeriesInstanceUID", "1.2.3.3"),
    ):
        setattr(latin, keyword, uid)
    latin.file_meta.MediaStorageSOPInstanceUID = "1.2.3.1"
    latin.save_as(tmp_path / "latin.dcm", enforce_file_format=True)
    assert all(sent.ok for sent in client.send(node.peer, [tmp_path / "latin.dcm"]))
    (match,) = http.get("/dicom-web/studies?PatientID=LATIN").json()
    (metadata,) = http.get("/dicom-web/studies/1.2.3.2/metadata").json()
    for read in (match, metadata):
        assert read["00100010"]["Value"] == [{"Alphabetic": NAMES[0]}]
        assert read["00080005"]["Value"] == ["ISO_IR 192"]
