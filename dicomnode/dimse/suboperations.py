"""Stored instances and an association in, C-STORE requests on it and what became of each out. PS3.4 B.2, C.4.2.2.

An instance goes as it is stored where the other side took its transfer syntax; else uncompressed, by a child process.
"""

import logging
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from io import BufferedIOBase
from typing import Final

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from dicomnode import log
from dicomnode.dimse import outgoing, status, wire
from dicomnode.dimse.outgoing import MOST_CONTEXTS, Watch
from dicomnode.dimse.wire import Command, Element, Field, Writer
from dicomnode.errors import DicomNodeError, Unsendable
from dicomnode.pixels.transcode import TARGETS
from dicomnode.query.retrieval import Stored
from dicomnode.workers.transcoder import TranscoderProcess
from storage.errors import StorageError
from storage.files import Files

logger = logging.getLogger(__name__)

# Preamble, DICM and the group length of the File Meta Information, PS3.10 7.1.
_HEAD: Final = struct.Struct("<128s4sHH2sHL")
_META: Final = (b"DICM", 0x0002, 0x0000, b"UL", 4)
_UNCOMPRESSED: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
MOST_IDS: Final = 0xFFFF


class Outcome(Enum):
    """What became of a sub-operation."""

    COMPLETED = "completed"
    WARNING = "warning"
    FAILED = "failed"

    @classmethod
    def of(cls, code: int) -> "Outcome":
        """PS3.4 Table B.2-1, PS3.7 C.1."""
        if code == status.SUCCESS:
            return cls.COMPLETED
        return cls.WARNING if code & 0xF000 == 0xB000 or code in _WARNINGS else cls.FAILED


_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116})


@dataclass(frozen=True)
class Origin:
    """Whose retrieval it is. `fields`: the Move Originator, PS3.7 9.1.1.1."""

    priority: int
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True)
class Shelf:
    """Where instances are read from and what transcodes them."""

    files: Files
    transcoder: TranscoderProcess

    @contextmanager
    def opened(self, stored: Stored, syntax: str) -> Iterator[tuple[BufferedIOBase, int]]:
        """A file at the start of the data set in that syntax, and the bytes to read. Raises Unsendable."""
        try:
            if syntax != stored.transfer_syntax_uid:
                with self._transcoded(stored, syntax) as found:
                    yield found
            else:
                with self.files.path(stored.path).open("rb") as file:
                    yield file, _to_data_set(file, stored.size)
        except (OSError, StorageError) as error:
            raise Unsendable(f"cannot be read ({type(error).__name__})") from error

    @contextmanager
    def _transcoded(self, stored: Stored, syntax: str) -> Iterator[tuple[BufferedIOBase, int]]:
        with self.files.scratch() as scratch:
            try:
                length = self.transcoder.transcode(self.files.path(stored.path), scratch.path, syntax)
            except DicomNodeError as error:
                raise Unsendable(str(error)) from error
            with scratch.path.open("rb") as file:
                yield file, length


def _to_data_set(file: BufferedIOBase, size: int) -> int:
    """Go behind the File Meta Information, which the node wrote; returns the bytes that follow."""
    found = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD.size)
    if found != size or len(head) != _HEAD.size:
        raise Unsendable(f"file of {found} bytes, {size} were stored")
    _, *meta, length = _HEAD.unpack(head)
    if tuple(meta) != _META:
        raise Unsendable("file without meta information")
    file.seek(length, os.SEEK_CUR)
    return size - file.tell()


@dataclass
class Sender:
    """The sub-operations of one retrieval on one association. `watch` is called wherever time passes; it may raise."""

    association: Association
    writer: Writer
    shelf: Shelf
    origin: Origin
    timeout_s: float
    watch: Watch
    answered: int | None = None  # status of the last response; None: the last instance was not sent
    _message_id: int = 0
    _contexts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for context in self.association.accepted_contexts:
            if context.as_scu:
                syntaxes = self._contexts.setdefault(str(context.abstract_syntax), {})
                syntaxes.setdefault(str(context.transfer_syntax[0]), int(context.context_id or 0))

    def send(self, stored: Stored) -> Outcome:
        """One sub-operation; logged when it failed on this side. PeerError when the association is of no more use."""
        self.answered = None
        try:
            syntax, context_id = self._context(stored)
            with self.shelf.opened(stored, syntax) as (file, length):
                self._request(stored, context_id, file, length)
        except Unsendable as error:
            logger.warning("%s not sent: %s", stored.sop_instance_uid, log.printable(error))
            return Outcome.FAILED
        answer = outgoing.response(self.association, self._message_id, self.timeout_s, self.watch)
        self.answered = int(answer.Status)
        return Outcome.of(self.answered)

    def _context(self, stored: Stored) -> tuple[str, int]:
        """The transfer syntax to send in and its context: as stored where that was taken, else uncompressed."""
        accepted = self._contexts.get(stored.sop_class_uid, {})
        for syntax in (stored.transfer_syntax_uid, *map(str, TARGETS)):
            if syntax in accepted:
                return syntax, accepted[syntax]
        raise Unsendable("no presentation context for it")

    def _request(self, stored: Stored, context_id: int, file: BufferedIOBase, length: int) -> None:
        self._message_id = self._message_id % MOST_IDS + 1
        command = wire.command_set(
            [
                (Element.AFFECTED_SOP_CLASS_UID, stored.sop_class_uid),
                (Element.COMMAND_FIELD, Command.C_STORE),
                (Element.MESSAGE_ID, self._message_id),
                (Element.PRIORITY, self.origin.priority),
                (Element.COMMAND_DATA_SET_TYPE, wire.DATA_SET),
                (Element.AFFECTED_SOP_INSTANCE_UID, stored.sop_instance_uid),
                *self.origin.fields,
            ]
        )
        self.writer.send_file(context_id, command, file, length, self.watch)


def batches(found: Iterable[Stored]) -> Iterator[tuple[list[Stored], list[PresentationContext]]]:
    """Instances in their order, with the contexts for them, in as few associations as can carry those.

    One context for each class and stored syntax, so that the other side can take each as it is, and for each class
    one of the uncompressed syntaxes that are not stored. PS3.8 7.1.1.13.
    """
    batch: list[Stored] = []
    kinds: dict[str, dict[str, None]] = {}
    for stored in found:
        grown = _grown(kinds, stored)
        if batch and len(_proposed(grown)) > MOST_CONTEXTS:
            yield batch, _proposed(kinds)
            batch, grown = [], _grown({}, stored)
        kinds = grown
        batch.append(stored)
    if batch:
        yield batch, _proposed(kinds)


def _grown(kinds: dict[str, dict[str, None]], stored: Stored) -> dict[str, dict[str, None]]:
    held = kinds.get(stored.sop_class_uid, {})
    if stored.transfer_syntax_uid in held:
        return kinds
    return {**kinds, stored.sop_class_uid: {**held, stored.transfer_syntax_uid: None}}


def _proposed(kinds: dict[str, dict[str, None]]) -> list[PresentationContext]:
    return [build_context(uid, list(syntaxes)) for uid, held in kinds.items() for syntaxes in _lists(held)]


def _lists(held: Iterable[str]) -> list[Sequence[str]]:
    stored = list(held)
    rest = [syntax for syntax in _UNCOMPRESSED if syntax not in stored]
    return [*([syntax] for syntax in stored), *([rest] if rest else [])]
