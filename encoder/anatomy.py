"""The anatomy vocabulary: 29 chest regions in Chest ImaGenome order, read once from `anatomy.csv`.

Names, codes and order are spelled in that file and nowhere else. Codes are plain strings here; dicomnode turns
them into code items (DICOM PS3.16 CID 6171 and others).
"""

import csv
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Literal

Laterality = Literal["R", "L", ""]


@dataclass(frozen=True)
class Anatomy:
    """One entry of the vocabulary."""

    index: int  # 0..28, the number stored in every row and the slot of every model
    name: str  # Chest ImaGenome's name
    scheme: str  # coding scheme designator: SCT or 99RMIR
    code: str
    meaning: str
    laterality: Laterality
    topography: str  # "Superior" for the upper mediastinum, else ""
    accepted: frozenset[tuple[str, str]]  # other (scheme, code) pairs read as this entry


class Vocabulary:
    """The ordered entries and the ways to find one."""

    def __init__(self, entries: tuple[Anatomy, ...]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Anatomy:
        return self.entries[index]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    @cached_property
    def _by_name(self) -> dict[str, Anatomy]:
        return {entry.name: entry for entry in self.entries}

    def named(self, name: str) -> Anatomy:
        """The entry of that name, whatever its case. KeyError when there is none."""
        return self._by_name[name.strip().lower()]

    @cached_property
    def twins(self) -> dict[int, int]:
        """Index of each paired structure -> index of the same one on the other side."""
        other = {"right": "left", "left": "right"}
        sided = [(entry, entry.name.partition(" ")) for entry in self.entries]
        paired = [(entry.index, f"{other[side]} {rest}") for entry, (side, _, rest) in sided if side in other]
        return {index: self._by_name[name].index for index, name in paired if name in self._by_name}

    def coded(self, scheme: str, code: str, laterality: Laterality = "", topography: str = "") -> tuple[Anatomy, ...]:
        """Every entry a coded site can mean, in vocabulary order; empty when the code is not in the vocabulary.

        A paired structure without a laterality means both sides.
        """
        found = [
            entry
            for entry in self.entries
            if ((entry.scheme, entry.code) == (scheme, code) or (scheme, code) in entry.accepted)
            and (not laterality or not entry.laterality or entry.laterality == laterality)
        ]
        if topography:
            return tuple(entry for entry in found if entry.topography == topography) or tuple(found)
        return tuple(entry for entry in found if not entry.topography) or tuple(found)


def _accepted(cell: str) -> frozenset[tuple[str, str]]:
    pairs = (item.rpartition(":") for item in cell.split("|") if item)
    return frozenset((scheme or "SCT", code) for scheme, _, code in pairs)


def _laterality(cell: str) -> Laterality:
    return "R" if cell == "R" else "L" if cell == "L" else ""


def _read() -> Vocabulary:
    with (files("encoder") / "anatomy.csv").open(encoding="utf-8") as table:
        return Vocabulary(
            tuple(
                Anatomy(
                    index=int(row["index"]),
                    name=row["name"],
                    scheme=row["scheme"],
                    code=row["code"],
                    meaning=row["meaning"],
                    laterality=_laterality(row["laterality"]),
                    topography=row["topography"],
                    accepted=_accepted(row["accept"]),
                )
                for row in csv.DictReader(table)
            )
        )


VOCABULARY = _read()
