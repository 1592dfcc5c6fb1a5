"""The index that looks at every vector: one matrix, one product.

Readers take an immutable view and never wait; one writer at a time appends behind what views can see, or publishes new
arrays. Memory: 4 x dim + 8 x (1 + labels) bytes a vector, up to twice that after growth.
"""

import hashlib
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.durable import replacing, reported
from storage.errors import SnapshotDamaged, StorageFull, VectorError
from storage.vectors.index import Ids, Scores, Vectors, nearest, ranked

FIRST_CAPACITY = 1024  # rows
HEADER = np.dtype([("magic", "S8"), ("rows", "<i8"), ("dim", "<i8"), ("labels", "<i8")])
MAGIC = b"EXACT001"

Labels = NDArray[np.int64]  # (n, labels): what filters look at
Keep = Callable[[Labels], NDArray[np.bool_]]  # (n, labels) -> (n,)


@dataclass(frozen=True)
class View:
    """Aligned rows, ascending by id, that never change."""

    ids: Ids  # (n,)
    vectors: Vectors  # (n, dim)
    labels: Labels  # (n, labels)


class ExactIndex:
    """A VectorIndex whose answers are complete, and which can filter by labels kept beside each vector."""

    def __init__(self, dim: int, labels: int = 0) -> None:
        self.dim = dim
        self._writing = threading.Lock()
        self._buffers = _buffers(FIRST_CAPACITY, dim, labels)
        self._n_labels = labels
        self.view = _view(self._buffers, 0)

    def __len__(self) -> int:
        return len(self.view.ids)

    def add(self, ids: Ids, vectors: Vectors, labels: Labels | None = None) -> None:
        if vectors.shape != (len(ids), self.dim):
            raise VectorError(f"vectors of shape {vectors.shape} for an index of dimension {self.dim}")
        labels = np.zeros((len(ids), self._n_labels), np.int64) if labels is None else labels
        order = np.argsort(ids, kind="stable")
        with self._writing:
            self._append(View(ids[order], vectors[order], labels[order]))

    def _append(self, new: View) -> None:
        old = self.view
        if len(new.ids) and len(old.ids) and new.ids[0] <= old.ids[-1]:  # not behind what is there: a new order
            self._publish(_merged(old, new))
            return
        n, total = len(old.ids), len(old.ids) + len(new.ids)
        if total > len(self._buffers.ids):
            self._buffers = _buffers(2 * total, self.dim, self._n_labels)
            _copy(old, self._buffers, 0)
        _copy(new, self._buffers, n)
        self.view = _view(self._buffers, total)

    def _publish(self, content: View) -> None:
        self._buffers = content
        self.view = content

    def remove(self, ids: Ids) -> None:
        with self._writing:
            old = self.view
            stay = ~np.isin(old.ids, ids)
            if not stay.all():
                self._publish(View(old.ids[stay], old.vectors[stay], old.labels[stay]))

    def search(self, vector: NDArray[np.float32], k: int, keep: Keep | None = None) -> tuple[Ids, Scores]:
        """As VectorIndex; with `keep`, of the rows whose labels it lets through. All within MARGIN of the k-th too."""
        if vector.shape != (self.dim,):
            raise VectorError(f"a query of shape {vector.shape} for an index of dimension {self.dim}")
        view = self.view
        ids, vectors = view.ids, view.vectors
        if keep is not None:
            rows = np.flatnonzero(keep(view.labels))
            ids = ids[rows]
            # Gathering rows costs more than multiplying them: only when most of them are out.
            scores = vectors[rows] @ vector if 4 * len(rows) < len(view.ids) else (vectors @ vector)[rows]
        else:
            scores = vectors @ vector
        best = nearest(scores, k)
        return ranked(ids[best], scores[best])

    def save(self, path: Path) -> None:
        with reported("index file"), replacing(path) as scratch:
            scratch.write_bytes(b"")
            with scratch.open("wb") as file:
                expected = _write(self.view, file)
            if scratch.stat().st_size != expected:
                raise StorageFull(f"index file: {scratch.stat().st_size} of {expected} bytes were written")

    def load(self, path: Path) -> None:
        with reported("index file"):
            content = path.read_bytes()
        with self._writing:
            self._publish(_read(content, self.dim, self._n_labels))


def _buffers(capacity: int, dim: int, labels: int) -> View:
    return View(
        np.empty(capacity, np.int64), np.empty((capacity, dim), np.float32), np.empty((capacity, labels), np.int64)
    )


def _view(buffers: View, n: int) -> View:
    return View(buffers.ids[:n], buffers.vectors[:n], buffers.labels[:n])


def _copy(source: View, target: View, start: int) -> None:
    end = start + len(source.ids)
    target.ids[start:end] = source.ids
    target.vectors[start:end] = source.vectors
    target.labels[start:end] = source.labels


def _merged(one: View, other: View) -> View:
    ids = np.concatenate((one.ids, other.ids))
    order = np.argsort(ids, kind="stable")
    vectors, labels = np.concatenate((one.vectors, other.vectors)), np.concatenate((one.labels, other.labels))
    return View(ids[order], vectors[order], labels[order])


def _write(view: View, file: io.BufferedWriter) -> int:
    """Header, ids, labels, vectors; returns the bytes that makes."""
    header = np.array([(MAGIC, len(view.ids), view.vectors.shape[1], view.labels.shape[1])], HEADER)
    return sum(file.write(part.tobytes()) for part in (header, view.ids, view.labels, view.vectors))


def _read(content: bytes, dim: int, labels: int) -> View:
    if len(content) < HEADER.itemsize:
        raise SnapshotDamaged("index file: shorter than its header")
    magic, rows, its_dim, its_labels = np.frombuffer(content, HEADER, 1)[0].tolist()
    if (magic, its_dim, its_labels) != (MAGIC, dim, labels):
        raise SnapshotDamaged(f"index file: {magic!r} of dimension {its_dim}, not {dim}")
    sizes = (rows * 8, rows * labels * 8, rows * dim * 4)
    if rows < 0 or len(content) != HEADER.itemsize + sum(sizes):
        raise SnapshotDamaged(f"index file: {len(content)} bytes do not hold {rows} rows")
    at = HEADER.itemsize
    ids = np.frombuffer(content, "<i8", rows, at)
    its = np.frombuffer(content, "<i8", rows * labels, at + sizes[0]).reshape(rows, labels)
    vectors = np.frombuffer(content, "<f4", rows * dim, at + sizes[0] + sizes[1]).reshape(rows, dim)
    return View(ids, vectors, its)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with reported("index file"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
