"""What a page points at in, URLs out: pages, pictures of this port, and studies in other people's viewers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from dicomnode.settings import WebSettings
from dicomnode.web.resources import ROOT
from encoder.boxes import Box

PICTURES: Final = "/pictures"
WHY: Final = "/why"
THUMBNAIL: Final = 320  # pixels of a side
LARGEST_FILM: Final = 3072  # pixels of a side; larger films are sent smaller


@dataclass(frozen=True)
class Viewer:
    """A link that opens a study elsewhere."""

    name: str
    url: str


def study(study_uid: str) -> str:
    """A study's page."""
    return f"/study/{quote(study_uid, safe='')}"


def image(instance_uid: str, box: Box | None = None, frame: int = 1) -> str:
    """A film's page; `box`: marked on it."""
    asked = _frame(frame) | (corners(box) if box else {})
    return f"/image/{quote(instance_uid, safe='')}" + (f"?{urlencode(asked)}" if asked else "")


def hits(instance_uid: str, box: Box, more: Mapping[str, str] | None = None, frame: int = 1) -> str:
    """The regions that look like this one."""
    return "/hits?" + urlencode({"image": instance_uid, **_frame(frame), **corners(box), **(more or {})})


def why(asked: Mapping[str, str]) -> str:
    """The page that says why a hit is one."""
    return f"{WHY}?{urlencode(asked)}"


def heat(asked: Mapping[str, str], side: str) -> str:
    """The picture laid over one side of a pair."""
    return f"{WHY}/picture?{urlencode({**asked, 'side': side})}"


def region(instance_uid: str, box: Box, frame: int) -> dict[str, str]:
    """A region as query parameters."""
    return {"image": instance_uid, **_frame(frame), **corners(box)}


def _frame(frame: int) -> dict[str, str]:
    """The first is not named: most images have one."""
    return {"frame": str(frame)} if frame > 1 else {}


def corners(box: Box) -> dict[str, str]:
    """A box as query parameters, in pixels of the stored image."""
    return {name: f"{value:.2f}".rstrip("0").rstrip(".") for name, value in box._asdict().items()}


def thumbnail(study_uid: str, series_uid: str, instance_uid: str) -> str:
    """A small picture of a whole image."""
    return f"{_picture(study_uid, series_uid, instance_uid)}/thumbnail?viewport={THUMBNAIL},{THUMBNAIL}"


def film(uids: tuple[str, str, str], size: tuple[int, int], frame: int = 1) -> str:
    """The whole picture, as large as it is stored. `uids`: study, series, instance; `size`: columns, rows."""
    width, height = (min(side, LARGEST_FILM) for side in size)
    return f"{_picture(*uids, frame)}/rendered?viewport={width},{height}"


def cut(uids: tuple[str, str, str], source: Box, side: int, frame: int = 1) -> str:
    """A part of a picture, fitted into a square of `side` pixels. `source`: whole pixels of the stored image."""
    viewport = ",".join(str(round(value)) for value in (side, side, source.x1, source.y1, source.width, source.height))
    return f"{_picture(*uids, frame)}/rendered?viewport={viewport}"


def _picture(study_uid: str, series_uid: str, instance_uid: str, frame: int = 1) -> str:
    instance = f"{PICTURES}/studies/{study_uid}/series/{series_uid}/instances/{instance_uid}"
    return instance + (f"/frames/{frame}" if frame > 1 else "")


def viewers(web: WebSettings, study_uid: str, base: str) -> tuple[Viewer, ...]:
    """Where else the study can be opened: the viewers that are configured. `base`: this port's URL."""
    templates = (("OHIF", web.ohif_url), ("Weasis", web.weasis_url), ("3D Slicer", web.slicer_url))
    filled = {"study": quote(study_uid, safe=""), "dicomweb": quote(base + ROOT, safe="")}
    return tuple(Viewer(name, template.format_map(filled)) for name, template in templates if template)
