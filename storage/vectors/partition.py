"""The vectors of one generation, projection and anatomy: SQL's rows in, candidates for an answer out.

An exact index always; beside it, where there are many vectors, a graph that may lag behind: what it lacks is scanned.
"""

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import Plan
from storage.vectors.exact import ExactIndex, Labels, Stored, View
from storage.vectors.hnsw import HnswIndex
from storage.vectors.index import Ids, Scores

INSTANCE, PATIENT = 0, 1  # columns of the exact index's labels
OVER_FETCH = 2  # times k, and
EXTRA = 32  # as many more, asked of a graph whose order is approximate
MOST_BLOCKED = 512  # regions of the excluded patient that a graph is asked to skip
PIECE = 8_192  # rows added to a graph at once: as many are held as float32
STALE = 0.1  # masked share of a graph that is worth building it again


@dataclass(frozen=True)
class Key:
    """Names a partition."""

    generation: int
    place: int  # of the projection among the generation's
    anatomy: int


@dataclass(frozen=True)
class Filter:
    """Which rows of a partition may be answered."""

    allowed: NDArray[np.int64] | None  # instance ids, ascending
    excluded_patient: int | None

    def __call__(self, labels: Labels) -> NDArray[np.bool_]:
        keep = np.ones(len(labels), np.bool_)
        if self.allowed is not None:
            keep &= np.isin(labels[:, INSTANCE], self.allowed)
        if self.excluded_patient is not None:
            keep &= labels[:, PATIENT] != self.excluded_patient
        return keep


class Partition:
    """One partition and how far it is. Searches never wait; `updating` is held by whoever changes it."""

    def __init__(self, key: Key, dim: int) -> None:
        self.key = key
        self.exact = ExactIndex(dim, labels=2)
        self.graph: HnswIndex | None = None
        self.watermark = -1  # complete up to this value of the change counter; -1: not loaded
        self.saved = -1  # the watermark of the snapshot on disk
        self.updating = threading.Lock()

    def __len__(self) -> int:
        return len(self.exact)

    def apply(self, removed: Ids, ids: Ids, stored: Stored, labels: Labels) -> None:
        """Take up what changed: ids that went, and new rows."""
        if len(removed):
            self.exact.remove(removed)
            if self.graph is not None:
                self.graph.remove(removed)
        if len(ids):
            self.exact.add(ids, stored, labels)

    def improve(self, exact_limit: int) -> bool:
        """Build the graph where it pays, or bring it up; whether anything was done. Takes long, blocks nobody."""
        view = self.exact.view
        if len(view.ids) <= exact_limit:
            self.graph = None
            return False
        graph = self.graph
        if graph is None or graph.masked > STALE * len(view.ids):
            graph = HnswIndex(self.exact.dim)
        # Rows are added in the order of their ids: what it lacks is what is newer than all it has.
        lacking = np.arange(np.searchsorted(view.ids, graph.newest, side="right"), len(view.ids))
        for start in range(0, len(lacking), PIECE):
            rows = lacking[start : start + PIECE]
            graph.add(view.ids[rows], view.units(rows))
        # What was removed while this went on never reached the new graph: its rows are unknown to the view.
        self.graph = graph
        return len(lacking) > 0

    def search(self, vector: NDArray[np.float32], k: int, rows: Filter) -> tuple[Ids, Scores, Plan]:
        """At least the k best rows that `rows` lets through, or all there are; scores within MARGIN."""
        graph = self.graph
        if graph is None or rows.allowed is not None:
            return *self._scan(vector, k, rows), "exact"
        view = self.exact.view
        blocked = view.labels[:, PATIENT] == rows.excluded_patient
        n_blocked = int(blocked.sum()) if rows.excluded_patient is not None else 0
        if n_blocked <= MOST_BLOCKED:
            newest = graph.newest  # before the search: what `improve` adds meanwhile is found in the tail
            ids, scores = graph.search(vector, OVER_FETCH * k + EXTRA + n_blocked)
            ids, scores = self._with_tail(view, newest, vector, ids, scores)
            here, at = _located(view, ids)
            here[here] &= rows(view.labels[at[here]])
            if int(here.sum()) >= min(k, len(view.ids) - n_blocked):
                return ids[here], scores[here], "hnsw"
        return *self._scan(vector, k, rows), "hnsw->exact"

    def _scan(self, vector: NDArray[np.float32], k: int, rows: Filter) -> tuple[Ids, Scores]:
        everything = rows.allowed is None and rows.excluded_patient is None
        return self.exact.search(vector, k, None if everything else rows)

    def _with_tail(
        self, view: View, newest: int, vector: NDArray[np.float32], ids: Ids, scores: Scores
    ) -> tuple[Ids, Scores]:
        """The graph's candidates and every row that is newer than `newest`, each once."""
        tail = np.arange(np.searchsorted(view.ids, newest, side="right"), len(view.ids))
        older = ids <= newest
        together = np.concatenate((ids[older], view.ids[tail]))
        return together, np.concatenate((scores[older], view.scores(tail, vector)))


def _located(view: View, ids: Ids) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """For each id whether the view has it, and in which row. A graph may still offer what is gone."""
    at = np.searchsorted(view.ids, ids)
    at[at == len(view.ids)] = 0
    here = view.ids[at] == ids if len(view.ids) else np.zeros(len(ids), np.bool_)
    return here, at
