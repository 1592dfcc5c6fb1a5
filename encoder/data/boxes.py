"""Boxes as records spell them go in, boxes of the vocabulary inside the image come out; the rest is noted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data.pictures import Size
from encoder.data.records import Reason, Regions, Skipped

# Names of Chest ImaGenome that are not of the 29 regions: boxed, then those without a box. Known, and not used.
UNUSED = frozenset(
    {
        "right cardiophrenic angle",
        "left cardiophrenic angle",
        "right cardiac silhouette",
        "left cardiac silhouette",
        "descending aorta",
        "right upper abdomen",
        "left upper abdomen",
        "right chest wall",
        "left chest wall",
        "right breast",
        "left breast",
        "right shoulder",
        "left shoulder",
        "right arm",
        "left arm",
        "neck",
        "unknown",
    }
)


@dataclass
class Notes:
    """The lines of one reading, in the order in which they were found."""

    lines: list[Skipped] = field(default_factory=list)

    def add(self, record: str, reason: Reason, detail: str = "") -> None:
        self.lines.append(Skipped(record, reason, detail))


def regions(record: str, named: Mapping[str, object], size: Size, notes: Notes) -> Regions:
    """Vocabulary index -> box inside the image, in vocabulary order."""
    found: Regions = {}
    for name, given in named.items():
        index = _index(record, name, notes)
        box = None if index is None else inside(record, name, given, size, notes)
        if index is not None and box is not None:
            found[index] = box
    return dict(sorted(found.items()))


def inside(record: str, name: str, given: object, size: Size, notes: Notes) -> Box | None:
    """`given` as a box, clipped to an image of that size; None, and a line that says why, where it is none."""
    box = numbers(given)
    if box is None:
        notes.add(record, Reason.NOT_A_BOX, f"{name} {given}")
        return None
    rows, columns = size
    kept = box.clipped(columns, rows)
    if not box.area > 0:
        notes.add(record, Reason.NO_AREA, f"{name} {_plain(box)}")
    elif not kept.area > 0:
        notes.add(record, Reason.OUTSIDE, f"{name} {_plain(box)} of {columns} x {rows}")
    elif kept != box:
        notes.add(record, Reason.CLIPPED, f"{name} {_plain(box)} of {columns} x {rows}")
    return kept if box.area > 0 and kept.area > 0 else None


def numbers(given: object) -> Box | None:
    """Four finite numbers as a box; None for anything else."""
    if not isinstance(given, list | tuple) or len(given) != 4:
        return None
    if any(isinstance(edge, bool) or not isinstance(edge, int | float) for edge in given):
        return None
    box = Box(*(float(edge) for edge in given))
    return box if all(math.isfinite(edge) for edge in box) else None


def _index(record: str, name: str, notes: Notes) -> int | None:
    try:
        return VOCABULARY.named(name).index
    except KeyError:
        if name.strip().lower() not in UNUSED:
            notes.add(record, Reason.UNKNOWN_NAME, name)
        return None


def _plain(box: Box) -> list[float]:
    return [round(edge, 1) for edge in box]
