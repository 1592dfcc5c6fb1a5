"""space: points in space land on the right pixels; masks give their box."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.errors import RoiError
from dicomnode.sr import reader
from dicomnode.sr.regions import GraphicType, SegmentRoi, SpatialGraphicType, SpatialRoi
from dicomnode.sr.space import ImagePlane, project, segment_box
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from tests.unit.dicomnode import films


def _slice(**elements: Any) -> Dataset:
    """A sagittal-like plane: columns grow along y, rows along -z, from (5, -100, 80)."""
    defaults = {
        "FrameOfReferenceUID": "1.2.7",
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
        "ImagePositionPatient": [5, -100, 80],
        "PixelSpacing": [2, 0.5],
        "SliceThickness": 3,
    }
    return films.header(**(defaults | elements))


def _spatial(
    kind: str = "POLYGON", points: Any = ((5, -90, 60), (5, -80, 60), (5, -80, 40)), **more: Any
) -> SpatialRoi:
    return SpatialRoi(
        frame_of_reference_uid="1.2.7", graphic_type=SpatialGraphicType(kind), points=tuple(points), **more
    )


def test_projection() -> None:
    roi = project(_spatial(sites=(VOCABULARY[3],), label="here"), ImagePlane.of(_slice()), "1.2.3")
    assert (roi.image_uid, roi.graphic_type, roi.sites, roi.label) == (
        "1.2.3",
        GraphicType.POLYLINE,
        (VOCABULARY[3],),
        "here",
    )
    assert roi.points == ((20.5, 10.5), (40.5, 10.5), (40.5, 20.5))
    assert roi.box == Box(20.5, 10.5, 40.5, 20.5)


def test_the_first_pixel_centre_is_half_a_pixel_in() -> None:
    roi = project(_spatial("POINT", [(5, -100, 80)]), ImagePlane.of(_slice()), "1.2.3")
    assert roi.points == ((0.5, 0.5),)


def test_another_frame_of_reference() -> None:
    with pytest.raises(RoiError, match="another frame of reference"):
        project(_spatial(), ImagePlane.of(_slice(FrameOfReferenceUID="1.2.8")), "1.2.3")


def test_off_the_slice() -> None:
    plane = ImagePlane.of(_slice())
    assert project(_spatial("POINT", [(6.4, -90, 60)]), plane, "1.2.3")
    with pytest.raises(RoiError, match="does not lie on the image"):
        project(_spatial("POINT", [(6.6, -90, 60)]), plane, "1.2.3")


def test_a_projection_radiograph_has_no_plane() -> None:
    with pytest.raises(RoiError, match="without a plane"):
        ImagePlane.of(films.header(PixelSpacing=[0.2, 0.2]))


def _segmentation(kind: str = "BINARY", **elements: Any) -> Dataset:
    """Two frames of segments 1 and 2 on image 1.2.3."""
    masks = np.zeros((2, 40, 50), np.uint8)
    masks[0, 10:20, 5:30] = 1 if kind != "FRACTIONAL" else 200
    masks[1, 30:31, 40:41] = 2 if kind == "LABELMAP" else 1 if kind != "FRACTIONAL" else 90
    dataset = films.header(
        Rows=40, Columns=50, NumberOfFrames=2, BitsAllocated=8, BitsStored=8, HighBit=7, SegmentationType=kind
    )
    dataset.PixelData = masks.tobytes()
    dataset.PerFrameFunctionalGroupsSequence = [_group(1), _group(2)]
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _group(segment: int) -> Dataset:
    source, derivation, identification, group = Dataset(), Dataset(), Dataset(), Dataset()
    source.ReferencedSOPInstanceUID = "1.2.3"
    derivation.SourceImageSequence = [source]
    identification.ReferencedSegmentNumber = segment
    group.DerivationImageSequence = [derivation]
    group.SegmentIdentificationSequence = [identification]
    return group


def _segment(**named: Any) -> SegmentRoi:
    return SegmentRoi(segmentation_uid="1.2.5", **named)


@pytest.mark.parametrize(
    ("named", "box"),
    [
        ({"frames": (1,)}, Box(5, 10, 30, 20)),
        ({"frames": (2,)}, Box(40, 30, 41, 31)),
        ({"segments": (1,)}, Box(5, 10, 30, 20)),
        ({"segments": (2,)}, Box(40, 30, 41, 31)),
        ({"segments": (1, 2)}, Box(5, 10, 41, 31)),
    ],
)
def test_mask_boxes(named: dict[str, Any], box: Box) -> None:
    assert segment_box(_segmentation(), _segment(**named), "1.2.3") == box


def test_label_map_shows_the_named_segment_only() -> None:
    assert segment_box(_segmentation("LABELMAP"), _segment(frames=(1, 2), segments=(2,)), "1.2.3") == Box(
        40, 30, 41, 31
    )


def test_fractional_counts_from_the_half() -> None:
    fractional = _segmentation("FRACTIONAL", MaximumFractionalValue=200)
    assert segment_box(fractional, _segment(segments=(1, 2)), "1.2.3") == Box(5, 10, 30, 20)


@pytest.mark.parametrize(
    ("named", "image", "words"),
    [
        ({"segments": (3,)}, "1.2.3", "marks nothing"),
        ({"segments": (1,)}, "1.2.4", "marks nothing"),
        ({"frames": (9,)}, "1.2.3", "cannot be decoded"),
    ],
)
def test_no_mask(named: dict[str, Any], image: str, words: str) -> None:
    with pytest.raises(RoiError, match=words):
        segment_box(_segmentation(), _segment(**named), image)


def test_segmentation_too_large_is_not_decoded() -> None:
    with pytest.raises(RoiError, match="too large"):
        segment_box(_segmentation(Rows=60_000, Columns=60_000), _segment(frames=(1,)), "1.2.3")


def test_sample_report_and_its_segmentation(data_dir: Path) -> None:
    """dcmqi's pair: the SR names segment 1 of the segmentation beside it."""
    folder = data_dir / "dicom" / "dcmqi" / "sr-example"
    (region,) = reader.regions(dcmread(folder / "sr.dcm"))
    segmentation = dcmread(folder / "seg.dcm")
    assert isinstance(region, SegmentRoi)
    assert (region.segmentation_uid, region.segments) == (segmentation.SOPInstanceUID, (1,))
    first = segmentation.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    box = segment_box(segmentation, region, first.ReferencedSOPInstanceUID)
    mask = segmentation.pixel_array[0]
    assert mask[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)].sum() == mask.sum() > 0
