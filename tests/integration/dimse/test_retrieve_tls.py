"""Retrieval over TLS: C-GET on the node's TLS port, C-MOVE to a destination that is called over TLS."""

from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.dimse import client
from tests import certificates, nodes
from tests.integration.dimse import retrieving
from tests.integration.dimse.retrieving import STUDY, body, identifier, instance_uid, moved
from tests.integration.interop import programs

COUNT = 4
LARGE = "2.25.98765"


@pytest.fixture(scope="module")
def port() -> int:
    return programs.free_port()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An authority, and a certificate of it for the node and for its peer."""
    made = tmp_path_factory.mktemp("tls")
    authority = certificates.authority(made, "authority")
    for name in ("node", "peer"):
        certificates.issued(made, authority, name, "DNS:localhost,IP:127.0.0.1", certificates.RSA)
    return made


@pytest.fixture(scope="module")
def node(folder, port):
    settings = folder / "dicomnode.toml"
    settings.write_text(f"""
[dimse]
unknown_peers = "accept"
network_timeout_s = 10.0
[tls]
port = 0
certificate = "{folder}/node.pem"
key = "{folder}/node.key"
authorities = "{folder}/authority.pem"
[peers.secure]
ae_title = "STORESCP"
host = "127.0.0.1"
port = {port}
tls = true
""")
    with nodes.running_node(folder / "root", "--workers", "0", "--config", str(settings)) as running:
        yield running


@pytest.fixture(scope="module")
def kept(node, tmp_path_factory) -> dict[str, Path]:
    paths = retrieving.written(tmp_path_factory.mktemp("kept"), STUDY, COUNT)
    large = paths[0].parent / "large.dcm"
    retrieving.film(LARGE, 0, side=2000).save_as(large, enforce_file_format=True)
    assert all(sent.ok for sent in client.send(node.peer, [*paths, large]))
    return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in [*paths, large]}


def test_fetch_over_tls(node, kept, folder, tmp_path):
    files = ["--tls-ca", folder / "authority.pem", "--tls-cert", folder / "peer.pem", "--tls-key", folder / "peer.key"]
    done = nodes.answered("fetch", f"127.0.0.1:{node.tls_port}", "--patient", "RET1", "--to", tmp_path, *files)
    assert (done["status"], done["completed"]) == (0, COUNT + 1)
    assert {path.stem: body(path) for path in tmp_path.iterdir()} == {uid: body(path) for uid, path in kept.items()}


def test_move_to_a_destination_over_tls(node, kept, folder, port, dcmtk, tmp_path):
    tls = ["+tls", folder / "peer.key", folder / "peer.pem", "+cf", folder / "authority.pem"]
    with programs.serving(port, tmp_path / "log", dcmtk / "storescp", *tls, "+xa", "+B", "-od", tmp_path, port):
        told = moved(node, identifier("STUDY", StudyInstanceUID=[STUDY, LARGE]), "STORESCP")
    assert told.statuses[-1] == 0x0000
    files = [path for path in tmp_path.iterdir() if path.name != "log"]
    assert {str(dcmread(path).SOPInstanceUID): body(path) for path in files} == {
        uid: body(path) for uid, path in kept.items()
    }


def test_a_destination_without_tls_is_not_sent_to(node, kept, port, dcmtk, tmp_path):
    with programs.serving(port, tmp_path / "log", dcmtk / "storescp", "+xa", "-od", tmp_path, port):
        told = moved(node, identifier("STUDY", StudyInstanceUID=STUDY), "STORESCP")
    assert told.statuses[-1] == 0xA702
    assert set(told.failed) == {instance_uid(STUDY, number) for number in range(COUNT)}
    assert "TLS" in told.comment
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
