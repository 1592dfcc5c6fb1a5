"""Region search: a RegionQuery in, an Answer out: encode each ROI, choose its anatomies, narrow, rank.

The order is DESIGN.md's "Ask": image from the store, crop, encode (or the stored vector when the ROI is a stored
region), narrow by anatomy, keys and patient, plan and search, rank small ROIs locally, merge.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import DecodeError, IdentifierError, ImageNotStored, NotReady
from dicomnode.private import PatientScope
from dicomnode.query import local
from dicomnode.query.region import RegionQuery
from dicomnode.sr import reader
from dicomnode.sr.reader import SrRoi
from dicomnode.workers.embedding import Encoder, RoiEmbedding, RoiRequest
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.local import Patch, patch
from storage.errors import VectorError
from storage.records import AnyOf, Generation, InstanceRow, Region, RegionDetails, Scored, SearchRequest
from storage.store import Store

log = logging.getLogger(__name__)

NO_INDEX = "no index yet: no region is indexed"
SAME_REGION = 0.99  # IoU from which a drawn ROI is the stored region itself, and its vector is reused
UNSURE = 0.5  # an anatomy this much as likely as the likeliest is searched too
MOST_ANATOMIES = 3  # searched for one ROI when it is unsure
NEIGHBOURS = 5  # of the unlike-archive distance, MODELS.md section 2
UNLIKE_ARCHIVE = "UNLIKE ARCHIVE"
ANATOMY_UNSURE = "ANATOMY UNSURE"
SITE_IGNORED = "FINDING SITE UNKNOWN"
ROI_IGNORED = "ROI IGNORED"  # one that is not drawn on an image
RANKED_LOCALLY = "RANKED LOCALLY"  # of a hit: score and matched ROI are of a place in the region, not of the region
WARNINGS = (RANKED_LOCALLY, UNLIKE_ARCHIVE, ANATOMY_UNSURE, SITE_IGNORED, ROI_IGNORED)  # the weightiest first
SAME_PLACE = 0.5  # IoU from which two places in one image are one hit


@dataclass(frozen=True)
class Hit:
    """One ranked region. `roi`: which of the query's ROIs it answers."""

    rank: int
    score: float  # cosine
    roi: SrRoi
    details: RegionDetails
    box: Box  # what matched: the region's, or of the place in it
    local: bool  # box and score are of the place in the region that looks most like the ROI


@dataclass(frozen=True)
class Answer:
    """Hits, best first, and what the asker should know about them."""

    hits: tuple[Hit, ...]
    warnings: tuple[str, ...]
    generation: Generation


@dataclass(frozen=True, eq=False)
class _Leg:
    """One search: a vector, and where it is searched."""

    anatomies: tuple[int, ...]
    vector: NDArray[np.float32]  # (dim,) of the ROI; of the region around it where there is a patch
    patch: Patch | None = None  # of a small ROI: what is looked for inside the regions found


@dataclass(frozen=True, eq=False)
class _Asked:
    """One ROI, ready to be searched for."""

    roi: SrRoi
    instance: InstanceRow
    legs: tuple[_Leg, ...]
    allowed: NDArray[np.int64] | None  # instance ids that the standard keys and the scope leave; None: every one
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Searched:
    """A leg, what was asked of the index for it, and what that found, best first."""

    leg: _Leg
    request: SearchRequest
    hits: tuple[Scored, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """A hit without its rank."""

    score: float  # what is reported
    region_score: float
    box: Box
    local: bool
    unplaced: bool  # found for a small ROI, in an image without local features
    roi: SrRoi
    details: RegionDetails

    @property
    def order(self) -> tuple[bool, float, float, str, int]:
        """Invariant 6. A region's cosine says nothing beside a place's: unplaced hits come last."""
        uid, anatomy = self.details.instance.sop_instance_uid, self.details.region.anatomy
        return self.unplaced, -self.score, -self.region_score, uid, anatomy


class RegionSearch:
    """Runs region queries on the live generation. `local`: whether a small ROI is ranked by places in regions."""

    def __init__(self, store: Store, encoder: Encoder, *, local: bool = True) -> None:
        self._store = store
        self._encoder = encoder
        self._local = local

    def ask(self, query: RegionQuery) -> Answer:
        """The answer. Raises IdentifierError, RoiError, ImageNotStored, NotReady, ModelFailure, DecodeError."""
        generation = self._ready(query.projection)
        asked = [self._prepare(roi, query, generation) for roi in query.rois]
        found: list[_Found] = []
        warnings: dict[str, None] = {ROI_IGNORED: None} if query.ignored else {}
        for each in asked:
            warnings |= dict.fromkeys(each.warnings)
            searched = [self._searched(each, leg, query, generation) for leg in each.legs]
            found += _distinct([hit for one in searched for hit in self._found(each, one, query, generation)])
            if all(self._unlike(each, one, generation) for one in searched):
                warnings[UNLIKE_ARCHIVE] = None
        return Answer(_ranked(found, query.matches), tuple(warnings), generation)

    def _ready(self, projection: str) -> Generation:
        generation = self._store.generations.live()
        if generation is None:
            raise NotReady(NO_INDEX)
        if projection not in generation.model.projections:
            raise IdentifierError("this model has no such Profile")
        return generation

    def _prepare(self, roi: SrRoi, query: RegionQuery, generation: Generation) -> _Asked:
        """One ROI made ready; of an image that is deleted or replaced meanwhile, as it is afterwards."""
        try:
            return self._prepared(roi, query, generation)
        except (DecodeError, VectorError) as error:
            if isinstance(error, DecodeError) and self._store.catalog.instance(roi.image_uid) is not None:
                raise
            return self._prepared(roi, query, generation)

    def _prepared(self, roi: SrRoi, query: RegionQuery, generation: Generation) -> _Asked:
        instance = self._store.catalog.instance(roi.image_uid)
        regions = [] if instance is None else self._store.regions.of_instance(generation.id, instance.id)
        if not regions and not self._store.regions.any(generation.id):
            raise NotReady(NO_INDEX)
        if instance is None:
            raise ImageNotStored("image not stored: send it first")
        if not instance.rows or not instance.columns:
            raise IdentifierError("the ROI's image has no pixels")
        if (roi.frame or 1) > (instance.frames or 1):
            raise IdentifierError("the ROI's frame is not in the image")
        box = reader.clamped(roi, instance.columns, instance.rows)
        wanted, warnings = _wanted(roi, query)
        stored = _same_region(box, regions, wanted)
        if stored is not None:
            leg = _Leg(wanted or (stored.anatomy,), self._vector(stored, query.projection))
            return _Asked(roi, instance, (leg,), self._allowed(instance, query), warnings)
        embedded = cache(partial(self._embed, instance, roi, box, generation))  # only when needed, and once
        if not wanted:
            around = local.anatomies_around(box, regions)
            wanted = around or likely_anatomies(embedded().anatomy_probability[0], box, regions)
            warnings += (ANATOMY_UNSURE,) if len(wanted) > 1 else ()
        homes = [region for anatomy in wanted if (region := local.home(box, regions, anatomy)) is not None]
        cells = self._patch(generation, instance, box, embedded) if homes and self._local else None
        legs = self._legs(wanted, homes, cells, embedded, query.projection)
        return _Asked(roi, instance, legs, self._allowed(instance, query), warnings)

    def _legs(
        self,
        wanted: tuple[int, ...],
        homes: Sequence[Region],
        cells: Patch | None,
        embedded: Callable[[], RoiEmbedding],
        projection: str,
    ) -> tuple[_Leg, ...]:
        """A small ROI's own region asks for it in each anatomy; in the others, or without a patch, its crop does."""
        if cells is None:
            return (_Leg(wanted, embedded().vectors[projection][0]),)
        small = tuple(_Leg((home.anatomy,), self._vector(home, projection), cells) for home in homes)
        rest = tuple(anatomy for anatomy in wanted if anatomy not in {home.anatomy for home in homes})
        return small if not rest else (*small, _Leg(rest, embedded().vectors[projection][0]))

    def _vector(self, region: Region, projection: str) -> NDArray[np.float32]:
        return self._store.regions.vector(region.id, projection).astype(np.float32)

    def _patch(
        self, generation: Generation, instance: InstanceRow, box: Box, embedded: Callable[[], RoiEmbedding]
    ) -> Patch | None:
        """The ROI's cells of the stored local features, else of fresh ones; None where the model has none."""
        features = self._store.local_maps.get(generation.id, instance.id)
        if features is not None:
            return local.patch_of(features, box)
        fresh = embedded().local
        return None if fresh is None else patch(fresh, box)

    def _embed(self, instance: InstanceRow, roi: SrRoi, box: Box, generation: Generation) -> RoiEmbedding:
        return self._encoder.embed(
            RoiRequest(
                model_folder=self._store.root / Path(generation.model.path),
                file=self._store.files.path(instance.path),
                frame=roi.frame or 1,
                boxes=((box.x1, box.y1, box.x2, box.y2),),
            )
        )

    def _searched(self, asked: _Asked, leg: _Leg, query: RegionQuery, generation: Generation) -> _Searched:
        """The leg's regions as they rank by their vectors. The minimum score is one of the score that is reported."""
        request = SearchRequest(
            generation=generation.id,
            projection=query.projection,
            anatomies=leg.anatomies,
            vector=leg.vector,
            k=query.matches if leg.patch is None else max(query.matches, local.CANDIDATES),
            allowed=asked.allowed,
            excluded_patient=asked.instance.patient_row_id if query.scope is PatientScope.OTHER else None,
            minimum_score=query.minimum_score if leg.patch is None else -1.0,
        )
        return _Searched(leg, request, self._store.vectors.search(request).hits)

    def _found(self, asked: _Asked, searched: _Searched, query: RegionQuery, generation: Generation) -> list[_Found]:
        """What the leg found, in no order."""
        leg = searched.leg
        scores = {hit.region_id: hit.score for hit in searched.hits}
        regions = self._store.regions.details(list(scores))
        if leg.patch is None:
            return [_whole(asked.roi, row, scores[row.region.id], unplaced=False) for row in regions]
        places = local.places(self._store.local_maps, generation.id, leg.patch, regions)
        found = [
            _Found(place.score, scores[row.region.id], place.box, True, False, asked.roi, row)
            if (place := places.get(row.region.id)) is not None
            else _whole(asked.roi, row, scores[row.region.id], unplaced=True)
            for row in regions
        ]
        return [hit for hit in found if hit.score >= query.minimum_score]

    def _allowed(self, instance: InstanceRow, query: RegionQuery) -> NDArray[np.int64] | None:
        conditions = list(query.narrowing.conditions)
        if query.scope is PatientScope.SAME:
            conditions.append(AnyOf("patient_row_id", (instance.patient_row_id,)))
        if not conditions and query.narrowing.residual is None:
            return None
        return query.narrowing.instance_ids(self._store.catalog, tuple(conditions))

    def _unlike(self, asked: _Asked, searched: _Searched, generation: Generation) -> bool:
        """Whether the ROI is farther from its nearest neighbours than regions of the archive are (MODELS.md 2).

        Of a small ROI the region around it is compared: its crop is no region, and as far from all as one can be.
        Thresholds are those of the first projection; of another nothing is known.
        """
        if searched.request.projection != generation.model.projections[0]:
            return False
        limits = [generation.model.thresholds.get(str(anatomy)) for anatomy in searched.leg.anatomies]
        known = [float(limit) for limit in limits if limit is not None]
        if not known:
            return False
        nearest = self._neighbours(asked, searched)
        if len(nearest) < NEIGHBOURS:
            return False  # too small an archive to be unlike
        return 1.0 - sum(hit.score for hit in nearest) / len(nearest) > max(known)

    def _neighbours(self, asked: _Asked, searched: _Searched) -> tuple[Scored, ...]:
        """The nearest of all other patients' regions: found already where the query narrowed nothing."""
        patient, request = asked.instance.patient_row_id, searched.request
        wide = request.allowed is None and request.minimum_score <= -1.0 and request.k >= NEIGHBOURS
        if wide and request.excluded_patient == patient:
            return searched.hits[:NEIGHBOURS]
        everyone = replace(request, k=NEIGHBOURS, allowed=None, excluded_patient=patient, minimum_score=-1.0)
        return self._store.vectors.search(everyone).hits


def _whole(roi: SrRoi, row: RegionDetails, score: float, *, unplaced: bool) -> _Found:
    """A hit that is the region as a whole."""
    return _Found(score, score, Box(*row.region.box), False, unplaced, roi, row)


def _distinct(found: list[_Found]) -> list[_Found]:
    """One ROI's hits, best first, without places of an image that a better hit has: anatomies overlap."""
    kept: list[_Found] = []
    taken: dict[int, list[Box]] = {}
    for hit in sorted(found, key=lambda hit: hit.order):
        places = taken.setdefault(hit.details.instance.id, [])
        if hit.local and any(hit.box.iou(place) >= SAME_PLACE for place in places):
            continue
        kept.append(hit)
        if hit.local:
            places.append(hit.box)
    return kept


def _ranked(found: list[_Found], matches: int) -> tuple[Hit, ...]:
    best = sorted(found, key=lambda hit: hit.order)[:matches]
    return tuple(
        Hit(rank, hit.score, hit.roi, hit.details, hit.box, hit.local) for rank, hit in enumerate(best, start=1)
    )


def likely_anatomies(probability: NDArray[np.float32], box: Box, regions: list[Region]) -> tuple[int, ...]:
    """Which anatomies a drawn ROI may belong to, likeliest first; one when it is clear, else two or three.

    probability: (regions of the vocabulary,) from the encoder. The overlap with the image's own regions weighs as
    much: an ROI drawn around a heart is a heart although its crop may look like a mediastinum. Equal probabilities,
    of an encoder that names no anatomy, say nothing: then the overlap alone decides, and without any it may be all.
    """
    overlap = np.zeros(len(VOCABULARY), dtype=np.float64)
    for region in regions:
        overlap[region.anatomy] = box.iou(Box(*region.box))
    silent = np.ptp(probability) == 0.0
    if silent and not overlap.any():
        return tuple(range(len(VOCABULARY)))
    belief = overlap if silent else np.sqrt(probability.astype(np.float64) + 1e-6) * (0.05 + overlap)
    order = np.argsort(-belief, kind="stable")
    limit = UNSURE * belief[order[0]]
    return tuple(int(anatomy) for anatomy in order[:MOST_ANATOMIES] if belief[anatomy] >= limit)


def _wanted(roi: SrRoi, query: RegionQuery) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The anatomies named by the filter, else by the ROI's Finding Site; empty when neither says."""
    if query.anatomies:
        return tuple(anatomy.index for anatomy in query.anatomies), ()
    if roi.sites:
        return tuple(dict.fromkeys(anatomy.index for anatomy in roi.sites)), ()
    return (), (SITE_IGNORED,) if roi.unknown_site else ()


def _same_region(box: Box, regions: list[Region], wanted: tuple[int, ...]) -> Region | None:
    near = [region for region in regions if not wanted or region.anatomy in wanted]
    return next((region for region in near if box.iou(Box(*region.box)) >= SAME_REGION), None)
