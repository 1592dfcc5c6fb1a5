"""The client side (SCU): an address and files or an identifier in, statuses and matches out."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom
from pynetdicom import AE, _config, evt
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicomnode import private, uids
from dicomnode.dimse import contexts, status
from dicomnode.dimse.tls import ClientContext, ClientTls, client_context, meaning, peer_tls
from dicomnode.errors import ConfigError, PeerError
from dicomnode.quiet import quiet_libraries, quiet_pydicom
from dicomnode.settings import PeerSettings, TlsSettings

MOST_CONTEXTS = 126  # of 128 that one association can carry, PS3.8 7.1.1.13
TIMEOUT_S = 60.0
PAUSE_S = 0.0002


def _without_delay(event: Any) -> None:
    """Nagle's algorithm would hold every request back by 40 ms; pynetdicom leaves it on."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


WITHOUT_DELAY = [(evt.EVT_CONN_OPEN, _without_delay)]


@dataclass(frozen=True)
class Peer:
    """The AE that is called, and as whom."""

    host: str
    port: int
    called: str = "DICOMNODE"
    calling: str = "DICOMNODE_SCU"
    tls: ClientTls | None = None

    @classmethod
    def configured(cls, peer: PeerSettings, calling: str, tls: TlsSettings) -> "Peer":
        """A peer of the table, called as `calling`. ConfigError when the table does not say where it listens."""
        if not peer.host:
            raise ConfigError(f"peers.{peer.name} has no host: it cannot be called")
        return cls(peer.host, peer.port, peer.ae_title, calling, peer_tls(tls, peer))

    @classmethod
    def parse(cls, address: str, called: str, calling: str) -> "Peer":
        """`HOST:PORT`, an IPv6 host in brackets. ValueError when it is not that."""
        host, separator, port = address.rpartition(":")
        if not separator or not port.isdigit() or not host or int(port) > 65535:
            raise ValueError(f"expected HOST:PORT, got {address}")
        return cls(host.strip("[]"), int(port), called, calling)


@dataclass(frozen=True)
class Sent:
    """What became of one file."""

    path: Path
    status: int | None  # None: it was not sent
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Success or a warning (0xB000..0xBFFF): the peer has it."""
        return self.status is not None and (self.status == status.SUCCESS or self.status & 0xF000 == 0xB000)


def echo(peer: Peer) -> int:
    """C-ECHO; the status. PeerError when there is no answer."""
    with association(peer, [build_context(Verification, list(contexts.QUERY))]) as opened:
        return status_in(at_rest(opened).send_c_echo())


def dicom_files(paths: list[Path]) -> list[Path]:
    """Every Part 10 file among the paths and below the folders, sorted."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        found += [each for each in inside if not path.is_dir() or is_dicom(each)]
    return found


def send(peer: Peer, files: list[Path]) -> Iterator[Sent]:
    """C-STORE each file as it is, without transcoding; one result a file, in order of the contexts they need."""
    quiet_libraries()
    _config.STORE_SEND_CHUNKED_DATASET = True  # the file's own bytes, read as they are sent
    kinds: dict[tuple[str, str], list[_File]] = {}
    for path in files:
        try:
            file = _File.read(path)
            kinds.setdefault((file.sop_class_uid, file.transfer_syntax_uid), []).append(file)
        except (InvalidDicomError, OSError, AttributeError) as error:
            yield Sent(path, None, str(error.strerror) if isinstance(error, OSError) else "not a DICOM file")
    wanted = list(kinds)
    for start in range(0, len(wanted), MOST_CONTEXTS):
        yield from _send_batch(peer, {kind: kinds[kind] for kind in wanted[start : start + MOST_CONTEXTS]})


@dataclass(frozen=True)
class _File:
    """One file to send. Its own bytes go over the wire, but for a file whose meta information names other UIDs."""

    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str
    is_consistent: bool

    @classmethod
    def read(cls, path: Path) -> "_File":
        with quiet_pydicom():
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
        meta = dataset.file_meta
        named = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
        own = (dataset.get("SOPClassUID") or named[0], dataset.get("SOPInstanceUID") or named[1])
        return cls(path, str(own[0]), str(meta.TransferSyntaxUID), own == named)


def _send_batch(peer: Peer, kinds: dict[tuple[str, str], list[_File]]) -> Iterator[Sent]:
    proposed = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
    with association(peer, proposed) as opened:
        accepted = {(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in opened.accepted_contexts}
        for kind, files in kinds.items():
            for file in files:
                if kind in accepted:
                    yield _send_one(opened, file)
                else:
                    yield Sent(file.path, None, "presentation context not accepted")


def _send_one(association: Any, file: _File) -> Sent:
    try:
        answer = at_rest(association).send_c_store(file.path if file.is_consistent else dcmread(file.path))
        code = status_in(answer)
    except (ValueError, AttributeError, RuntimeError, OSError, PeerError) as error:
        return Sent(file.path, None, str(error))
    return Sent(file.path, code, str(answer.get("ErrorComment", "")))


def find(peer: Peer, identifier: Dataset) -> Iterator[Dataset]:
    """Study Root C-FIND; the Pending identifiers as they come. PeerError with the peer's Error Comment on failure."""
    private.register()
    context = build_context(StudyRootQueryRetrieveInformationModelFind, list(contexts.QUERY))
    with association(peer, [context], _relational()) as opened:
        for answer, match in _asked(opened, identifier):
            code = status_in(answer)
            if code in (status.PENDING, status.PENDING_WARNING):
                yield match
            elif code != status.SUCCESS:
                raise PeerError(f"query failed with 0x{code:04X}: {answer.get('ErrorComment', 'no comment')}")


def _asked(association: Any, identifier: Dataset) -> Any:
    try:
        return at_rest(association).send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind)
    except (ValueError, TypeError, AttributeError) as error:
        raise PeerError("the query cannot be encoded: a value does not fit its attribute") from error


def _relational() -> tuple[SOPClassExtendedNegotiation]:
    """Ask for relational queries (PS3.4 C.5.1.1), so that an image is found by its UID alone."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = StudyRootQueryRetrieveInformationModelFind
    item.service_class_application_information = b"\x01"
    return (item,)


def at_rest(association: Any) -> Any:
    """The association, when its reactor is sure to see that the next answer is not its own to take.

    pynetdicom's reactor may be between its pause and its look at the messages: it then drops the answer of a request
    that was made in that moment, which happens with peers that answer in less than a millisecond.
    """
    while association._is_paused and association.is_established:
        time.sleep(PAUSE_S)
    return association


def status_in(answer: Dataset) -> int:
    """The status of a response. PeerError when none came."""
    if "Status" not in answer:
        raise PeerError("the peer broke off or did not answer in time")
    return int(answer.Status)


@contextmanager
def association(
    peer: Peer, proposed: list[Any], negotiated: tuple[Any, ...] = (), handlers: tuple[Any, ...] = ()
) -> Iterator[Any]:
    """An established association, released at the end. PeerError when there is none."""
    quiet_libraries()
    entity = AE(ae_title=peer.calling)
    entity.requested_contexts = proposed
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
    entity.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = uids.IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = 131072
    try:
        socket.getaddrinfo(peer.host, peer.port)
    except OSError as error:
        raise PeerError(f"{peer.host}: {error.strerror or 'no such host'}") from error
    secure = client_context(peer.tls) if peer.tls else None
    opened = entity.associate(
        peer.host,
        peer.port,
        ae_title=peer.called,
        ext_neg=list(negotiated),
        evt_handlers=[*WITHOUT_DELAY, *handlers],
        tls_args=(secure, peer.host) if secure else None,
    )
    if not opened.is_established:
        raise PeerError(f"{peer.called} at {peer.host}:{peer.port} {_refusal(opened, secure)}")
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def _refusal(association: Any, secure: ClientContext | None) -> str:
    """Why there is no association, as far as the peer or TLS said."""
    if association.is_rejected:
        answer = association.acceptor.primitive
        return f"rejected the association: {str(answer.reason_str).lower()}"
    if association.rejected_contexts:
        return "accepted none of the presentation contexts: it does not offer that, or not to this AE title"
    why = meaning(secure.failure) if secure and secure.failure else ""
    return f"cannot be called over TLS: {why}" if why else "does not answer"
