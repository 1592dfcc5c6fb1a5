"""A search request in, ranked regions out, by indexes that the database holds: a shelf without memory of its own.

What is asked, gathered and scored is as on every shelf. Candidates come from pgvector's tables, which follow SQL's
rows by a watermark as indexes in memory do; what is newer than the watermark is scored by the search itself, so that
it waits for nobody. All nodes on a database share the tables: whoever comes first brings them up.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from storage.database import Database, counted
from storage.generations import Generations
from storage.records import Disagreement, Plan, SearchRequest
from storage.schema import INSTANCE, NEAREST, REGION, SERIES, STUDY, VECTOR
from storage.vectors import pgvector
from storage.vectors import rows as sql
from storage.vectors.index import MARGIN, Ids, Scores, nearest, ranked
from storage.vectors.partition import EXTRA, OVER_FETCH, Filter, Key
from storage.vectors.pgvector import PgvectorIndex, Tables
from storage.vectors.scoring import units
from storage.vectors.shelf import GATHER_LIMIT, Damage, Shelf

TAIL = 50_000  # changes that a search makes up for by itself; when there are more, it brings the tables up first
GROWTH = 10  # part of the exact limit by which the archive has to change before partitions are counted again

_FOLLOWED = select(NEAREST.c.watermark).where(
    NEAREST.c.generation_id == bindparam("generation"), NEAREST.c.projection == bindparam("place")
)
_NEW = (
    select(REGION.c.id, REGION.c.anatomy, REGION.c.instance_id, STUDY.c.patient_row_id, VECTOR.c.data)
    .select_from(REGION.join(VECTOR).join(INSTANCE).join(SERIES).join(STUDY))
    .where(
        REGION.c.generation_id == bindparam("generation"),
        REGION.c.id > bindparam("after"),
        REGION.c.id <= bindparam("upto"),
        VECTOR.c.projection == bindparam("place"),
    )
    .order_by(REGION.c.id)
    .limit(sql.PAGE)
)


class ServedShelf(Shelf):
    """The shelf of `query.engine = pgvector`. Safe for threads, processes and nodes.

    Memory bound: a page of rows; nothing is loaded.
    """

    IS_SHARED: ClassVar[bool] = True
    EXACT_LIMIT: ClassVar[int] = 10_000  # a database's scan is slower than one of codes in memory

    def __init__(
        self,
        database: Database,
        generations: Generations,
        folder: Path,
        exact_limit: int = 0,
        gather_limit: int = GATHER_LIMIT,
    ) -> None:
        """DatabaseError when the database has no pgvector."""
        super().__init__(database, generations, folder, exact_limit, gather_limit)
        pgvector.require(database)
        self._followed: dict[Tables, int] = {}  # the tables that this node brings up, and how far it saw them
        self._measured: dict[Tables, int] = {}  # the watermark at which their partitions were counted

    # --- searching -------------------------------------------------------------------------------------------------

    def _candidates(
        self, request: SearchRequest, keys: list[Key], query: NDArray[np.float32], rows: Filter
    ) -> tuple[Ids, dict[int, Plan]]:
        plans: dict[int, Plan] = {}
        found: list[tuple[Ids, Scores]] = []
        with self._database.reading() as connection:
            for key in keys:
                ids, scores, plans[key.anatomy] = self._nearest(connection, key, query, request.k, rows)
                found.append((ids, scores))
        ids = np.concatenate([np.empty(0, np.int64), *(part for part, _ in found)])
        scores = np.concatenate([np.empty(0, np.float32), *(part for _, part in found)])
        good = scores >= request.minimum_score - MARGIN
        ids, scores = ids[good], scores[good]
        return ids[nearest(scores, request.k)], plans

    def _nearest(
        self, connection: Connection, key: Key, query: NDArray[np.float32], k: int, rows: Filter
    ) -> tuple[Ids, Scores, Plan]:
        """At least the k best of one partition, of one state of the database: its table's and what is newer."""
        watermark = connection.execute(_FOLLOWED, {"generation": key.generation, "place": key.place}).scalar()
        counter = counted(connection, "change")
        if key.anatomy not in range(len(self._generation(key.generation).model.regions)):
            return *_nothing(), "exact"
        if watermark is None:  # dropped just now: its generation is not wanted any more
            return *_newer(connection, key, 0, counter, query, k, rows), "exact"
        gone = sql.removed(connection, key, watermark, counter)
        index = self._index(key)
        ids, scores, plan = _of_table(connection, index, query, k + len(gone), rows)
        here = ~np.isin(ids, gone)
        late, late_scores = _newer(connection, key, watermark, counter, query, k, rows)
        together = ranked(np.concatenate((ids[here], late)), np.concatenate((scores[here], late_scores)))
        return *together, plan

    def _index(self, key: Key) -> PgvectorIndex:
        return PgvectorIndex(self._database, key, self._generation(key.generation).model.dim)

    # --- following SQL ---------------------------------------------------------------------------------------------

    def refresh(self, keys: Iterable[Key] | None = None) -> int:
        """As Shelf. Asked for by a search, it changes nothing unless the tables are missing or far behind."""
        with self._database.reading() as connection:
            counter = counted(connection, "change")
            tables = list(self._followed) if keys is None else list({Tables(key.generation, key.place) for key in keys})
            behind = [
                each for each in tables if self._is_behind(connection, each, counter, 0 if keys is None else TAIL)
            ]
        for each in behind:
            self._bring_tables_up(each)
        return counter

    def _is_behind(self, connection: Connection, tables: Tables, counter: int, most: int) -> bool:
        if counter - self._followed.get(tables, -1) <= most:
            return False
        watermark = connection.execute(_FOLLOWED, {"generation": tables.generation, "place": tables.place}).scalar()
        if watermark is None:
            return True
        self._followed[tables] = watermark
        return counter - int(watermark) > most

    def _bring_tables_up(self, tables: Tables) -> None:
        """In short transactions. Who follows the same tables meanwhile waits for each of them."""
        model = self._generation(tables.generation).model
        if tables not in self._followed:
            self._database.write(lambda connection: _make(connection, tables, model.dim, len(model.regions)))
        while True:
            watermark, more = self._database.write(lambda connection: _follow(connection, tables))
            if watermark is None:
                self._followed.pop(tables, None)  # dropped by another node
                return
            self._followed[tables] = watermark
            if not more:
                return

    def warm(self, generation_id: int) -> int:
        """Make the generation's tables and bring them up; returns how many vectors they hold."""
        tables = self._tables(generation_id)
        for each in tables:
            self._bring_tables_up(each)
        with self._database.reading() as connection:
            counts = [text(f"SELECT count(*) FROM {each.parent}") for each in tables]
            return sum(int(connection.execute(count).scalar_one()) for count in counts)

    def _tables(self, generation_id: int) -> list[Tables]:
        places = range(len(self._generation(generation_id).model.projections))
        return [Tables(generation_id, place) for place in places]

    # --- upkeep ----------------------------------------------------------------------------------------------------

    def improve(self) -> int:
        """Build the graphs of large partitions; returns how many. One node at a time; searches go on."""
        built = 0
        for tables, watermark in list(self._followed.items()):
            last = self._measured.get(tables)
            if last is None or watermark - last >= self._exact_limit // GROWTH:
                built += self._build_graphs(tables)
                self._measured[tables] = watermark
        return built

    def _build_graphs(self, tables: Tables) -> int:
        with self._database.reading() as connection:
            if connection.execute(text("SELECT to_regclass(:name)"), {"name": tables.parent}).scalar() is None:
                return 0
            counts = connection.execute(text(f"SELECT anatomy, count(*) FROM {tables.parent} GROUP BY anatomy")).all()
        large = [Key(tables.generation, tables.place, anatomy) for anatomy, n in counts if n > self._exact_limit]
        return sum(self._database.write(lambda connection, key=key: self._build(connection, key)) for key in large)  # type: ignore[misc]

    def _build(self, connection: Connection, key: Key) -> bool:
        pgvector.lock(connection)
        return self._index(key).build_graph(connection)

    def snapshot(self) -> int:
        """Nothing: the tables are the database's."""
        return 0

    def rebuild(self, generation_id: int) -> int:
        """Make the generation's tables and graphs anew from SQL; returns how many vectors they hold.

        Searches meanwhile, of any node, score what is not in the tables yet: slower, and right.
        """
        self._drop(generation_id)
        vectors = self.warm(generation_id)
        self.improve()
        return vectors

    def renew(self, generation_id: int) -> int:
        """As `rebuild`."""
        return self.rebuild(generation_id)

    def forget(self) -> None:
        """Drop the tables of generations that are gone for good."""
        states = {generation.id: generation.state for generation in self._generations.all()}
        with self._database.reading() as connection:
            held = set(connection.execute(select(NEAREST.c.generation_id)).scalars())
        for generation_id in held | {tables.generation for tables in self._followed}:
            if states.get(generation_id, "abandoned") == "abandoned":
                self._drop(generation_id)
        with self._changing:
            self._known = {known: kept for known, kept in self._known.items() if known in states}

    def _drop(self, generation_id: int) -> None:
        for tables in list(self._followed):
            if tables.generation == generation_id:
                del self._followed[tables]
                self._measured.pop(tables, None)
        self._database.write(lambda connection: _drop(connection, generation_id))

    def check(self) -> list[Disagreement]:
        """Where tables that are followed and SQL disagree, after a refresh; none is what is right."""
        self.refresh()
        found = []
        for tables in list(self._followed):
            for anatomy in range(len(self._generation(tables.generation).model.regions)):
                key = Key(tables.generation, tables.place, anatomy)
                with self._database.reading() as connection:
                    detail = self._difference(connection, key)
                if detail:
                    subject = f"generation {key.generation}, projection {key.place}, anatomy {key.anatomy}"
                    found.append(Disagreement("index differs", subject, detail))
        return found

    def examine(self, generation_id: int, report: Callable[[int, int], None]) -> list[Damage]:
        """Which partitions of the generation's tables disagree with SQL. Nothing is changed."""
        anatomies = range(len(self._generation(generation_id).model.regions))
        keys = [Key(generation_id, each.place, which) for each in self._tables(generation_id) for which in anatomies]
        found = []
        for number, key in enumerate(keys, start=1):
            with self._database.reading() as connection:
                detail = self._difference(connection, key)
            found += [Damage(key, detail)] if detail else []
            report(number, len(keys))
        return found

    def discard(self, key: Key) -> None:
        """Drop the tables of its generation: who needs them next makes them anew."""
        self._drop(key.generation)

    def _difference(self, connection: Connection, key: Key) -> str:
        """Of what the table says it holds: all up to its watermark but what went since."""
        watermark = connection.execute(_FOLLOWED, {"generation": key.generation, "place": key.place}).scalar()
        if watermark is None:
            return ""
        gone = sql.removed(connection, key, watermark, counted(connection, "change"))
        index, n = self._index(key), 0
        for ids, vectors, labels in sql.added(connection, key, 0, watermark):
            expected = [(*row, vector.tobytes()) for *row, vector in zip(ids, *labels.T, vectors, strict=True)]
            if index.stored(connection, ids) != expected:
                return "other regions or vectors"
            n += len(ids)
        more = index.count(connection) - n
        return "" if 0 <= more <= len(gone) else f"{n + more} regions instead of {n}"


def _of_table(
    connection: Connection, index: PgvectorIndex, query: NDArray[np.float32], k: int, rows: Filter
) -> tuple[Ids, Scores, Plan]:
    if rows.allowed is not None or not index.has_graph(connection):
        return *index.scan(connection, query, k, rows), "exact"
    ids, scores = index.walk(connection, query, OVER_FETCH * k + EXTRA, rows.excluded_patient)
    if len(ids) >= k:
        return ids, scores, "hnsw"
    return *index.scan(connection, query, k, rows), "hnsw->exact"


def _newer(
    connection: Connection, key: Key, after: int, upto: int, query: NDArray[np.float32], k: int, rows: Filter
) -> tuple[Ids, Scores]:
    """The k best of the rows written in (after, upto], page by page."""
    ids, scores = _nothing()
    if after == upto:
        return ids, scores
    for page, vectors, labels in sql.added(connection, key, after, upto):
        here = rows(labels)
        ids = np.concatenate((ids, page[here]))
        scores = np.concatenate((scores, units(vectors[here]) @ query))
        best = nearest(scores, k)
        ids, scores = ids[best], scores[best]
    return ids, scores


def _nothing() -> tuple[Ids, Scores]:
    return np.empty(0, np.int64), np.empty(0, np.float32)


def _make(connection: Connection, tables: Tables, dim: int, anatomies: int) -> None:
    pgvector.lock(connection)
    if connection.execute(_FOLLOWED, {"generation": tables.generation, "place": tables.place}).first():
        return
    tables.create(connection, dim, anatomies)
    row = {"generation_id": tables.generation, "projection": tables.place, "watermark": 0}
    connection.execute(insert(NEAREST).values(row))


def _follow(connection: Connection, tables: Tables) -> tuple[int | None, bool]:
    """Take up a page of what happened since the tables' watermark; how far they are now, and whether there is more.

    None when they are gone. What went up to `counter` is removed with every page, again where need be.
    """
    of = {"generation": tables.generation, "place": tables.place}
    watermark = connection.execute(_FOLLOWED.with_for_update(), of).scalar()
    if watermark is None:
        return None, False
    counter = counted(connection, "change")
    if watermark == counter:
        return counter, False
    _remove(connection, tables, watermark, counter)
    page = connection.execute(_NEW, {**of, "after": watermark, "upto": counter}).all()
    if page:
        ids, anatomies, instances, patients, data = zip(*page, strict=True)
        labels = np.array((instances, patients), np.int64).T
        tables.add(connection, np.array(ids, np.int64), np.array(anatomies, np.int64), labels, sql.stack(data))
    reached = int(page[-1].id) if len(page) == sql.PAGE else counter
    mine = (NEAREST.c.generation_id == tables.generation, NEAREST.c.projection == tables.place)
    connection.execute(update(NEAREST).where(*mine).values(watermark=reached))
    return reached, reached < counter


def _remove(connection: Connection, tables: Tables, watermark: int, counter: int) -> None:
    """What went in (watermark, counter]; whatever is no region where the log does not go back so far."""
    if watermark < counted(connection, "pruned"):
        lost = f"DELETE FROM {tables.parent} AS n WHERE NOT EXISTS (SELECT 1 FROM region WHERE region.id = n.region_id)"
        connection.execute(text(lost))
        return
    gone = text(
        f"DELETE FROM {tables.parent} AS n USING removal AS r WHERE r.seq > :after AND r.seq <= :upto "
        "AND r.generation_id = :generation AND n.anatomy = r.anatomy AND n.region_id = r.region_id"
    )
    connection.execute(gone, {"after": watermark, "upto": counter, "generation": tables.generation})


def _drop(connection: Connection, generation_id: int) -> None:
    pgvector.lock(connection)
    gone = delete(NEAREST).where(NEAREST.c.generation_id == generation_id).returning(NEAREST.c.projection)
    for place in connection.execute(gone).scalars().all():
        Tables(generation_id, place).drop(connection)
