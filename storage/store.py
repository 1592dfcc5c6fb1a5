"""The way in: a root folder and a database URL in, everything that is kept out.

root/dicomnode.sqlite   the database, unless a URL names another
root/files/             instances, as received
root/scratch/           what is arriving
root/index/             snapshots of indexes: a cache
root/models/            weights, put there by whoever has them
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL

from storage.catalog import Catalog
from storage.check import Care, check
from storage.commitments import Commitments
from storage.conflicts import Conflicts
from storage.copies import Copies
from storage.database import Database
from storage.deletion import Deletion
from storage.durable import make_folder, reported, sync_folders
from storage.errands import Errands
from storage.errors import FileError, StorageError
from storage.files import Files
from storage.generations import Generations
from storage.jobs import MAX_ATTEMPTS, Jobs
from storage.local_maps import LocalMaps
from storage.questions import Deliveries, Questions
from storage.records import Disagreement
from storage.regions import Regions
from storage.studies import Studies
from storage.vectors.served import ServedShelf
from storage.vectors.shelf import Shelf

DATABASE = "dicomnode.sqlite"
MODELS = "models"
NOBODY = ""  # no owner's name begins with it and a stroke
NO_LIMIT = sys.maxsize  # of a scan
SWEEP_AGE_S = 600.0  # files younger than this may still get their row


class Store:
    """Everything kept under one root. Safe for threads; each process opens its own."""

    def __init__(
        self,
        root: Path,
        database: Database,
        clock: Callable[[], float],
        exact_limit: int,
        max_attempts: int,
        engine: str,
    ) -> None:
        """Use `open`."""
        self.root = root
        self.models = root / MODELS
        self._database = database
        self._clock = clock
        self.files = Files(root)
        self.catalog = Catalog(database, self.files, clock)
        self.studies = Studies(database, clock)
        self.copies = Copies(database)
        self.conflicts = Conflicts(database)
        self.deletion = Deletion(database, self.files, clock)
        self.generations = Generations(database, clock)
        self.jobs = Jobs(database, clock, max_attempts)
        self.commitments = Commitments(database, clock)
        self.questions = Questions(database, clock)
        self.deliveries = Deliveries(database, clock)
        self.regions = Regions(database)
        self.local_maps = LocalMaps(database)
        self.errands = Errands(database)
        shelf = ServedShelf if engine == "pgvector" else Shelf
        limit = NO_LIMIT if engine == "exact" else exact_limit
        self.vectors = shelf(database, self.generations, root / "index", limit)

    @classmethod
    def open(
        cls,
        root: Path,
        url: str | None = None,
        clock: Callable[[], float] = time.time,
        exact_limit: int = 0,
        max_attempts: int = MAX_ATTEMPTS,
        engine: str = "auto",
        *,
        new: bool = True,
    ) -> Self:
        """Make what is missing below `root`, bring the schema up, open. Changes nothing that is kept.

        `new`: there may be no archive yet; else FileError when there is none, as where its device has gone.
        `exact_limit`: vectors of an anatomy up to which a search scans them all, 0: as suits the engine;
        `max_attempts`: tries of one job before it is failed; `engine`: indexes in memory, which are scanned only
        (exact) or have graphs above the limit (auto), or the database's (pgvector). FileError, DatabaseError.
        """
        if not new and not Files.are_at(root):
            raise FileError(f"root folder: no archive at {root}")
        with reported("root folder"):
            root.mkdir(parents=True, exist_ok=True)
            sync_folders(make_folder(root / MODELS, root))
        database = Database(url or URL.create("sqlite", database=str(root / DATABASE)))
        try:
            database.upgrade()
            return cls(root, database, clock, exact_limit, max_attempts, engine)
        except StorageError:
            database.close()
            raise

    @staticmethod
    def is_at(root: Path) -> bool:
        """Whether a folder holds an archive with its own database."""
        return (root / DATABASE).is_file()

    @staticmethod
    @contextmanager
    def fresh(url: str) -> Iterator[Copies]:
        """An empty database, to be made what a copy of one says. DatabaseError when it is not empty."""
        database = Database(url)
        try:
            copies = Copies(database)
            copies.check_empty()
            yield copies
        finally:
            database.close()

    def close(self) -> None:
        """Close the database's connections; what was committed is safe without it."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def sweep(self, age_s: float = SWEEP_AGE_S) -> int:
        """Remove left-overs of dead processes that are older than `age_s`; returns how many files went."""
        since = self._clock() - age_s
        files = self.files.sweep(lambda prefix: set(self.catalog.files_under(prefix)), since)
        return files + self.vectors.sweep(since)

    def hasten(self) -> None:
        """Make due what waits for a time and is in nobody's hands: after the clock was set back."""
        self.jobs.hasten()
        for owed in (self.questions, self.deliveries, self.commitments):
            owed.hasten(NOBODY)

    def check(self, care: Care | None = None) -> list[Disagreement]:
        """Compare rows, files and loaded indexes with each other. Reads every file, unless `care` says otherwise."""
        return check(self._database, self.catalog, self.files, care or Care()) + self.vectors.check()
