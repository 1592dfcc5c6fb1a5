"""The vectors of one anatomy in, what each way of searching them costs out: this node's scan, numpy, faiss, hnswlib.

Each is asked the same questions in turn, on one thread, and has only that anatomy to search.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import faiss
import hnswlib
import numpy as np
from numpy.typing import NDArray

from benchmarks import timing
from storage.vectors.exact import ExactIndex
from storage.vectors.hnsw import EF_CONSTRUCTION, EF_SEARCH, LINKS, SEED
from storage.vectors.scoring import units

K = 10
SCAN, NUMPY, FLAT, BYTES, GRAPH = "dicomnode scan", "numpy", "faiss flat", "faiss SQ8", "hnswlib"

Vectors = NDArray[np.float32]  # (n, dim)
Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]  # (dim,) -> (K or more,) positions, best first


@dataclass(frozen=True)
class Measured:
    """What one engine did with n vectors."""

    query_ms: float
    build_s: float
    size: int  # bytes of its file
    recall: float  # share of the exact ten that it found


def compared(stored: NDArray[np.float16], questions: Vectors, repeat: int) -> dict[str, Measured]:
    """Build each engine with (n, dim) stored vectors, ask all (m, dim) questions of each in turn."""
    vectors = units(stored)
    faiss.omp_set_num_threads(1)
    made: dict[str, tuple[float, Search, int]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-engines-") as scratch:
        for name, make in _makers(stored).items():
            start = time.perf_counter()
            search, save = make(vectors)
            built = time.perf_counter() - start
            path = Path(scratch) / name.replace(" ", "-")
            save(path)
            made[name] = built, search, path.stat().st_size
    works = {name: lambda s=search: [s(one) for one in questions] for name, (_, search, _) in made.items()}
    taken = timing.in_turn(works, repeat)
    exact = units(stored).astype(np.float64) @ questions.astype(np.float64).T  # (n, m)
    return {
        name: Measured(
            1000 * median(taken[name]) / len(questions),
            built,
            size,
            float(np.mean([_found(search(one), true) for one, true in zip(questions, exact.T, strict=True)])),
        )
        for name, (built, search, size) in made.items()
    }


def _found(hits: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """The share of the exact K that is among the first K hits; equals count."""
    worst = np.sort(scores)[-K] - 1e-6
    return float((scores[hits[:K]] >= worst).mean())


Made = tuple[Search, Callable[[Path], object]]


def _makers(stored: NDArray[np.float16]) -> Mapping[str, Callable[[Vectors], Made]]:
    return {
        SCAN: lambda _: _scan(stored),
        NUMPY: _numpy,
        FLAT: lambda vectors: _faiss(faiss.IndexFlatIP(vectors.shape[1]), vectors),
        BYTES: lambda vectors: _faiss(_bytes(vectors.shape[1]), vectors),
        GRAPH: _graph,
    }


def _bytes(dim: int) -> "faiss.Index":
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)


def _scan(stored: NDArray[np.float16]) -> Made:
    index = ExactIndex(stored.shape[1])
    index.add(np.arange(len(stored), dtype=np.int64), stored)
    return lambda one: index.search(one, K)[0], index.save


def _numpy(vectors: Vectors) -> Made:
    def search(one: NDArray[np.float32]) -> NDArray[np.int64]:
        scores = vectors @ one
        near = np.argpartition(-scores, K)[:K] if len(scores) > K else np.arange(len(scores))
        return near[np.argsort(-scores[near])]

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, vectors)

    return search, save


def _faiss(index: "faiss.Index", vectors: Vectors) -> Made:
    index.train(vectors)
    index.add(vectors)
    return lambda one: index.search(one[None], K)[1][0], lambda path: faiss.write_index(index, str(path))


def _graph(vectors: Vectors) -> Made:
    """As this node would build it, with all that it gives back beyond K left out."""
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.init_index(max_elements=len(vectors), M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=SEED)
    graph.set_ef(EF_SEARCH)
    graph.add_items(vectors, num_threads=1)
    return lambda one: graph.knn_query(one[None], K, num_threads=1)[0][0].astype(
        np.int64
    ), lambda path: graph.save_index(str(path))
