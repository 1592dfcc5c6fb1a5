"""Region search: a RegionQuery in, an Answer out: encode each ROI, choose its anatomies, narrow, rank.

The order is DESIGN.md's "Ask": image from the store, crop, encode (or the stored vector when the ROI is a stored
region), narrow by anatomy, keys and patient, plan and search, merge.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import IdentifierError, ImageNotStored, NotReady
from dicomnode.private import PatientScope
from dicomnode.query.region import RegionQuery
from dicomnode.sr import reader
from dicomnode.sr.reader import SrRoi
from dicomnode.workers.embedding import Encoder, RoiEmbedding, RoiRequest
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.records import AnyOf, Generation, InstanceRow, Region, RegionDetails, Scored, SearchRequest
from storage.store import Store

log = logging.getLogger(__name__)

SAME_REGION = 0.99  # IoU from which a drawn ROI is the stored region itself, and its vector is reused
UNSURE = 0.5  # an anatomy this much as likely as the likeliest is searched too
MOST_ANATOMIES = 3  # searched for one ROI when it is unsure
NEIGHBOURS = 5  # of the unlike-archive distance, MODELS.md section 2
UNLIKE_ARCHIVE = "UNLIKE ARCHIVE"
ANATOMY_UNSURE = "ANATOMY UNSURE"
SITE_IGNORED = "FINDING SITE UNKNOWN"
ROI_IGNORED = "ROI IGNORED"  # one that is not drawn on an image


@dataclass(frozen=True)
class Hit:
    """One ranked region. `roi`: which of the query's ROIs it answers."""

    rank: int
    score: float
    roi: SrRoi
    details: RegionDetails


@dataclass(frozen=True)
class Answer:
    """Hits, best first, and what the asker should know about them."""

    hits: tuple[Hit, ...]
    warnings: tuple[str, ...]
    generation: Generation


@dataclass(frozen=True, eq=False)
class _Asked:
    """One ROI, ready to be searched for."""

    roi: SrRoi
    instance: InstanceRow
    vector: NDArray[np.float32]  # (dim,)
    anatomies: tuple[int, ...]
    warnings: tuple[str, ...]


class RegionSearch:
    """Runs region queries on the live generation."""

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self._store = store
        self._encoder = encoder

    def ask(self, query: RegionQuery) -> Answer:
        """The answer. Raises IdentifierError, RoiError, ImageNotStored, NotReady, ModelFailure, DecodeError."""
        generation = self._ready(query.projection)
        asked = [self._prepare(roi, query, generation) for roi in query.rois]
        found: list[tuple[Scored, _Asked]] = []
        warnings: dict[str, None] = {ROI_IGNORED: None} if query.ignored else {}
        for each in asked:
            scored = self._search(each, query, generation)
            found += [(hit, each) for hit in scored]
            warnings |= dict.fromkeys(each.warnings)
            if self._unlike(each, generation, query.projection):
                warnings[UNLIKE_ARCHIVE] = None
        return Answer(self._ranked(found, query.matches), tuple(warnings), generation)

    def _ready(self, projection: str) -> Generation:
        generation = self._store.generations.live()
        if generation is None or not self._store.regions.first(generation.id, 1):
            raise NotReady("no index yet: no region is indexed")
        if projection not in generation.model.projections:
            raise IdentifierError("this model has no such Profile")
        return generation

    def _prepare(self, roi: SrRoi, query: RegionQuery, generation: Generation) -> _Asked:
        instance = self._store.catalog.instance(roi.image_uid)
        if instance is None:
            raise ImageNotStored("image not stored: send it first")
        if not instance.rows or not instance.columns:
            raise IdentifierError("the ROI's image has no pixels")
        box = reader.clamped(roi, instance.columns, instance.rows)
        regions = self._store.regions.of_instance(generation.id, instance.id)
        wanted, warnings = _wanted(roi, query)
        stored = _same_region(box, regions, wanted)
        if stored is not None:
            vector = self._store.regions.vector(stored.id, query.projection).astype(np.float32)
            return _Asked(roi, instance, vector, wanted or (stored.anatomy,), warnings)
        embedding = self._embed(instance, roi, box, generation)
        if not wanted:
            wanted = likely_anatomies(embedding.anatomy_probability[0], box, regions)
            warnings += (ANATOMY_UNSURE,) if len(wanted) > 1 else ()
        return _Asked(roi, instance, embedding.vectors[query.projection][0], wanted, warnings)

    def _embed(self, instance: InstanceRow, roi: SrRoi, box: Box, generation: Generation) -> RoiEmbedding:
        frame = roi.frame or 1
        if frame > (instance.frames or 1):
            raise IdentifierError("the ROI's frame is not in the image")
        return self._encoder.embed(
            RoiRequest(
                model_folder=self._store.root / Path(generation.model.path),
                file=self._store.files.path(instance.path),
                frame=frame,
                boxes=((box.x1, box.y1, box.x2, box.y2),),
            )
        )

    def _search(self, asked: _Asked, query: RegionQuery, generation: Generation) -> tuple[Scored, ...]:
        request = SearchRequest(
            generation=generation.id,
            projection=query.projection,
            anatomies=asked.anatomies,
            vector=asked.vector,
            k=query.matches,
            allowed=self._allowed(asked, query),
            excluded_patient=asked.instance.patient_row_id if query.scope is PatientScope.OTHER else None,
            minimum_score=query.minimum_score,
        )
        return self._store.vectors.search(request).hits

    def _allowed(self, asked: _Asked, query: RegionQuery) -> NDArray[np.int64] | None:
        """Instance ids that the standard keys and the scope leave; None when they leave every one."""
        conditions = list(query.narrowing.conditions)
        if query.scope is PatientScope.SAME:
            conditions.append(AnyOf("patient_row_id", (asked.instance.patient_row_id,)))
        if not conditions and query.narrowing.residual is None:
            return None
        return query.narrowing.instance_ids(self._store.catalog, tuple(conditions))

    def _unlike(self, asked: _Asked, generation: Generation, projection: str) -> bool:
        """Whether the ROI is farther from its nearest neighbours than regions of the archive are (MODELS.md 2)."""
        limits = [generation.model.thresholds.get(str(anatomy)) for anatomy in asked.anatomies]
        known = [float(limit) for limit in limits if limit is not None]
        if not known:
            return False
        nearest = self._store.vectors.search(
            SearchRequest(
                generation=generation.id,
                projection=projection,
                anatomies=asked.anatomies,
                vector=asked.vector,
                k=NEIGHBOURS,
                excluded_patient=asked.instance.patient_row_id,
            )
        ).hits
        if len(nearest) < NEIGHBOURS:
            return False  # too small an archive to be unlike
        return 1.0 - sum(hit.score for hit in nearest) / len(nearest) > max(known)

    def _ranked(self, found: list[tuple[Scored, _Asked]], matches: int) -> tuple[Hit, ...]:
        details = {row.region.id: row for row in self._store.regions.details([hit.region_id for hit, _ in found])}
        present = [(hit, asked, details[hit.region_id]) for hit, asked in found if hit.region_id in details]
        present.sort(key=lambda item: (-item[0].score, item[2].instance.sop_instance_uid, item[0].anatomy))
        return tuple(
            Hit(rank, hit.score, asked.roi, row) for rank, (hit, asked, row) in enumerate(present[:matches], start=1)
        )


def likely_anatomies(probability: NDArray[np.float32], box: Box, regions: list[Region]) -> tuple[int, ...]:
    """Which anatomies a drawn ROI may belong to, likeliest first; one when it is clear, else two or three.

    probability: (regions of the vocabulary,) from the encoder. The overlap with the image's own regions weighs as
    much: an ROI drawn around a heart is a heart although its crop may look like a mediastinum.
    """
    overlap = np.zeros(len(VOCABULARY), dtype=np.float64)
    for region in regions:
        overlap[region.anatomy] = box.iou(Box(*region.box))
    belief = np.sqrt(probability.astype(np.float64) + 1e-6) * (0.05 + overlap)
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
