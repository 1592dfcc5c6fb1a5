"""A port of this machine in, the bodies of its answers out: one HTTP client for every archive; it decodes nothing."""

import html
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from queue import Empty, SimpleQueue

TIMEOUT_S = 120.0
PARALLEL = 6  # connections that a browser opens to one server
BATCH = 16 << 20  # bytes of one STOW-RS request
MOST = 200  # files of it
DICOM = 'multipart/related; type="application/dicom"'
_BOUNDARY = "bench-part"
_LOADED = re.compile(r'(?:src|href)="(/(?:pictures|static)/[^"]+)"')


class Refused(Exception):
    """An answer with a status of failure; the text says which."""


class Asker:
    """One connection. Raises Refused."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def get(self, path: str, accept: str = "*/*") -> bytes:
        """What is answered. A server may have hung up on an idle connection meanwhile: then it is opened again."""
        try:
            return self._asked("GET", path, None, {"Accept": accept})
        except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self._connection.close()
            return self._asked("GET", path, None, {"Accept": accept})

    def post(self, path: str, body: bytes, content_type: str) -> bytes:
        """What is answered to a body."""
        return self._asked("POST", path, body, {"Accept": "application/dicom+json", "Content-Type": content_type})

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _asked(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise Refused(f"{method} {path.partition('?')[0]}: {answer.status}")
        return content


@contextmanager
def asking(port: int) -> Iterator[Asker]:
    """A connection, closed at the end."""
    asker = Asker(port)
    try:
        yield asker
    finally:
        asker.close()


def stow(port: int, files: Iterable[Path]) -> None:
    """STOW-RS of files, some megabytes a request."""
    with asking(port) as asker:
        parts, size = [], 0
        for path in files:
            parts.append(path.read_bytes())
            size += len(parts[-1])
            if size >= BATCH or len(parts) == MOST:
                stow_parts(asker, parts)
                parts, size = [], 0
        if parts:
            stow_parts(asker, parts)


def stow_parts(asker: Asker, parts: Sequence[bytes]) -> None:
    """STOW-RS of Part 10 files in one request."""
    delimiter = f"\r\n--{_BOUNDARY}".encode()
    head = delimiter + b"\r\nContent-Type: application/dicom\r\n\r\n"
    body = b"".join(head + part for part in parts) + delimiter + b"--\r\n"
    asker.post("/dicom-web/studies", body, f"{DICOM}; boundary={_BOUNDARY}")


def open_page(port: int, path: str) -> int:
    """A page with all that it shows, as a browser with an empty cache loads it; how many things that was."""
    with asking(port) as asker:
        page = asker.get(path, "text/html").decode()
    shown = list(dict.fromkeys(html.unescape(found) for found in _LOADED.findall(page)))
    get_all(port, shown)
    return len(shown)


def get_all(port: int, paths: Sequence[str], accept: str = "*/*") -> int:
    """Everything at these paths over six connections; how many bytes that was. Raises what the first failure was."""
    waiting: SimpleQueue[str] = SimpleQueue()
    for path in paths:
        waiting.put(path)
    sizes: list[int] = []
    failed: list[Exception] = []

    def fetch() -> None:
        try:
            with asking(port) as asker:
                while not failed:
                    sizes.append(len(asker.get(waiting.get_nowait(), accept)))
        except Empty:
            return
        except Exception as error:  # noqa: BLE001 - a thread's boundary: raised again below
            failed.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(sizes)
