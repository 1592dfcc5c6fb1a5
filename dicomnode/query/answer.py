"""An Answer in, C-FIND response identifiers out: the requested keys of each hit's image, and the private block."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pydicom.dataset import Dataset

from dicomnode import private
from dicomnode.attributes import plain
from dicomnode.query import identifiers
from dicomnode.query.identifiers import Match
from dicomnode.query.search import RANKED_LOCALLY, WARNINGS, Answer, Hit
from dicomnode.sr import writer
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.catalog import Catalog
from storage.records import InstanceRow


@dataclass(frozen=True)
class Reported:
    """What is told of one hit, found just now or kept."""

    instance: InstanceRow
    rank: int
    score: float  # cosine
    anatomy: int
    box: Box  # pixels of the stored image
    tracking: str  # identifier of the ROI it answers
    warning: str
    generation: str
    tracking_uid: str = ""  # of the group in a result SR; empty: there is none


READ_AT_ONCE = 100  # hits whose images are looked up together
MAXIMUM_WARNING = 64  # Query Warning is LO: characters of one value, PS3.5 6.2


def reported(answer: Answer) -> Iterator[Reported]:
    """Each hit of an answer, best first."""
    for hit in answer.hits:
        yield Reported(
            instance=hit.details.instance,
            rank=hit.rank,
            score=hit.score,
            anatomy=hit.details.region.anatomy,
            box=hit.box,
            tracking=hit.roi.tracking_identifier,
            warning=warning_of(answer, hit),
            generation=answer.generation.model.id,
        )


def matches_of(hits: Iterable[Reported], asked: Dataset, catalog: Catalog, retrieve_ae: str) -> Iterator[Match]:
    """One Pending identifier for each hit, in order: IMAGE level, rank, score, matched ROI, warnings."""
    images = identifiers.of_instances(catalog, asked, retrieve_ae)
    for hit, image in _with_images(hits, images):
        block = private.response(
            score=hit.score,
            rank=hit.rank,
            generation=hit.generation,
            matched_roi=_matched(hit),
            warning=hit.warning,
        )
        yield Match(plain.item(*image.elements, *block), image.preferred)


def _with_images(
    hits: Iterable[Reported], images: Callable[[Sequence[str]], list[Match]]
) -> Iterator[tuple[Reported, Match]]:
    """Each hit with the match of its image: the first at once, the rest many at a time."""
    rest, size = iter(hits), 1
    while some := list(islice(rest, size)):
        yield from zip(some, images([hit.instance.sop_instance_uid for hit in some]), strict=True)
        size = READ_AT_ONCE


def warning_of(answer: Answer, hit: Hit) -> str:
    """What to know about the answer and this hit, the weightiest first; what does not fit is left out."""
    said = {*answer.warnings, *([RANKED_LOCALLY] if hit.local else [])}
    text = ""
    for code in (code for code in WARNINGS if code in said):
        longer = f"{text}; {code}" if text else code
        text = longer if len(longer) <= MAXIMUM_WARNING else text
    return text


def _matched(hit: Reported) -> plain.Item:
    return writer.matched_roi(
        sop_class_uid=hit.instance.sop_class_uid,
        sop_instance_uid=hit.instance.sop_instance_uid,
        frame=None,
        box=hit.box,
        anatomy=VOCABULARY[hit.anatomy],
        tracking=hit.tracking,
        tracking_uid=hit.tracking_uid,
    )
