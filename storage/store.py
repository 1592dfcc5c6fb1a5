"""The way in: a root folder and a database URL in, everything that is kept out.

root/dicomnode.sqlite   the database, unless a URL names another
root/files/             instances, as received
root/scratch/           what is arriving
root/index/             snapshots of indexes: a cache
root/models/            weights, put there by whoever has them
"""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL

from storage.catalog import Catalog
from storage.check import check
from storage.commitments import Commitments
from storage.conflicts import Conflicts
from storage.database import Database
from storage.deletion import Deletion
from storage.durable import make_folder, reported, sync_folders
from storage.errands import Errands
from storage.errors import StorageError
from storage.files import Files
from storage.generations import Generations
from storage.jobs import MAX_ATTEMPTS, Jobs
from storage.local_maps import LocalMaps
from storage.questions import Deliveries, Questions
from storage.records import Disagreement
from storage.regions import Regions
from storage.studies import Studies
from storage.vectors.shelf import EXACT_LIMIT, Shelf

DATABASE = "dicomnode.sqlite"
MODELS = "models"
SWEEP_AGE_S = 600.0  # files younger than this may still get their row


class Store:
    """Everything kept under one root. Safe for threads; each process opens its own."""

    def __init__(
        self, root: Path, database: Database, clock: Callable[[], float], exact_limit: int, max_attempts: int
    ) -> None:
        """Use `open`."""
        self.root = root
        self.models = root / MODELS
        self._database = database
        self._clock = clock
        self.files = Files(root)
        self.catalog = Catalog(database, self.files, clock)
        self.studies = Studies(database, clock)
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
        self.vectors = Shelf(database, self.generations, root / "index", exact_limit)

    @classmethod
    def open(
        cls,
        root: Path,
        url: str | None = None,
        clock: Callable[[], float] = time.time,
        exact_limit: int = EXACT_LIMIT,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> Self:
        """Make what is missing below `root`, bring the schema up, open. Changes nothing that is kept.

        `exact_limit`: vectors of an anatomy up to which a search scans them all; `max_attempts`: tries of one job
        before it is failed. FileError, DatabaseError.
        """
        with reported("root folder"):
            root.mkdir(parents=True, exist_ok=True)
            sync_folders(make_folder(root / MODELS, root))
        database = Database(url or URL.create("sqlite", database=str(root / DATABASE)))
        try:
            database.upgrade()
            return cls(root, database, clock, exact_limit, max_attempts)
        except StorageError:
            database.close()
            raise

    @staticmethod
    def is_at(root: Path) -> bool:
        """Whether a folder holds an archive with its own database."""
        return (root / DATABASE).is_file()

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
        return self.files.sweep(lambda prefix: set(self.catalog.files_under(prefix)), self._clock() - age_s)

    def check(self) -> list[Disagreement]:
        """Compare rows, files and loaded indexes with each other. Reads every file."""
        return check(self._database, self.catalog, self.files) + self.vectors.check()
