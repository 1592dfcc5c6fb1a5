"""The parameters of a URL in, values out: numbers, rectangles, frames, UIDs. BadRequest for what means nothing."""

import math
from collections.abc import Mapping
from typing import Final

from dicomnode.uids import is_uid
from dicomnode.web.errors import BadRequest
from encoder.boxes import Box

CORNERS: Final = ("x1", "y1", "x2", "y2")
FARTHEST: Final = 1e6  # pixels


def number(given: Mapping[str, str], name: str, most: float) -> float:
    """A number between minus and plus `most`."""
    try:
        found = float(given.get(name, ""))
    except ValueError:
        found = math.nan
    if not abs(found) <= most:
        raise BadRequest(f"{name} is not a number that it can be")
    return found


def box(given: Mapping[str, str]) -> Box:
    """A rectangle with an area, in pixels of the stored image."""
    found = Box(*(number(given, name, FARTHEST) for name in CORNERS))
    if found.x1 >= found.x2 or found.y1 >= found.y2:
        raise BadRequest("the rectangle is empty")
    return found


def frame(given: Mapping[str, str]) -> int:
    """A frame's number, counted from 1; the first where none is named."""
    text = given.get("frame", "1") or "1"
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text)):
        raise BadRequest("frame is a whole number, 1 or more")
    return int(text)


def uid(given: Mapping[str, str], name: str) -> str:
    """A UID."""
    found = given.get(name, "")
    if not is_uid(found):
        raise BadRequest(f"{name} is no UID")
    return found
