"""The index that lives in PostgreSQL: ids and vectors in, the nearest ids with their cosines out, by pgvector.

nearest_<generation>_<place> holds the vectors of a generation and projection, LIST-partitioned by anatomy. Each
partition is scanned, or has a graph of its own: HNSW of the fp16 values by cosine. It takes no memory in the node.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from storage.database import Database
from storage.errors import DatabaseError, VectorError
from storage.regions import STORED
from storage.vectors.exact import Labels
from storage.vectors.index import MARGIN, Ids, Scores, Vectors, ranked
from storage.vectors.partition import INSTANCE, PATIENT, Filter, Key

EXTENSION, SCHEMA = "vector", "pgvector"  # a schema of its own: its type has the name of a table here
DISTANCE = "OPERATOR(pgvector.<=>)"  # 1 - cosine
COSINE = f"1 - (CAST(v AS pgvector.vector) {DISTANCE} CAST(:vector AS pgvector.vector))"  # in fp32, not in fp16
LEAST = (0, 8)  # of the extension: iterative scans
LINKS, EF_CONSTRUCTION = 16, 200  # as hnswlib's graphs are built
EF_SEARCH, MOST_EF = 256, 1000  # nodes looked at: at least, and the most that pgvector takes
MOST_DIM = 4_000  # of a graph of halfvec
LOCK = 0x4E454152  # any number that is ours, as in migrations.run: who makes and drops tables and graphs

_VERSION = text(
    "SELECT extversion FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace "
    "WHERE extname = :name AND nspname = :schema"
)
_NO_OTHER_PLAN = text(
    "SELECT set_config('hnsw.ef_search', :ef, true), set_config('hnsw.iterative_scan', 'strict_order', true), "
    "set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)"
)
_AS_BEFORE = text("SELECT set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true)")


def require(database: Database) -> None:
    """DatabaseError unless the database has the extension, and new enough."""
    with database.reading() as connection:
        if connection.dialect.name != "postgresql":
            raise DatabaseError("pgvector needs a PostgreSQL database")
        version = connection.execute(_VERSION, {"name": EXTENSION, "schema": SCHEMA}).scalar()
    if version is None:
        raise DatabaseError(
            "the database has no pgvector: CREATE SCHEMA pgvector; CREATE EXTENSION vector SCHEMA pgvector"
        )
    if tuple(map(int, str(version).split(".")[:2])) < LEAST:
        raise DatabaseError(
            f"pgvector is {version}, {'.'.join(map(str, LEAST))} is needed: ALTER EXTENSION vector UPDATE"
        )


@dataclass(frozen=True)
class Tables:
    """The tables of one generation and projection. Their names are made of numbers alone."""

    generation: int
    place: int

    @property
    def parent(self) -> str:
        return f"nearest_{self.generation:d}_{self.place:d}"

    def leaf(self, anatomy: int) -> str:
        return f"{self.parent}_{anatomy:d}"

    def graph(self, anatomy: int) -> str:
        return f"{self.leaf(anatomy)}_graph"

    def create(self, connection: Connection, dim: int, anatomies: int) -> None:
        """Make what is missing, all partitions at once: one more would wait for every search."""
        connection.execute(
            text(
                f"CREATE TABLE IF NOT EXISTS {self.parent} (region_id bigint NOT NULL, anatomy smallint NOT NULL, "
                f"instance_id bigint NOT NULL, patient_row_id bigint NOT NULL, v pgvector.halfvec({dim:d}) "
                "STORAGE PLAIN NOT NULL, "
                "PRIMARY KEY (anatomy, region_id)) PARTITION BY LIST (anatomy)"
            )
        )
        for anatomy in range(anatomies):
            of = f"PARTITION OF {self.parent} FOR VALUES IN ({anatomy:d})"
            connection.execute(text(f"CREATE TABLE IF NOT EXISTS {self.leaf(anatomy)} {of}"))

    def drop(self, connection: Connection) -> None:
        connection.execute(text(f"DROP TABLE IF EXISTS {self.parent}"))

    def add(self, connection: Connection, ids: Ids, anatomies: Ids, labels: Labels, vectors: NDArray[Any]) -> None:
        """Rows that are not there yet: (n,), (n,), (n, 2), (n, dim)."""
        values = {"ids": ids.tolist(), "anatomies": anatomies.tolist(), "vectors": [_spelled(row) for row in vectors]}
        owners = {"instances": labels[:, INSTANCE].tolist(), "patients": labels[:, PATIENT].tolist()}
        connection.execute(
            text(
                f"INSERT INTO {self.parent} (region_id, anatomy, instance_id, patient_row_id, v) "
                "SELECT i, a, n, p, CAST(v AS pgvector.halfvec) FROM "
                "unnest(CAST(:ids AS bigint[]), CAST(:anatomies AS smallint[]), "
                "CAST(:instances AS bigint[]), CAST(:patients AS bigint[]), CAST(:vectors AS text[])) "
                "AS r(i, a, n, p, v)"
            ),
            values | owners,
        )


def lock(connection: Connection) -> None:
    """Be the only one that makes or drops tables and graphs, to the end of the transaction."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


class PgvectorIndex:
    """One partition as a VectorIndex. Its content is the database's, so there is nothing to save or to load."""

    def __init__(self, database: Database, key: Key, dim: int) -> None:
        """Of tables that are there: see Tables.create."""
        self.dim = dim
        self._database = database
        self._tables = Tables(key.generation, key.place)
        self._anatomy = key.anatomy
        self._leaf = self._tables.leaf(key.anatomy)

    def __len__(self) -> int:
        with self._database.reading() as connection:
            return self.count(connection)

    def count(self, connection: Connection) -> int:
        return int(connection.execute(text(f"SELECT count(*) FROM {self._leaf}")).scalar_one())

    def add(self, ids: Ids, vectors: Vectors, labels: Labels | None = None) -> None:
        if vectors.shape != (len(ids), self.dim):
            raise VectorError(f"vectors of shape {vectors.shape} for an index of dimension {self.dim}")
        owners = np.zeros((len(ids), 2), np.int64) if labels is None else labels
        anatomies = np.full(len(ids), self._anatomy, np.int64)
        self._database.write(lambda connection: self._tables.add(connection, ids, anatomies, owners, vectors))

    def remove(self, ids: Ids) -> None:
        gone = text(f"DELETE FROM {self._leaf} WHERE region_id = ANY(:ids)")
        self._database.write(lambda connection: connection.execute(gone, {"ids": ids.tolist()}))

    def search(self, vector: NDArray[np.float32], k: int) -> tuple[Ids, Scores]:
        """As VectorIndex: by the graph where there is one, else all of them."""
        if vector.shape != (self.dim,):
            raise VectorError(f"a query of shape {vector.shape} for an index of dimension {self.dim}")
        with self._database.reading() as connection:
            if self.has_graph(connection):
                ids, scores = self.walk(connection, vector, k, None)
                if len(ids) >= k:
                    return ids, scores
            return self.scan(connection, vector, k, Filter(None, None))

    # --- inside a caller's transaction ---------------------------------------------------------------------------

    def has_graph(self, connection: Connection) -> bool:
        found = text("SELECT to_regclass(:graph) IS NOT NULL")
        return bool(connection.execute(found, {"graph": self._tables.graph(self._anatomy)}).scalar_one())

    def build_graph(self, connection: Connection) -> bool:
        """Make the graph of what is there; what comes later goes into it. False: it is there, or cannot be.

        Searches go on meanwhile; whoever adds or removes waits.
        """
        if self.dim > MOST_DIM or self.has_graph(connection):
            return False
        options = f"m = {LINKS}, ef_construction = {EF_CONSTRUCTION}"
        graph = self._tables.graph(self._anatomy)
        connection.execute(
            text(f"CREATE INDEX {graph} ON {self._leaf} USING hnsw (v pgvector.halfvec_cosine_ops) WITH ({options})")
        )
        return True

    def walk(
        self, connection: Connection, vector: NDArray[np.float32], k: int, excluded_patient: int | None
    ) -> tuple[Ids, Scores]:
        """The graph's k nearest, or fewer where it gives up; scores within MARGIN."""
        connection.execute(_NO_OTHER_PLAN, {"ef": str(min(max(k, EF_SEARCH), MOST_EF))}).one()
        condition = "" if excluded_patient is None else "WHERE patient_row_id <> :patient"
        query = text(
            f"SELECT region_id, {COSINE} FROM {self._leaf} {condition} "
            f"ORDER BY v {DISTANCE} CAST(:vector AS pgvector.halfvec({self.dim:d})) LIMIT :k"
        )
        values = {"vector": _spelled(vector), "k": k}
        found = connection.execute(query, values | ({} if excluded_patient is None else {"patient": excluded_patient}))
        ids, scores = _columns(found.all())
        connection.execute(_AS_BEFORE).one()
        return ids, scores

    def scan(self, connection: Connection, vector: NDArray[np.float32], k: int, rows: Filter) -> tuple[Ids, Scores]:
        """The k best that `rows` lets through and all within MARGIN of the k-th, each looked at."""
        values: dict[str, Any] = {"vector": _spelled(vector), "before": max(k - 1, 0), "margin": MARGIN}
        conditions = ["true" if k > 0 else "false"]
        if rows.allowed is not None:
            conditions.append("instance_id = ANY(:allowed)")
            values["allowed"] = rows.allowed.tolist()
        if rows.excluded_patient is not None:
            conditions.append("patient_row_id <> :patient")
            values["patient"] = rows.excluded_patient
        query = text(
            f"WITH scored AS MATERIALIZED (SELECT region_id, {COSINE} AS score "
            f"FROM {self._leaf} WHERE {' AND '.join(conditions)}), "
            "worst AS (SELECT score FROM scored ORDER BY score DESC OFFSET :before LIMIT 1) "
            "SELECT region_id, score FROM scored WHERE score >= coalesce((SELECT score FROM worst), -2) - :margin"
        )
        return _columns(connection.execute(query, values).all())

    def stored(self, connection: Connection, ids: Ids) -> list[tuple[int, int, int, bytes]]:
        """What is held of these, by id: id, instance, patient, vector as SQL's rows have it."""
        query = text(
            f"SELECT region_id, instance_id, patient_row_id, pgvector.halfvec_send(v) FROM {self._leaf} "
            "WHERE region_id = ANY(:ids) ORDER BY region_id"
        )
        rows = connection.execute(query, {"ids": ids.tolist()}).all()
        return [(row[0], row[1], row[2], np.frombuffer(row[3][4:], ">f2").astype(STORED).tobytes()) for row in rows]


def _spelled(vector: NDArray[Any]) -> str:
    """A vector as pgvector reads it, every digit that fp32 has."""
    return f"[{','.join(map(repr, vector.astype(np.float64).tolist()))}]"


def _columns(rows: Sequence[Any]) -> tuple[Ids, Scores]:
    ids = np.array([row[0] for row in rows], np.int64)
    return ranked(ids, np.array([row[1] for row in rows], np.float32))
