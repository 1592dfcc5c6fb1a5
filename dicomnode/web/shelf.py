"""Stored instances in, their bytes out in pieces: whole, in another transfer syntax, or one value or frame of them.

Memory bound: one piece. Codecs run in a child process (`workers.transcoder`), which writes a scratch file.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode.attributes import model, part10
from dicomnode.attributes.model import Json
from dicomnode.errors import DecodeError
from dicomnode.pixels import frames
from dicomnode.pixels.frames import PIXEL_DATA, Image, Layout, Span
from dicomnode.web.errors import NotFound
from dicomnode.web.multipart import PIECE
from dicomnode.web.resources import Held
from dicomnode.workers.transcoder import TranscoderProcess
from storage.errors import StorageError
from storage.files import Files

PLAIN: Final = str(ExplicitVRLittleEndian)


@dataclass(frozen=True)
class Opened:
    """A data set that can be read in place: the instance's own file, or a plain copy of it."""

    layout: Layout
    file: BinaryIO
    transfer_syntax_uid: str

    def pieces(self, spans: Iterable[Span]) -> Iterator[bytes]:
        """The bytes of these places, in their order."""
        for span in spans:
            self.file.seek(span.start)
            yield from _read(self.file, span.length)


@dataclass(frozen=True)
class WebShelf:
    """Where instances are read from and what transcodes them."""

    files: Files
    transcoder: TranscoderProcess

    def path(self, held: Held) -> Path:
        """The instance's file."""
        return self.files.path(held.stored.path)

    def instance(self, held: Held, syntax: str) -> Iterator[bytes]:
        """A Part 10 file in that transfer syntax; begun, so that what fails does before the first piece is sent.

        NotFound when it is gone, DecodeError when it cannot be transcoded.
        """
        if syntax == held.stored.transfer_syntax_uid:
            return begun(self._as_stored(held))
        return begun(self._transcoded(held, syntax))

    def _as_stored(self, held: Held) -> Iterator[bytes]:
        with _reported(), self.path(held).open("rb") as file:
            yield from _read(file, held.stored.size)

    def _transcoded(self, held: Held, syntax: str) -> Iterator[bytes]:
        with _reported(), self._copy(held, syntax) as (path, length), path.open("rb") as file:
            yield part10.head(held.stored.sop_class_uid, held.stored.sop_instance_uid, syntax)
            yield from _read(file, length)

    @contextmanager
    def _copy(self, held: Held, syntax: str) -> Iterator[tuple[Path, int]]:
        """The data set in that syntax in a scratch file, and its length."""
        with self.files.scratch() as scratch:
            yield scratch.path, self.transcoder.transcode(self.path(held), scratch.path, syntax)

    @contextmanager
    def opened(self, held: Held, *, decoded: bool = False) -> Iterator[Opened]:
        """The data set to be read in place. `decoded`: with plain pixels. NotFound, DecodeError."""
        if not decoded and _is_laid_out(held.stored.transfer_syntax_uid):
            with self._laid_out(self.path(held), held.stored.transfer_syntax_uid, has_head=True) as found:
                yield found
            return
        with self._copy(held, PLAIN) as (path, _), self._laid_out(path, PLAIN, has_head=False) as found:
            yield found

    @contextmanager
    def _laid_out(self, path: Path, syntax: str, *, has_head: bool) -> Iterator[Opened]:
        with _reported(), path.open("rb") as file:
            head = part10.read(file.read(part10.MAXIMUM_HEAD)) if has_head else None
            with frames.laid_out(path, head.size if head else 0, syntax) as layout:
                yield Opened(layout, file, syntax)

    def metadata(self, held: Held, bulk: str) -> Json:
        """The data set as JSON; `bulk`: the URL below which long values are."""
        with self.opened(held, decoded=not _is_laid_out(held.stored.transfer_syntax_uid)) as opened:
            dataset, left_out = opened.layout.dataset()
            found = model.of_dataset(dataset, lambda tag: f"{bulk}/{model.key_of(tag)}")
            for tag in left_out:
                found[f"{tag:08X}"] = {"vr": _bulk_vr(opened.layout, tag), "BulkDataURI": f"{bulk}/{tag:08X}"}
        return dict(sorted(found.items()))


def is_compressed(syntax: str) -> bool:
    """Whether frames are in codestreams of their own."""
    return bool(UID(syntax).is_encapsulated)


def image_of(opened: Opened) -> Image:
    """What the header says of the frames. DecodeError when there is no image."""
    return Image.of(opened.layout.dataset()[0])


def begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same, the first piece made already."""
    first = list(_first(pieces))
    return chain(first, pieces)


def _first(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        return


def joined(spans: Sequence[tuple[Span, ...]]) -> tuple[Span, ...]:
    """All of them as one run."""
    return tuple(span for each in spans for span in each)


def _is_laid_out(syntax: str) -> bool:
    uid = UID(syntax)
    return bool(uid.is_transfer_syntax and uid.is_little_endian and not uid.is_deflated)


def _bulk_vr(layout: Layout, tag: int) -> str:
    """PS3.5 A.4: encapsulated pixels are OB; in Implicit VR pixels are OW."""
    value = layout.value(tag)
    if value.is_encapsulated:
        return "OB"
    return value.vr or ("OW" if tag == PIXEL_DATA else "UN")


def _read(file: BinaryIO, length: int) -> Iterator[bytes]:
    """So many bytes from here on. DecodeError when the file is shorter."""
    while length:
        piece = file.read(min(PIECE, length))
        if not piece:
            raise DecodeError("the stored file is shorter than it was")
        length -= len(piece)
        yield piece


@contextmanager
def _reported() -> Iterator[Any]:
    """A file that is gone was deleted just now."""
    try:
        yield
    except (FileNotFoundError, StorageError) as gone:
        raise NotFound("no longer stored here") from gone
