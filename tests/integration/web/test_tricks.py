"""Paths, hosts, bodies and texts that mean harm: a clear status, nothing read or run, nothing left behind."""

import socket
import time
from pathlib import Path

import httpx
import pytest
from pydicom.dataset import Dataset

from dicomnode.dimse import client
from storage.store import Store
from tests.integration import asking
from tests.integration.web.conftest import film
from tests.integration.web.reports import report
from tests.integration.web.test_pages import QUOTED, SCRIPT, links
from tests.integration.web.test_store import BOUNDARY, encoded, files, other_film, part, posted, related
from tests.raw import wait_until

PREFIXES = (
    "/dicom-web/studies/", "/dicom-web/studies/1.2/series/", "/dicom-web/studies/1.2/series/1.2/instances/",
    "/dicom-web/studies/1.2/series/1.2/instances/1.2/frames/",
    "/dicom-web/studies/1.2/series/1.2/instances/1.2/bulkdata/",
    "/study/", "/image/", "/static/", "/pictures/studies/", "/similar/", "/", "/docs/", "/admin/", "/health/",
)  # fmt: skip
TRICKS = (
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
    "%252e%252e%252fetc%252fpasswd", "..%5c..%5cetc%5cpasswd", "....//....//etc/passwd", "%00", "1.2.3%00.dcm",
    "1.2%0d%0aX-Injected:%20yes", "%c0%ae%c0%ae/", "%ef%bc%8e%ef%bc%8e/", "%E2%80%AE", "%ff%fe", "/etc/passwd",
    "//etc/passwd", "file:///etc/passwd", "~root", "1.2.3;x=1", "*", "?", "#", "%", "%zz", "{study}", "${jndi:x}",
    "'%20OR%20'1'='1", "1." * 2000, "a" * 8000,
)  # fmt: skip
HOSTS = (
    "evil.example/<script>",
    "a@b",
    "x y",
    "..",
    "[::1",
    "localhost:99999999",
    "x" * 5000,
    "\xff\xfe",
    "",
    "'\"><b>",
)
KIND = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def said(node, data: bytes) -> bytes:
    """The whole answer to raw bytes; empty when the connection is cut."""
    with socket.create_connection(("127.0.0.1", node.http_port), timeout=20) as peer:
        peer.sendall(data)
        answer = b""
        try:
            while piece := peer.recv(1 << 16):
                answer += piece
        except ConnectionResetError:
            pass
    return answer


def asked(node, target: bytes, host: bytes = b"x", method: bytes = b"GET") -> bytes:
    return said(node, method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_path_leads_out_of_the_archive(node, prefix):
    before = files(node)
    for trick in TRICKS:
        for method in (b"GET", b"POST", b"DELETE"):
            answer = asked(node, (prefix + trick).encode("latin-1"), method=method)
            assert 300 <= status(answer) < 500 or (status(answer), prefix) == (200, "/"), (prefix, trick, answer[:80])
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"X-Injected" not in head
            assert b"root:" not in body
            assert b"jndi" not in body
    assert files(node) == before
    assert "Traceback" not in node.log_text
    assert httpx.get(node.url + "/health/live").status_code == 200


@pytest.mark.parametrize(
    "target", [b"http://evil.example/dicom-web/studies", b"*", b"//evil.example/", b"\\..\\x", b"/\x00"]
)
def test_targets_that_are_no_paths_of_this_port_are_refused_or_served_as_its_own(node, target):
    answer = asked(node, target)
    assert not answer or 200 <= status(answer) < 500
    assert b"Location: http://evil" not in answer


@pytest.mark.parametrize("host", HOSTS)
def test_what_host_says_is_in_no_url_unless_it_can_be_one(node, films, host):
    target = f"/dicom-web/studies?StudyInstanceUID={films.plain.StudyInstanceUID}".encode()
    answer = asked(node, target, host.encode("latin-1"))
    assert status(answer) in {200, 400}
    body = answer.partition(b"\r\n\r\n")[2]
    for word in (b"script", b"evil", b"a@b", b"<b>", b"99999999"):
        assert word not in body
    form = said(
        node,
        b"POST /login HTTP/1.1\r\nHost: " + host.encode("latin-1") + b"\r\nOrigin: http://evil.example\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoken=x",
    )
    assert status(form) in {400, 403}


def test_heads_that_say_two_things_are_refused(node):
    for head in (b"Host: x\r\nHost: y", b"Host: x\r\nContent-Length: 1\r\nContent-Length: 2",
                 b"Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip"):  # fmt: skip
        answer = said(node, b"GET /dicom-web/studies HTTP/1.1\r\n" + head + b"\r\nConnection: close\r\n\r\n")
        assert not answer or status(answer) in {400, 501}, head


# --- half of a STOW-RS request ----------------------------------------------------------------------------------


def an_sr(number: int) -> Dataset:
    """An SR that would ask."""
    document = report(film(0), asking.HEART_BOX)
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = f"1.2.78.{number}"
    return document


def cut_off(node, body: bytes, length: int) -> None:
    """Send so much of a body and hang up."""
    head = "POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\n"
    head += f"Content-Length: {len(body)}\r\nContent-Type: {KIND}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", node.http_port)) as peer:
        peer.sendall(head.encode() + body[:length])
        time.sleep(0.1)


def is_stored(node, uid: str) -> bool:
    with Store.open(node.root) as store:
        return store.catalog.instance(uid) is not None


def is_asked(node, uid: str) -> bool:
    return asking.asked(node.root, uid) is not None


def test_of_a_body_that_is_cut_whole_parts_may_be_kept_and_no_half(node, tmp_path):
    """What was not acknowledged is sent again: the part that is there already is the same."""
    large = other_film(89)
    large.Rows = large.Columns = 1024
    large.PixelData = bytes(2 << 20)
    whole, half = encoded(large, tmp_path), encoded(an_sr(2), tmp_path)
    body = related(whole, half)
    before = files(node)
    cut_off(node, body, len(part(whole)) + len(part(half)) // 2)
    assert wait_until(lambda: not list((node.root / "scratch").iterdir()), 10)
    assert (is_stored(node, "1.2.78.2"), is_asked(node, "1.2.78.2")) == (False, False)
    assert len(files(node) - before) == is_stored(node, "1.2.77.89")
    answer = httpx.post(f"{node.url}/dicom-web/studies", content=body, headers={"Content-Type": KIND}, timeout=30)
    assert answer.status_code == 200
    assert is_asked(node, "1.2.78.2")
    assert len(files(node) - before) == 2


def bodies(whole: bytes) -> dict[str, tuple[bytes, str]]:
    """What is sent, and with which Content-Type."""
    good = related(whole)
    chopped = good[: -len(BOUNDARY) - 6]
    return {
        "no last boundary": (chopped, KIND),
        "last boundary cut": (good[:-2], KIND),
        "another boundary": (good, KIND.replace(BOUNDARY, "other")),
        "boundary in one case only": (good, KIND.replace(BOUNDARY, BOUNDARY.upper())),
        "head of a part cut": (part(whole)[:40], KIND),
        "head of a part without an end": (part(whole).replace(b"\r\n\r\n", b"\r\n", 1)[:3000], KIND),
        "no parts": (f"\r\n--{BOUNDARY}--".encode(), KIND),
        "only a preamble": (b"hello", KIND),
        "nothing": (b"", KIND),
    }


@pytest.mark.parametrize("kind", bodies(b""))
def test_a_body_that_is_half_a_body_leaves_nothing(node, http, tmp_path, kind):
    body, content_type = bodies(encoded(an_sr(3), tmp_path))[kind]
    before = files(node)
    answer = posted(http, body, **{"Content-Type": content_type})
    assert answer.status_code in {400, 409}, answer.text
    assert wait_until(lambda: files(node) == before, 5)
    assert (is_stored(node, "1.2.78.3"), is_asked(node, "1.2.78.3")) == (False, False)


def test_half_of_a_single_instance_is_no_instance(node, http, tmp_path):
    body = encoded(an_sr(4), tmp_path)
    before = files(node)
    for length in (0, 100, 132, 400, len(body) // 2, len(body) - 1):
        answer = http.post("/dicom-web/studies", content=body[:length], headers={"Content-Type": "application/dicom"})
        assert answer.status_code == 409, length
    assert (files(node), is_stored(node, "1.2.78.4")) == (before, False)
    posted(http, related(encoded(other_film(90), tmp_path)))
    assert client.echo(node.peer) == 0


# --- scripts in texts ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(node, tmp_path_factory) -> list[Dataset]:
    """A film and an SR that say scripts wherever they may say something."""
    made = other_film(95)
    for keyword in (
        "StudyDescription",
        "SeriesDescription",
        "ProtocolName",
        "AccessionNumber",
        "StudyID",
        "Manufacturer",
    ):
        setattr(made, keyword, QUOTED[:16] if keyword in {"AccessionNumber", "StudyID"} else QUOTED)
    made.StudyInstanceUID = made.SeriesInstanceUID = "1.2.79"
    made.PatientID, made.PatientName, made.ReferringPhysicianName = f"X{SCRIPT}", SCRIPT, SCRIPT
    document = report(made, asking.HEART_BOX)
    (group,) = document.ContentSequence
    for item in group.ContentSequence:
        if item.ValueType == "TEXT":
            item.TextValue = SCRIPT
    document.ConceptNameCodeSequence[0].CodeMeaning = QUOTED
    folder: Path = tmp_path_factory.mktemp("hostile")
    for number, dataset in enumerate((made, document)):
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    peer = client.Peer("127.0.0.1", node.port, "REGIONMIR", "<b>'\"&")
    assert [sent.status for sent in client.send(peer, sorted(folder.iterdir()))] == [0, 0]
    return [made, document]


def pages_of(dataset: Dataset) -> list[str]:
    corners = {f"{side}{number}": SCRIPT for side in "xy" for number in (1, 2)}
    tricks = dict.fromkeys(("modality", "sex", "since", "until", "score", "anatomy", "scope", "k"), SCRIPT)
    image = str(dataset.SOPInstanceUID)
    box = {"x1": "1", "y1": "1", "x2": "40", "y2": "40"}
    return [
        "/", f"/?name={SCRIPT}&patient={QUOTED}&since={SCRIPT}&until={SCRIPT}&modality={SCRIPT}&page={SCRIPT}",
        f"/study/{dataset.StudyInstanceUID}?page={SCRIPT}", f"/image/{image}",
        str(httpx.URL(f"/image/{image}", params=corners)), str(httpx.URL("/hits", params={"image": SCRIPT, **corners})),
        str(httpx.URL("/hits", params={"image": image, **box, **tricks})),
        *(str(httpx.URL("/hits", params={"image": image, **box, name: text})) for name, text in tricks.items()),
        "/admin", f"/admin?retried={SCRIPT}&refresh={SCRIPT}", f"/login?next={SCRIPT}", f"/study/{SCRIPT}", "/docs",
    ]  # fmt: skip


def test_what_a_sender_wrote_is_text_on_every_page(http, node, hostile):
    made, document = hostile
    assert wait_until(lambda: is_asked(node, str(document.SOPInstanceUID)), 10)
    shown = 0
    for path in pages_of(made):
        answer = http.get(path)
        assert answer.status_code in {200, 400, 404, 503}, path
        if not answer.headers["content-type"].startswith("text/html"):
            assert answer.headers["x-content-type-options"] == "nosniff"
            continue
        found = links(answer)
        assert SCRIPT not in answer.text, path
        assert not {"b", "img", "iframe", "object"} & ({*found.tags} - ({"img"} if "/study/" in path else set())), path
        assert not [name for name in found.attributes if name.startswith("on")], path
        assert not [url for url in found.urls if url.lower().startswith(("javascript:", "data:"))], path
        policy = answer.headers["content-security-policy"].replace("style-src 'unsafe-inline'", "")  # of /docs
        assert "unsafe" not in policy, path
        shown += "&lt;script&gt;" in answer.text
    assert shown >= 4
    assert "&lt;b&gt;" in http.get("/admin").text  # who asked calls itself that
    assert SCRIPT not in node.log_text
