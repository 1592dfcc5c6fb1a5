"""Audit messages in, lines of a file or syslog messages out. Everything here may wait and may raise OSError.

Syslog: RFC 5424 messages over UDP (RFC 5426), TLS (RFC 5425) or the system's own socket. PS3.15 A.6, A.7.
"""

import os
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from dicomnode.audit.message import moment
from dicomnode.settings import Config, TlsSettings

PRIORITY: Final = 10 * 8 + 5  # facility 10, security; severity 5, notice: PS3.15 A.6
MESSAGE_ID: Final = "DICOM+RFC3881"
MARK: Final = b"\xef\xbb\xbf"  # RFC 5424 6.4: what follows is UTF-8
CONNECT_S: Final = 10.0  # also for a write that is not taken
MODE: Final = 0o600  # patients are named


class Sink(Protocol):
    """Where messages end up. One thread writes."""

    name: str

    def write(self, xml: str, at: float) -> None: ...

    def close(self) -> None: ...


class FileSink:
    """One message a line, appended. A file that was moved away, as logrotate does, is begun anew."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._descriptor: int | None = None
        self._torn = False  # a line was begun that could not be ended: the disk was full

    def write(self, xml: str, at: float) -> None:
        """Append a line; a single write, so that those of several processes do not mix."""
        line = b"\n" * self._torn + xml.encode() + b"\n"
        written = os.write(self._opened(), line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(f"{written} of {len(line)} bytes were taken")

    def _opened(self) -> int:
        if self._descriptor is not None and not self._is_ours(self._descriptor):
            self.close()
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        return self._descriptor

    def _is_ours(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """The next write opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True)
class Header:
    """What stands before a message, RFC 5424 6.2."""

    host: str
    pid: int

    def framed(self, xml: str, at: float) -> bytes:
        """The syslog message."""
        words = f"<{PRIORITY}>1 {moment(at)} {self.host} dicomnode {self.pid} {MESSAGE_ID} - "
        return words.encode("ascii", "replace") + MARK + xml.encode()


def own_header() -> Header:
    """Of this process."""
    return Header(socket.gethostname() or "-", os.getpid())


class DatagramSink:
    """Syslog over UDP or a local socket: each message a datagram; whether anybody reads it is not known."""

    def __init__(self, name: str, family: int, address: tuple[str, int] | str, header: Header) -> None:
        self.name = name
        self._family = family
        self._address = address
        self._header = header
        self._socket: socket.socket | None = None

    def write(self, xml: str, at: float) -> None:
        """Send it. The address is looked up once, and again after a failure."""
        try:
            self._connected().send(self._header.framed(xml, at))
        except OSError:
            self.close()
            raise

    def _connected(self) -> socket.socket:
        if self._socket is None:
            family, target = self._resolved()
            made = socket.socket(family, socket.SOCK_DGRAM)
            try:
                made.settimeout(CONNECT_S)
                made.connect(target)
            except OSError:
                made.close()
                raise
            self._socket = made
        return self._socket

    def _resolved(self) -> tuple[int, Any]:
        if isinstance(self._address, str):
            return self._family, self._address
        found = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)
        return found[0][0], found[0][4]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class TlsSink:
    """Syslog over TLS, messages with their length in front (RFC 5425 4.3). It does not tell whether they were taken."""

    def __init__(self, name: str, host: str, port: int, context: Callable[[], ssl.SSLContext], header: Header) -> None:
        """`context` is asked for with each connection: certificates may have been replaced."""
        self.name = name
        self._host, self._port = host, port
        self._context = context
        self._header = header
        self._socket: ssl.SSLSocket | None = None

    def write(self, xml: str, at: float) -> None:
        """Send it on the connection, or on a new one where that has ended."""
        message = self._header.framed(xml, at)
        try:
            self._connected().sendall(b"%d " % len(message) + message)
        except OSError:
            self.close()
            raise

    def _connected(self) -> ssl.SSLSocket:
        if self._socket is not None and _is_over(self._socket):
            self.close()
        if self._socket is None:
            plain = socket.create_connection((self._host, self._port), CONNECT_S)
            try:
                self._socket = self._context().wrap_socket(plain, server_hostname=self._host)
            except BaseException:
                plain.close()
                raise
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _is_over(connection: ssl.SSLSocket) -> bool:
    """Whether a receiver, who has nothing to say, has closed the connection."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    connection.settimeout(0)
    try:
        return not connection.recv(1)
    except (ssl.SSLWantReadError, BlockingIOError):  # a ticket of TLS 1.3
        return False
    finally:
        with suppress(OSError):
            connection.settimeout(CONNECT_S)


def _tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """The node's certificate and authorities; without authorities the system's."""
    context = ssl.create_default_context(cafile=settings.authorities or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate:
        context.load_cert_chain(settings.certificate, settings.key or None, password="")
    return context


def sink_of(where: str, config: Config) -> Sink:
    """The sink of one entry of `audit.to`, which was checked when it was read."""
    parts, header = urlsplit(where), own_header()
    if parts.scheme == "udp":
        return DatagramSink(where, socket.AF_UNSPEC, (parts.hostname or "", parts.port or 514), header)
    if parts.scheme == "tls":
        context = lambda: _tls_context(config.tls)  # noqa: E731 - read anew each time
        return TlsSink(where, parts.hostname or "", parts.port or 6514, context, header)
    if parts.scheme == "unix":
        return DatagramSink(where, socket.AF_UNIX, parts.path, header)
    return FileSink(config.root / where)
