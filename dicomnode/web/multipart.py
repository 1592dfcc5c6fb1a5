"""multipart/related, RFC 2387: parts in, a streamed body out; a body in, its parts out as they arrive.

Memory bound: one piece of a part.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser
from starlette.responses import Response, StreamingResponse

from dicomnode.web import media
from dicomnode.web.errors import BadRequest

PIECE: Final = 256 << 10  # bytes sent at once
MAXIMUM_BOUNDARY: Final = 200  # RFC 2046 5.1.1 says 70; Orthanc sends 73 (seen)
MAXIMUM_HEADERS: Final = 16  # of one part
MAXIMUM_HEADER: Final = 8 << 10  # bytes of them


@dataclass(frozen=True)
class Part:
    """One part of an answer: its own Content-Type, where it is had, and its bytes in pieces."""

    content_type: str
    pieces: Iterable[bytes]
    location: str = ""


def streamed(kind: str, parts: Iterable[Part], boundary: str = "") -> Response:
    """The answer; `kind` is the type of its parts."""
    boundary = boundary or secrets.token_hex(16)
    content_type = media.described(media.RELATED, (("type", kind), ("boundary", boundary)))
    return StreamingResponse(_encoded(parts, boundary), media_type=content_type)


def of_parts(kind: str, bodies: Iterable[bytes]) -> Response:
    """The answer of whole parts of one type."""
    return streamed(kind, (Part(kind, (body,)) for body in bodies))


def _encoded(parts: Iterable[Part], boundary: str) -> Iterator[bytes]:
    start = f"--{boundary}\r\n"
    for part in parts:
        location = f"Content-Location: {part.location}\r\n" if part.location else ""
        yield f"{start}Content-Type: {part.content_type}\r\n{location}\r\n".encode()
        yield from part.pieces
        start = f"\r\n--{boundary}\r\n"
    yield f"\r\n--{boundary}--\r\n".encode()


class Receiver(Protocol):
    """Takes the parts of a body, one after the other."""

    def begin(self, content_type: str) -> None:
        """A part begins."""

    def take(self, data: memoryview) -> None:
        """More of it."""

    def end(self) -> None:
        """It is complete."""


class Reader:
    """Reads a body that comes in pieces and tells a receiver of its parts. BadRequest where it is no multipart."""

    def __init__(self, boundary: str, receiver: Receiver) -> None:
        if not boundary or len(boundary) > MAXIMUM_BOUNDARY or not boundary.isascii():
            raise BadRequest("multipart without a boundary")
        self._receiver = receiver
        self._name, self._value, self._headers = b"", b"", {"content-type": ""}
        self._is_over = False
        self._parser = MultipartParser(
            boundary, self._callbacks(), max_header_count=MAXIMUM_HEADERS, max_header_size=MAXIMUM_HEADER
        )

    def feed(self, data: bytes) -> None:
        """Read on."""
        try:
            self._parser.write(data)
        except MultipartParseError as wrong:
            raise BadRequest("the body is no multipart of this boundary") from wrong

    def finish(self) -> None:
        """The body ended. BadRequest when its last boundary is missing: a part may be cut."""
        if not self._is_over:
            raise BadRequest("the body ends within a part")

    def _callbacks(self) -> Any:
        plain: dict[str, Callable[[], None]] = {
            "on_part_begin": self._begin,
            "on_header_begin": self._begin_header,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_end": self._receiver.end,
            "on_end": self._end,
        }
        return plain | {
            "on_header_field": self._take_name,
            "on_header_value": self._take_value,
            "on_part_data": self._take,
        }

    def _begin(self) -> None:
        self._headers = {"content-type": ""}

    def _begin_header(self) -> None:
        self._name = self._value = b""

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")

    def _end_headers(self) -> None:
        self._receiver.begin(self._headers["content-type"])

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._receiver.take(memoryview(data)[start:end])

    def _end(self) -> None:
        self._is_over = True
