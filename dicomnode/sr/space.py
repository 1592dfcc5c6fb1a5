"""Regions that need another object: points and an image's plane in, or a segmentation in; a drawn region out."""

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from dicomnode.codes import items_of
from dicomnode.errors import RoiError
from dicomnode.sr.regions import (
    Described,
    GraphicType,
    Point,
    SegmentRoi,
    SpatialGraphicType,
    SpatialRoi,
    SrRoi,
    box_of,
)
from encoder.boxes import Box

Floats = npt.NDArray[np.float64]

_FLAT: Final = {
    SpatialGraphicType.POINT: GraphicType.POINT,
    SpatialGraphicType.MULTIPOINT: GraphicType.MULTIPOINT,
    SpatialGraphicType.POLYLINE: GraphicType.POLYLINE,
    SpatialGraphicType.POLYGON: GraphicType.POLYLINE,
    SpatialGraphicType.ELLIPSE: GraphicType.ELLIPSE,
    SpatialGraphicType.ELLIPSOID: GraphicType.MULTIPOINT,  # the six ends of its axes: their hull
}
_MAXIMUM_MASK_PIXELS: Final = 64_000_000  # rows x columns of one segmentation frame


@dataclass(frozen=True)
class ImagePlane:
    """Where an image lies in space (PS3.3 C.7.6.2)."""

    frame_of_reference_uid: str
    position: Floats  # (3,) mm, centre of the first pixel
    along_row: Floats  # (3,) unit vector of growing column
    along_column: Floats  # (3,) unit vector of growing row
    spacing_mm: tuple[float, float]  # (row, column)
    thickness_mm: float

    @classmethod
    def of(cls, header: Dataset) -> "ImagePlane":
        """RoiError for an image without a plane: a projection radiograph has none."""
        try:
            axes = np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3)
            row, column = (float(value) for value in header.PixelSpacing)
            return cls(
                frame_of_reference_uid=str(header.FrameOfReferenceUID),
                position=np.array(header.ImagePositionPatient, np.float64).reshape(3),
                along_row=axes[0],
                along_column=axes[1],
                spacing_mm=(row, column),
                thickness_mm=float(header.get("SliceThickness") or 1.0),
            )
        except (AttributeError, TypeError, ValueError) as missing:
            raise RoiError("3-D region on an image without a plane") from missing


def project(roi: SpatialRoi, plane: ImagePlane, image_uid: str) -> SrRoi:
    """The region on an image of that plane. RoiError when it is in another frame of reference or off the slice.

    PS3.3 C.7.6.2.1.1 inverted; half a pixel is added since positions name pixel centres and boxes count from corners.
    """
    if roi.frame_of_reference_uid != plane.frame_of_reference_uid:
        raise RoiError("region is in another frame of reference")
    offsets = np.array(roi.points, np.float64) - plane.position  # (n, 3)
    away = np.abs(offsets @ np.cross(plane.along_row, plane.along_column))
    if away.max() > plane.thickness_mm / 2 + 1e-3 and roi.graphic_type is not SpatialGraphicType.ELLIPSOID:
        raise RoiError("region does not lie on the image")
    columns = offsets @ plane.along_row / plane.spacing_mm[1] + 0.5
    rows = offsets @ plane.along_column / plane.spacing_mm[0] + 0.5
    kind = _FLAT[roi.graphic_type]
    points: tuple[Point, ...] = tuple(zip(columns.tolist(), rows.tolist(), strict=True))
    return SrRoi(image_uid=image_uid, graphic_type=kind, points=points, box=box_of(kind, points), **described(roi))


def segment_box(segmentation: Dataset, roi: SegmentRoi, image_uid: str) -> Box:
    """The box of the segmentation's mask on one image, in pixels of the segmentation's frames (PS3.3 C.8.20).

    The frames are those the region names, else those of its segments drawn on `image_uid`. RoiError when none are,
    when the mask is empty, or when the frames cannot be decoded.
    """
    frames = roi.frames or _frames_on(segmentation, roi.segments, image_uid)
    boxes = [box for frame in frames if (box := _mask_box(segmentation, frame, roi.segments)) is not None]
    if not boxes:
        raise RoiError("segmentation marks nothing on the image")
    return Box(
        min(box.x1 for box in boxes),
        min(box.y1 for box in boxes),
        max(box.x2 for box in boxes),
        max(box.y2 for box in boxes),
    )


def described(roi: Described) -> dict[str, Any]:
    """What the SR says about a region, for the region that it becomes."""
    return {field.name: getattr(roi, field.name) for field in fields(Described)}


def segmented_images(segmentation: Dataset, roi: SegmentRoi) -> set[str]:
    """SOP Instance UIDs of the images that the region's frames were derived from."""
    groups = items_of(segmentation, "PerFrameFunctionalGroupsSequence")
    shared = items_of(segmentation, "SharedFunctionalGroupsSequence")
    found = {
        uid
        for number, group in enumerate(groups, 1)
        if (not roi.frames or number in roi.frames)
        and (not roi.segments or not _segment(group) or _segment(group) in roi.segments)
        for uid in _sources(group)
    }
    return found or {uid for group in shared for uid in _sources(group)}


def _frames_on(segmentation: Dataset, segments: tuple[int, ...], image_uid: str) -> tuple[int, ...]:
    groups = items_of(segmentation, "PerFrameFunctionalGroupsSequence")
    return tuple(
        number
        for number, group in enumerate(groups, 1)
        if image_uid in _sources(group) and (not segments or not _segment(group) or _segment(group) in segments)
    )


def _sources(group: Dataset) -> set[str]:
    """SOP Instance UIDs a frame was derived from (PS3.3 C.7.6.16.2.6)."""
    derivations = items_of(group, "DerivationImageSequence")
    sources = (source for item in derivations for source in items_of(item, "SourceImageSequence"))
    return {str(source.get("ReferencedSOPInstanceUID")) for source in sources}


def _segment(group: Dataset) -> int:
    """Number of the segment a frame shows (PS3.3 C.8.20.3.1); 0 for a label map, whose frames show all."""
    named = items_of(group, "SegmentIdentificationSequence")
    return int(named[0].get("ReferencedSegmentNumber") or 0) if named else 0


def _mask_box(segmentation: Dataset, frame: int, segments: tuple[int, ...]) -> Box | None:
    """The tight box of one frame's mask; None when it is empty."""
    mask = _mask(segmentation, frame, segments)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _mask(segmentation: Dataset, frame: int, segments: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if int(segmentation.get("Rows") or 0) * int(segmentation.get("Columns") or 0) > _MAXIMUM_MASK_PIXELS:
        raise RoiError("segmentation is too large")
    try:
        values = pixel_array(segmentation, index=frame - 1)
    except (AttributeError, ValueError, NotImplementedError, RuntimeError, IndexError) as wrong:
        raise RoiError("segmentation cannot be decoded") from wrong
    if segmentation.get("SegmentationType") == "LABELMAP":
        return np.isin(values, segments) if segments else values > 0
    if segmentation.get("SegmentationType") == "FRACTIONAL":
        marked: npt.NDArray[np.bool_] = values >= int(segmentation.get("MaximumFractionalValue") or 255) / 2
        return marked
    return np.asarray(values > 0)
