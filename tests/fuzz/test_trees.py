"""SR trees of any shape against the reader: regions or a reason, never anything else."""

import math
import time

from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicomnode.errors import RoiError
from dicomnode.sr import reader
from tests.fuzz.settings import BOUNDED

WORDS = st.sampled_from(
    ["SCOORD", "SCOORD3D", "IMAGE", "CONTAINER", "CODE", "NUM", "TEXT", "", "POLYLINE", "CIRCLE", "ELLIPSE", "POINT",
     "MULTIPOINT", "POLYGON", "1.2.3", "363698007", "SCT", "SRT", "G-C0E3", "111030", "DCM", "x" * 80, "\x1b$B", "1..2"]
)  # fmt: skip
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -1.0, 1e30, math.nan, math.inf, 10.0, 60.0])
VALUES = {
    "ValueType": ("CS", WORDS),
    "RelationshipType": ("CS", WORDS),
    "GraphicType": ("CS", WORDS),
    "GraphicData": ("FL", st.lists(FLOATS, max_size=12) | FLOATS),
    "ReferencedSOPInstanceUID": ("UI", WORDS),
    "ReferencedSOPClassUID": ("UI", WORDS),
    "ReferencedFrameOfReferenceUID": ("UI", WORDS),
    "ReferencedFrameNumber": ("IS", st.lists(st.integers(-3, 3), max_size=3) | st.integers()),
    "ReferencedSegmentNumber": ("US", st.integers(0, 65535)),
    "ReferencedContentItemIdentifier": ("UL", st.lists(st.integers(0, 5), max_size=4)),
    "CodeValue": ("SH", WORDS),
    "URNCodeValue": ("UR", WORDS),
    "CodingSchemeDesignator": ("SH", WORDS),
    "TextValue": ("UT", WORDS),
    "UID": ("UI", WORDS),
    "Laterality": ("CS", WORDS),
}
SEQUENCES = (
    "ContentSequence", "ConceptNameCodeSequence", "ConceptCodeSequence", "ReferencedSOPSequence",
    "AnatomicRegionModifierSequence", "MeasuredValueSequence",
)  # fmt: skip


def dataset(values: dict[str, object], sequences: dict[str, list[Dataset]]) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        made.add(DataElement(keyword, VALUES[keyword][0], value, validation_mode=config.IGNORE))
    for keyword, items in sequences.items():
        setattr(made, keyword, items)
    return made


leaves = st.fixed_dictionaries({}, optional={name: values for name, (_, values) in VALUES.items()})
trees = st.recursive(
    st.builds(dataset, leaves, st.just({})),
    lambda inner: st.builds(
        dataset, leaves, st.dictionaries(st.sampled_from(SEQUENCES), st.lists(inner, max_size=3), max_size=3)
    ),
    max_leaves=12,
)


def roi(points: list[float], kind: str = "POLYLINE") -> Dataset:
    """A region on an image, well formed but for its points."""
    image = dataset(
        {"ValueType": "IMAGE"},
        {"ReferencedSOPSequence": [dataset({"ReferencedSOPInstanceUID": "1.2.3", "ReferencedSOPClassUID": "1.2"}, {})]},
    )
    return dataset({"ValueType": "SCOORD", "GraphicType": kind, "GraphicData": points}, {"ContentSequence": [image]})


def read(content: Dataset) -> None:
    try:
        found = reader.regions(content)
    except RoiError as refused:
        assert 0 < len(str(refused)) <= 64
        return
    assert 0 < len(found) <= reader.MAXIMUM_REGIONS
    for each in found:
        if isinstance(each, reader.SrRoi):
            assert all(map(math.isfinite, (each.box.x1, each.box.y1, each.box.x2, each.box.y2)))


@BOUNDED
@given(trees)
def test_any_tree_is_read_or_refused(content):
    read(content)


@BOUNDED
@given(
    st.lists(FLOATS, max_size=12), st.sampled_from(["POINT", "MULTIPOINT", "POLYLINE", "CIRCLE", "ELLIPSE", "POLYGON"])
)
@example([3e38, -3e38, -3e38, 3e38], "CIRCLE")
@example([3.4e38] * 8, "ELLIPSE")
@example([1.0], "POINT")
def test_any_points_are_a_finite_box_or_refused(points, kind):
    read(roi(points, kind))
    for item in dataset({}, {"ContentSequence": [roi(points, kind)] * 3}).ContentSequence:
        read(item)


def test_more_items_or_levels_than_may_be_are_refused():
    deep = roi([1.0, 1.0, 9.0, 9.0])
    for _ in range(100):
        deep = dataset({"ValueType": "CONTAINER"}, {"ContentSequence": [deep]})
    wide = dataset({}, {"ContentSequence": [dataset({}, {})] * 30_000})
    many = dataset({}, {"ContentSequence": [roi([1.0, 1.0, 9.0, 9.0])] * 100})
    for content in (deep, wide, many):
        read(content)


def concept(value: str, scheme: str = "SCT") -> dict[str, list[Dataset]]:
    return {"ConceptNameCodeSequence": [dataset({"CodeValue": value, "CodingSchemeDesignator": scheme}, {})]}


def test_time_does_not_grow_with_the_square_of_a_wide_tree():
    """Of 8,000 siblings each is asked about all others: by regions without an image, by sites, by references."""
    homeless = dataset({"ValueType": "SCOORD"}, {})
    site = dataset({"ValueType": "CODE"}, concept("363698007"))
    side = dataset({"ValueType": "CODE"}, concept("272741003"))
    reference = dataset({"ReferencedContentItemIdentifier": [1] + [5] * 30}, {})
    drawn = roi([1.0, 1.0, 9.0, 9.0])
    many = dataset({}, {"ContentSequence": [reference] * 8_000, **concept("1", "X")})
    many.ValueType = "SCOORD"
    for children in ([homeless] * 8_000, [drawn] * 60 + [site] * 4_000 + [side] * 4_000, [many]):
        started = time.monotonic()
        read(dataset({}, {"ContentSequence": children}))
        assert time.monotonic() - started < 5
