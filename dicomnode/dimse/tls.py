"""Certificate files in, TLS contexts out, as BCP 195 (RFC 9325) and the profile of PS3.15 B.12 want them.

TLS 1.2 and 1.3 only; of 1.2 only the suites with forward secrecy and authenticated encryption; no compression and no
renegotiation. The server's side follows its files: a context is made anew when they change.
"""

import logging
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dicomnode import log
from dicomnode.errors import ConfigError
from dicomnode.settings import PeerSettings, TlsSettings

logger = logging.getLogger(__name__)

SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9325 4.2; those of TLS 1.3 are all of this kind
OPTIONS: Final = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE  # RFC 9325 3.3, 3.5
NAMES_OF_SAN: Final = frozenset({"DNS", "IP Address", "URI"})

Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """The server's context, made from the files of the settings and again when they have changed.

    A connection that is open keeps the context that it was made with.
    """

    def __init__(self, settings: TlsSettings) -> None:
        """ConfigError when the files cannot be read or do not fit each other."""
        self._settings = settings
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._context = _server_context(settings)

    @classmethod
    def configured(cls, settings: TlsSettings) -> "Certificates | None":
        """Those of the settings; None when TLS is off."""
        return cls(settings) if settings.certificate else None

    def context(self) -> ssl.SSLContext:
        """The context for the next connection, of the files as they are now where they are sound."""
        stamp = self._look()
        with self._lock:
            if stamp != self._stamp:
                self._load(stamp)
            return self._context

    def reload(self) -> None:
        """Read the files again, whether they look changed or not."""
        with self._lock:
            self._load(self._look())

    def _load(self, stamp: Stamp) -> None:
        """The stamp is taken over either way, so that broken files are reported once and not at each connection."""
        self._stamp = stamp
        try:
            self._context = _server_context(self._settings)
        except ConfigError as error:
            logger.error("the certificates in use stay: %s", error)
        else:
            logger.info("certificates read again")

    def _look(self) -> Stamp:
        """What changes when a file is written or replaced; zeros for one that is not there."""
        settings = self._settings
        return tuple(_stamp(Path(name)) for name in (settings.certificate, settings.key, settings.authorities) if name)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        seen = path.stat()
    except OSError:
        return 0, 0, 0
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


def _server_context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _limit(context)
    _identify(context, settings.certificate, settings.key)
    if settings.authorities:
        _trust(context, settings.authorities)
        context.verify_mode = ssl.CERT_REQUIRED if settings.require_client_certificate else ssl.CERT_OPTIONAL
    return context


def _limit(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= OPTIONS
    context.set_ciphers(SUITES)


def _identify(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Own certificate and key. ConfigError names the files; without a password OpenSSL would ask the terminal."""
    try:
        context.load_cert_chain(certificate, key or None, password="")
    except ssl.SSLError as error:
        raise ConfigError(
            f"{certificate} and {key or certificate} are no certificate and its key: {_why(error)}"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {certificate} or {key or certificate}: {error.strerror}") from error


def _trust(context: ssl.SSLContext, authorities: str) -> None:
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise ConfigError(f"{authorities} holds no certificates: {_why(error)}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {authorities}: {error.strerror}") from error


def _why(error: ssl.SSLError) -> str:
    return str(error.reason or "not PEM, or encrypted").lower().replace("_", " ")


def names_of(connection: ssl.SSLSocket) -> frozenset[str]:
    """The names that the other side's verified certificate holds: CN, and DNS, IP and URI of the SAN."""
    certificate: Any = connection.getpeercert() or {}
    subject = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
    alternatives = {value for kind, value in certificate.get("subjectAltName", ()) if kind in NAMES_OF_SAN}
    return frozenset(subject | alternatives)


# What OpenSSL calls a handshake's end, and what a person needs to know; the other side's alerts stand below our own.
MEANINGS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate",
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS 1.2 or later",
    "NO_SHARED_CIPHER": "it offers no strong cipher",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it does not speak TLS",
    "UNEXPECTED_MESSAGE": "it does not speak TLS",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it wants a certificate of ours, or other ciphers",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no TLS version of ours",
}


def meaning(error: OSError) -> str:
    """Why TLS was refused, for a log line or a message. Empty for what is no word of TLS: the connection broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {log.printable(error.verify_message)}"
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return ""
    return MEANINGS.get(error.reason or "", _why(error))


@dataclass(frozen=True)
class ClientTls:
    """How another AE is called over TLS. Files are PEM."""

    authorities: str = ""  # who its certificate must come from; empty: those that the system trusts
    certificate: str = ""  # ours, for peers that ask; empty: none
    key: str = ""  # of ours; empty: in the same file
    name: str = ""  # that its certificate must hold; empty: the host that is called


def peer_tls(settings: TlsSettings, peer: PeerSettings) -> ClientTls | None:
    """How a configured peer is called: with the node's own certificate. None where the table says without TLS."""
    if not peer.tls:
        return None
    return ClientTls(settings.authorities, settings.certificate, settings.key, peer.certificate_name)


def peer_context(settings: TlsSettings, peer: PeerSettings) -> "ClientContext | None":
    """The context to call a configured peer with, for one association. ConfigError when a file cannot be read."""
    tls = peer_tls(settings, peer)
    return client_context(tls) if tls else None


def client_context(tls: ClientTls) -> "ClientContext":
    """For one association. ConfigError when a file cannot be read."""
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    _limit(context)
    context.name = tls.name
    context.check_hostname = not tls.name
    if tls.authorities:
        _trust(context, tls.authorities)
    else:
        context.load_default_certs()
    if tls.certificate:
        _identify(context, tls.certificate, tls.key)
    return context


def _another_name(name: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "another name")
    error.verify_message = f"it does not hold the name {name}"
    return error


class ClientSocket(ssl.SSLSocket):
    """A socket that checks the pinned name and leaves its context word of what failed: pynetdicom keeps none."""

    def do_handshake(self, block: bool = False) -> None:
        """As in ssl, then the name. SSLCertVerificationError when it is another."""
        context: Any = self.context
        try:
            super().do_handshake(block)
            if context.name and context.name not in names_of(self):
                raise _another_name(context.name)
        except OSError as error:
            context.failure = error
            raise

    def shutdown(self, how: int) -> None:
        """As in ssl. pynetdicom closes only what could be shut down, which a connection that broke cannot."""
        with suppress(OSError):
            super().shutdown(how)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the name in ssl
        """As in ssl. A server of TLS 1.3 refuses a certificate only after its handshake."""
        try:
            return super().read(len, buffer)
        except ssl.SSLError as error:
            self.context.failure = error  # type: ignore[attr-defined]
            raise


class ClientContext(ssl.SSLContext):
    """The context of one association; afterwards `failure` is what TLS said against it."""

    sslsocket_class = ClientSocket
    name: str = ""
    failure: OSError | None = None
