"""DICOM files of this machine, as `sources` opens them, in, durable and catalogued instances out.

By the same intake as the ports, without the network: a head of the node's own stands before each data set, so that an
instance is the same file whichever way it came, and one that is there already is known without being written. Stopped
or killed, the next run of the same import goes on: what was taken in is known.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import IO, Any, Protocol

from dicomnode.attributes import part10
from dicomnode.errors import DicomNodeError, InvalidInstance
from dicomnode.intake import Intake
from dicomnode.settings import StorageSettings
from dicomnode.sources import UNREADABLE, Opener, Source
from storage.errors import StorageError, StorageFull
from storage.records import InstanceRow, NewInstance
from storage.store import Store

log = logging.getLogger(__name__)
PIECE = 1 << 20  # bytes read at once
THREADS = 4  # that wait for the disk at once; what they commit shares transactions
BATCH = 32  # files that are handed to a thread or a machine together
Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Refused:
    """A file that is not in the archive, and why."""

    path: str
    reason: str


@dataclass
class Summary:
    """What became of the files: counts by outcome, see `storage.records.Outcome`."""

    files: int = 0
    new: int = 0
    identical: int = 0
    kept: int = 0
    replaced: int = 0
    skipped: int = 0  # no DICOM file
    refused: list[Refused] = field(default_factory=list)

    def add(self, source: Source, outcome: str) -> None:
        """`outcome`: one of the counts' names, or why it was refused."""
        self.files += 1
        if outcome in COUNTS:
            setattr(self, outcome, getattr(self, outcome) + 1)
        else:
            self.refused.append(Refused(str(source), outcome))

    def values(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


COUNTS = frozenset({"new", "identical", "kept", "replaced", "skipped"})
Outcomes = list[tuple[Source, str]]


class Takers(Protocol):
    """Who takes files in: `Threads` of this process, or the workers of a cluster."""

    def take(self, batches: Iterable[list[Source]]) -> Iterator[Outcomes]:
        """What became of each batch, in any order. StorageFull ends it."""


class Importer:
    """Takes single files in. Safe for threads."""

    def __init__(self, store: Store, settings: StorageSettings) -> None:
        self._store = store
        self._intake = Intake(store, settings, lambda: None)  # workers look for work every second

    def batch(self, sources: list[Source]) -> Outcomes:
        """What became of each. StorageFull, DatabaseError: nothing more can be taken in."""
        with Opener() as opener:
            return [(source, self._take(opener, source)) for source in sources]

    def take(self, source: Source) -> str:
        """The outcome, or why it is refused."""
        with Opener() as opener:
            return self._take(opener, source)

    def _take(self, opener: Opener, source: Source) -> str:
        if source.fault:
            return source.fault
        try:
            with opener.opened(source) as file:
                return self._taken(file)
        except StorageFull:
            raise
        except (DicomNodeError, StorageError) as error:
            return str(error)
        except UNREADABLE as error:
            return f"cannot be read: {type(error).__name__}"

    def _taken(self, file: IO[bytes]) -> str:
        begun = file.read(part10.MAXIMUM_HEAD)
        if begun[128:132] != b"DICM":
            return "skipped"
        head = part10.read(begun)
        if head is None:
            raise InvalidInstance("file meta information too long, or the file is cut")
        own = part10.head(head.sop_class_uid, head.sop_instance_uid, head.transfer_syntax_uid)
        pieces = chain((own, begun[head.size :]), iter(lambda: file.read(PIECE), b""))
        row = self._store.catalog.instance(head.sop_instance_uid)
        if row is not None and file.seekable():
            if _is_same(pieces, row):
                return "identical"
            file.seek(len(begun))
            pieces = chain((own, begun[head.size :]), iter(lambda: file.read(PIECE), b""))
        return self._kept(pieces, head)

    def _kept(self, pieces: Iterable[bytes], head: part10.Head) -> str:
        def check(new: NewInstance) -> None:
            if (new.sop_class_uid, new.sop_instance_uid) != (head.sop_class_uid, head.sop_instance_uid):
                raise InvalidInstance("data set and file meta information are of two instances")

        with self._intake.scratch() as scratch:
            for piece in pieces:
                scratch.write(piece)
            return self._intake.keep(scratch, None, check).added.outcome


def _is_same(pieces: Iterable[bytes], row: InstanceRow) -> bool:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        if size > row.size:
            return False
    return (digest.hexdigest(), size) == (row.sha256, row.size)


class Threads:
    """Takes batches in by threads of this process."""

    def __init__(self, store: Store, settings: StorageSettings) -> None:
        self._importer = Importer(store, settings)

    def take(self, batches: Iterable[list[Source]]) -> Iterator[Outcomes]:
        """No more than twice THREADS batches are in hand."""
        waiting = set()
        with ThreadPoolExecutor(THREADS, "import") as threads:
            for batch in batches:
                waiting.add(threads.submit(self._importer.batch, batch))
                if len(waiting) >= 2 * THREADS:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in waiting)


def run(found: list[Source], takers: Takers, report: Report) -> Summary:
    """Take everything in. StorageFull: what was taken in until then stays."""
    summary = Summary()
    batches = (found[start : start + BATCH] for start in range(0, len(found), BATCH))
    for outcomes in takers.take(batches):
        for source, outcome in outcomes:
            summary.add(source, outcome)
        report("importing", summary.files, len(found), f"{len(summary.refused)} refused" if summary.refused else "")
    return summary
