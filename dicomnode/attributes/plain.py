"""Data elements as plain values in; pydicom's data set of them, or the same bytes that it would write, out.

What is answered over and over is made of these: tuples of texts cost next to nothing beside pydicom's DataElements.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.attributes import elements
from dicomnode.attributes.charsets import UNDECLARED, Charset
from dicomnode.attributes.values import CHARSET_VRS, NUMBER_FORMATS


class Element(NamedTuple):
    """One attribute: its values as text, or the items of a sequence; neither: present and empty.

    A tuple and no dataclass: an answer makes ten thousand of them.
    """

    tag: BaseTag
    vr: str
    values: tuple[str, ...] = ()
    items: tuple[tuple["Element", ...], ...] = ()

    def texts(self) -> Iterator[str]:
        """Every text in it that a character set must carry."""
        if self.vr in CHARSET_VRS:
            yield from self.values
        for each in self.items:
            for inner in each:
                yield from inner.texts()


Item = tuple[Element, ...]  # in tag order


@lru_cache(maxsize=1024)
def _known(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return Tag(tag), dictionary_VR(tag)


def element(keyword: str, *values: str) -> Element:
    """The attribute of that keyword (PS3.6) with these values. KeyError for a keyword that there is not."""
    return Element(*_known(keyword), values)


def sequence(keyword: str, *items: Item) -> Element:
    """The sequence of that keyword with these items. KeyError for a keyword that there is not."""
    return Element(*_known(keyword), (), items)


def item(*of: Element) -> Item:
    """These elements, in tag order."""
    return tuple(sorted(of, key=_number_of))


def _number_of(each: Element) -> int:
    return int(each.tag)


def dataset(of: Iterable[Element]) -> Dataset:
    """They as pydicom holds them."""
    made = Dataset()
    for each in of:
        made.add(DataElement(each.tag, each.vr, _value(each), validation_mode=config.IGNORE))
    return made


def _value(of: Element) -> Any:
    if of.vr == "SQ":
        return [dataset(each) for each in of.items]
    values: list[Any] = [_number(of.vr, value) for value in of.values]
    return values[0] if len(values) == 1 else values or empty_value_for_VR(of.vr)


def _number(vr: str, value: str) -> str | int | float:
    if vr == "AT":
        return int(value, 16)
    if vr in NUMBER_FORMATS:
        return float(value) if vr in {"FL", "FD"} else int(value)
    return value


def encoded(of: Iterable[Element], charset: Charset = UNDECLARED, *, implicit_vr: bool = False) -> bytes:
    """They in Explicit or Implicit VR Little Endian, in the order given."""
    frame = elements.implicit if implicit_vr else elements.explicit
    return b"".join(_encoded(each, charset, frame) for each in of)


def _encoded(of: Element, charset: Charset, frame: elements.Frame) -> bytes:
    if of.vr == "SQ":
        bodies = (b"".join(_encoded(inner, charset, frame) for inner in each) for each in of.items)
        return frame(of.tag, "SQ", b"".join(elements.item(body) for body in bodies))
    if of.vr in NUMBER_FORMATS or of.vr == "AT":
        return frame(of.tag, of.vr, elements.packed(of.vr, of.values))
    text = "\\".join(of.values)
    return frame(of.tag, of.vr, charset.encode(text) if of.vr in CHARSET_VRS else _ascii(text))


def _ascii(text: str) -> bytes:
    return text.encode("ascii", errors="replace")
