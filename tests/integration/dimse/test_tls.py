"""DICOM over TLS with real peers: who is let in, what is refused, and a port that silent peers do not close."""

import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from dicomnode.cli import main
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.dimse.client import Peer
from dicomnode.dimse.tls import ClientTls
from dicomnode.errors import PeerError
from storage.store import Store
from tests import certificates, nodes
from tests.certificates import Identity
from tests.nodes import RunningNode

HANDSHAKE_S = 2.0
LOCAL = "DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Site:
    """A node with TLS, and the certificates around it."""

    node: RunningNode
    folder: Path
    config: Path
    ca: Identity
    own: Identity
    modality: Identity  # of our authority
    stranger: Identity  # of another

    @property
    def peer(self) -> Peer:
        return Peer("127.0.0.1", self.node.tls_port, tls=tls_of(self.ca, self.modality))


def tls_of(ca: Identity, own: Identity | None = None, name: str = "") -> ClientTls:
    files = (str(own.certificate), str(own.key)) if own else ("", "")
    return ClientTls(str(ca.certificate), *files, name)


def config_text(folder: Path, more: str) -> str:
    return f"""
[dimse]
unknown_peers = "accept"
acse_timeout_s = 3.0
{more}
[tls]
port = 0
certificate = "{folder}/node.pem"
key = "{folder}/node.key"
authorities = "{folder}/authority.pem"
handshake_timeout_s = {HANDSHAKE_S}
[peers.secure]
ae_title = "SECURE"
tls = true
[peers.pinned]
ae_title = "PINNED"
tls = true
certificate_name = "ct1.example"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    ca = certificates.authority(folder, "authority")
    own = certificates.issued(folder, ca, "node", LOCAL, certificates.RSA)
    modality = certificates.issued(folder, ca, "modality", "DNS:ct1.example")
    stranger = certificates.issued(folder, certificates.authority(folder, "elsewhere"), "stranger", LOCAL)
    config = folder / "dicomnode.toml"
    config.write_text(config_text(folder, ""))
    with nodes.running_node(folder / "root", "--workers", "0", "--config", str(config)) as node:
        yield Site(node, folder, config, ca, own, modality, stranger)


def refused(peer: Peer) -> str:
    with pytest.raises(PeerError) as caught:
        client.echo(peer)
    return str(caught.value)


def told(site: Site, words: str, seconds: float = 5.0) -> bool:
    """Whether the node logs these words, soon."""
    deadline = time.monotonic() + seconds
    while words not in site.node.log_text:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_both_ports_answer_and_the_ready_line_names_them(site):
    assert client.echo(site.peer) == 0
    assert client.echo(site.node.peer) == 0
    assert site.node.tls_port not in (0, site.node.port)


def film(folder: Path, seed: str) -> tuple[Path, str]:
    facts = FilmFacts("P1", "Test^Film", "F", "19500101", "20240102", seed=seed)
    dataset = dx_dataset(np.arange(512 * 512, dtype=np.uint16).reshape(512, 512), facts)
    path = folder / f"{seed}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path, str(dataset.SOPInstanceUID)


def is_stored(site: Site, uid: str) -> bool:
    with Store.open(site.node.root) as store:
        return store.catalog.instance(uid) is not None


def test_a_film_is_stored_over_tls_by_our_client(site):
    path, uid = film(site.folder, "ours")
    assert [sent.ok for sent in client.send(site.peer, [path])] == [True]
    assert is_stored(site, uid)


@pytest.mark.dcmtk
def test_dcmtk_echoes_and_stores_over_tls(site, dcmtk):
    path, uid = film(site.folder, "dcmtk")
    tls = ["+tls", str(site.modality.key), str(site.modality.certificate), "+cf", str(site.ca.certificate)]
    address = ["-aec", "DICOMNODE", "127.0.0.1", str(site.node.tls_port)]
    subprocess.run([str(dcmtk / "echoscu"), *tls, *address], check=True, timeout=60)
    subprocess.run([str(dcmtk / "storescu"), *tls, *address, str(path)], check=True, timeout=60)
    assert is_stored(site, uid)


@pytest.mark.dcmtk
def test_dcmtk_without_a_certificate_or_with_a_strangers_is_refused(site, dcmtk):
    stranger = ["+tls", str(site.stranger.key), str(site.stranger.certificate), "-ic"]
    for tls in (["+tla", "-ic"], stranger):
        command = [str(dcmtk / "echoscu"), *tls, "-ta", "10", "127.0.0.1", str(site.node.tls_port)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert done.returncode != 0, tls


def test_who_shows_no_certificate_is_refused_and_both_sides_say_so(site):
    why = refused(replace(site.peer, tls=tls_of(site.ca)))
    assert why.endswith("cannot be called over TLS: it wants a certificate of ours")
    assert told(site, "connection from 127.0.0.1 refused: it has no certificate")


def test_who_shows_a_certificate_of_another_authority_is_refused(site):
    why = refused(replace(site.peer, tls=tls_of(site.ca, site.stranger)))
    assert why.endswith("it does not know the authority of our certificate")
    assert told(site, "refused: its certificate is not trusted: unable to get local issuer certificate")


def test_our_client_refuses_a_node_of_another_authority(site):
    elsewhere = Identity(site.folder / "elsewhere.pem", site.folder / "elsewhere.key")
    assert "its certificate is not trusted" in refused(replace(site.peer, tls=tls_of(elsewhere, site.modality)))
    assert "its certificate is not trusted" in refused(replace(site.peer, tls=ClientTls()))


@pytest.mark.parametrize(("name", "fits"), [("node", True), ("localhost", True), ("other.example", False)])
def test_our_client_keeps_to_the_name_that_it_was_told(site, name, fits):
    peer = replace(site.peer, tls=tls_of(site.ca, site.modality, name))
    if fits:
        assert client.echo(peer) == 0
    else:
        assert refused(peer).endswith("its certificate is not trusted: it does not hold the name other.example")


def test_tls_to_the_plain_port_and_none_to_the_tls_port_fail_at_once(site):
    begun = time.monotonic()
    assert "it does not speak TLS" in refused(replace(site.peer, port=site.node.port))
    assert "does not answer" in refused(Peer("127.0.0.1", site.node.tls_port))
    assert told(site, "connection from 127.0.0.1 refused: it does not speak TLS")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        (["-tls1_3"], True),
        (["-tls1_2"], True),
        (["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"], True),
        (["-tls1_1", "-cipher", "ALL@SECLEVEL=0"], False),
        (["-tls1", "-cipher", "ALL@SECLEVEL=0"], False),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256"], False),  # no forward secrecy
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"], False),  # CBC
        (["-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"], False),  # finite fields
    ],
)
def test_versions_and_ciphers_are_those_of_bcp_195(site, options, accepted):
    where = ["-connect", f"127.0.0.1:{site.node.tls_port}", "-CAfile", str(site.ca.certificate)]
    shown = ["-cert", str(site.modality.certificate), "-key", str(site.modality.key), "-verify_return_error"]
    command = ["openssl", "s_client", *where, *shown, "-brief", *options]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=60)
    assert ("CONNECTION ESTABLISHED" in done.stderr) is accepted, done.stderr


def test_a_peer_of_the_table_must_come_over_tls(site):
    assert client.echo(replace(site.peer, calling="SECURE")) == 0
    why = refused(replace(site.node.peer, calling="SECURE"))
    assert why.endswith("rejected the association: no reason given")
    assert told(site, "from SECURE (127.0.0.1) to DICOMNODE refused: peers.secure must call over TLS")


def test_a_pinned_ae_title_cannot_be_borrowed(site):
    other = certificates.issued(site.folder, site.ca, "other", "DNS:ct2.example")
    assert client.echo(replace(site.peer, calling="PINNED")) == 0
    why = refused(replace(site.peer, calling="PINNED", tls=tls_of(site.ca, other)))
    assert why.endswith("rejected the association: calling ae title not recognised")
    assert told(site, "from PINNED (127.0.0.1) to DICOMNODE refused: peers.pinned has another name in its certificate")


# Certificates that change while the node serves.


def shown_certificate(site: Site) -> bytes:
    """What a new connection is shown."""
    context = ssl.create_default_context(cafile=str(site.ca.certificate))
    context.load_cert_chain(site.modality.certificate, site.modality.key)
    with (
        socket.create_connection(("127.0.0.1", site.node.tls_port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def put_in_place(made: Identity, own: Identity) -> None:
    """As an administrator does: each file replaced at once, one after the other."""
    for new, old in ((made.certificate, own.certificate), (made.key, own.key)):
        shutil.copy(new, f"{old}.new")
        Path(f"{old}.new").replace(old)


def test_a_new_certificate_is_taken_up_and_a_broken_one_is_not(site):
    before = shown_certificate(site)
    renewed = certificates.issued(site.folder, site.ca, "renewed", LOCAL)
    put_in_place(renewed, site.own)
    after = shown_certificate(site)
    assert after == ssl.PEM_cert_to_DER_cert(renewed.certificate.read_text())
    assert after != before
    site.own.certificate.write_text("no certificate")
    assert shown_certificate(site) == after
    assert shown_certificate(site) == after
    assert site.node.log_text.count("the certificates in use stay") == 1
    put_in_place(renewed, site.own)
    assert shown_certificate(site) == after
    assert client.echo(site.peer) == 0


def test_sighup_reads_the_certificates_again_and_the_node_serves_on(site):
    before = site.node.log_text.count("certificates read again")
    os.kill(site.node.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 10
    while site.node.log_text.count("certificates read again") == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.echo(site.peer) == 0


# The command line.


def test_the_commands_call_over_tls(site, capsys):
    files = ["--tls-ca", site.ca.certificate, "--tls-cert", site.modality.certificate, "--tls-key", site.modality.key]
    address = f"127.0.0.1:{site.node.tls_port}"
    path, uid = film(site.folder, "command")
    assert main.run(["echo", address, "--tls", *map(str, files)]) == 0
    assert main.run(["send", address, str(path), *map(str, files)]) == 0
    assert is_stored(site, uid)
    capsys.readouterr()
    assert main.run(["echo", address, "--tls", "--tls-ca", str(site.ca.certificate)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main.run(["echo", address, "--tls-ca", str(site.folder / "none.pem")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_a_configured_peer_is_called_by_its_name(site, tmp_path, capsys):
    file = tmp_path / "workstation.toml"
    file.write_text(
        f"""
[dimse]
ae_title = "PINNED"
[tls]
authorities = "{site.ca.certificate}"
certificate = "{site.modality.certificate}"
key = "{site.modality.key}"
[peers.NODE]
ae_title = "DICOMNODE"
host = "127.0.0.1"
port = {site.node.tls_port}
tls = true
certificate_name = "localhost"
[peers.MUTE]
ae_title = "MUTE"
"""
    )
    assert main.run(["echo", "NODE", "--config", str(file)]) == 0
    assert f"DICOMNODE at 127.0.0.1:{site.node.tls_port}: 0x0000" in capsys.readouterr().out
    assert main.run(["echo", "MUTE", "--config", str(file)]) == 2
    assert "peers.MUTE has no host" in capsys.readouterr().err
    assert main.run(["echo", "NOD", "--config", str(file)]) == 2
    assert "did you mean NODE?" in capsys.readouterr().err


# Guards.


def test_silent_peers_on_the_tls_port_hold_no_thread_and_nobody_up(site):
    threads = psutil.Process(site.node.process.pid).num_threads
    assert client.echo(site.peer) == 0
    before, begun = threads(), time.monotonic()
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", site.node.tls_port), 5, ("127.0.0.2", 0)))
            for _ in range(30)
        ]
        for half in silent[:10]:
            half.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        for peer in (site.peer, site.node.peer):
            asked = time.monotonic()
            assert client.echo(peer) == 0
            assert time.monotonic() - asked < 1.5
        assert threads() <= before + 3
        for connection in silent:
            connection.settimeout(20)
            while connection.recv(100):
                pass
        assert HANDSHAKE_S - 0.5 < time.monotonic() - begun < HANDSHAKE_S + 3
    assert told(site, "connection from 127.0.0.2 refused: TLS handshake not complete in time")


def test_a_peer_that_says_nothing_after_its_handshake_is_ended(site):
    context = ssl.create_default_context(cafile=str(site.ca.certificate))
    context.load_cert_chain(site.modality.certificate, site.modality.key)
    with (
        socket.create_connection(("127.0.0.1", site.node.tls_port), 20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        begun = time.monotonic()
        assert secure.recv(10) == b""
        assert 2 < time.monotonic() - begun < 7


def test_connections_of_both_ports_count_together(site):
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5, ("127.0.0.3", 0)))
            for port in [site.node.port, site.node.tls_port] * 17
        ]
        ended, _, _ = select.select(connections, [], [], 1.0)
        deadline = time.monotonic() + 1.0
        while len(ended) < 2 and time.monotonic() < deadline:
            ended, _, _ = select.select(connections, [], [], 0.1)
        assert [connection.recv(10) for connection in ended] == [b"", b""]
    assert client.echo(site.peer) == 0


def test_the_plain_port_can_be_off(site, tmp_path):
    config = tmp_path / "dicomnode.toml"
    config.write_text(config_text(site.folder, "plain = false"))
    with nodes.running_node(tmp_path / "root", "--workers", "0", "--config", str(config)) as node:
        assert node.port is None
        assert client.echo(replace(site.peer, port=node.tls_port)) == 0
        listening = {each.laddr.port for each in psutil.Process(node.process.pid).net_connections() if not each.raddr}
        assert listening == {node.tls_port}


def test_files_that_do_not_fit_stop_the_start_with_one_line(site, tmp_path):
    config = tmp_path / "dicomnode.toml"
    text = config_text(site.folder, "").replace("node.key", "modality.key")
    config.write_text(text)
    done = nodes.dicomnode("serve", "--root", tmp_path / "root", "--config", config, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.endswith("are no certificate and its key: key values mismatch\n")
    assert not (tmp_path / "root").exists()
