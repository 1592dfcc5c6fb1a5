"""SR reader: an SR, or a Query ROI item holding SR content, in; its regions out, whatever the template.

Viewers write what they like (DICOM.md 2): SCOORD under NUM by INFERRED FROM, Finding Site by CONTAINS, no template
ids. So nothing is looked up by its place: every SCOORD, SCOORD3D and referenced segmentation anywhere in the tree is
a region, and what is said about it is looked for from the region upwards, the nearest statement first.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from pydicom.dataset import Dataset

from dicomnode import codes
from dicomnode.errors import RoiError
from dicomnode.quiet import quiet_pydicom
from dicomnode.sr.regions import (
    GraphicType,
    Region,
    SegmentRoi,
    SpatialGraphicType,
    SpatialRoi,
    SrRoi,
    box_of,
    clamped,
    joined_axes,
)
from dicomnode.sr.tree import Node, at, image_references, walk
from dicomnode.uids import is_uid
from encoder.anatomy import Anatomy

__all__ = ["ASKING_CLASSES", "Region", "SegmentRoi", "SpatialRoi", "SrRoi", "clamped", "regions", "rois"]

# PS3.4 B.5: Basic Text, Enhanced, Comprehensive, Comprehensive 3D and Extensible SR Storage.
ASKING_CLASSES: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{last}" for last in (11, 22, 33, 34, 35))
MAXIMUM_REGIONS: Final = 64
MAXIMUM_STATEMENTS: Final = 64  # Finding Sites of one region, and modifiers beside them: each is held against each

Statements = Mapping[tuple[str, str], list[Dataset]]  # content items by the key of their concept name

# PS3.4 B.5: Segmentation Storage, Label Map Segmentation Storage.
_SEGMENTATION_CLASSES: Final = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
_SEGMENT_CONCEPTS: Final = frozenset({codes.REFERENCED_SEGMENTATION_FRAME.key, codes.REFERENCED_SEGMENT.key})


def regions(content: Dataset) -> tuple[Region, ...]:
    """Every region in document order. RoiError, fit for an Error Comment, when there is none or one is malformed."""
    with quiet_pydicom():
        return _read(content)


def rois(content: Dataset) -> tuple[SrRoi, ...]:
    """The regions drawn on images, axes of one measurement joined. RoiError when there is none."""
    drawn = joined_axes([region for region in regions(content) if isinstance(region, SrRoi)])
    if not drawn:
        raise RoiError("SR has no region drawn on an image")
    return tuple(drawn)


def _read(content: Dataset) -> tuple[Region, ...]:
    found: list[Region] = []
    tracked: set[Region] = set()  # what stands in its group and below each number measured of it is one region
    homeless = False
    for node in walk(content):
        here = list(_regions_of(node, content))
        homeless = homeless or (node.value_type == "SCOORD" and not here)
        found.extend(region for region in here if region not in tracked)
        tracked.update(region for region in here if region.tracking_uid)
        if len(found) > MAXIMUM_REGIONS:
            raise RoiError(f"SR has more than {MAXIMUM_REGIONS} regions")
    if not found:
        raise RoiError("region names no image" if homeless else "SR has no region")
    return tuple(found)


def _regions_of(node: Node, root: Dataset) -> Iterator[Region]:
    reader = _READERS.get(node.value_type)
    if reader is not None:
        yield from reader(node, root)


def _drawn(node: Node, root: Dataset) -> Iterator[SrRoi]:
    """SCOORD (PS3.3 C.18.6): one region for each image it is selected from; none when it names no image."""
    references = _images(node, root)
    if not references:
        return
    kind = _graphic_type(node.item, GraphicType)
    points = tuple(_points(node.item, 2))
    box = box_of(kind, points)
    said = _said(node)
    for reference in references:
        frames = _numbers(reference, "ReferencedFrameNumber")
        yield SrRoi(
            image_uid=_uid(reference, "ReferencedSOPInstanceUID"),
            frame=frames[0] if frames else None,
            graphic_type=kind,
            points=points,
            box=box,
            **said,
        )


def _spatial(node: Node, _root: Dataset) -> Iterator[SpatialRoi]:
    """SCOORD3D (PS3.3 C.18.9)."""
    yield SpatialRoi(
        frame_of_reference_uid=_uid(node.item, "ReferencedFrameOfReferenceUID"),
        graphic_type=_graphic_type(node.item, SpatialGraphicType),
        points=tuple(_points(node.item, 3)),
        **_said(node),
    )


def _segment(node: Node, _root: Dataset) -> Iterator[SegmentRoi]:
    """IMAGE that is a segmentation's frame or segment (TID 1410, TID 1411); one in an image library names neither."""
    concept = node.concept
    for reference in image_references(node.item):
        segments, frames = (_numbers(reference, word) for word in ("ReferencedSegmentNumber", "ReferencedFrameNumber"))
        wanted = segments or frames or (concept is not None and concept.key in _SEGMENT_CONCEPTS)
        if wanted and _is_segmentation(reference):
            yield SegmentRoi(
                segmentation_uid=_uid(reference, "ReferencedSOPInstanceUID"),
                frames=frames,
                segments=segments,
                image_uid=_segmented_image(node),
                **_said(node),
            )


_READERS: Final[dict[str, Callable[[Node, Dataset], Iterator[Region]]]] = {
    "SCOORD": _drawn,
    "SCOORD3D": _spatial,
    "IMAGE": _segment,
}


def _images(node: Node, root: Dataset) -> list[Dataset]:
    """Referenced SOP items of the images a SCOORD lies on: its own, by reference, else the only one beside it."""
    own = [reference for child in node.children for reference in _image_references(_resolved(child, root))]
    if own or node.parent is None:
        return own
    beside = [reference for reference in node.parent.references if not _is_segmentation(reference)]
    return beside if len(beside) == 1 else []


def _resolved(item: Dataset, root: Dataset) -> Dataset:
    """The item, or the one it stands for when the relationship is by reference (PS3.3 C.17.3.2.5)."""
    path = _numbers(item, "ReferencedContentItemIdentifier")
    return (at(root, list(path)) if path else None) or item


def _image_references(item: Dataset) -> list[Dataset]:
    return [entry for entry in image_references(item) if not _is_segmentation(entry)]


def _is_segmentation(reference: Dataset) -> bool:
    return str(reference.get("ReferencedSOPClassUID")) in _SEGMENTATION_CLASSES


def _segmented_image(node: Node) -> str:
    """SOP Instance UID of the image beside a segmentation reference that it was drawn on; empty when unsaid."""
    beside = node.parent.by_concept if node.parent else {}
    for child in beside.get(codes.SOURCE_IMAGE_FOR_SEGMENTATION.key, ()):
        for reference in _image_references(child):
            return _uid(reference, "ReferencedSOPInstanceUID")
    return ""


def _graphic_type(item: Dataset, kinds: Any) -> Any:
    try:
        return kinds(str(item.get("GraphicType") or "").strip().upper())
    except ValueError as unknown:
        raise RoiError("graphic type is not supported") from unknown


def _points(item: Dataset, dimensions: int) -> Iterator[tuple[Any, ...]]:
    """Graphic Data as points. RoiError when empty, not whole points, or not finite."""
    try:
        values = [float(value) for value in _several(item.get("GraphicData"))]
    except (TypeError, ValueError) as wrong:
        raise RoiError("region has malformed coordinates") from wrong
    if not values:
        raise RoiError("region has no coordinates")
    if len(values) % dimensions or not all(map(math.isfinite, values)):
        raise RoiError("region has malformed coordinates")
    yield from zip(*(values[axis::dimensions] for axis in range(dimensions)), strict=True)


def _said(node: Node) -> dict[str, Any]:
    """The fields of `Described`: for each, the nearest statement from the region upwards."""
    levels = [level.by_concept for level in node.upwards()]
    sites, unknown = _nearest(levels, _sites) or ((), ())
    return {
        "sites": sites,
        "unknown_sites": unknown,
        "finding": _nearest(levels, _finding),
        "tracking_identifier": _nearest(levels, _text(codes.TRACKING_IDENTIFIER, "TextValue")) or "",
        "tracking_uid": _nearest(levels, _text(codes.TRACKING_UID, "UID")) or "",
        "label": _nearest(levels, _text(codes.COMMENT, "TextValue")) or "",
    }


def _nearest(levels: list[Statements], find: Callable[[Statements], Any]) -> Any:
    return next((answer for items in levels if (answer := find(items))), None)


def _sites(items: Statements) -> tuple[tuple[Anatomy, ...], tuple[str, ...]] | None:
    """(read, unknown) Finding Sites among sibling items; None when there is none. Laterality may be a sibling too."""
    found = items.get(codes.FINDING_SITE.key, [])[:MAXIMUM_STATEMENTS]
    if not found:
        return None
    beside = [item for concept in codes.SITE_MODIFIERS for item in items.get(concept.key, [])[:MAXIMUM_STATEMENTS]]
    read = [codes.read_site(item, beside=beside) for item in found]
    unknown = (
        codes.first_code(item, "ConceptCodeSequence") for item, site in zip(found, read, strict=True) if not site
    )
    return codes.in_order(entry for site in read for entry in site), tuple(
        f"{code.value} {code.scheme}" for code in unknown if code
    )


def _finding(items: Statements) -> codes.Code | None:
    return next((codes.first_code(item, "ConceptCodeSequence") for item in items.get(codes.FINDING.key, ())), None)


def _text(concept: codes.Code, keyword: str) -> Callable[[Statements], str]:
    def found(items: Statements) -> str:
        return next((str(item.get(keyword) or "").strip() for item in items.get(concept.key, ())), "")

    return found


def _uid(item: Dataset, keyword: str) -> str:
    uid = str(item.get(keyword) or "").strip(" \0")
    if not is_uid(uid):
        raise RoiError("region refers to something without a valid UID")
    return uid


def _numbers(item: Dataset, keyword: str) -> tuple[int, ...]:
    """Positive counts of a single or multi-valued element."""
    return tuple(int(value) for value in _several(item.get(keyword)) if isinstance(value, int) and value > 0)


def _several(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
