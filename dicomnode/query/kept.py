"""The answer to a stored SR in, plain values that SQL keeps out; and back, as what C-FIND or HTTP tells.

Kept are UIDs, numbers and vocabulary entries; names, dates and sex are read from the catalogue when it is told.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomnode.private import PatientScope
from dicomnode.query.answer import Reported, warning_of
from dicomnode.query.region import RegionQuery
from dicomnode.query.search import Answer, Hit
from dicomnode.sr.regions import SrRoi
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.catalog import Catalog

FORMAT: Final = 1


@dataclass(frozen=True)
class KeptRoi:
    """One ROI of the SR, as it was searched for."""

    image_uid: str
    frame: int | None  # counted from 1; None: the image as a whole
    box: Box  # as drawn, not cut to the image
    tracking: str


@dataclass(frozen=True)
class KeptHit:
    """One hit. `tracking_uid` names it in the result SR and says nothing by itself."""

    rank: int
    score: float  # cosine
    roi: KeptRoi
    anatomy: int
    box: Box
    local: bool
    warning: str
    sop_instance_uid: str
    tracking_uid: str


@dataclass(frozen=True)
class KeptAnswer:
    """Hits, best first. `matches`: how many were asked for."""

    rois: tuple[KeptRoi, ...]
    hits: tuple[KeptHit, ...]
    warnings: tuple[str, ...]
    model: str
    matches: int
    scope: PatientScope


def written(query: RegionQuery, answer: Answer, make_uid: Callable[[], str]) -> dict[str, Any]:
    """The answer as JSON values. `make_uid` makes the opaque name of each hit."""
    order = {id(roi): number for number, roi in enumerate(query.rois)}
    return {
        "format": FORMAT,
        "model": answer.generation.model.id,
        "generation": answer.generation.id,
        "matches": query.matches,
        "scope": str(query.scope),
        "warnings": list(answer.warnings),
        "rois": [_roi(roi) for roi in query.rois],
        "hits": [_hit(answer, hit, order[id(hit.roi)], make_uid()) for hit in answer.hits],
    }


def read(values: Mapping[str, Any]) -> KeptAnswer:
    """What `written` made."""
    rois = tuple(
        KeptRoi(each["image_uid"], each["frame"], Box(*each["box"]), each["tracking"]) for each in values["rois"]
    )
    return KeptAnswer(
        rois=rois,
        hits=tuple(_read_hit(each, rois) for each in values["hits"]),
        warnings=tuple(values["warnings"]),
        model=values["model"],
        matches=values["matches"],
        scope=PatientScope(values["scope"]),
    )


def reported(answer: KeptAnswer, catalog: Catalog, most: int) -> Iterator[Reported]:
    """Each of the first `most` hits whose image is still stored, under the rank it had."""
    for hit in answer.hits[:most]:
        instance = catalog.instance(hit.sop_instance_uid)
        if instance is not None:
            yield Reported(
                instance=instance,
                rank=hit.rank,
                score=hit.score,
                anatomy=hit.anatomy,
                box=hit.box,
                tracking=hit.roi.tracking,
                warning=hit.warning,
                generation=answer.model,
                tracking_uid=hit.tracking_uid,
            )


def answers(answer: KeptAnswer, query: RegionQuery) -> bool:
    """Whether a query for the same SR wants no other hits than are kept."""
    plain = not query.anatomies and query.minimum_score <= -1.0 and query.projection == "anatomy"
    narrowed = bool(query.narrowing.conditions) or query.narrowing.residual is not None
    enough = query.matches <= answer.matches or len(answer.hits) < answer.matches
    return plain and not narrowed and enough and query.scope is answer.scope


def _roi(roi: SrRoi) -> dict[str, Any]:
    return {
        "image_uid": roi.image_uid,
        "frame": roi.frame,
        "box": list(roi.box),
        "tracking": roi.tracking_identifier,
    }


def _hit(answer: Answer, hit: Hit, roi: int, tracking_uid: str) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": hit.score,
        "roi": roi,
        "anatomy": VOCABULARY[hit.details.region.anatomy].name,
        "box": list(hit.box),
        "local": hit.local,
        "warning": warning_of(answer, hit),
        "sop_instance_uid": hit.details.instance.sop_instance_uid,
        "tracking_uid": tracking_uid,
    }


def _read_hit(values: Mapping[str, Any], rois: tuple[KeptRoi, ...]) -> KeptHit:
    return KeptHit(
        rank=values["rank"],
        score=values["score"],
        roi=rois[values["roi"]],
        anatomy=VOCABULARY.named(values["anatomy"]).index,
        box=Box(*values["box"]),
        local=values["local"],
        warning=values["warning"],
        sop_instance_uid=values["sop_instance_uid"],
        tracking_uid=values["tracking_uid"],
    )
