"""A region query: an identifier with the private block, or a stored SR, in; a RegionQuery that can be run out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode import private
from dicomnode.errors import IdentifierError, ImageNotStored, RoiError
from dicomnode.private import PatientScope, Profile, QueryKeys
from dicomnode.query import matching
from dicomnode.sr import reader
from dicomnode.sr.reader import Region, SrRoi
from dicomnode.sr.regions import joined_axes
from encoder.anatomy import Anatomy

PROJECTIONS = {Profile.ANATOMY: "anatomy", Profile.FINDING: "finding"}
Place = Callable[[Region, Dataset], SrRoi]


@dataclass(frozen=True)
class RegionQuery:
    """Which stored regions look like these ROIs?"""

    rois: tuple[SrRoi, ...]
    anatomies: tuple[Anatomy, ...]  # asked for by filter; empty: each ROI decides
    scope: PatientScope
    matches: int  # hits in all, at most
    minimum_score: float  # cosine
    projection: str
    narrowing: matching.Narrowing  # the standard keys, applied before ranking
    named: str | None = None  # SOP Instance UID of the SR that the question names, where the ROIs are not in it
    ignored: int = 0  # regions in space or as segments that lie on no stored image


def drawn(region: Region, _content: Dataset) -> SrRoi:
    """A region as it was drawn on an image; RoiError for one that needs another object to be placed on one."""
    if isinstance(region, SrRoi):
        return region
    raise RoiError("SR has no region drawn on an image")


def parse(
    identifier: Dataset,
    load_sr: Callable[[str], Dataset],
    default_matches: int,
    maximum_matches: int,
    place: Place = drawn,
) -> RegionQuery:
    """The query of an identifier that `private.carries_query`. Raises IdentifierError, RoiError or ImageNotStored.

    `load_sr` returns the stored SR of a SOP Instance UID (xx13) or raises ImageNotStored; `place` puts a region of
    some content on a stored image.
    """
    keys = request_of(identifier)
    content = (load_sr(keys.sr_instance_uid),) if keys.sr_instance_uid else keys.rois
    rois, ignored = _rois(content, place)
    return RegionQuery(
        rois=rois,
        named=keys.sr_instance_uid,
        ignored=ignored,
        anatomies=keys.anatomy,
        scope=keys.scope,
        matches=min(keys.maximum_matches or default_matches, maximum_matches),
        minimum_score=-1.0 if keys.minimum_score is None else keys.minimum_score,
        projection=PROJECTIONS[keys.profile],
        narrowing=matching.narrowing(identifier),
    )


def request_of(identifier: Dataset) -> QueryKeys:
    """The private keys of a region query. Raises IdentifierError or RoiError."""
    if str(identifier.get("QueryRetrieveLevel", "")).strip() != "IMAGE":
        raise IdentifierError("a region query is asked at level IMAGE")
    return private.read_request(identifier)


def of_sr(document: Dataset, scope: PatientScope, matches: int, place: Place) -> RegionQuery:
    """The query that an SR asks by being stored: every ROI, nothing narrowed. Raises RoiError or ImageNotStored."""
    rois, ignored = _rois([document], place)
    return RegionQuery(
        rois=rois,
        ignored=ignored,
        anatomies=(),
        scope=scope,
        matches=matches,
        minimum_score=-1.0,
        projection=PROJECTIONS[Profile.ANATOMY],
        narrowing=matching.Narrowing((), None),
    )


def _rois(content: Sequence[Dataset], place: Place) -> tuple[tuple[SrRoi, ...], int]:
    """Every region on its image, and how many lie on none; the first reason why not when none does."""
    found: list[SrRoi] = []
    wrong: list[RoiError] = []
    for item in content:
        placed = []
        for each in reader.regions(item):
            try:
                placed.append(place(each, item))
            except ImageNotStored:
                raise
            except RoiError as error:
                wrong.append(error)
        found += joined_axes(placed)
    if not found and wrong:
        raise wrong[0]
    if len(found) > reader.MAXIMUM_REGIONS:
        raise RoiError(f"more than {reader.MAXIMUM_REGIONS} regions in one query")
    return tuple(found), len(wrong)
