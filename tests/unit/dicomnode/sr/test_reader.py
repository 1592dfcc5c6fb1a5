"""SR reader: what viewers really write is understood or refused in the right words."""

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode import codes
from dicomnode.attributes import plain
from dicomnode.codes import Code, code_item, coded_content
from dicomnode.errors import RoiError
from dicomnode.sr import reader, writer
from dicomnode.sr.regions import POINT_BOX_SIDE, GraphicType, SegmentRoi, SpatialGraphicType, SpatialRoi
from dicomnode.sr.tree import MAXIMUM_DEPTH, MAXIMUM_ITEMS
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
RECTANGLE = [10, 20, 60, 20, 60, 90, 10, 90, 10, 20]


def _item(value_type: str, relationship: str = "CONTAINS", *children: Dataset, **elements: Any) -> Dataset:
    item = Dataset()
    item.ValueType, item.RelationshipType = value_type, relationship
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    if children:
        item.ContentSequence = list(children)
    return item


def _image(uid: str = "1.2.3", sop_class: str = DX, **elements: Any) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, uid
    for keyword, value in elements.items():
        setattr(reference, keyword, value)
    return _item("IMAGE", "SELECTED FROM", ReferencedSOPSequence=[reference])


def _scoord(kind: str = "POLYLINE", data: Any = RECTANGLE, *children: Dataset) -> Dataset:
    return _item("SCOORD", "CONTAINS", *(children or (_image(),)), GraphicType=kind, GraphicData=data)


def _text(concept: Code, text: str) -> Dataset:
    return _item("TEXT", "HAS OBS CONTEXT", ConceptNameCodeSequence=[code_item(concept)], TextValue=text)


def _site(value: str, scheme: str = "SCT") -> Dataset:
    return plain.dataset(coded_content(codes.FINDING_SITE, Code(value, scheme, "site"), "CONTAINS"))


def _read(path: Path) -> list[tuple[str, Box, list[str]]]:
    return [(roi.graphic_type, roi.box, [site.name for site in roi.sites]) for roi in reader.rois(dcmread(path))]


LOWER_ZONES = ["right lower lung zone", "left lower lung zone"]
RIGHT_LOWER = ["right lower lung zone"]
SAMPLES = {
    "highdicom_bounding_box": [("POLYLINE", Box(10, 20, 60, 90), RIGHT_LOWER)],
    "highdicom_planar_roi": [("POLYLINE", Box(10, 20, 60, 90), RIGHT_LOWER)],
    "ohif_arrow": [("POLYLINE", Box(35, 42.5, 60, 67.5), [])],
    "ohif_circle": [("CIRCLE", Box(10, 30, 60, 80), [])],
    "ohif_ellipse": [("ELLIPSE", Box(10, 20, 60, 90), [])],
    "ohif_free": [("POLYLINE", Box(10, 20, 60, 70), [])],
    "ohif_rect": [("POLYLINE", Box(10, 20, 60, 90), LOWER_ZONES)],
    "ohif_rect0": [("POLYLINE", Box(0, 20, 60, 90), [])],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(data_dir: Path, name: str) -> None:
    assert _read(data_dir / "sr" / f"{name}.dcm") == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_rois_lie_on_the_sample_image(data_dir: Path, name: str) -> None:
    image = dcmread(data_dir / "sr" / "dx_image.dcm")
    for roi in reader.rois(dcmread(data_dir / "sr" / f"{name}.dcm")):
        assert roi.image_uid == image.SOPInstanceUID
        assert reader.clamped(roi, image.Columns, image.Rows) == roi.box


def test_sample_drawn_in_a_viewer(data_dir: Path) -> None:
    (roi,) = reader.rois(dcmread(data_dir / "sr" / "ohif_drawn_in_viewer.dcm"))
    assert tuple(round(edge, 2) for edge in roi.box) == (176.17, 129.4, 272.95, 226.18)
    assert roi.tracking_identifier.endswith("RectangleROI")
    assert roi.tracking_uid == "2.25.582723248339029554688301083533102459325"


def test_sample_labels(data_dir: Path) -> None:
    assert reader.rois(dcmread(data_dir / "sr" / "ohif_rect.dcm"))[0].label == "my roi"
    assert reader.rois(dcmread(data_dir / "sr" / "highdicom_bounding_box.dcm"))[0].tracking_identifier == "hit-1"


@pytest.mark.parametrize("name", ["ohif_rect_nostats", "kos"])
def test_samples_without_a_region(data_dir: Path, name: str) -> None:
    with pytest.raises(RoiError, match=r"^SR has no region$"):
        reader.rois(dcmread(data_dir / "sr" / f"{name}.dcm"))


def test_every_sample_sr_is_understood(data_dir: Path) -> None:
    found = {}
    for path in sorted((data_dir / "dicom").rglob("*.dcm")):
        dataset = dcmread(path, stop_before_pixels=True)
        if dataset.get("Modality") == "SR":
            found[path.name] = [type(region).__name__ for region in reader.regions(dataset)]
    assert found == {
        "sample-sr.dcm": ["SrRoi"] * 2,
        "structured_report.dcm": ["SrRoi"] * 7,
        "sr.dcm": ["SegmentRoi"],
        "sr_document.dcm": ["SrRoi"],
        "sr_document_with_multiple_groups.dcm": ["SrRoi", "SrRoi", "SpatialRoi"],
    }


def test_axes_of_one_measurement_are_one_region(data_dir: Path) -> None:
    (roi,) = reader.rois(dcmread(data_dir / "dicom" / "dcmjs" / "sample-sr.dcm"))
    assert len(roi.points) == 4
    assert tuple(round(edge) for edge in roi.box) == (525, 988, 599, 1091)


def test_two_lines_of_two_measurements_stay_two() -> None:
    groups = [
        _item("CONTAINER", "CONTAINS", _uid_item(uid), _scoord(data=[10, 10, 40, 40])) for uid in ("1.2.1", "1.2.2")
    ]
    assert len(reader.rois(_item("CONTAINER", "", *groups))) == 2


def _uid_item(uid: str) -> Dataset:
    return _item("UIDREF", "HAS OBS CONTEXT", ConceptNameCodeSequence=[code_item(codes.TRACKING_UID)], UID=uid)


@pytest.mark.parametrize(
    ("kind", "data", "box"),
    [
        ("POLYLINE", RECTANGLE, Box(10, 20, 60, 90)),
        ("POLYLINE", [10, 20, 60, 20, 60, 90, 10, 90], Box(10, 20, 60, 90)),  # left open
        ("POLYLINE", [0, 0, 30, 40], Box(-10, -5, 40, 45)),
        ("MULTIPOINT", [1, 2, 30, 4, 5, 60], Box(1, 2, 30, 60)),
        ("POINT", [100, 50], Box(100 - POINT_BOX_SIDE / 2, 34, 116, 66)),
        ("MULTIPOINT", [100, 50], Box(84, 34, 116, 66)),
        ("CIRCLE", [50, 50, 50, 60], Box(40, 40, 60, 60)),
        ("CIRCLE", [50, 50, 53, 54], Box(45, 45, 55, 55)),
        ("ELLIPSE", [10, 50, 90, 50, 50, 30, 50, 70], Box(10, 30, 90, 70)),
        ("ELLIPSE", [40, 40, 60, 60, 40, 60, 60, 40], Box(50 - 200**0.5, 50 - 200**0.5, 50 + 200**0.5, 50 + 200**0.5)),
    ],
)
def test_boxes(kind: str, data: list[float], box: Box) -> None:
    (roi,) = reader.rois(_scoord(kind, data))
    assert roi.graphic_type == GraphicType(kind)
    assert roi.box == pytest.approx(box)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("POLYLINE", [], "no coordinates"),
        ("POLYLINE", None, "no coordinates"),
        ("POLYLINE", [1, 2, 3], "malformed"),
        ("POLYLINE", 1.0, "malformed"),
        ("POLYLINE", [1, float("nan"), 3, 4], "malformed"),
        ("POLYLINE", [1, float("inf"), 3, 4], "malformed"),
        ("CIRCLE", [1, 2], "CIRCLE needs 2 points"),
        ("ELLIPSE", RECTANGLE, "ELLIPSE needs 4 points"),
        ("POINT", [1, 2, 3, 4], "POINT needs 1 points"),
        ("SQUIGGLE", RECTANGLE, "graphic type"),
        ("", RECTANGLE, "graphic type"),
    ],
)
def test_malformed_graphics(kind: str, data: Any, words: str) -> None:
    with pytest.raises(RoiError, match=words) as wrong:
        reader.rois(_scoord(kind, data))
    assert len(str(wrong.value)) <= 64


def test_bare_scoord_is_content() -> None:
    (roi,) = reader.rois(_scoord())
    assert (roi.image_uid, roi.frame, roi.sites) == ("1.2.3", None, ())


def test_frame_and_second_image() -> None:
    images = (_image("1.2.3", ReferencedFrameNumber=7), _image("1.2.4", ReferencedFrameNumber=[3, 4]))
    rois = reader.rois(_scoord("POLYLINE", RECTANGLE, *images))
    assert [(roi.image_uid, roi.frame) for roi in rois] == [("1.2.3", 7), ("1.2.4", 3)]


def test_image_by_reference() -> None:
    """PS3.3 C.17.3.2.5: the image is elsewhere in the tree, named by its place."""
    reference = Dataset()
    reference.RelationshipType, reference.ReferencedContentItemIdentifier = "SELECTED FROM", [1, 2, 1]
    library = _item("CONTAINER", "CONTAINS", _image("1.2.9"))
    drawn = _item("CONTAINER", "CONTAINS", _scoord("POLYLINE", RECTANGLE, reference))
    (roi,) = reader.rois(_item("CONTAINER", "", drawn, library))
    assert roi.image_uid == "1.2.9"


def test_image_beside_when_it_is_the_only_one() -> None:
    scoord = _item("SCOORD", "CONTAINS", GraphicType="POLYLINE", GraphicData=RECTANGLE)
    (roi,) = reader.rois(_item("CONTAINER", "", scoord, _image("1.2.8")))
    assert roi.image_uid == "1.2.8"
    with pytest.raises(RoiError, match="names no image"):
        reader.rois(_item("CONTAINER", "", scoord, _image("1.2.8"), _image("1.2.9")))


def test_image_with_a_uid_that_is_none() -> None:
    with pytest.raises(RoiError, match="valid UID"):
        reader.rois(_scoord("POLYLINE", RECTANGLE, _image("")))


@pytest.mark.parametrize("relationship", ["HAS CONCEPT MOD", "CONTAINS"])
def test_site_by_either_relationship(relationship: str) -> None:
    site = plain.dataset(codes.site_content(VOCABULARY[11]))
    site.RelationshipType = relationship
    (roi,) = reader.rois(_item("CONTAINER", "", site, _scoord()))
    assert roi.sites == (VOCABULARY[11],)


def test_unknown_site_is_flagged() -> None:
    (roi,) = reader.rois(_item("CONTAINER", "", _site("T-C5300", "SRT"), _scoord()))
    assert roi.unknown_site
    assert roi.unknown_sites == ("T-C5300 SRT",)


def test_two_sites_are_both_meant() -> None:
    (roi,) = reader.rois(_item("CONTAINER", "", _site("80891009"), _site("44567001"), _scoord()))
    assert [site.name for site in roi.sites] == ["trachea", "cardiac silhouette"]
    assert not roi.unknown_site


def test_the_nearest_statement_counts_and_siblings_do_not_leak() -> None:
    first = _item("CONTAINER", "CONTAINS", _site("80891009"), _text(codes.TRACKING_IDENTIFIER, "one"), _scoord())
    second = _item("CONTAINER", "CONTAINS", _text(codes.TRACKING_IDENTIFIER, "two"), _item("NUM", "", _scoord()))
    root = _item("CONTAINER", "", _text(codes.TRACKING_IDENTIFIER, "root"), first, second)
    one, two = reader.rois(root)
    assert (one.tracking_identifier, [site.name for site in one.sites]) == ("one", ["cardiac silhouette"])
    assert (two.tracking_identifier, two.sites) == ("two", ())


def test_finding() -> None:
    finding = plain.dataset(coded_content(codes.FINDING, Code("27925004", "SCT", "Nodule"), "CONTAINS"))
    (roi,) = reader.rois(_item("CONTAINER", "", finding, _scoord()))
    assert roi.finding == Code("27925004", "SCT", "Nodule")


def test_points_in_space_are_regions_but_not_drawn_ones() -> None:
    spatial = _item(
        "SCOORD3D", "", GraphicType="POLYGON", GraphicData=[1, 2, 3, 4, 5, 6], ReferencedFrameOfReferenceUID="1.2.7"
    )
    (region,) = reader.regions(spatial)
    assert isinstance(region, SpatialRoi)
    assert (region.graphic_type, region.points) == (SpatialGraphicType.POLYGON, ((1, 2, 3), (4, 5, 6)))
    with pytest.raises(RoiError, match="no region drawn on an image"):
        reader.rois(spatial)


def test_segmentation_references() -> None:
    segment = _image("1.2.5", SEG, ReferencedSegmentNumber=2)
    frame = _image("1.2.6", SEG, ReferencedFrameNumber=4)
    frame.ConceptNameCodeSequence = [code_item(codes.REFERENCED_SEGMENTATION_FRAME)]
    source = _image("1.2.3")
    source.ConceptNameCodeSequence = [code_item(codes.SOURCE_IMAGE_FOR_SEGMENTATION)]
    listed = _item("CONTAINER", "CONTAINS", _image("1.2.5", SEG))  # an image library names whole objects
    group = _item("CONTAINER", "CONTAINS", frame, source)
    regions = reader.regions(_item("CONTAINER", "", listed, segment, group))
    assert regions == (
        SegmentRoi(segmentation_uid="1.2.5", segments=(2,)),
        SegmentRoi(segmentation_uid="1.2.6", frames=(4,), image_uid="1.2.3"),
    )


def test_sixty_four_regions_and_no_more() -> None:
    assert len(reader.rois(_item("CONTAINER", "", *[_scoord() for _ in range(64)]))) == 64
    with pytest.raises(RoiError, match="more than 64 regions"):
        reader.rois(_item("CONTAINER", "", *[_scoord() for _ in range(65)]))


def test_a_region_that_stands_in_its_group_and_below_its_number_is_one() -> None:
    def group(uid: str) -> Dataset:
        measured = _item("NUM", "CONTAINS", _scoord())
        return _item("CONTAINER", "CONTAINS", *([_uid_item(uid)] if uid else []), measured, _scoord())

    assert len(reader.rois(_item("CONTAINER", "CONTAINS", group("1.2.8"), group("1.2.9")))) == 2
    assert len(reader.rois(group(""))) == 2  # nothing says that it is the same one


def test_depth_cap() -> None:
    def nested(levels: int) -> Dataset:
        item = _scoord()  # its IMAGE is one level deeper
        for _ in range(levels):
            item = _item("CONTAINER", "CONTAINS", item)
        return item

    assert reader.rois(nested(MAXIMUM_DEPTH - 1))
    for levels in (MAXIMUM_DEPTH, 200):
        with pytest.raises(RoiError, match="nested too deeply"):
            reader.rois(nested(levels))


def test_item_cap() -> None:
    filler = Dataset()
    with pytest.raises(RoiError, match="too many content items"):
        reader.rois(_item("CONTAINER", "", *[filler] * MAXIMUM_ITEMS))


def test_a_content_sequence_that_is_none() -> None:
    broken = Dataset()
    broken.add_new("ContentSequence", "LO", "text")
    with pytest.raises(RoiError, match="SR has no region"):
        reader.rois(broken)


def test_what_we_write_we_read() -> None:
    item = writer.query_roi_item(
        sop_class_uid=DX, sop_instance_uid="1.2.3", frame=2, box=Box(1, 2, 30, 40), anatomy=VOCABULARY[6], tracking="a"
    )
    (roi,) = reader.rois(item)
    assert (roi.image_uid, roi.frame, roi.box) == ("1.2.3", 2, Box(1, 2, 30, 40))
    assert (roi.sites, roi.tracking_identifier) == ((VOCABULARY[6],), "a")
