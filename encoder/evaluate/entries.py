"""Regions with labels and vectors in, one gallery with its queries out: what every retrieval number starts from."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.metrics import Gallery, Ranking, rank_all

RAW = 16  # pixels a side of the trivial encoder
ANATOMY = "anatomy"  # the projection that answers by default
RAW_PIXELS, RANDOM = "raw_pixels", "random"  # the trivial rows, named like projections
RANDOM_DIM = 64
BLOCK = 512  # queries ranked at once: 20 000 regions then take 400 MB


@dataclass(frozen=True, eq=False)
class Entry:
    """One labelled region; no vectors when the detector missed it."""

    id: str  # of the film: SOP Instance UID where there is one
    patient: str
    anatomy: int
    vectors: Mapping[str, NDArray[np.float32]]  # projection or trivial row -> (dim,), unit norm
    findings: frozenset[str] | None = None  # those present; None: nobody said


def leading(projections: Collection[str]) -> str:
    """The projection that is measured as `anatomy`: the one of that name, or the first of a model that names others."""
    return ANATOMY if ANATOMY in projections else next(iter(projections))


def raw_pixels(image: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """The box at 16 x 16, mean 0 and norm 1: (256,). What any learned encoder has to beat."""
    height, width = image.shape
    x = np.clip(np.linspace(box.x1, box.x2, RAW + 1)[:-1] + box.width / RAW / 2, 0, width - 1).astype(int)
    y = np.clip(np.linspace(box.y1, box.y2, RAW + 1)[:-1] + box.height / RAW / 2, 0, height - 1).astype(int)
    cut = image[np.ix_(y, x)].astype(np.float64).ravel()
    centred = cut - cut.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-9), dtype=np.float32)


def random_vectors(count: int, seed: int) -> NDArray[np.float32]:
    """(count, RANDOM_DIM) directions that mean nothing."""
    drawn = np.random.default_rng(seed).standard_normal((count, RANDOM_DIM))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


class Questions:
    """Every labelled region asks, the found ones by id, then the missed; the found ones are the gallery."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        order = sorted(entries, key=lambda entry: (entry.id, entry.anatomy))
        self.found = [entry for entry in order if entry.vectors]
        self.missed = [entry for entry in order if not entry.vectors]
        asking = self.found + self.missed
        people = {name: number for number, name in enumerate(sorted({entry.patient for entry in asking}))}
        films = {name: number for number, name in enumerate(sorted({entry.id for entry in asking}))}
        self.label = np.array([entry.anatomy for entry in asking], np.int64)  # (Q,)
        self.patient = np.array([people[entry.patient] for entry in asking], np.int64)  # (Q,)
        self.film = np.array([films[entry.id] for entry in asking], np.int64)  # (Q,)
        self.people = len(people)
        self.shows = np.zeros((len(films), len(VOCABULARY)), np.bool_)  # film x anatomy: labelled there
        self.shows[self.film, self.label] = True

    @property
    def relevant(self) -> NDArray[np.int64]:
        """(Q,) R: regions of the same anatomy and another patient, missed ones among them."""
        total = Counter(self.label.tolist())
        own = Counter(zip(self.label.tolist(), self.patient.tolist(), strict=True))
        asked = zip(self.label.tolist(), self.patient.tolist(), strict=True)
        return np.array([total[label] - own[label, patient] for label, patient in asked], np.int64)

    def vectors(self, name: str, seed: int) -> NDArray[np.float32]:
        """(N, dim) of the found ones, by projection or trivial row."""
        if name == RANDOM:
            return random_vectors(len(self.found), seed)
        return np.stack([entry.vectors[name] for entry in self.found]).astype(np.float32)

    def rankings(self, vectors: NDArray[np.float32]) -> Iterator[tuple[slice, Ranking]]:
        """The found ones ask, a block at a time: their rows among the queries, and what they are answered."""
        size = len(self.found)
        gallery = Gallery(vectors, self.label[:size], self.patient[:size])
        for start in range(0, size, BLOCK):
            rows = slice(start, min(start + BLOCK, size))
            yield rows, rank_all(gallery, rows)
