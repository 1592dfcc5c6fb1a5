"""SR tree: any data set with content items in, its items in document order out, with their ancestors, under caps.

Iterative: a hostile tree meets a cap, never the interpreter's stack.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.codes import Code, first_code, items_of
from dicomnode.errors import RoiError

MAXIMUM_DEPTH: Final = 32
MAXIMUM_ITEMS: Final = 20_000


@dataclass(frozen=True, eq=False)
class Node:
    """One content item (PS3.3 C.17.3) and the way back to the root."""

    item: Dataset
    parent: "Node | None"
    depth: int  # 0 is the root

    @property
    def value_type(self) -> str:
        return str(self.item.get("ValueType") or "").strip()

    @property
    def concept(self) -> Code | None:
        return first_code(self.item, "ConceptNameCodeSequence")

    # What is asked of a parent is asked by each of its children: kept, or time grows with the square of a wide tree.

    @cached_property
    def children(self) -> list[Dataset]:
        return items_of(self.item, "ContentSequence")

    @cached_property
    def by_concept(self) -> Mapping[tuple[str, str], list[Dataset]]:
        """The children by the key of their concept name, those without one left out."""
        found: dict[tuple[str, str], list[Dataset]] = {}
        for child in self.children:
            code = first_code(child, "ConceptNameCodeSequence")
            if code is not None:
                found.setdefault(code.key, []).append(child)
        return found

    @cached_property
    def references(self) -> list[Dataset]:
        """Referenced SOP items of the IMAGE children."""
        return [reference for child in self.children for reference in image_references(child)]

    def upwards(self) -> Iterator["Node"]:
        """The node itself, its parent, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


def walk(root: Dataset) -> Iterator[Node]:
    """Every content item in document order, the root first. RoiError past a cap."""
    waiting = [Node(root, None, 0)]
    seen = 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if node.depth > MAXIMUM_DEPTH:
            raise RoiError("SR is nested too deeply")
        children = node.children
        if seen + len(waiting) + len(children) > MAXIMUM_ITEMS:
            raise RoiError("SR has too many content items")
        yield node
        waiting.extend(Node(child, node, node.depth + 1) for child in reversed(children))


def image_references(item: Dataset) -> list[Dataset]:
    """The referenced SOP items of an IMAGE content item (PS3.3 C.18.4); none of any other."""
    if str(item.get("ValueType") or "").strip() != "IMAGE":
        return []
    return [entry for entry in items_of(item, "ReferencedSOPSequence") if "ReferencedSOPInstanceUID" in entry]


def at(root: Dataset, path: list[int]) -> Dataset | None:
    """The item a by-reference relationship names: positions from the root, itself 1 (PS3.3 C.17.3.2.5)."""
    if not path or path[0] != 1:
        return None
    item = root
    for position in path[1 : MAXIMUM_DEPTH + 1]:
        children = item.get("ContentSequence")
        if not isinstance(children, Sequence) or not 1 <= position <= len(children):
            return None
        item = children[position - 1]
    return item
