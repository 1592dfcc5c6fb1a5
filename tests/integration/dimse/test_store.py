"""C-STORE over real associations: kept as received, refused with the right status, never lost."""

import socket
import subprocess
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.quiet import quiet_pydicom
from storage.store import Store
from tests import nodes


def film(seed: str, value: int = 100, side: int = 64):
    facts = FilmFacts("P1", "Test^Film", "F", "19500101", "20240102", seed=seed)
    return dx_dataset(np.full((side, side), value, np.uint16), facts)


def written(dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def stored_row(node, uid):
    with Store.open(node.root) as store:
        row = store.catalog.instance(uid)
        return row, (store.files.path(row.path) if row else None)


class RawSender:
    """An association on which a data set can be anything at all."""

    def __init__(self, node):
        entity = AE()
        entity.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
        self.association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE")
        assert self.association.is_established

    def store(self, body: bytes, uid: str = "1.2.3") -> Dataset:
        primitive = C_STORE()
        primitive.MessageID = 1
        primitive.AffectedSOPClassUID = DigitalXRayImageStorageForPresentation
        primitive.AffectedSOPInstanceUID = uid
        primitive.Priority = 0
        primitive.DataSet = BytesIO(body) if body else None  # None: a command that announces no data set
        context = self.association.accepted_contexts[0]
        self.association._reactor_checkpoint.clear()  # the answer is ours to read, as in send_c_store
        while not self.association._is_paused:
            time.sleep(0.01)
        self.association.dimse.send_msg(primitive, context.context_id)
        _, answer = self.association.dimse.get_msg(block=True)
        self.association._reactor_checkpoint.set()
        status = Dataset()
        status.Status = answer.Status
        status.ErrorComment = answer.ErrorComment or ""
        return status

    def close(self):
        self.association.release()


@pytest.fixture
def sender(node):
    raw = RawSender(node)
    yield raw
    raw.close()


def body_of(dataset: Dataset) -> bytes:
    from pydicom.filebase import DicomBytesIO

    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, dataset)
    return stream.getvalue()


@pytest.mark.dcmtk
def test_echoscu_and_the_echo_command(node, dcmtk):
    subprocess.run([str(dcmtk / "echoscu"), "-aec", "DICOMNODE", "127.0.0.1", str(node.port)], check=True)
    assert nodes.answered("echo", node.address) == {"status": 0}


def test_kept_as_received(node, tmp_path):
    path = written(film("as received"), tmp_path / "film.dcm")
    (sent,) = client.send(node.peer, [path])
    assert sent.ok
    uid = str(dcmread(path).SOPInstanceUID)
    row, kept = stored_row(node, uid)
    assert row.sop_instance_uid == uid
    assert data_set_bytes(kept) == data_set_bytes(path)
    assert uid not in str(kept)


def data_set_bytes(path: Path) -> bytes:
    """What follows the file meta information."""
    meta = dcmread(path, stop_before_pixels=True).file_meta
    return path.read_bytes()[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]


def identifies(path: Path) -> bool:
    """Whether the data set names its instance, study and series: some anonymised files have these emptied."""
    with quiet_pydicom():
        dataset = dcmread(path, stop_before_pixels=True)
    return all(
        dataset.get(keyword) for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    )


@pytest.mark.data
@pytest.mark.timeout(600)
def test_every_object_of_every_encoding_is_accepted_and_kept_bit_for_bit(node, data_dir):
    paths = client.dicom_files([data_dir / "dicom", data_dir / "sr"])
    assert len(paths) > 60
    whole = [path for path in paths if identifies(path)]
    results = {sent.path: sent for sent in client.send(node.peer, paths)}
    assert [(path.name, results[path]) for path in whole if not results[path].ok] == []
    for path in set(paths) - set(whole):
        assert results[path].status == 0xC000, results[path]
        assert "UID" in results[path].reason
    seen: set[str] = set()
    for path in results:  # in the order sent: of two files with one UID the first is kept
        if path not in whole:
            continue
        with quiet_pydicom():
            dataset = dcmread(path, stop_before_pixels=True)
        row, kept = stored_row(node, str(dataset.SOPInstanceUID))
        assert row is not None, path.name
        assert row.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID
        meta = dataset.file_meta
        named = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
        first = dataset.SOPInstanceUID not in seen
        seen.add(dataset.SOPInstanceUID)
        if first and named == (dataset.SOPClassUID, dataset.SOPInstanceUID):  # else the sender encodes it anew
            assert data_set_bytes(kept) == data_set_bytes(path), path.name


def test_a_duplicate_with_the_same_bytes_is_a_success_and_changes_nothing(node, tmp_path):
    path = written(film("same"), tmp_path / "film.dcm")
    uid = str(dcmread(path).SOPInstanceUID)
    assert next(client.send(node.peer, [path])).ok
    before = stored_row(node, uid)
    assert next(client.send(node.peer, [path])).ok
    assert stored_row(node, uid) == before


def test_a_duplicate_with_other_bytes_is_kept_out_by_default(node, tmp_path):
    first = written(film("other", 100), tmp_path / "a.dcm")
    second = written(film("other", 200), tmp_path / "b.dcm")
    uid = str(dcmread(first).SOPInstanceUID)
    assert next(client.send(node.peer, [first])).ok
    before = stored_row(node, uid)
    assert next(client.send(node.peer, [second])).ok
    row, kept = stored_row(node, uid)
    assert (row, kept) == before
    assert data_set_bytes(kept) == data_set_bytes(first)


def test_a_duplicate_replaces_where_the_policy_says_so(tmp_path):
    first = written(film("replace", 100), tmp_path / "a.dcm")
    second = written(film("replace", 200), tmp_path / "b.dcm")
    uid = str(dcmread(first).SOPInstanceUID)
    environment = {"DICOMNODE_STORAGE__DUPLICATES": "replace"}
    with nodes.running_node(tmp_path / "root", "--workers", "0", environment=environment) as node:
        assert all(sent.ok for sent in client.send(node.peer, [first, second]))
        _, kept = stored_row(node, uid)
        assert data_set_bytes(kept) == data_set_bytes(second)
        assert len(list((node.root / "files").rglob("*.dcm"))) == 1


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("empty", 0xC000, "empty data set"),
        ("garbage", 0xC000, ""),
        ("truncated", 0xC000, ""),
        ("no study", 0xC000, "StudyInstanceUID is missing"),
        ("other uid", 0xC000, "differs"),
    ],
)
def test_data_sets_that_are_no_instance_are_refused_with_a_comment(node, sender, name, status, words):
    dataset = film(f"bad {name}")
    uid = str(dataset.SOPInstanceUID)
    if name == "no study":
        del dataset.StudyInstanceUID
    body = body_of(dataset)
    bodies = {"empty": b"", "garbage": b"\xff" * 300, "truncated": body[:400]}
    answer = sender.store(bodies.get(name, body), "1.2.3.4" if name == "other uid" else uid)
    assert answer.Status == status
    assert words in answer.ErrorComment
    assert answer.ErrorComment
    assert stored_row(node, uid)[0] is None
    assert list((node.root / "scratch").iterdir()) == []
    assert client.echo(node.peer) == 0


def test_an_aborted_store_leaves_nothing(node):
    uid = "1.2.3.99"
    raw = RawSender(node)
    connection = raw.association.dul.socket.socket
    body = body_of(film("aborted", side=512))
    original = raw.association.dul.socket.send
    sent = 0

    def some(data):
        nonlocal sent
        sent += len(data)
        if sent > len(body) // 2:
            connection.close()
            return None
        return original(data)

    raw.association.dul.socket.send = some
    with suppress(AttributeError):  # no answer comes: the connection is gone
        raw.store(body, uid)
    raw.association.abort()
    for _ in range(100):
        if not list((node.root / "scratch").iterdir()):
            break
        time.sleep(0.05)
    assert list((node.root / "scratch").iterdir()) == []
    assert stored_row(node, uid)[0] is None
    assert client.echo(node.peer) == 0


def test_a_disk_above_its_watermark_refuses_new_data(tmp_path):
    path = written(film("full"), tmp_path / "film.dcm")
    environment = {"DICOMNODE_STORAGE__MINIMUM_FREE_MIB": str(1 << 40)}
    with nodes.running_node(tmp_path / "root", "--workers", "0", environment=environment) as node:
        (sent,) = client.send(node.peer, [path])
        assert (sent.status, sent.ok) == (0xA700, False)
        assert "disk" in sent.reason
        assert client.echo(node.peer) == 0


def test_storage_of_an_unknown_ae_title_is_open_until_configured(node, tmp_path):
    path = written(film("any caller"), tmp_path / "film.dcm")
    other = client.Peer("127.0.0.1", node.port, called="SOMEBODY", calling="ANYBODY")
    assert next(client.send(other, [path])).ok


def test_called_ae_is_checked_when_configured(tmp_path):
    environment = {"DICOMNODE_DIMSE__CHECK_CALLED_AE": "true"}
    with nodes.running_node(tmp_path / "root", "--workers", "0", environment=environment) as node:
        assert client.echo(node.peer) == 0
        with pytest.raises(client.PeerError, match="rejected"):
            client.echo(client.Peer("127.0.0.1", node.port, called="SOMEBODY"))


def test_a_message_that_grows_in_memory_ends_its_association(node):
    """An identifier of 64 MiB: aborted at the cap, and the node's memory stays."""
    import psutil
    from pydicom.tag import Tag
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

    process = psutil.Process(node.process.pid)
    before = process.memory_info().rss
    entity = AE()
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE")
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.add_new(Tag(0x00990010), "LO", "SOMEBODY")
    identifier.add_new(Tag(0x00991001), "OB", bytes(64 << 20))
    statuses = [status for status, _ in association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind)]
    assert all("Status" not in status for status in statuses)
    assert process.memory_info().rss - before < 40 << 20
    assert client.echo(node.peer) == 0


def test_a_command_that_is_none_ends_its_association_without_a_traceback(node):
    raw = RawSender(node)
    junk = b"\x04\x00" + (30).to_bytes(4, "big") + (26).to_bytes(4, "big") + b"\x01\x03" + b"\xff" * 24
    raw.association.dul.socket.socket.sendall(junk)
    deadline = time.monotonic() + 20
    while raw.association.is_established and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not raw.association.is_established
    assert "Traceback" not in (node.root.parent / f"{node.root.name}.log").read_text()
    assert client.echo(node.peer) == 0


@pytest.mark.parametrize("uid", ["1..3", ".", "1.2." + "3" * 70])
def test_what_is_no_uid_is_refused(node, sender, uid):
    dataset = film("not a uid")
    dataset.SOPInstanceUID = uid
    assert sender.store(body_of(dataset), "1.2.3").Status == 0xC000


def test_connections_that_come_and_go_take_no_place(tmp_path):
    """As many as one address may have, opened and closed: the next peer from there is served before they expire."""
    environment = {"DICOMNODE_DIMSE__ACSE_TIMEOUT_S": "3600", "DICOMNODE_DIMSE__MAXIMUM_PER_ADDRESS": "4"}
    with nodes.running_node(tmp_path / "root", "--workers", "0", environment=environment) as node:
        idle = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(4)]
        with pytest.raises(client.PeerError):
            client.echo(node.peer)
        for connection in idle:
            connection.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert client.echo(node.peer) == 0
                break
            except client.PeerError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
