"""A question and one of its hits in; which part of either region made the two alike, as a map of that region, out.

Each side can be explained: parts of the asking region are covered and the rest is compared with the hit as it is
stored, or parts of the hit's with what was asked. What is compared is what ranked the hit: the vectors of the two
regions, of a small ROI the local map's cells under it, and where the hit's image has none, the region around the ROI.

The query model is asked for a few covers at a time, with a pause in between: a question that waits goes before the
next. Memory bound: KEPT maps of some tens of cells.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import DecodeError, IdentifierError, ImageNotStored, ModelFailure, NotReady
from dicomnode.query import local
from dicomnode.query.search import SAME_REGION
from dicomnode.settings import QuerySettings
from dicomnode.workers.embedding import Occluder, OcclusionRequest, RoiOcclusion, RoiRequest
from encoder.boxes import Box
from encoder.local import LocalMap, Patch, patch, under
from encoder.occlusion import WHOLE
from storage.records import Generation, InstanceRow, Region
from storage.store import Store

BATCH: Final = 8  # covers of one request to the query model: what a question waits for, at most
PAUSE_S: Final = 0.005  # between two of them, in which a waiting question is taken up
KEPT: Final = 256  # explanations
PROJECTION: Final = "anatomy"  # what the page ranks by


class Side(StrEnum):
    """Whose parts are covered."""

    ASKED = "asked"
    FOUND = "found"


@dataclass(frozen=True)
class Pair:
    """What was asked, and the hit that is to be explained."""

    image_uid: str
    frame: int  # counted from 1
    box: Box  # pixels of the stored image
    hit_uid: str
    anatomy: int  # of the hit
    is_place: bool  # the hit is a place in the region of that anatomy, not the region


@dataclass(frozen=True, eq=False)
class Explanation:
    """What covering each part of a region takes from the score. Cosines: above 0, the part made the two alike."""

    image_uid: str
    frame: int
    box: Box  # the region that was covered part by part, pixels of the stored image
    costs: NDArray[np.float32]  # (rows, columns) of cells over the box, row 0 at its top
    score: float  # with nothing covered
    largest: float  # what the costliest cover took
    whole: float  # what covering all of the region took


Compare = Callable[[RoiOcclusion], NDArray[np.float32]]  # rows of a reply -> (N,) scores


@dataclass(frozen=True, eq=False)
class _Look:
    """What is covered, and how what is left is compared."""

    instance: InstanceRow
    frame: int
    box: Box
    compare: Compare


@dataclass(frozen=True, eq=False)
class _Ends:
    """Both images and what the catalogue knows of them."""

    pair: Pair
    generation: Generation
    asked: InstanceRow
    found: InstanceRow
    region: Region  # the hit's
    box: Box  # the asking one, inside its image


class Explainer:
    """Explains hits of the live generation, one at a time; the last ones are kept. Safe for threads."""

    def __init__(
        self,
        store: Store,
        encoder: Occluder,
        settings: QuerySettings,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._encoder = encoder
        self._cells = settings.why_cells  # along the longer side of a region
        self._timeout_s = settings.encode_timeout_s
        self._local = settings.local
        self._clock = clock
        self._pause = pause
        self._kept: OrderedDict[str, Explanation] = OrderedDict()
        self._working = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether hits are explained here."""
        return self._cells > 0

    def version(self, pair: Pair, side: Side) -> str:
        """What an explanation follows from, as text: equal versions have equal explanations. Raises as `explain`."""
        return self._version(self._ends(pair), side)

    def explain(self, pair: Pair, side: Side) -> Explanation:
        """Cover one side's parts. Raises ImageNotStored, IdentifierError, NotReady, ModelFailure, DecodeError."""
        ends = self._ends(pair)
        key = self._version(ends, side)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        with self._working:
            return self._kept.get(key) or self._keep(key, self._explained(ends, side))

    def _keep(self, key: str, explanation: Explanation) -> Explanation:
        self._kept[key] = explanation
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return explanation

    def _version(self, ends: _Ends, side: Side) -> str:
        return repr((ends.pair, str(side), ends.generation.id, ends.asked.sha256, ends.found.sha256, self._cells))

    def _ends(self, pair: Pair) -> _Ends:
        if not self.is_on:
            raise NotReady("explanations are switched off: query.why_cells")
        generation = self._store.generations.live()
        if generation is None:
            raise NotReady("no index yet: no region is indexed")
        asked, found = self._instance(pair.image_uid), self._instance(pair.hit_uid)
        if not 1 <= pair.frame <= (asked.frames or 1):
            raise IdentifierError("the ROI's frame is not in the image")
        box = pair.box.clipped(asked.columns or 0, asked.rows or 0)
        if not box.area:
            raise IdentifierError("the ROI lies outside the image")
        regions = self._store.regions.of_instance(generation.id, found.id)
        region = next((each for each in regions if each.anatomy == pair.anatomy), None)
        if region is None:
            raise ImageNotStored("the hit's image has no such region")
        return _Ends(pair, generation, asked, found, region, box)

    def _instance(self, uid: str) -> InstanceRow:
        found = self._store.catalog.instance(uid)
        if found is None:
            raise ImageNotStored("image not stored: send it first")
        return found

    def _explained(self, ends: _Ends, side: Side) -> Explanation:
        try:
            look = self._places(ends, side) if ends.pair.is_place else self._regions(ends, side)
            return self._measured(look, ends.generation)
        except DecodeError:
            self._instance(ends.pair.image_uid)  # deleted just now: that is said instead
            self._instance(ends.pair.hit_uid)
            raise

    # --- what is compared ------------------------------------------------------------------------------------

    def _regions(self, ends: _Ends, side: Side) -> _Look:
        """Region against region."""
        home = self._around(ends)
        if side is Side.ASKED:
            box = Box(*home.box) if home is not None else ends.box
            return _Look(ends.asked, ends.pair.frame, box, _to_vector(self._vector(ends.region)))
        vector = self._vector(home) if home is not None else self._asking_vector(ends)
        return _Look(ends.found, 1, Box(*ends.region.box), _to_vector(vector))

    def _around(self, ends: _Ends) -> Region | None:
        """The region whose vector asked: around a small ROI, or drawn anew; None where the ROI's own crop did."""
        regions = self._store.regions.of_instance(ends.generation.id, ends.asked.id)
        own = [each for each in regions if each.anatomy == ends.pair.anatomy]
        same = next((each for each in own if ends.box.iou(Box(*each.box)) >= SAME_REGION), None)
        if same is not None or not self._local:
            return same
        home = local.home(ends.box, own, ends.pair.anatomy)
        return home if home is not None and self._map(ends.generation, ends.asked) is not None else None

    def _asking_vector(self, ends: _Ends) -> NDArray[np.float32]:
        folder, file = self._model(ends.generation), self._store.files.path(ends.asked.path)
        request = RoiRequest(folder, file, ends.pair.frame, (ends.box,))
        vectors: NDArray[np.float32] = self._encoder.embed(request).vectors[PROJECTION]  # (1, dim)
        return np.asarray(vectors[0], dtype=np.float32)

    def _vector(self, region: Region) -> NDArray[np.float32]:
        return self._store.regions.vector(region.id, PROJECTION).astype(np.float32)

    def _places(self, ends: _Ends, side: Side) -> _Look:
        """The cells of a small ROI against those of the place in the hit's region."""
        asked, found = (self._map(ends.generation, instance) for instance in (ends.asked, ends.found))
        if asked is None or found is None:
            raise IdentifierError("the images have no local features")
        small = patch(asked, ends.box)
        place = under(small, found, Box(*ends.region.box))
        if place is None:
            raise IdentifierError("the ROI fits nowhere in the hit's region")
        if side is Side.ASKED:
            return _Look(ends.asked, ends.pair.frame, ends.box, _to_cells(patch(found, place)))
        return _Look(ends.found, 1, place, _to_cells(small))

    def _map(self, generation: Generation, instance: InstanceRow) -> LocalMap | None:
        features = self._store.local_maps.get(generation.id, instance.id)
        return None if features is None else LocalMap(features.cells, Box(*features.area))

    # --- covering --------------------------------------------------------------------------------------------

    def _measured(self, look: _Look, generation: Generation) -> Explanation:
        """Every cover of the region, some at a time."""
        request = OcclusionRequest(
            model_folder=self._model(generation),
            file=self._store.files.path(look.instance.path),
            frame=look.frame,
            box=look.box,
            cells=self._cells,
            numbers=(0, BATCH),
        )
        until = self._clock() + self._timeout_s
        reply = self._encoder.occlude(request)
        scores = list(look.compare(reply))
        while len(scores) < reply.grid.count:
            if self._clock() > until:
                raise ModelFailure("explaining took too long: see query.why_cells")
            self._pause(PAUSE_S)
            following = replace(request, numbers=(len(scores), len(scores) + BATCH))
            scores += list(look.compare(self._encoder.occlude(following)))
        costs = scores[0] - np.asarray(scores)
        grid = reply.grid
        return Explanation(
            image_uid=look.instance.sop_instance_uid,
            frame=look.frame,
            box=grid.box,
            costs=grid.spread(costs[WHOLE:].tolist()),
            score=float(scores[0]),
            largest=float(costs[WHOLE:].max()),
            whole=float(costs[1]),
        )

    def _model(self, generation: Generation) -> Path:
        return self._store.root / Path(generation.model.path)


def _to_vector(vector: NDArray[np.float32]) -> Compare:
    """Cosine with a unit vector (dim,)."""

    def scores(reply: RoiOcclusion) -> NDArray[np.float32]:
        return np.asarray(reply.vectors[PROJECTION] @ vector, dtype=np.float32)

    return scores


def _to_cells(cells: Patch) -> Compare:
    """Mean cosine with the cells of a patch, each with the one in its place."""

    def scores(reply: RoiOcclusion) -> NDArray[np.float32]:
        if reply.cells is None or reply.cells.shape[1:] != cells.features.shape:
            raise ModelFailure("the query model gave no local features")
        cosines = (reply.cells * cells.features).sum(axis=-1)  # (N, h, w)
        return np.asarray(cosines.mean(axis=(1, 2)), dtype=np.float32)

    return scores
