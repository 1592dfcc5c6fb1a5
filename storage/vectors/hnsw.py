"""The index that looks at few vectors: hnswlib's graph, kept away from everything that was seen to break it.

hnswlib 0.8.0: a search during add or resize crashes, so they exclude each other; `replace_deleted` leaves ghosts, so
removed entries are masked until a rebuild; a save to a full disk raises nothing, so sizes are compared; a damaged file
can crash the process, so only checked files are loaded. Malkov and Yashunin, arXiv:1603.09320.
"""

import struct
from contextlib import suppress
from pathlib import Path

import hnswlib
import numpy as np
from numpy.typing import NDArray

from storage.durable import replacing, reported
from storage.errors import SnapshotDamaged, StorageFull, VectorError
from storage.vectors.exact import ExactIndex
from storage.vectors.index import Ids, Scores, Vectors, ranked
from storage.vectors.locks import ReadWriteLock

LINKS = 16  # M: neighbours of a node
EF_CONSTRUCTION = 200
EF_SEARCH = 256  # nodes looked at; more where more are asked for
SEED = 100
FIRST_CAPACITY = 1024
HEADER = struct.Struct("<6Q")  # of a saved graph: the last two are label_offset and offsetData
PIECE = 512  # vectors added under one write lock: searches wait for no more


class HnswIndex:
    """A VectorIndex whose answers are nearly complete and cost next to nothing.

    Memory: about 4 x dim + 150 bytes a vector.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._lock = ReadWriteLock()
        self._removed: set[int] = set()
        self._newest = -1
        self._graph = self._new(FIRST_CAPACITY)

    def _new(self, capacity: int) -> hnswlib.Index:
        graph = hnswlib.Index(space="ip", dim=self.dim)
        graph.init_index(max_elements=capacity, M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=SEED)
        graph.set_ef(EF_SEARCH)
        return graph

    def __len__(self) -> int:
        return int(self._graph.get_current_count()) - len(self._removed)

    def ids(self) -> Ids:
        """Every id it was ever given, masked ones too, in no order."""
        with self._lock.reading():
            return np.array(self._graph.get_ids_list(), np.int64)

    @property
    def newest(self) -> int:
        """The largest id it was given; -1 while empty. Its owner adds in the order of ids."""
        return self._newest

    @property
    def masked(self) -> int:
        """Removed entries that still take room and time; a rebuild is rid of them."""
        return len(self._removed)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        if vectors.shape != (len(ids), self.dim):
            raise VectorError(f"vectors of shape {vectors.shape} for an index of dimension {self.dim}")
        for start in range(0, len(ids), PIECE):
            with self._lock.writing():
                piece = slice(start, start + PIECE)
                self._reserve(len(ids[piece]))
                # One thread: the graph then depends on the order of vectors alone.
                self._graph.add_items(vectors[piece], ids[piece], num_threads=1)
                self._newest = max(self._newest, int(ids[piece].max()))

    def _reserve(self, more: int) -> None:
        needed = self._graph.get_current_count() + more
        if needed > self._graph.get_max_elements():
            self._graph.resize_index(2 * needed)  # nobody searches now

    def remove(self, ids: Ids) -> None:
        with self._lock.writing():
            here = set(self._graph.get_ids_list()).intersection(ids.tolist()) - self._removed
            for region_id in sorted(here):
                self._graph.mark_deleted(region_id)
            self._removed |= here

    def search(self, vector: NDArray[np.float32], k: int) -> tuple[Ids, Scores]:
        if vector.shape != (self.dim,):
            raise VectorError(f"a query of shape {vector.shape} for an index of dimension {self.dim}")
        with self._lock.reading():
            k = min(k, len(self))
            if k <= 0:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            try:
                labels, distances = self._graph.knn_query(vector, k=k, num_threads=1)
            except RuntimeError:  # masked entries stand between the query and k others
                return self._scan(vector, k)
        return ranked(labels[0].astype(np.int64), (1 - distances[0]).astype(np.float32))

    def _scan(self, vector: NDArray[np.float32], k: int) -> tuple[Ids, Scores]:
        ids = np.array(sorted(set(self._graph.get_ids_list()) - self._removed), np.int64)
        everything = ExactIndex(self.dim)
        everything.add(ids, np.asarray(self._graph.get_items(ids), np.float32))
        found, scores = everything.search(vector, k)
        return found[:k], scores[:k]

    def save(self, path: Path) -> None:
        with self._lock.reading(), reported("index file"), replacing(path) as scratch:
            self._graph.save_index(str(scratch))
            written, expected = scratch.stat().st_size, self._graph.index_file_size()
            if written != expected:
                raise StorageFull(f"index file: {written} of {expected} bytes were written")

    def load(self, path: Path) -> None:
        """As VectorIndex. The caller has compared the checksum: hnswlib trusts every byte."""
        graph = hnswlib.Index(space="ip", dim=self.dim)
        if _dimension(path) != self.dim:  # it would load without a word
            raise SnapshotDamaged(f"index file: not of dimension {self.dim}")
        try:
            graph.load_index(str(path))
        except RuntimeError as error:
            raise SnapshotDamaged(f"index file: {error}") from None
        graph.set_ef(EF_SEARCH)
        with self._lock.writing():
            self._graph = graph
            self._removed = _masked(graph)
            self._newest = max(graph.get_ids_list(), default=-1)


def _dimension(path: Path) -> int:
    """The dimension of a saved graph, from hnswlib's header; -1 when the file has none."""
    with reported("index file"), path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return -1
    *_, end, start = HEADER.unpack(header)  # an entry's vector lies between these offsets
    return int(end - start) // 4


def _masked(graph: hnswlib.Index) -> set[int]:
    """The entries that a loaded graph masks: hnswlib keeps them and tells nobody, but unmasks no others."""
    found = set()
    for region_id in graph.get_ids_list():
        with suppress(RuntimeError):
            graph.unmark_deleted(region_id)
            found.add(int(region_id))
    for region_id in found:
        graph.mark_deleted(region_id)
    return found
