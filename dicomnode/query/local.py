"""A small ROI and regions like the one it lies in go in, the place in each of them that looks like the ROI comes out.

The vector of an ROI much smaller than its region (a nodule in a lung zone) means little: it is the crop of something
that is no region. So the region around it asks for films alike, and the ROI's cells of the local map (`encoder.local`)
for the place in them. Both scores are cosines.
"""

from collections import defaultdict
from collections.abc import Sequence

from encoder.boxes import Box
from encoder.local import LocalMap, Match, Patch, match, patch
from storage.local_maps import LocalMaps
from storage.records import LocalFeatures, Region, RegionDetails

SMALL = 1 / 6  # of its region's area: an ROI below is matched locally
CONTAINED = 1 / 3  # share of an ROI in a region, from which the ROI lies in it: it may lie across two
CANDIDATES = 200  # regions matched locally for an anatomy, or as many as hits are asked for
LIKELY = 0.5  # a region this much as likely as the likeliest is searched too
MOST_ANATOMIES = 3  # searched for one ROI when it is unsure
DECIMALS = 6  # of a score, as of every other
HUNDREDTHS = 2  # decimals of a place, stored pixels


def home(box: Box, regions: Sequence[Region], anatomy: int) -> Region | None:
    """The image's own region of that anatomy, when the ROI lies in it and is small there."""
    own = (region for region in regions if region.anatomy == anatomy)
    return next((region for region in own if _inside(box, region) >= CONTAINED and _is_small(box, region)), None)


def anatomies_around(box: Box, regions: Sequence[Region]) -> tuple[int, ...]:
    """Which anatomies a small ROI belongs to, likeliest first; none when it may be a region itself, or lies in none.

    The smallest region says most about where a place is: a nodule in a lung zone lies in the lung, too.
    """
    if any(box.iou(Box(*region.box)) >= SMALL for region in regions):
        return ()
    around = [region for region in regions if home(box, [region], region.anatomy) is not None]
    likely = {region.anatomy: _inside(box, region) / Box(*region.box).area for region in around}
    order = sorted(likely, key=lambda anatomy: (-likely[anatomy], anatomy))[:MOST_ANATOMIES]
    return tuple(anatomy for anatomy in order if likely[anatomy] >= LIKELY * likely[order[0]])


def patch_of(features: LocalFeatures, box: Box) -> Patch:
    """The cells under an ROI of the image that the stored features are of."""
    return patch(_map(features), box)


def places(maps: LocalMaps, generation_id: int, asked: Patch, regions: Sequence[RegionDetails]) -> dict[int, Match]:
    """Region id -> the place in that region most like the patch; without those whose image has no local features.

    Memory bound: the maps of one read, whatever the number of regions.
    """
    on_instance: dict[int, list[RegionDetails]] = defaultdict(list)
    for each in regions:
        on_instance[each.instance.id].append(each)
    found: dict[int, Match] = {}
    for instance_id, features in maps.many(generation_id, on_instance):
        for each in on_instance[instance_id]:
            place = _place(asked, _map(features), each)
            if place is not None:
                found[each.region.id] = place
    return found


def _place(asked: Patch, local: LocalMap, where: RegionDetails) -> Match | None:
    """None when the map says nothing about that region."""
    best = match(asked, local, Box(*where.region.box))
    if best is None:
        return None
    columns, rows = where.instance.columns or best.box.x2, where.instance.rows or best.box.y2
    box = Box(*(round(edge, HUNDREDTHS) for edge in best.box.clipped(columns, rows)))
    return Match(round(best.score, DECIMALS), box) if box.area > 0 else None


def _map(features: LocalFeatures) -> LocalMap:
    return LocalMap(features.cells, Box(*features.area))


def _inside(box: Box, region: Region) -> float:
    """Share of the ROI that lies in the region, 0..1."""
    return box.intersection(Box(*region.box)).area / box.area


def _is_small(box: Box, region: Region) -> bool:
    return box.area < SMALL * Box(*region.box).area
