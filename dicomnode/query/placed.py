"""A region of an SR in, the same region drawn on a stored image out: points in space and segmentations, too.

PS3.3 C.18.9 gives a region in space no image: it is looked for on those that the SR names. Memory bound: one
segmentation, as large as `pixels.headers` lets a document be.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from pydicom.dataset import Dataset

from dicomnode.attributes.header import read_header
from dicomnode.codes import items_of
from dicomnode.errors import DecodeError, ImageNotStored, RoiError
from dicomnode.pixels import headers
from dicomnode.pixels.transcode import TARGETS
from dicomnode.quiet import quiet_pydicom
from dicomnode.sr import space
from dicomnode.sr.reader import Region, SegmentRoi, SpatialRoi, SrRoi
from dicomnode.sr.regions import GraphicType
from dicomnode.sr.tree import image_references, walk
from dicomnode.uids import is_uid
from storage.records import InstanceRow
from storage.store import Store

Transcode = Callable[[Path, Path, str], int]
_Placed = TypeVar("_Placed", SegmentRoi, SpatialRoi)

NOT_STORED: Final = "image not stored: send it first"
MAXIMUM_IMAGES: Final = 2000  # that one SR names: a CT series, and the one before it
_NATIVE: Final = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
)
_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66."  # PS3.4 B.5, and the raw data and registrations beside it
_EVIDENCE: Final = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")  # PS3.3 C.17.2.3


class Placer:
    """Puts regions on stored images. State: none."""

    def __init__(self, store: Store, film_modalities: frozenset[str], transcode: Transcode) -> None:
        """`film_modalities`: of images that may be films; `transcode`: source, target, syntax; in another process."""
        self._store = store
        self._films = film_modalities
        self._transcode = transcode

    def place(self, region: Region, content: Dataset) -> SrRoi:
        """The region on its image. ImageNotStored: that, or its segmentation, is to come. RoiError: there is none."""
        if isinstance(region, SrRoi):
            return region
        with quiet_pydicom():
            return self._segment(region) if isinstance(region, SegmentRoi) else self._spatial(region, content)

    def _segment(self, region: SegmentRoi) -> SrRoi:
        """The box of the segmentation's mask."""
        row = self._store.catalog.instance(region.segmentation_uid)
        if row is None:
            raise ImageNotStored("segmentation not stored: send it first")
        segmentation = self._segmentation(row)
        image = self._film(self._stored(_segmented(segmentation, region)), "segmentation of an image that is no film")
        if (image.rows, image.columns) != (segmentation.get("Rows"), segmentation.get("Columns")):
            raise RoiError("segmentation of another size than its image")
        box = space.segment_box(segmentation, region, image.sop_instance_uid)
        corners = ((box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2), (box.x1, box.y1))
        return SrRoi(
            image_uid=image.sop_instance_uid,
            graphic_type=GraphicType.POLYLINE,
            points=corners,
            box=box,
            **space.described(region),
        )

    def _spatial(self, region: SpatialRoi, content: Dataset) -> SrRoi:
        """On the first image that the SR names, is in the region's frame of reference, and that the region lies on."""
        named = list(_named_images(content))
        if not named:
            raise RoiError("3-D region in an SR that names no image")
        stored = [row for uid in named if (row := self._store.catalog.instance(uid)) is not None]
        planes = [row for row in stored if _frame_of_reference(row) == region.frame_of_reference_uid]
        for row in planes:
            self._film(row, "3-D region on an image that is no film")
            roi = _projected(region, row)
            if roi is not None:
                return roi
        if len(stored) < len(named):
            raise ImageNotStored(NOT_STORED)
        raise RoiError("3-D region lies on no image of the SR" if planes else "region is in another frame of reference")

    def _stored(self, uid: str) -> InstanceRow:
        row = self._store.catalog.instance(uid)
        if row is None:
            raise ImageNotStored(NOT_STORED)
        return row

    def _film(self, row: InstanceRow, words: str) -> InstanceRow:
        if (row.modality or "").upper() not in self._films:
            raise RoiError(words)
        return row

    def _segmentation(self, row: InstanceRow) -> Dataset:
        """The data set, its pixels as they are or decompressed by the transcoder. RoiError when it cannot be read."""
        path = self._store.files.path(row.path)
        try:
            if row.transfer_syntax_uid in _NATIVE:
                return headers.document(path)
            with self._store.files.scratch() as scratch:
                self._transcode(path, scratch.path, str(TARGETS[0]))
                return headers.data_set(scratch.path)
        except DecodeError as error:
            raise RoiError("segmentation cannot be decoded") from error


def _segmented(segmentation: Dataset, region: SegmentRoi) -> str:
    """The image a segmentation's region was drawn on: as the SR says, else as its frames do."""
    if region.image_uid:
        return region.image_uid
    images = space.segmented_images(segmentation, region)
    if len(images) != 1:
        raise RoiError("segmentation is of several images" if images else "segmentation names no image")
    return images.pop()


def _frame_of_reference(row: InstanceRow) -> str:
    return str(read_header(row.header).get("FrameOfReferenceUID") or "")


def _projected(region: SpatialRoi, row: InstanceRow) -> SrRoi | None:
    """The region on that image; None when it does not lie on it. RoiError for an image without a plane."""
    plane = space.ImagePlane.of(read_header(row.header))
    try:
        return space.project(region, plane, row.sop_instance_uid)
    except RoiError:
        return None


def _named_images(content: Dataset) -> Iterator[str]:
    """SOP Instance UIDs that the content tree and the evidence name, each once. RoiError past the cap."""
    found = dict.fromkeys(uid for uid in _references(content) if is_uid(uid))
    if len(found) > MAXIMUM_IMAGES:
        raise RoiError("3-D region in an SR that names too many images")
    yield from found


def _references(content: Dataset) -> Iterator[str]:
    for node in walk(content):
        yield from _uids(image_references(node.item))
    for keyword in _EVIDENCE:
        for study in items_of(content, keyword):
            for series in items_of(study, "ReferencedSeriesSequence"):
                yield from _uids(items_of(series, "ReferencedSOPSequence"))


def _uids(references: list[Dataset]) -> Iterator[str]:
    for each in references:
        if not str(each.get("ReferencedSOPClassUID") or "").startswith(_SEGMENTATION):
            yield str(each.get("ReferencedSOPInstanceUID") or "").strip(" \0")
