"""Regions that are not drawn on an image: put on one that is stored, or refused in words that say why."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicomnode.errors import DicomNodeError, ImageNotStored, RoiError
from dicomnode.pixels import transcode
from dicomnode.pixels.eligibility import DecodeLimits
from dicomnode.private import PatientScope
from dicomnode.query.placed import Placer
from dicomnode.query.region import of_sr
from dicomnode.quiet import quiet_pydicom
from dicomnode.sr import writer
from dicomnode.sr.regions import SegmentRoi, SpatialGraphicType, SpatialRoi
from encoder.boxes import Box
from storage.store import Store
from tests.integration import archives

FILMS = frozenset({"DX", "CR"})
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SPACE = "1.2.7"


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "root") as opened:
        yield opened


def placer(store: Store, calls: list[str] | None = None) -> Placer:
    def decompress(source: Path, target: Path, syntax: str) -> int:
        if calls is not None:
            calls.append(syntax)
        with target.open("wb") as file:
            return transcode.transcode(source, file, syntax, DecodeLimits())

    return Placer(store, FILMS, decompress)


def segmentation(image: Dataset, **elements: Any) -> Dataset:
    """One frame of one segment on an image, marked at Box(20, 30, 60, 70)."""
    mask = np.zeros((image.Rows, image.Columns), np.uint8)
    mask[30:70, 20:60] = 1
    dataset = copy.deepcopy(image)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = SEG, "1.2.66.1", "SEG"
    dataset.SeriesInstanceUID, dataset.SegmentationType = "1.2.66", "LABELMAP"
    dataset.NumberOfFrames, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 8, 8, 7
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = mask.tobytes()
    source, derivation, group = Dataset(), Dataset(), Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    derivation.SourceImageSequence = [source]
    group.DerivationImageSequence = [derivation]
    dataset.PerFrameFunctionalGroupsSequence = [group]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def report(*images: Dataset) -> Dataset:
    """An SR's content that names images in its library."""
    items = []
    for image in images:
        reference, item = Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        item.ValueType, item.RelationshipType, item.ReferencedSOPSequence = "IMAGE", "CONTAINS", [reference]
        items.append(item)
    root = Dataset()
    root.ValueType, root.ContentSequence = "CONTAINER", items
    return root


def slice_of_ct(**elements: Any) -> Dataset:
    image = archives.film(7, 7)
    image.Modality, image.FrameOfReferenceUID = "CT", SPACE
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 2
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    return image


def cube(z: float = 0.0, space: str = SPACE) -> SpatialRoi:
    corners = ((10.0, 20.0, z), (50.0, 20.0, z), (50.0, 60.0, z), (10.0, 60.0, z))
    return SpatialRoi(frame_of_reference_uid=space, graphic_type=SpatialGraphicType.POLYGON, points=corners)


def test_a_segmentation_of_a_film_is_its_masks_box(store, tmp_path):
    film = archives.film(1, 1)
    uid = archives.put(store, film, tmp_path)
    archives.put(store, segmentation(film), tmp_path)
    roi = placer(store).place(SegmentRoi(segmentation_uid="1.2.66.1", frames=(1,), label="here"), Dataset())
    assert (roi.image_uid, roi.box, roi.label) == (uid, Box(20, 30, 60, 70), "here")


def test_a_compressed_segmentation_is_decompressed_elsewhere(store, tmp_path):
    film = archives.film(1, 1)
    archives.put(store, film, tmp_path)
    compressed = segmentation(film)
    compressed.compress(RLELossless, generate_instance_uid=False)
    archives.put(store, compressed, tmp_path)
    calls: list[str] = []
    roi = placer(store, calls).place(SegmentRoi(segmentation_uid="1.2.66.1", segments=(1,)), Dataset())
    assert (roi.box, len(calls)) == (Box(20, 30, 60, 70), 1)


def test_a_segmentation_that_is_to_come_is_waited_for(store, tmp_path):
    film = archives.film(1, 1)
    roi = SegmentRoi(segmentation_uid="1.2.66.1", frames=(1,))
    with pytest.raises(ImageNotStored, match="segmentation not stored"):
        placer(store).place(roi, Dataset())
    archives.put(store, segmentation(film), tmp_path)
    with pytest.raises(ImageNotStored, match="image not stored"):
        placer(store).place(roi, Dataset())


@pytest.mark.parametrize(
    ("elements", "image", "words"),
    [
        ({}, {"Modality": "CT"}, "segmentation of an image that is no film"),
        ({"Rows": 48, "PixelData": b"\1" * 48 * 96}, {}, "segmentation of another size than its image"),
        ({"PerFrameFunctionalGroupsSequence": []}, {}, "segmentation names no image"),
        ({"PixelData": b"\0" * 96 * 96}, {}, "segmentation marks nothing on the image"),
    ],
)
def test_segmentations_that_mark_no_film(store, tmp_path, elements, image, words):
    film = archives.film(1, 1)
    for keyword, value in image.items():
        setattr(film, keyword, value)
    archives.put(store, film, tmp_path)
    archives.put(store, segmentation(film, **elements), tmp_path)
    with pytest.raises(RoiError, match=words):
        placer(store).place(SegmentRoi(segmentation_uid="1.2.66.1", frames=(1,)), Dataset())


def test_points_in_space_are_put_on_the_film_that_has_their_plane(store, tmp_path):
    film = slice_of_ct(Modality="DX")
    uid = archives.put(store, film, tmp_path)
    roi = placer(store).place(cube(), report(film))
    assert (roi.image_uid, roi.box) == (uid, Box(10.5, 20.5, 50.5, 60.5))


def test_points_in_space_that_are_on_no_film(store, tmp_path):
    scan, film = slice_of_ct(), archives.film(2, 2)
    placing = placer(store)
    with pytest.raises(ImageNotStored):
        placing.place(cube(), report(scan))
    for each in (scan, film):
        archives.put(store, each, tmp_path)
    for region_, images, words in (
        (cube(), (scan,), "3-D region on an image that is no film"),
        (cube(), (), "names no image"),
        (cube(space="1.2.8"), (scan, film), "another frame of reference"),
    ):
        with pytest.raises(RoiError, match=words):
            placing.place(region_, report(*images))


def test_points_in_space_beside_the_film(store, tmp_path):
    film = slice_of_ct(Modality="DX")
    archives.put(store, film, tmp_path)
    with pytest.raises(RoiError, match="lies on no image of the SR"):
        placer(store).place(cube(z=30.0), report(film))


def test_a_film_with_a_frame_of_reference_but_no_plane(store, tmp_path):
    film = archives.film(3, 3)
    film.FrameOfReferenceUID = SPACE
    archives.put(store, film, tmp_path)
    with pytest.raises(RoiError, match="without a plane"):
        placer(store).place(cube(), report(film))


# Every SR of the development data on an archive without its images: what it asks, or why it cannot.
WAITS = "image not stored: send it first"
SAMPLES = {
    "sr/highdicom_bounding_box.dcm": 1,
    "sr/highdicom_planar_roi.dcm": 1,
    "sr/ohif_arrow.dcm": 1,
    "sr/ohif_circle.dcm": 1,
    "sr/ohif_drawn_in_viewer.dcm": 1,
    "sr/ohif_ellipse.dcm": 1,
    "sr/ohif_free.dcm": 1,
    "sr/ohif_rect.dcm": 1,
    "sr/ohif_rect0.dcm": 1,
    "sr/ohif_rect_nostats.dcm": "SR has no region",
    "sr/kos.dcm": "SR has no region",
    "dicom/dcmjs/sample-sr.dcm": 1,
    "dicom/dcmjs/structured_report.dcm": 6,  # two of seven are the axes of one measurement
    "dicom/dcmqi/sr-example/sr.dcm": "segmentation not stored: send it first",
    "dicom/highdicom/sr_document.dcm": 1,
    "dicom/highdicom/sr_document_with_multiple_groups.dcm": WAITS,
}


@pytest.mark.data
@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_asks_or_is_refused_in_words(store, data_dir, name):
    with quiet_pydicom():
        assert outcome(store, dcmread(data_dir / name)) == SAMPLES[name]


def outcome(store: Store, document: Dataset) -> int | str:
    """How many ROIs, or the words."""
    try:
        return len(of_sr(document, PatientScope.OTHER, 10, placer(store).place).rois)
    except DicomNodeError as error:
        return str(error)


@pytest.mark.data
def test_the_samples_with_their_ct_images_are_refused_for_what_they_are(store, data_dir, tmp_path):
    """dcmqi's pair is about CT slices, and highdicom's third group is in the space of one."""
    folder = data_dir / "dicom" / "dcmqi" / "sr-example"
    with quiet_pydicom():
        for path in (folder / "seg.dcm", data_dir / "dicom" / "highdicom" / "ct_image.dcm"):
            archives.put(store, dcmread(path), tmp_path)
        assert outcome(store, dcmread(folder / "sr.dcm")) == "segmentation is of several images"
        groups = dcmread(data_dir / "dicom" / "highdicom" / "sr_document_with_multiple_groups.dcm")
        assert outcome(store, groups) == 2  # those that are drawn


def test_what_lies_on_no_image_is_counted_beside_what_does(store, tmp_path):
    """Words only where nothing else is left to ask about."""
    film, scan = archives.film(1, 1), slice_of_ct()
    for each in (film, scan):
        archives.put(store, each, tmp_path)
    document = report(film, scan)
    in_space = Dataset()
    in_space.ValueType, in_space.RelationshipType, in_space.GraphicType = "SCOORD3D", "CONTAINS", "POLYGON"
    in_space.GraphicData = [10, 20, 0, 50, 20, 0, 50, 60, 0]
    in_space.ReferencedFrameOfReferenceUID = SPACE
    drawn = writer.query_roi_item(
        sop_class_uid=film.SOPClassUID,
        sop_instance_uid=film.SOPInstanceUID,
        frame=None,
        box=Box(10, 10, 60, 60),
        anatomy=None,
        tracking="drawn",
    )
    document.ContentSequence = [*document.ContentSequence, in_space]
    assert outcome(store, document) == "3-D region on an image that is no film"
    document.ContentSequence = [*document.ContentSequence, drawn]
    query = of_sr(document, PatientScope.OTHER, 10, placer(store).place)
    assert ([roi.tracking_identifier for roi in query.rois], query.ignored) == (["drawn"], 1)
