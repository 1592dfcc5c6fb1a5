"""A hit and what it was found for in; URLs that ask why it is one, and what is told of the answer, out."""

from collections.abc import Mapping
from typing import Any, Final

from dicomnode.pixels import heat
from dicomnode.query.occlusion import Explanation, Pair, Side
from dicomnode.web.errors import BadRequest
from dicomnode.web.pages import given, links
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box

PLACE: Final = "1"  # of the parameter `place`: the hit is a place in its region
DECIMALS: Final = 4  # of a cosine: what a part costs is often less than a hundredth


def parameters(pair: Pair) -> dict[str, str]:
    """The pair as a URL has it."""
    hit = {"hit": pair.hit_uid, "anatomy": VOCABULARY[pair.anatomy].name}
    return links.region(pair.image_uid, pair.box, pair.frame) | hit | ({"place": PLACE} if pair.is_place else {})


def pair(asked: Mapping[str, str]) -> Pair:
    """The pair of a URL's parameters. BadRequest."""
    try:
        anatomy = VOCABULARY.named(asked.get("anatomy", "").strip()).index
    except KeyError as unknown:
        raise BadRequest("anatomy is not in the vocabulary") from unknown
    return Pair(
        image_uid=given.uid(asked, "image"),
        frame=given.frame(asked),
        box=given.box(asked),
        hit_uid=given.uid(asked, "hit"),
        anatomy=anatomy,
        is_place=asked.get("place", "") == PLACE,
    )


def side(asked: Mapping[str, str]) -> Side:
    """Which of the two regions is covered. BadRequest."""
    try:
        return Side(asked.get("side", ""))
    except ValueError as unknown:
        raise BadRequest(f"side is one of {', '.join(Side)}") from unknown


def told(pair: Pair, side: Side, found: Explanation) -> dict[str, Any]:
    """The answer as JSON values: the map by rows, and where it lies on which image."""
    return {
        "side": str(side),
        "image": found.image_uid,
        "frame": found.frame,
        "box": [round(edge, 2) for edge in found.box],
        "score": round(found.score, 6),
        "largest": round(found.largest, 6),
        "whole": round(found.whole, 6),
        "costs": [[round(float(cost), 6) for cost in row] for row in found.costs],
        "picture": links.heat(parameters(pair), side),
        "words": words_of(found),
    }


def words_of(found: Explanation) -> str:
    """What the numbers say."""
    if found.largest <= heat.FAINTEST:
        return f"No part matters by itself: covering any takes less than {heat.FAINTEST} from {_number(found.score)}."
    return (
        f"Largest drop: {_number(found.largest)} of {_number(found.score)}. "
        f"Covering the whole region takes {_number(found.whole)}."
    )


def overlay(pair: Pair, side: Side, box: Box) -> dict[str, Any]:
    """The picture that is laid over a film, and where."""
    return {"url": links.heat(parameters(pair), side), "box": box}


def _number(cosine: float) -> str:
    return f"{cosine:.{DECIMALS}f}"
