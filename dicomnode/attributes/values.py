"""Values: an element of any data set in, its values as plain normalised text out; what cannot be read is absent.

Works on the raw bytes where pydicom still has them: no validation, no warning and no exception over the odd things
that real files hold. Dates are YYYYMMDD, times HHMMSS[.FFFFFF], whole numbers without padding, UIDs without padding.
"""

import re
import struct
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag, Tag

from dicomnode.attributes.charsets import UNDECLARED, Charset

SPECIFIC_CHARACTER_SET = Tag(0x0008, 0x0005)
# Value representations, PS3.5 6.2.
CHARSET_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
ASCII_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
TEXT_VRS = CHARSET_VRS | ASCII_VRS
SINGLE_TEXT_VRS = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is a character in these
NUMBER_FORMATS = {
    "US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d",
}  # fmt: skip
# What reading a damaged element can raise in pydicom; anything else is a defect of ours.
UNREADABLE = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError,
    OverflowError, NotImplementedError, RecursionError, struct.error, OSError, BytesLengthException,
)  # fmt: skip
MAXIMUM_REMEMBERED = 64  # bytes of a value whose texts are kept, for the next that is the same
_AMBIGUOUS = {"US or SS": "US", "US or OW": "US", "US or SS or OW": "US", "OB or OW": "OW"}
_DATE = re.compile(r"(\d{4})([.\-/]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(?:\.(\d{1,6})\d*)?)?)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def vr_of(element: Any) -> str:
    """The value representation of a raw or decoded element; the dictionary's where the file leaves it open."""
    vr = str(element.VR) if element.VR is not None else "UN"
    if vr == "UN":
        vr = dictionary_vr(element.tag)
    return _AMBIGUOUS.get(vr, vr)


def dictionary_vr(tag: BaseTag) -> str:
    """The dictionary's value representation (PS3.6); UN for tags it does not hold."""
    try:
        vr = str(dictionary_VR(tag))
    except KeyError:
        return "UN"
    return _AMBIGUOUS.get(vr, vr)


def charset_of(dataset: Dataset, inherited: Charset = UNDECLARED) -> Charset:
    """The character set in force in a data set or item; items inherit it. PS3.5 7.5.3."""
    if SPECIFIC_CHARACTER_SET not in dataset:
        return inherited
    return Charset.of(texts(dataset, SPECIFIC_CHARACTER_SET, inherited, keep_empty=True))


def texts(dataset: Dataset, tag: BaseTag, charset: Charset, *, keep_empty: bool = False) -> tuple[str, ...]:
    """The readable values of one element in order; () when it is absent, empty, binary or a sequence."""
    normal = texts_of(_held(dataset, tag), charset)
    return normal if keep_empty else tuple(value for value in normal if value)


def _held(dataset: Dataset, tag: BaseTag) -> Any:
    """An element as it is held; what has no bytes yet is read. None where there is none, or it cannot be read."""
    try:
        return dataset.get_item(tag)
    except UNREADABLE:
        return None


def texts_of(element: Any, charset: Charset) -> tuple[str, ...]:
    """The values of an element in order, unreadable ones empty; () when it is None, binary or a sequence."""
    try:
        if element is None:
            return ()
        vr = vr_of(element)
        value = element.value
        if isinstance(value, bytes) and len(value) <= MAXIMUM_REMEMBERED and vr in TEXT_VRS:
            return _short_texts(vr, value, charset)
        return tuple(normalised(vr, each) for each in _as_written(element, vr, charset))
    except UNREADABLE:
        return ()


@lru_cache(maxsize=8192)  # instances of a series share most of their values, and a thousand matches many
def _short_texts(vr: str, value: bytes, charset: Charset) -> tuple[str, ...]:
    return tuple(normalised(vr, each) for each in _raw_text(value, vr, charset))


def written(dataset: Dataset, tag: BaseTag, charset: Charset) -> tuple[str, Sequence[str]]:
    """The value representation and the values of one element as they were written; () when they are no text."""
    try:
        element = _held(dataset, tag)
        if element is None:
            return "UN", ()
        vr = vr_of(element)
        return vr, _as_written(element, vr, charset)
    except UNREADABLE:
        return "UN", ()


def _as_written(element: Any, vr: str, charset: Charset) -> Sequence[str]:
    """Raises one of UNREADABLE."""
    return raw_texts(element, vr, charset) if isinstance(element.value, bytes) else decoded_texts(element, vr)


def first(dataset: Dataset, tag: BaseTag, charset: Charset) -> str | None:
    """The first readable value; None when there is none."""
    return next(iter(texts(dataset, tag, charset)), None)


def items(dataset: Dataset, tag: BaseTag) -> tuple[Dataset, ...]:
    """The items of a sequence; () when it is absent, unreadable or no sequence."""
    if tag not in dataset:
        return ()
    try:
        value = dataset[tag].value
    except UNREADABLE:
        return ()
    return tuple(item for item in value if isinstance(item, Dataset)) if isinstance(value, Sequence) else ()


def normalised(vr: str, text: str) -> str:
    """One value in the form that is stored and compared; "" when it is not of that value representation."""
    text = _CONTROL.sub("", text)
    if vr in {"LT", "ST", "UT"}:
        return text.rstrip()
    text = text.strip()
    rule = _NORMAL_FORMS.get(vr)
    return rule(text) if rule else text


def normal_date(text: str) -> str:
    """YYYYMMDD of a date of the calendar, also written 1998.01.28 or 1998-01-28; else ""."""
    found = _DATE.fullmatch(text)
    if found is None:
        return ""
    year, month, day = found[1], found[3], found[4]
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return ""
    return f"{year}{month}{day}"


def normal_time(text: str) -> str:
    """HHMMSS[.FFFFFF], missing parts as zeros, trailing zeros of the fraction dropped; else ""."""
    found = _TIME.fullmatch(text)
    if found is None:
        return ""
    hours, minutes, seconds, fraction = (part or "" for part in found.groups())
    whole = f"{hours}{minutes or '00'}{seconds or '00'}"
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def normal_integer(text: str) -> str:
    """A whole number without sign of plus, padding or a zero fraction; else ""."""
    found = re.fullmatch(r"([+-]?\d{1,18})(?:\.0*)?", text)
    return str(int(found[1])) if found else ""


def normal_decimal(text: str) -> str:
    """A decimal as written; "" when it is no number."""
    return text if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text) else ""


_NORMAL_FORMS = {"DA": normal_date, "TM": normal_time, "IS": normal_integer, "DS": normal_decimal}


def raw_texts(element: Any, vr: str, charset: Charset) -> Sequence[str]:
    """The values of an element that still is bytes; () where they are no text. Raises one of UNREADABLE."""
    if vr in TEXT_VRS:
        return _raw_text(element.value, vr, charset)
    order = "<" if getattr(element, "is_little_endian", True) else ">"
    if vr == "AT":
        return [f"{group:04X}{number:04X}" for group, number in struct.iter_unpack(f"{order}HH", element.value)]
    if vr in NUMBER_FORMATS:
        return [str(number) for (number,) in struct.iter_unpack(order + NUMBER_FORMATS[vr], element.value)]
    return ()


def _raw_text(value: bytes, vr: str, charset: Charset) -> Sequence[str]:
    text = charset.decode(value) if vr in CHARSET_VRS else value.decode("latin-1")
    return [text] if vr in SINGLE_TEXT_VRS else text.split("\\")


def decoded_texts(element: Any, vr: str) -> Sequence[str]:
    """The values of an element that pydicom has decoded or a program has set, as written; () where they are no text."""
    if element.value is None or (vr not in TEXT_VRS and vr not in NUMBER_FORMATS and vr != "AT"):
        return ()
    value = element.value
    many = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    if vr == "AT":
        return [f"{int(one):08X}" for one in many]
    return [str(one) for one in many]
