"""A search request in, ranked regions out: the partitions, how they follow SQL, and the plan that is taken.

narrow filter               -> its rows are gathered from SQL
a filter, or few vectors    -> the partition's exact index
a whole anatomy of many     -> its graph, asked for more than k; its exact index where that leaves fewer than k
Every plan's candidates are scored again from SQL's rows (scoring.py), so the plan never shows in the scores.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from storage.database import Database, counted
from storage.errors import SnapshotDamaged, VectorError
from storage.generations import Generations
from storage.records import Disagreement, Generation, Plan, Scored, SearchAnswer, SearchRequest
from storage.vectors import rows as sql
from storage.vectors.index import MARGIN, Ids, Scores, nearest
from storage.vectors.partition import Filter, Key, Partition
from storage.vectors.scoring import cosines, unit, units
from storage.vectors.snapshot import Snapshots, origin

LOADERS = 4  # partitions loaded at once
GATHER_LIMIT = 512  # allowed instances whose rows are read from SQL instead of filtered in memory
ATTEMPTS = 5  # searches again when candidates vanish from SQL between search and scoring


@dataclass(frozen=True)
class Damage:
    """A snapshot that is not what SQL says, and how."""

    key: Key
    detail: str

    @property
    def disagreement(self) -> Disagreement:
        """As `Store.check` tells it."""
        key = self.key
        subject = f"generation {key.generation}, projection {key.place}, anatomy {key.anatomy}"
        return Disagreement("index differs", subject, self.detail)


class Shelf:
    """All partitions of one process. Safe for threads; searches wait for nobody but a partition's first load.

    Memory bound: 3 x dim + 40 bytes for each vector of a loaded partition, of which 2 x dim are pages of its file that
    are hardly ever read; 4 x dim + 150 more where there is a graph.
    """

    IS_SHARED: ClassVar[bool] = False  # whether all nodes on a database have one and the same index
    EXACT_LIMIT: ClassVar[int] = 500_000  # vectors of an anatomy that are scanned, unless told; above, a graph is built

    def __init__(
        self,
        database: Database,
        generations: Generations,
        folder: Path,
        exact_limit: int = 0,
        gather_limit: int = GATHER_LIMIT,
    ) -> None:
        self._database = database
        self._generations = generations
        self._snapshots = Snapshots(folder)
        self._exact_limit = exact_limit or self.EXACT_LIMIT
        self._gather_limit = gather_limit
        self._partitions: dict[Key, Partition] = {}
        self._known: dict[int, Generation] = {}  # what a generation is never changes, but for its state
        self._changing = threading.Lock()

    # --- searching --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> SearchAnswer:
        """The best min(k, matching) regions, of everything that was committed before the call.

        GenerationError: there is no such generation. VectorError: no such projection, or a query without a
        direction or of another dimension.
        """
        generation = self._generation(request.generation)
        place = _place(generation, request.projection)
        query = unit(np.asarray(request.vector, np.float32), generation.model.dim)
        for attempt in range(ATTEMPTS - 1):
            answer = self._attempt(request, place, query, request.k << attempt)
            if answer is not None:
                return answer
        wanted = request.k << ATTEMPTS
        return self._attempt(request, place, query, wanted, last=True) or SearchAnswer((), {}, 0)

    def _attempt(
        self, request: SearchRequest, place: int, query: NDArray[np.float32], wanted: int, *, last: bool = False
    ) -> SearchAnswer | None:
        """One search among `wanted` candidates, k or more; None when so many of them went away under it that fewer
        than k are left, and others there might be."""
        anatomies = dict.fromkeys(request.anatomies)
        keys = [Key(request.generation, place, anatomy) for anatomy in anatomies]
        allowed = None if request.allowed is None else np.unique(np.asarray(request.allowed, np.int64))
        rows = Filter(allowed, request.excluded_patient)
        if allowed is not None and len(allowed) <= self._gather_limit:
            found, watermark = self._gather(keys, rows)
            return self._answer(request, query, found, dict.fromkeys(anatomies, "gather"), watermark)
        watermark = self.refresh(keys)
        ids, plans = self._candidates(replace(request, k=wanted), keys, query, rows)
        with self._database.reading() as connection:
            found = sql.stored(connection, place, ids.tolist())
        if len(found) < min(request.k, len(ids)) and len(ids) >= wanted and not last:
            return None
        return self._answer(request, query, found, plans, watermark)

    def _gather(self, keys: list[Key], rows: Filter) -> tuple[list[sql.StoredRow], int]:
        assert rows.allowed is not None, "only a filter makes rows few enough to gather"
        with self._database.reading() as connection:
            watermark = counted(connection, "change")
            allowed = rows.allowed.tolist()
            found = [row for key in keys for row in sql.gathered(connection, key, allowed, rows.excluded_patient)]
        return found, watermark

    def _candidates(
        self, request: SearchRequest, keys: list[Key], query: NDArray[np.float32], rows: Filter
    ) -> tuple[Ids, dict[int, Plan]]:
        """Ids among which the answer is, whatever float32 does to the scores."""
        plans: dict[int, Plan] = {}
        found: list[tuple[Ids, Scores]] = []
        for key in keys:
            ids, scores, plans[key.anatomy] = self._partitions[key].search(query, request.k, rows)
            found.append((ids, scores))
        ids = np.concatenate([np.empty(0, np.int64), *(part for part, _ in found)])
        scores = np.concatenate([np.empty(0, np.float32), *(part for _, part in found)])
        good = scores >= request.minimum_score - MARGIN
        ids, scores = ids[good], scores[good]
        return ids[nearest(scores, request.k)], plans

    @staticmethod
    def _answer(
        request: SearchRequest,
        query: NDArray[np.float32],
        found: list[sql.StoredRow],
        plans: dict[int, Plan],
        watermark: int,
    ) -> SearchAnswer:
        if not found:
            return SearchAnswer((), plans, watermark)
        stored = sql.stack(row.data for row in found)
        chosen = nearest(units(stored) @ query, request.k)
        scores = cosines(np.asarray(request.vector, np.float32), stored[chosen])
        scored = sorted(
            (-score, found[at].sop_instance_uid, found[at].anatomy, found[at].region_id)
            for score, at in zip(scores, chosen, strict=True)
            if score >= request.minimum_score
        )
        hits = tuple(Scored(region_id, anatomy, -score) for score, _, anatomy, region_id in scored[: request.k])
        return SearchAnswer(hits, plans, watermark)

    def _generation(self, generation_id: int) -> Generation:
        with self._changing:
            known = self._known.get(generation_id)
        if known is None:
            known = self._generations.get(generation_id)
            with self._changing:
                self._known[generation_id] = known
        return known

    # --- following SQL ------------------------------------------------------------------------------------------

    def refresh(self, keys: Iterable[Key] | None = None) -> int:
        """Bring these partitions (all loaded ones by default) up to what is committed; returns the watermark.

        Reads one row when nothing changed. Loads a partition from its snapshot, or from SQL when that is damaged.
        """
        with self._database.reading() as connection:
            counter = counted(connection, "change")
            for key in list(self._partitions) if keys is None else keys:
                partition = self._partition(key)
                if partition.watermark < counter:
                    with partition.updating:
                        self._bring_up(connection, partition, counter)
        return counter

    def _partition(self, key: Key) -> Partition:
        found = self._partitions.get(key)
        if found is not None:
            return found
        generation = self._generation(key.generation)
        with self._changing:
            return self._partitions.setdefault(key, Partition(key, generation.model.dim))

    def _bring_up(self, connection: Connection, partition: Partition, counter: int) -> None:
        if partition.watermark < 0:
            self._load(connection, partition, counter)
        elif partition.watermark < counted(connection, "pruned"):
            self._reload(connection, partition, counter)
        if partition.watermark < counter:
            _replay(connection, partition, counter)

    def _reload(self, connection: Connection, partition: Partition, counter: int) -> None:
        """Anew from SQL: what went since its watermark is not known any more. Searches keep the old until then."""
        fresh = Partition(partition.key, partition.exact.dim)
        fresh.watermark = 0
        _replay(connection, fresh, counter)
        partition.exact, partition.graph, partition.watermark = fresh.exact, None, counter

    def _load(self, connection: Connection, partition: Partition, counter: int) -> None:
        """From the snapshot when it and SQL agree; else the partition stays empty and everything is replayed."""
        of = origin(self._generation(partition.key.generation), partition.key)
        loaded = Partition(partition.key, partition.exact.dim)
        try:
            self._snapshots.load(of, loaded, counter)
            if loaded.watermark < counted(connection, "pruned"):
                raise SnapshotDamaged("index file: older than what is known of removals")
            _replay(connection, loaded, counter)
            view = loaded.exact.view
            if (len(view.ids), int(view.ids.sum())) != sql.extent(connection, partition.key, counter):
                raise SnapshotDamaged("index file: its regions are not those of the database")
        except SnapshotDamaged:
            loaded = Partition(partition.key, partition.exact.dim)
        partition.exact, partition.graph = loaded.exact, loaded.graph
        partition.watermark, partition.saved = max(loaded.watermark, 0), loaded.saved

    def warm(self, generation_id: int) -> int:
        """Load every partition of a generation, so that no query has to; returns how many vectors that makes."""
        model = self._generation(generation_id).model
        places, anatomies = range(len(model.projections)), range(len(model.regions))
        keys = [Key(generation_id, place, anatomy) for place in places for anatomy in anatomies]
        with ThreadPoolExecutor(LOADERS, "index-loader") as pool:  # checksums and SQL leave Python to others
            list(pool.map(lambda key: self.refresh([key]), keys))
        self.refresh(keys)
        return sum(len(self._partitions[key]) for key in keys)

    # --- upkeep, by the one process that owns the snapshots ---------------------------------------------------------

    def improve(self) -> int:
        """Build or bring up the graphs of large partitions; returns how many changed. Takes long, blocks nobody."""
        return sum(partition.improve(self._exact_limit) for partition in list(self._partitions.values()))

    def snapshot(self) -> int:
        """Write the partitions that changed since their snapshot; returns how many. StorageFull, FileError."""
        self.forget()  # a search that began before a swap may have loaded what has gone since
        self.refresh()
        written = 0
        for partition in list(self._partitions.values()):
            with partition.updating:
                if partition.saved != partition.watermark:
                    self._snapshots.save(origin(self._generation(partition.key.generation), partition.key), partition)
                    written += 1
        return written

    def prune(self, upto: int) -> int:
        """Forget removals up to this value of the change counter; returns how many. In short transactions.

        An index that is behind it, in a file or in another process, is made anew from SQL when it is next used.
        """
        pruned = 0
        while n := self._database.write(lambda connection: sql.prune(connection, upto)):
            pruned += n
        return pruned

    def rebuild(self, generation_id: int) -> int:
        """Make the generation's partitions and snapshots anew from SQL; returns how many vectors they hold."""
        with self._changing:
            self._partitions = {key: kept for key, kept in self._partitions.items() if key.generation != generation_id}
        self._snapshots.drop(generation_id)
        vectors = self.warm(generation_id)
        self.snapshot()
        return vectors

    def renew(self, generation_id: int) -> int:
        """Make the generation's partitions anew from SQL, while searches go on with what there is.

        Each changes when its new one is whole; `snapshot` writes it. Returns how many vectors they hold.
        """
        model = self._generation(generation_id).model
        places, anatomies = range(len(model.projections)), range(len(model.regions))
        partitions = [self._partition(Key(generation_id, place, which)) for place in places for which in anatomies]
        for partition in partitions:
            with partition.updating, self._database.reading() as connection:
                self._reload(connection, partition, counted(connection, "change"))
                partition.saved = -1
            partition.improve(self._exact_limit)
        return sum(map(len, partitions))

    def forget(self) -> None:
        """Keep in memory what is live or being built, and on disk what may come back; drop the rest."""
        states = {generation.id: generation.state for generation in self._generations.all()}
        used = {number for number, state in states.items() if state in {"live", "building"}}
        with self._changing:
            self._partitions = {key: kept for key, kept in self._partitions.items() if key.generation in used}
            self._known = {known: kept for known, kept in self._known.items() if known in used}
        for generation_id in self._snapshots.generations():
            if states.get(generation_id, "abandoned") == "abandoned":
                self._snapshots.drop(generation_id)

    def sweep(self, older_than: float) -> int:
        """Remove half-written snapshots of dead processes; returns how many files went. See `Snapshots.sweep`."""
        return self._snapshots.sweep(older_than)

    def check(self) -> list[Disagreement]:
        """Where a loaded partition and SQL disagree, after a refresh; none is what is right."""
        found = []
        for partition in list(self._partitions.values()):
            with partition.updating, self._database.reading() as connection:
                self._bring_up(connection, partition, counted(connection, "change"))
                detail = _difference(connection, partition)
            if detail:
                found.append(Damage(partition.key, detail).disagreement)
        return found

    def examine(self, generation_id: int, report: Callable[[int, int], None]) -> list[Damage]:
        """Which snapshots on disk disagree with SQL; those that there are. Nothing is loaded or changed.

        Memory bound: one partition.
        """
        generation, found = self._generation(generation_id), []
        keys = [key for key in self._snapshots.keys(generation_id) if key.place < len(generation.model.projections)]
        for number, key in enumerate(keys, start=1):
            detail = self._examined(generation, key)
            found += [Damage(key, detail)] if detail else []
            report(number, len(keys))
        return found

    def _examined(self, generation: Generation, key: Key) -> str:
        detail = ""
        for _ in range(2):  # the node may have been writing it
            try:
                return self._compared(generation, key)
            except SnapshotDamaged as error:
                detail = str(error)
        return detail

    def _compared(self, generation: Generation, key: Key) -> str:
        partition = Partition(key, generation.model.dim)
        with self._database.reading() as connection:
            counter = counted(connection, "change")
            self._snapshots.load(origin(generation, key), partition, counter)
            if partition.watermark < counted(connection, "pruned"):
                return ""  # too old to be of use, and known to be
            _replay(connection, partition, counter)
            return _difference(connection, partition)

    def discard(self, key: Key) -> None:
        """Remove a snapshot: who needs it next reads SQL, and the node writes it anew."""
        self._snapshots.remove(key)


def _place(generation: Generation, projection: str) -> int:
    try:
        return generation.model.projections.index(projection)
    except ValueError:
        raise VectorError(f"generation {generation.id} has no projection {projection!r}") from None


def _replay(connection: Connection, partition: Partition, counter: int) -> None:
    """Apply what happened since the partition's watermark. Both reads are of one state of the database."""
    gone = sql.removed(connection, partition.key, partition.watermark, counter)
    nothing = np.empty(0, np.int64)
    partition.apply(gone, nothing, np.empty((0, partition.exact.dim), np.float16), np.empty((0, 2), np.int64))
    for ids, stored, labels in sql.added(connection, partition.key, partition.watermark, counter):
        partition.apply(nothing, ids, stored, labels)
    partition.watermark = counter


def _difference(connection: Connection, partition: Partition) -> str:
    view = partition.exact.view
    start = 0
    for ids, vectors, labels in sql.added(connection, partition.key, 0, partition.watermark):
        rows = slice(start, start + len(ids))
        if not (np.array_equal(view.ids[rows], ids) and np.array_equal(view.labels[rows], labels)):
            return "other regions"
        if not np.array_equal(view.stored.take(np.arange(rows.start, rows.stop)), vectors):
            return "other vectors"
        start = rows.stop
    return "" if start == len(view.ids) else f"{len(view.ids)} regions instead of {start}"
