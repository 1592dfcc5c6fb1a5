"""STOW-RS by another people's client and by raw requests: what is stored, what is refused, and what is left behind."""

import http.client
import socket
import time

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.dimse import client
from tests import nodes
from tests.integration.web.conftest import film, path_of

BOUNDARY = "a.boundary"


def part(content: bytes, kind: str = "application/dicom") -> bytes:
    return b"\r\n--" + BOUNDARY.encode() + f"\r\nContent-Type: {kind}\r\n\r\n".encode() + content


def related(*contents: bytes, end: bool = True, kind: str = "application/dicom") -> bytes:
    return b"".join(part(content, kind) for content in contents) + (f"\r\n--{BOUNDARY}--".encode() if end else b"")


def posted(http: httpx.Client, body: bytes, study: str = "", **headers: str) -> httpx.Response:
    kind = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'
    path = "/dicom-web/studies" + (f"/{study}" if study else "")
    return http.post(path, content=body, headers={"Content-Type": kind, **headers})


def encoded(dataset: Dataset, tmp_path) -> bytes:
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    return (tmp_path / "one.dcm").read_bytes()


def other_film(number: int) -> Dataset:
    dataset = film(0)
    uid = f"1.2.77.{number}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = "1.2.77", "1.2.77.0", "STOW"
    return dataset


def files(node) -> set[str]:
    return {str(path) for folder in ("files", "scratch") for path in (node.root / folder).rglob("*") if path.is_file()}


def test_what_a_client_stores_is_an_instance_like_any_other(dicomweb, node, http):
    made = [other_film(number) for number in (1, 2)]
    answer = dicomweb.store_instances(made)
    assert {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence} == {"1.2.77.1", "1.2.77.2"}
    assert answer.RetrieveURL == f"{node.url}/dicom-web/studies/1.2.77"
    read = dicomweb.retrieve_instance("1.2.77", "1.2.77.0", "1.2.77.1")
    assert read.PixelData == made[0].PixelData
    assert client.echo(node.peer) == 0


def test_the_same_instance_through_both_ports_is_one_file(http, node, films):
    before = files(node)
    answer = posted(http, related(dcm(films, 0)))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert files(node) == before


def dcm(films, number: int) -> bytes:
    return (films.folder / f"{number}.dcm").read_bytes()


def test_a_single_instance_without_multipart_is_taken(http, tmp_path):
    body = encoded(other_film(3), tmp_path)
    answer = http.post("/dicom-web/studies/1.2.77", content=body, headers={"Content-Type": "application/dicom"})
    assert answer.status_code == 200
    assert http.get(path_of(other_film(3))).status_code == 200


def test_weasis_asks_for_xml_and_gets_it(http, tmp_path):
    answer = posted(http, related(encoded(other_film(4), tmp_path)), Accept="application/dicom+xml")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+xml")
    assert b"1.2.77.4" in answer.content


def test_one_bad_part_does_not_stop_the_others(http, node, tmp_path):
    before = files(node)
    good = encoded(other_film(5), tmp_path)
    answer = posted(http, related(b"no file", good, good[:-100], b""))
    assert answer.status_code == 202
    told = answer.json()
    assert [item["00081155"]["Value"] for item in told["00081199"]["Value"]] == [["1.2.77.5"]]
    assert [item["00081155"]["Value"] for item in told["00081198"]["Value"]] == [["1.2.77.5"]]
    assert len(told["0008119A"]["Value"]) == 2
    assert len(files(node) - before) == 1


@pytest.mark.parametrize("bad", [b"", b"x" * 5000, b"\0" * 128 + b"DICM" + b"\xff" * 200])
def test_nothing_stored_is_a_conflict(http, node, bad):
    before = files(node)
    answer = posted(http, related(bad))
    assert answer.status_code == 409
    assert files(node) == before


def test_instances_of_another_study_than_the_path_are_refused(http, node, tmp_path):
    before = files(node)
    answer = posted(http, related(encoded(other_film(6), tmp_path)), study="1.2.3.4")
    assert answer.status_code == 409
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xC000]
    assert files(node) == before


def test_a_head_that_names_another_instance_is_refused(http, tmp_path):
    dataset = other_film(7)
    body = encoded(dataset, tmp_path).replace(b"1.2.77.7", b"1.2.77.8", 1)
    assert posted(http, related(body)).status_code == 409


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (related(b"x"), 'multipart/related; type="application/dicom"', 400),
        (related(b"x"), 'multipart/related; type="application/dicom"; boundary=another', 400),
        (related(b"x"), f'multipart/related; type="application/dicom"; boundary="{"b" * 201}"', 400),
        (related(b"x"), f'multipart/related; type="application/dicom+json"; boundary="{BOUNDARY}"', 415),
        (b"{}", "application/json", 415),
        (b"", "", 415),
    ],
)
def test_bodies_that_are_no_instances_are_refused(http, node, body, kind, status):
    before = files(node)
    answer = http.post("/dicom-web/studies", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert files(node) == before


def test_half_a_part_leaves_nothing_behind(http, node, tmp_path):
    before = files(node)
    body = related(encoded(other_film(9), tmp_path), end=False)
    assert posted(http, body).status_code == 400
    with socket.create_connection(("127.0.0.1", node.http_port)) as peer:
        head = (
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f'Content-Type: multipart/related; type="application/dicom"; boundary={BOUNDARY}\r\n\r\n'
        )
        peer.sendall(head.encode() + body[: len(body) // 2])
    deadline = time.monotonic() + 10
    while files(node) != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert http.get(path_of(other_film(9))).status_code == 404


def test_a_full_disk_and_a_body_over_the_limit_are_said(films, tmp_path):
    limits = {"DICOMNODE_STORAGE__MINIMUM_FREE_MIB": "900000000", "DICOMNODE_WEB__MAXIMUM_BODY_MIB": "1"}
    with (
        nodes.running_node(tmp_path / "root", "--workers", "0", "--http-port", "0", environment=limits) as node,
        httpx.Client(base_url=node.url) as http,
    ):
        answer = posted(http, related(dcm(films, 0)))
        assert answer.status_code == 507
        assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA700]
        assert http.get("/health/ready").json()["checks"]["disk"] is False
        assert posted(http, related(b"x" * (2 << 20))).status_code == 413
        assert posted(http, iter([related(b"x" * (1 << 19), end=False), *[b"x" * (1 << 19)] * 3])).status_code == 413
        assert files(node) == set()


def test_a_killed_node_keeps_what_it_acknowledged(films, tmp_path):
    root = tmp_path / "root"
    with nodes.running_node(root, "--workers", "0", "--http-port", "0") as node:
        with httpx.Client(base_url=node.url) as http:
            assert posted(http, related(dcm(films, 0))).status_code == 200
        node.kill_tree()
    with (
        nodes.running_node(root, "--workers", "0", "--http-port", "0") as node,
        httpx.Client(base_url=node.url) as http,
    ):
        answer = http.get(path_of(films.plain), headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert answer.status_code == 200
        (tmp_path / "back.dcm").write_bytes(answer.content)
        assert dcmread(tmp_path / "back.dcm").PixelData == films.plain.PixelData


def test_a_head_of_ten_megabytes_is_refused_and_others_are_served(http, node):
    connection = http_connection(node)
    connection.putrequest("GET", "/dicom-web/studies")
    connection.putheader("X-Long", "x" * (10 << 20))
    with pytest.raises(http_errors()):
        connection.endheaders()
        assert connection.getresponse().status == 400
        raise ConnectionResetError
    assert http.get("/health/live").status_code == 200


def http_connection(node) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=10)


def http_errors() -> tuple[type[Exception], ...]:
    return (ConnectionResetError, BrokenPipeError, http.client.BadStatusLine)
