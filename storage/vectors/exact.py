"""The index that looks at every vector: a scan of bytes says which rows can be among the best, fp16 rows say which are.

Readers take an immutable view and never wait; one writer at a time appends behind what views can see, or publishes new
arrays. What was loaded stays in a copy of its file that has no name and is mapped: whoever cuts the file short
meanwhile would end a process that had mapped it itself. What is added grows beside it.
Memory: 3 x dim + 24 + 8 x labels bytes a vector, of which 3 x dim in the copy's pages where it was loaded: the
system may take those back. What is added takes up to twice that after growth. Disk: the file's size once more.
"""

import hashlib
import io
import math
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.durable import replacing, reported
from storage.errors import SnapshotDamaged, StorageFull, VectorError
from storage.vectors.codes import Probe, centre, coded, pieces
from storage.vectors.index import MARGIN, Ids, Scores, Vectors, nearest, ranked
from storage.vectors.scoring import units

FIRST_CAPACITY = 1024  # rows
HEADER = np.dtype([("magic", "S8"), ("rows", "<i8"), ("dim", "<i8"), ("labels", "<i8")])
MAGIC = b"EXACT002"
GROWN = 2  # times the rows that the centre is of: then all are coded anew around one of their own
COPIED = 1 << 30  # bytes at once
FEW = 1024  # rows left by a filter that are not worth a scan of codes

Labels = NDArray[np.int64]  # (n, labels): what filters look at
Stored = NDArray[np.float16]  # (n, dim): the bytes of SQL
Keep = Callable[[Labels], NDArray[np.bool_]]  # (n, labels) -> (n,)


@dataclass(frozen=True)
class Wide:
    """A matrix in two parts: rows that never change and may lie in a file, and rows that were added."""

    base: NDArray[Any]  # (m, dim)
    tail: NDArray[Any]  # (n - m, dim)

    def take(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """These rows, (r,) -> (r, dim)."""
        early = rows < len(self.base)
        if early.all():
            return self.base[rows]
        found = np.empty((len(rows), self.base.shape[1]), self.base.dtype)
        found[early], found[~early] = self.base[rows[early]], self.tail[rows[~early] - len(self.base)]
        return found

    def parts(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both, in order."""
        return self.base, self.tail


@dataclass(frozen=True)
class View:
    """Aligned rows, ascending by id, that never change."""

    centre: NDArray[np.float32]  # (dim,) of the codes
    ids: Ids  # (n,)
    labels: Labels  # (n, labels)
    scales: Scores  # (n,) these four: see Coded
    offsets: Scores
    rests: Scores
    lengths: Scores
    codes: Wide  # (n, dim) int8
    stored: Wide  # (n, dim) fp16

    def units(self, rows: NDArray[np.intp]) -> Vectors:
        """Rows as unit vectors: (r,) -> (r, dim) float32."""
        return units(self.stored.take(rows))

    def scores(self, rows: NDArray[np.intp], vector: NDArray[np.float32]) -> Scores:
        """Cosines of rows: (r,) -> (r,), within MARGIN."""
        return np.concatenate([self.units(rows[piece]) @ vector for piece in pieces(len(rows))])


class Growing:
    """An array that grows behind what readers can see."""

    def __init__(self, content: NDArray[Any]) -> None:
        self._rows = content

    def add(self, n: int, more: NDArray[Any]) -> NDArray[Any]:
        """The first n rows and these: what readers may see from now on."""
        if not len(more):
            return self._rows[:n]
        total = n + len(more)
        if total > len(self._rows):
            larger = np.empty((max(2 * total, FIRST_CAPACITY), *self._rows.shape[1:]), self._rows.dtype)
            larger[:n] = self._rows[:n]
            self._rows = larger
        self._rows[n:total] = more
        return self._rows[:total]


class ExactIndex:
    """A VectorIndex whose answers are complete, and which can filter by labels kept beside each vector."""

    view: View

    def __init__(self, dim: int, labels: int = 0) -> None:
        self.dim = dim
        self._writing = threading.Lock()
        self._n_labels = labels
        self._publish(_coded(np.empty(0, np.int64), np.empty((0, dim), np.float16), np.empty((0, labels), np.int64)))

    def __len__(self) -> int:
        return len(self.view.ids)

    def add(self, ids: Ids, vectors: Vectors | Stored, labels: Labels | None = None) -> None:
        """As VectorIndex; vectors as SQL keeps them, too."""
        if vectors.shape != (len(ids), self.dim):
            raise VectorError(f"vectors of shape {vectors.shape} for an index of dimension {self.dim}")
        labels = np.zeros((len(ids), self._n_labels), np.int64) if labels is None else labels
        order = np.argsort(ids, kind="stable")
        with self._writing:
            self._append(ids[order], vectors[order].astype(np.float16, copy=False), labels[order])

    def _append(self, ids: Ids, stored: Stored, labels: Labels) -> None:
        old = self.view
        n, tail = len(old.ids), len(old.codes.tail)
        behind = n == 0 or len(ids) == 0 or ids[0] > old.ids[-1]
        if not behind or n + len(ids) >= GROWN * self._centred:  # a new order, or a centre of too few
            self._publish(_together(old, ids, stored, labels))
            return
        new = _coded(ids, stored, labels, old.centre)
        seen: dict[str, Any] = {name: self._growing[name].add(n, getattr(new, name)) for name in NARROW}
        for name in WIDE:
            base, more = getattr(old, name).base, getattr(new, name).base
            seen[name] = Wide(base, self._growing[name].add(tail, more))
        self.view = View(old.centre, **seen)

    def _publish(self, content: View) -> None:
        """Take these rows; their wide parts have no tail yet."""
        self._growing = {name: Growing(getattr(content, name)) for name in NARROW}
        self._growing |= {name: Growing(getattr(content, name).tail) for name in WIDE}
        self._centred = len(content.ids)
        self.view = content

    def remove(self, ids: Ids) -> None:
        with self._writing:
            old = self.view
            stay = np.flatnonzero(~np.isin(old.ids, ids))
            if len(stay) < len(old.ids):
                self._publish(_taken(old, stay))

    def search(self, vector: NDArray[np.float32], k: int, keep: Keep | None = None) -> tuple[Ids, Scores]:
        """As VectorIndex; with `keep`, of the rows whose labels it lets through. All within MARGIN of the k-th too."""
        if vector.shape != (self.dim,):
            raise VectorError(f"a query of shape {vector.shape} for an index of dimension {self.dim}")
        view = self.view
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        kept = np.ones(len(view.ids), np.bool_) if keep is None else keep(view.labels)
        rows = np.flatnonzero(kept)
        if len(rows) > max(k, FEW):
            rows = _possible(view, Probe(vector, view.centre), kept, k)
        scores = view.scores(rows, vector)
        best = nearest(scores, k)
        return ranked(view.ids[rows[best]], scores[best])

    def save(self, path: Path) -> None:
        with reported("index file"), replacing(path) as scratch:
            scratch.write_bytes(b"")
            with scratch.open("wb") as file:
                expected = _write(self.view, file)
            if scratch.stat().st_size != expected:
                raise StorageFull(f"index file: {scratch.stat().st_size} of {expected} bytes were written")

    def load(self, path: Path) -> None:
        with reported("index file"), path.open("rb") as file:
            size = path.stat().st_size
            if size < HEADER.itemsize:
                raise SnapshotDamaged("index file: shorter than its header")
            content = _own_copy(file, path.parent)  # kept alive by the arrays over it
        with self._writing:
            self._publish(_read(content, size, self.dim, self._n_labels))


CODED = ("scales", "offsets", "rests", "lengths")
NARROW = ("ids", "labels", *CODED)  # kept whole
WIDE = ("codes", "stored")  # kept in two parts
assert {"centre", *NARROW, *WIDE} == {field.name for field in fields(View)}


def _possible(view: View, probe: Probe, kept: NDArray[np.bool_], k: int) -> NDArray[np.intp]:
    """Of more than k kept rows all that can be among their k best or within MARGIN of those, by their codes."""
    products = np.concatenate([probe.products(part) for part in view.codes.parts() if len(part)])
    scores, margins = probe.scores(products, view.scales, view.offsets), probe.margins(view.rests, view.lengths)
    at_least = np.where(kept, scores - margins, np.float32(-np.inf))
    worst = np.partition(at_least, len(kept) - k)[len(kept) - k]
    return np.flatnonzero(kept & (scores + margins >= worst - np.float32(MARGIN)))


def _coded(ids: Ids, stored: Stored, labels: Labels, around: NDArray[np.float32] | None = None) -> View:
    """Rows, ascending by id, with their codes around a centre; around their own without one."""
    if around is None:
        around = centre(len(ids), lambda piece: units(stored[piece]))
    made = [coded(units(stored[piece]), around) for piece in pieces(len(ids))]
    narrow = {name: np.concatenate([getattr(part, name) for part in made]) for name in CODED}
    codes = np.concatenate([part.codes for part in made])
    return View(around, ids, labels, **narrow, codes=_whole(codes), stored=_whole(stored))


def _together(old: View, ids: Ids, stored: Stored, labels: Labels) -> View:
    """All rows in order, coded anew."""
    all_ids = np.concatenate((old.ids, ids))
    order = np.argsort(all_ids, kind="stable")
    all_stored, all_labels = np.concatenate([*old.stored.parts(), stored]), np.concatenate((old.labels, labels))
    return _coded(all_ids[order], all_stored[order], all_labels[order])


def _whole(rows: NDArray[Any]) -> Wide:
    return Wide(rows, np.empty((0, rows.shape[1]), rows.dtype))


def _taken(view: View, rows: NDArray[np.intp]) -> View:
    taken: dict[str, Any] = {name: getattr(view, name)[rows] for name in NARROW}
    return View(view.centre, **taken | {name: _whole(getattr(view, name).take(rows)) for name in WIDE})


def _arrays(view: View) -> Iterator[NDArray[Any]]:
    """In the order of the file."""
    yield view.centre
    yield from (getattr(view, name) for name in NARROW)
    for name in WIDE:
        yield from getattr(view, name).parts()


def _write(view: View, file: io.BufferedWriter) -> int:
    """Header and arrays; returns the bytes that makes."""
    header = np.array([(MAGIC, len(view.ids), view.codes.base.shape[1], view.labels.shape[1])], HEADER)
    return sum(file.write(np.ascontiguousarray(part).data) if part.size else 0 for part in (header, *_arrays(view)))


def _own_copy(file: io.BufferedReader, folder: Path) -> mmap.mmap | bytes:
    """The file as nobody else can change it: a copy without a name, mapped; where there is no room, in memory."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".") as own:
            while os.copy_file_range(file.fileno(), own.fileno(), COPIED):
                pass
            return mmap.mmap(own.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        file.seek(0)
        return file.read()


def _read(content: mmap.mmap | bytes, size: int, dim: int, labels: int) -> View:
    if len(content) != size:
        raise SnapshotDamaged(f"index file: {len(content)} bytes instead of {size}")
    magic, rows, its_dim, its_labels = np.frombuffer(content, HEADER, 1)[0].tolist()
    if (magic, its_dim, its_labels) != (MAGIC, dim, labels):
        raise SnapshotDamaged(f"index file: {magic!r} of dimension {its_dim}, not {dim}")
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        **{"centre": ("<f4", (dim,)), "ids": ("<i8", (rows,)), "labels": ("<i8", (rows, labels))},
        **dict.fromkeys(CODED, ("<f4", (rows,))),
        **{"codes": ("i1", (rows, dim)), "stored": ("<f2", (rows, dim))},
    }
    counts = {name: math.prod(shape) for name, (_, shape) in layout.items()}
    sizes = {name: counts[name] * np.dtype(kind).itemsize for name, (kind, _) in layout.items()}
    if rows < 0 or size != HEADER.itemsize + sum(sizes.values()):
        raise SnapshotDamaged(f"index file: {size} bytes do not hold {rows} rows")
    found: dict[str, Any] = {}
    at = HEADER.itemsize
    for name, (kind, shape) in layout.items():
        found[name] = np.frombuffer(content, kind, counts[name], at).reshape(shape)
        at += sizes[name]
    return View(**found | {name: _whole(found[name]) for name in WIDE})


def checksum(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with reported("index file"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
