"""The engines on clustered vectors: search time and the share of the exact top ten that HNSW with re-rank returns."""

import statistics
from typing import Any

import numpy as np

from benchmarks import timing
from storage.vectors.exact import ExactIndex
from storage.vectors.hnsw import HnswIndex

COUNT, DIM, CLUSTERS, K, QUERIES = 20_000, 256, 400, 10, 200


def run(repeat: int) -> dict[str, Any]:
    """One anatomy of 20 000 vectors, as one partition of an archive would hold."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, DIM))
    vectors = centres[rng.integers(CLUSTERS, size=COUNT)] + 0.7 * rng.normal(size=(COUNT, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[rng.choice(COUNT, QUERIES, replace=False)] + 0.3 * rng.normal(size=(QUERIES, DIM)) / DIM**0.5
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    ids = np.arange(COUNT, dtype=np.int64)
    engines = {"exact": ExactIndex(DIM), "hnsw": HnswIndex(DIM)}
    built = {name: timing.seconds(lambda e=engine: e.add(ids, vectors)) for name, engine in engines.items()}
    taken = timing.in_turn(
        {name: lambda e=engine: [e.search(query, K) for query in queries] for name, engine in engines.items()}, repeat
    )
    recall = statistics.mean(
        len(set(engines["exact"].search(query, K)[0][:K]) & set(engines["hnsw"].search(query, 4 * K)[0])) / K
        for query in queries
    )
    return {
        "vectors": f"{COUNT} x {DIM}, clustered",
        "exact, us a search": timing.spread(taken["exact"], 1e6 / QUERIES, 0),
        "hnsw, us a search": timing.spread(taken["hnsw"], 1e6 / QUERIES, 0),
        "hnsw, s to build": f"{built['hnsw']:.1f}",
        "recall@10 against exact (4 x over-fetch)": f"{recall:.4f}",
    }
