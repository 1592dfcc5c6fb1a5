"""A region query: an identifier with the private block in, a RegionQuery that the search can run out (DICOM.md 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode import private
from dicomnode.errors import IdentifierError, RoiError
from dicomnode.private import PatientScope, Profile
from dicomnode.query import matching
from dicomnode.sr import reader
from dicomnode.sr.reader import SrRoi
from encoder.anatomy import Anatomy

PROJECTIONS = {Profile.ANATOMY: "anatomy", Profile.FINDING: "finding"}


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
    ignored: int = 0  # regions that are not drawn on an image, but in space or as segments


def parse(
    identifier: Dataset, load_sr: Callable[[str], Dataset], default_matches: int, maximum_matches: int
) -> RegionQuery:
    """The query of an identifier that `private.carries_query`. Raises IdentifierError or RoiError.

    `load_sr` returns the stored SR of a SOP Instance UID (xx13) or raises ImageNotStored.
    """
    if str(identifier.get("QueryRetrieveLevel", "")).strip() != "IMAGE":
        raise IdentifierError("a region query is asked at level IMAGE")
    keys = private.read_request(identifier)
    content = (load_sr(keys.sr_instance_uid),) if keys.sr_instance_uid else keys.rois
    return RegionQuery(
        rois=_rois(content),
        ignored=sum(not isinstance(each, SrRoi) for item in content for each in reader.regions(item)),
        anatomies=keys.anatomy,
        scope=keys.scope,
        matches=min(keys.maximum_matches or default_matches, maximum_matches),
        minimum_score=-1.0 if keys.minimum_score is None else keys.minimum_score,
        projection=PROJECTIONS[keys.profile],
        narrowing=matching.narrowing(identifier),
    )


def _rois(content: Sequence[Dataset]) -> tuple[SrRoi, ...]:
    found = tuple(roi for item in content for roi in reader.rois(item))
    if len(found) > reader.MAXIMUM_REGIONS:
        raise RoiError(f"more than {reader.MAXIMUM_REGIONS} regions in one query")
    return found
