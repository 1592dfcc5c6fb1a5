"""A data set or response elements in, the DICOM JSON Model and the Native DICOM Model (XML) of it out.

PS3.18 Annex F, PS3.19 A.1. Tolerant as `values` is: a value that cannot be read is left out, none raises.
"""

import base64
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from xml.etree import ElementTree

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicomnode.attributes.charsets import Charset
from dicomnode.attributes.values import (
    NUMBER_FORMATS,
    SPECIFIC_CHARACTER_SET,
    UNREADABLE,
    charset_of,
    items,
    texts,
    vr_of,
)

Json = dict[str, Any]
MAXIMUM_INLINE: Final = 1024  # bytes of a binary value that are in the answer; longer ones are behind a URI
MAXIMUM_DEPTH: Final = 64  # nested sequences
BINARY_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_NAME_PARTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_UNICODE: Final = {"vr": "CS", "Value": ["ISO_IR 192"]}
# What XML 1.0 (2.2) cannot hold.
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Bulk = Callable[[BaseTag], str]  # the URI of a value of the data set itself


def key_of(tag: BaseTag) -> str:
    """PS3.18 F.2.2: eight hexadecimal digits."""
    return f"{int(tag):08X}"


def valued(vr: str, values: Sequence[str]) -> Json:
    """One attribute of its values as text; no Value where it has none. PS3.18 F.2.2 to F.2.5."""
    read = [_value(vr, value) for value in values]
    return {"vr": vr, "Value": read} if any(value is not None for value in read) else {"vr": vr}


def _value(vr: str, text: str) -> Any:
    if not text:
        return None
    if vr == "PN":
        groups = zip(_NAME_GROUPS, text.split("="), strict=False)
        return {group: name for group, name in groups if name} or None
    if vr in {"IS", "DS"} or vr in NUMBER_FORMATS:
        return _number(vr, text)
    return text


def _number(vr: str, text: str) -> int | float | None:
    """JSON knows no infinities; what is no number is left out."""
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if vr not in {"DS", "FL", "FD"} else number


def sequence(found: Iterable[Json]) -> Json:
    """An attribute of items."""
    held = list(found)
    return {"vr": "SQ", "Value": held} if held else {"vr": "SQ"}


def of_dataset(dataset: Dataset, bulk: Bulk | None = None) -> Json:
    """The whole data set, private elements too, in Unicode. `bulk`: where values too long for an answer are had."""
    return _of(dataset, charset_of(dataset), bulk, 0)


def _of(dataset: Dataset, charset: Charset, bulk: Bulk | None, depth: int) -> Json:
    found: Json = {}
    for tag in sorted(dataset.keys(), key=int):
        if tag.element == 0 or tag.group < 0x0008:  # group lengths, file meta
            continue
        try:
            found[key_of(tag)] = _attribute(dataset, tag, charset, bulk, depth)
        except UNREADABLE:
            found[key_of(tag)] = {"vr": "UN"}
    return found


def _attribute(dataset: Dataset, tag: BaseTag, charset: Charset, bulk: Bulk | None, depth: int) -> Json:
    element = dataset.get_item(tag)
    vr = vr_of(element)
    if tag == SPECIFIC_CHARACTER_SET:
        return _UNICODE
    if vr == "SQ":
        inner = items(dataset, tag) if depth < MAXIMUM_DEPTH else ()
        return sequence(_of(item, charset_of(item, charset), None, depth + 1) for item in inner)
    if vr in BINARY_VRS:
        return _binary(element, tag, vr, bulk)
    return valued(vr, _as_stored(texts(dataset, tag, charset, keep_empty=True)))


def _as_stored(values: Sequence[str]) -> Sequence[str]:
    """Places of several values are kept, an attribute of none has none."""
    return values if any(values) else ()


def _binary(element: Any, tag: BaseTag, vr: str, bulk: Bulk | None) -> Json:
    value = element.value if isinstance(element.value, bytes) else b""
    if not value:
        return {"vr": vr}
    if bulk is not None and len(value) > MAXIMUM_INLINE:
        return {"vr": vr, "BulkDataURI": bulk(tag)}
    return {"vr": vr, "InlineBinary": base64.b64encode(value).decode("ascii")}


def as_xml(found: Json) -> bytes:
    """The same as a Native DICOM Model document."""
    root = ElementTree.Element("NativeDicomModel", {"xml:space": "preserve"})
    _fill(root, found)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _fill(parent: ElementTree.Element, found: Json) -> None:
    for key, attribute in found.items():
        named = {"tag": key, "vr": attribute["vr"]}
        if keyword := keyword_for_tag(Tag(int(key, 16))):
            named["keyword"] = keyword
        element = ElementTree.SubElement(parent, "DicomAttribute", named)
        if "BulkDataURI" in attribute:
            ElementTree.SubElement(element, "BulkData", {"uri": attribute["BulkDataURI"]})
        if "InlineBinary" in attribute:
            ElementTree.SubElement(element, "InlineBinary").text = attribute["InlineBinary"]
        for number, value in enumerate(attribute.get("Value", ()), start=1):
            _add_value(element, str(number), attribute["vr"], value)


def _add_value(element: ElementTree.Element, number: str, vr: str, value: Any) -> None:
    if vr == "SQ":
        _fill(ElementTree.SubElement(element, "Item", {"number": number}), value)
    elif vr == "PN":
        _add_name(ElementTree.SubElement(element, "PersonName", {"number": number}), value or {})
    else:
        ElementTree.SubElement(element, "Value", {"number": number}).text = _plain("" if value is None else value)


def _add_name(element: ElementTree.Element, groups: Json) -> None:
    for group, name in groups.items():
        parts = ElementTree.SubElement(element, group)
        for part, text in zip(_NAME_PARTS, name.split("^"), strict=False):
            if text:
                ElementTree.SubElement(parts, part).text = _plain(text)


def _plain(value: Any) -> str:
    return _NO_XML.sub("", str(value))
