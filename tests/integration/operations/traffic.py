"""One of everything that peers do, through every door of a node: what its log and its audit trail are judged by."""

import copy
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import StoragePresentationContexts
from pynetdicom.sop_class import BasicTextSRStorage

from dicomnode import config as configuration
from dicomnode.audit import changes
from dicomnode.dimse import client, fetch
from dicomnode.errors import DicomNodeError
from dicomnode.query import request
from dicomnode.query.request import Keys
from dicomnode.uids import new_uid
from storage.store import Store
from tests import certificates, nodes
from tests.integration import asking
from tests.nodes import RunningNode
from tests.raw import wait_until

TOKEN, LEFT = "reader-token-0123456789", "left-token-0123456789"
WRONG = "wrong-token-0123456789"
FILMS = 4


@dataclass
class Seen:
    """A node after the traffic has come and gone."""

    node: RunningNode
    films: list[Dataset]
    canaries: tuple[str, ...]  # of patients, and secrets
    audit: Path
    syslog: list[bytes]
    metrics: str = ""


def config_text(folder: Path, destination: int, syslog: int) -> str:
    return f"""
[log]
level = "debug"
format = "json"
[audit]
to = ["audit/trail.xml", "tls://localhost:{syslog}"]
[tls]
authorities = "{folder}/authority.pem"
[query]
results_to = "PACS"
[web]
administrators = ["READER"]
[peers.MODALITY]
ae_title = "DICOMNODE_SCU"
addresses = ["127.0.0.0/8"]
[peers.PACS]
ae_title = "PACS"
host = "127.0.0.1"
port = {destination}
addresses = ["10.0.0.0/8"]
[peers.GONE]
ae_title = "GONE"
host = "127.0.0.1"
port = 1
addresses = ["10.0.0.0/8"]
[peers.READER]
ae_title = "READER"
token = "{TOKEN}"
[peers.FAR]
ae_title = "FAR"
token = "{LEFT}"
addresses = ["10.0.0.0/8"]
"""


@contextmanager
def destination() -> Iterator[int]:
    """A workstation that takes everything; its port."""
    entity = AE("PACS")
    for context in StoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax)
    for uid in (BasicTextSRStorage, "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.1.1"):
        entity.add_supported_context(uid)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0x0000)])
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextmanager
def syslog_server(folder: Path) -> Iterator[tuple[int, list[bytes]]]:
    """A syslog receiver over TLS, RFC 5425; its port, and the messages that came."""
    ca = certificates.authority(folder, "authority")
    own = certificates.issued(folder, ca, "syslog", "DNS:localhost,IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    messages: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_receive, args=(listening, context, messages), daemon=True)
        thread.start()
        yield listening.getsockname()[1], messages
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _receive(listening: socket.socket, context: ssl.SSLContext, messages: list[bytes]) -> None:
    readers: list[threading.Thread] = []
    with suppress(OSError):
        while True:
            plain, _ = listening.accept()
            readers.append(threading.Thread(target=_read, args=(plain, context, messages), daemon=True))
            readers[-1].start()
    for reader in readers:
        reader.join(10)


def _read(plain: socket.socket, context: ssl.SSLContext, messages: list[bytes]) -> None:
    with suppress(OSError), context.wrap_socket(plain, server_side=True) as secure, secure.makefile("rb") as file:
        while length := _length(file):
            messages.append(file.read(length))


def _length(file: Any) -> int:
    digits = b""
    while (char := file.read(1)) not in {b" ", b""}:
        digits += char
    return int(digits or 0)


@contextmanager
def seen(folder: Path) -> Iterator[Seen]:
    """The node, stopped again, with what it left."""
    films = [asking.film(number) for number in range(FILMS)]
    root = folder / "root"
    asking.indexed(root, folder, films)
    changes.since_last_start(configuration.load(None, {}, {}), root)  # an earlier start, with other settings
    with destination() as port, syslog_server(folder) as (syslog, messages):
        config = folder / "node.toml"
        config.write_text(config_text(folder, port, syslog))
        with nodes.running_node(root, "--workers", "1", "--http-port", "0", "--config", str(config)) as node:
            made = Seen(node, films, (), root / "audit" / "trail.xml", messages)
            traffic = Traffic(node, films, folder, config)
            for step in (
                Traffic.stored,
                Traffic.found,
                Traffic.given,
                Traffic.turned_away,
                Traffic.over_http,
                Traffic.asked,
            ):
                step(traffic)
            made.metrics = traffic.metrics()
            traffic.maintained()
            made.canaries = canaries([*films, *traffic.more])
    yield made


def canaries(films: list[Dataset]) -> tuple[str, ...]:
    """What names a patient, and secrets: none of it belongs into a log."""
    keywords = ("PatientID", "AccessionNumber", "PatientBirthDate")
    found = {str(film[keyword].value) for film in films for keyword in keywords if film[keyword].value}
    return (*sorted(found), asking.UNFORGETTABLE, "Asking", "Änne", "Zo", "Secret", TOKEN, LEFT, WRONG)


@dataclass
class Traffic:
    """The steps, in their order. What fails on the client's side is meant to."""

    node: RunningNode
    films: list[Dataset]
    folder: Path
    config: Path
    more: list[Dataset] = field(default_factory=list)

    def send(self, film: Dataset, called: str = "DICOMNODE") -> bool:
        path = self.folder / f"{len(self.more)}-{new_uid()}.dcm"
        film.save_as(path, enforce_file_format=True)
        self.more.append(film)
        return all(sent.ok for sent in client.send(replace(self.node.peer, called=called), [path]))

    def stored(self) -> None:
        """New, again, with other bytes, of another patient, and broken."""
        new = asking.film(20)
        assert self.send(new)
        assert self.send(new)
        other = copy.deepcopy(new)
        other.ImageComments = "Secret comment"
        assert self.send(other)
        stranger = asking.film(21)
        stranger.StudyInstanceUID = new.StudyInstanceUID
        assert self.send(stranger)
        broken = asking.film(22)
        broken.SeriesInstanceUID = "Secret^UID"
        assert not self.send(broken)
        self._send_garbage()

    def _send_garbage(self) -> None:
        """A data set that ends in the middle of a name."""
        path = self.folder / "garbage.dcm"
        asking.film(23).save_as(path, enforce_file_format=True)
        content = path.read_bytes()
        path.write_bytes(content[: content.index(asking.UNFORGETTABLE.encode()) + 6])
        with suppress(Exception):
            list(client.send(self.node.peer, [path]))

    def found(self) -> None:
        """By name, malformed, by region, and by a region on nothing."""
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.PatientName = "STUDY", f"{asking.UNFORGETTABLE}*"
        assert list(client.find(self.node.peer, identifier))
        identifier.QueryRetrieveLevel = "SECRET"
        self.refused(lambda: list(client.find(self.node.peer, identifier)))
        for uid in (str(self.films[0].SOPInstanceUID), "1.2.3.4"):
            query = request.by_box(uid, str(self.films[0].SOPClassUID), asking.HEART_BOX, Keys(anatomy=asking.HEART))
            self.refused(lambda query=query: list(client.find(self.node.peer, query)))

    def given(self) -> None:
        """By C-GET, by C-MOVE, to nobody, and to one that is not there."""
        study = str(self.films[1].StudyInstanceUID)
        fetch.prepare(self.folder / "got")
        got = fetch.fetch(self.node.peer, "StudyInstanceUID", study, self.folder / "got", lambda *_: None)
        assert not got.failed
        for where in ("PACS", "SECRETIVE", "GONE"):
            self.refused(lambda w=where: fetch.move(self.node.peer, "StudyInstanceUID", study, w, lambda *_: None))

    def turned_away(self) -> None:
        """An AE that is in no table, and one that calls from elsewhere."""
        for calling in ("STRANGER", "PACS"):
            self.refused(lambda c=calling: client.echo(replace(self.node.peer, calling=c)))

    def over_http(self) -> None:
        """Every kind of request, allowed and not."""
        film = self.films[2]
        study = f"/dicom-web/studies/{film.StudyInstanceUID}"
        instance = f"{study}/series/{film.SeriesInstanceUID}/instances/{film.SOPInstanceUID}"
        with httpx.Client(base_url=self.node.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as http:
            assert http.get("/dicom-web/studies", params={"PatientName": f"{asking.UNFORGETTABLE}*"}).json()
            http.get("/dicom-web/studies", params={"PatientBirthDate": "Secret"})
            assert http.get(study, headers={"Accept": "*/*"}).status_code == 200
            assert http.get(f"{instance}/metadata").status_code == 200
            assert http.get(f"{instance}/thumbnail").status_code == 200
            http.get("/dicom-web/studies/Secret")
            self._stow(http)
            asked = {"image": str(film.SOPInstanceUID), "box": [*map(float, asking.HEART_BOX)]}
            assert http.post("/similar", json=asked).status_code == 200
            http.post("/similar", json=asked | {"keys": {"StudyDate": "Secret"}})
        for token in (WRONG, LEFT):
            httpx.get(self.node.url + study, headers={"Authorization": f"Bearer {token}"})
        httpx.get(self.node.url + study)
        self._page()

    def _stow(self, http: httpx.Client) -> None:
        film = asking.film(30)
        path = self.folder / "stow.dcm"
        film.save_as(path, enforce_file_format=True)
        self.more.append(film)
        kind = {"Content-Type": "application/dicom"}
        assert http.post("/dicom-web/studies", content=path.read_bytes(), headers=kind).status_code == 200
        cut = path.read_bytes()[:900]
        assert http.post("/dicom-web/studies", content=cut, headers=kind).status_code == 409

    def _page(self) -> None:
        with httpx.Client(base_url=self.node.url, timeout=60) as browser:
            browser.post("/login", data={"token": WRONG})
            assert browser.post("/login", data={"token": TOKEN}).status_code == 303
            assert browser.get("/", params={"name": asking.UNFORGETTABLE}).status_code == 200
            assert browser.get(f"/image/{self.films[3].SOPInstanceUID}").status_code == 200
            assert browser.get("/admin").status_code == 200
            assert browser.post("/logout").status_code == 303

    def asked(self) -> None:
        """By a stored SR: answered, and sent; and one without a region."""
        question = asking.question(self.films[0], asking.HEART_BOX)
        assert self.send(question, "REGIONMIR")
        assert asking.ended(self.node.root, str(question.SOPInstanceUID)).state == "stored"
        empty = copy.deepcopy(question)
        empty.SOPInstanceUID = empty.file_meta.MediaStorageSOPInstanceUID = new_uid()
        empty.ContentSequence = []
        assert self.send(empty, "REGIONMIR")
        assert asking.ended(self.node.root, str(empty.SOPInstanceUID)).state == "failed"

    def maintained(self) -> None:
        """What the administrator does."""
        os.kill(self.node.process.pid, signal.SIGHUP)
        given = ("--root", self.node.root, "--config", self.config)
        nodes.dicomnode("delete", "--patient", str(self.films[3].PatientID), "--yes", *given)
        nodes.dicomnode("delete", "--instance", str(self.more[0].SOPInstanceUID), "--yes", *given)

    def metrics(self) -> str:
        """As Prometheus would see them, when nothing is on its way any more."""
        assert wait_until(lambda: settled(self.node), 60)
        return httpx.get(f"{self.node.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text

    def refused(self, call: Callable[[], object]) -> None:
        with suppress(DicomNodeError):
            call()


def settled(node: RunningNode) -> bool:
    """Whether every question and delivery has come to its end."""
    with Store.open(node.root) as store:
        return store.questions.oldest() is None and not store.deliveries.counts().get("owed")
