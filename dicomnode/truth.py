"""Stored SRs and SEGs in, the regions of stored images that they confirm out: whose, which anatomy, which box."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicomnode import codes
from dicomnode.errors import DecodeError, RoiError
from dicomnode.pixels.decode import DecodeLimits, read
from dicomnode.quiet import quiet_pydicom
from dicomnode.sr import reader
from dicomnode.sr.reader import SegmentRoi, SrRoi, clamped
from dicomnode.sr.space import segment_box
from encoder.anatomy import Anatomy
from encoder.boxes import Box
from storage.records import AnyOf, InstanceRow, Like
from storage.store import Store

REPORTS: Final = "1.2.840.10008.5.1.4.1.1.88.%"  # PS3.4 B.5, the SR storage classes
SEGMENTATIONS: Final = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
OWN_MANUFACTURER: Final = "dicomnode"  # a question may be drawn around the detector's own box: it confirms nothing
Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Truth:
    """One confirmed region."""

    instance: InstanceRow
    anatomy: int
    box: Box  # clipped to the image

    def mean_iou(self, shares: tuple[float, ...]) -> float:
        """With a box given in shares of the image's sides."""
        width, height = float(self.instance.columns or 0), float(self.instance.rows or 0)
        return self.box.iou(Box(shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height))


@dataclass(eq=False)
class Told:
    """What the archive's documents say. Of two about the same region of an image the first by UID counts."""

    regions: list[Truth] = field(default_factory=list)
    documents: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> documents or regions


def collect(store: Store, report: Report) -> Told:
    """Every document of the archive, one in memory at a time."""
    told = Told()
    uids = [str(row["sop_instance_uid"]) for kind in KINDS for row in store.catalog.find("IMAGE", (kind,), wanted=())]
    known: set[tuple[int, int]] = set()
    for number, uid in enumerate(uids):
        document = store.catalog.instance(uid)
        if document is not None:
            told.documents += 1
            _take(store, document, told, known)
        report("reading SRs and SEGs", number + 1, len(uids), "")
    return told


KINDS: Final = (Like("sop_class_uid", REPORTS), AnyOf("sop_class_uid", SEGMENTATIONS))


def _take(store: Store, document: InstanceRow, told: Told, known: set[tuple[int, int]]) -> None:
    try:
        with quiet_pydicom():
            dataset = read(store.files.path(document.path), DecodeLimits())
            if str(dataset.get("Manufacturer") or "") == OWN_MANUFACTURER:
                told.skipped["written by this program"] += 1
                return
            found = list(_said(dataset, document, store, told.skipped))
    except (DecodeError, RoiError) as error:
        told.skipped[str(error)] += 1
        return
    for truth in found:
        key = (truth.instance.id, truth.anatomy)
        if key in known:
            told.skipped["region said before"] += 1
        else:
            known.add(key)
            told.regions.append(truth)


def _said(dataset: Dataset, document: InstanceRow, store: Store, skipped: Counter[str]) -> Iterator[Truth]:
    if document.sop_class_uid in SEGMENTATIONS:
        yield from _segments(dataset, document, store, skipped)
        return
    for roi in reader.regions(dataset):
        if not isinstance(roi, SrRoi):
            skipped["region not drawn on an image"] += 1
        elif (image := _image(store, roi.image_uid, document, skipped)) and (site := _one(roi.sites, skipped)):
            try:
                yield Truth(image, site.index, clamped(roi, image.columns or 0, image.rows or 0))
            except RoiError as error:
                skipped[str(error)] += 1


def _segments(dataset: Dataset, document: InstanceRow, store: Store, skipped: Counter[str]) -> Iterator[Truth]:
    """Each segment of a vocabulary anatomy on each image that its frames were drawn on (PS3.3 C.8.20)."""
    images = [image for uid in sorted(_sources(dataset)) if (image := _image(store, uid, document, skipped))]
    for segment in codes.items_of(dataset, "SegmentSequence"):
        site = _one(_segment_sites(segment), skipped)
        number = int(segment.get("SegmentNumber") or 0)
        for image in images if site else ():
            if (image.rows, image.columns) != (dataset.get("Rows"), dataset.get("Columns")):
                skipped["segmentation of another size than its image"] += 1
                continue
            roi = SegmentRoi(segmentation_uid=document.sop_instance_uid, segments=(number,))
            try:
                box = segment_box(dataset, roi, image.sop_instance_uid)
            except RoiError as error:
                skipped[str(error)] += 1
            else:
                assert site is not None
                yield Truth(image, site.index, box)


def _sources(dataset: Dataset) -> set[str]:
    """SOP Instance UIDs of the images that any frame was derived from (PS3.3 C.7.6.16.2.6)."""
    groups = [*codes.items_of(dataset, "PerFrameFunctionalGroupsSequence")]
    groups += codes.items_of(dataset, "SharedFunctionalGroupsSequence")
    derivations = [item for group in groups for item in codes.items_of(group, "DerivationImageSequence")]
    sources = [source for item in derivations for source in codes.items_of(item, "SourceImageSequence")]
    return {str(UID(str(source.get("ReferencedSOPInstanceUID") or ""))) for source in sources} - {""}


def _segment_sites(segment: Dataset) -> tuple[Anatomy, ...]:
    """From the anatomic region, else from the property type, whose side stands in a modifier (PS3.3 C.8.20.2)."""
    for item in codes.items_of(segment, "AnatomicRegionSequence"):
        if sites := codes.read_site(item):
            return sites
    for item in codes.items_of(segment, "SegmentedPropertyTypeCodeSequence"):
        beside = Dataset()
        beside.update(item)
        beside.ModifierCodeSequence = codes.items_of(item, "SegmentedPropertyTypeModifierCodeSequence")
        if sites := codes.read_site(beside):
            return sites
    return ()


def _one(sites: tuple[Anatomy, ...], skipped: Counter[str]) -> Anatomy | None:
    if len(sites) == 1:
        return sites[0]
    skipped["site means several regions" if sites else "site not in the vocabulary, or none"] += 1
    return None


def _image(store: Store, uid: str, document: InstanceRow, skipped: Counter[str]) -> InstanceRow | None:
    """The stored image; None when it is not there, or is another patient's."""
    image = store.catalog.instance(uid)
    if image is None:
        skipped["image not stored"] += 1
        return None
    if image.patient_row_id != document.patient_row_id:
        skipped["image of another patient"] += 1
        return None
    return image
