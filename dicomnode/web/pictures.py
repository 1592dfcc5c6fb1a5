"""WADO-RS pictures and thumbnails: a frame and how it is to be shown in, a JPEG or PNG out. PS3.18 10.4.1.1.5."""

import hashlib
import math
from collections.abc import Iterator
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from dicomnode.pixels import render
from dicomnode.pixels.greyscale import Window
from dicomnode.pixels.render import Rendering, Viewport
from dicomnode.web import media, multipart, resources
from dicomnode.web.errors import BadRequest, NotAcceptable, NotFound
from dicomnode.web.multipart import Part
from dicomnode.web.resources import Held
from dicomnode.web.shelf import WebShelf
from dicomnode.web.wado import PRIVATE
from dicomnode.workers.renderer import RendererProcess, RenderRequest
from storage.catalog import Catalog

THUMBNAIL: Final = Viewport(128, 128)  # pixels, unless the request says otherwise
FUNCTIONS: Final = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}


class Pictures:
    """Answers requests for pictures. Safe for threads; one is drawn at a time."""

    def __init__(self, catalog: Catalog, reader: WebShelf, renderer: RendererProcess) -> None:
        self._catalog = catalog
        self._reader = reader
        self._renderer = renderer

    def rendered(self, request: Request) -> Response:
        """An instance or one frame of it; of a series or study the first frame of each image, in parts."""
        resource = resources.of_request(request)
        found = [held for held in resources.instances(self._catalog, resource) if held.is_image]
        if not found:
            raise NotAcceptable("there is no image to be shown")
        how = rendering(request, None)
        if resource.instance:
            return self._one(request, found[0], how)
        return multipart.streamed(how.media_type, self._parts(found, how))

    def thumbnail(self, request: Request) -> Response:
        """A small picture of the first image of the resource."""
        found = resources.instances(self._catalog, resources.of_request(request))
        image = next((held for held in found if held.is_image), None)
        if image is None:
            raise NotAcceptable("there is no image to be shown")
        return self._one(request, image, rendering(request, THUMBNAIL))

    def _one(self, request: Request, held: Held, how: Rendering) -> Response:
        frame = _frame(request, held)
        etag = _etag(held, frame, how)
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={**PRIVATE, "ETag": etag})
        picture = self._draw(held, frame, how)
        return Response(picture, media_type=how.media_type, headers={**PRIVATE, "ETag": etag})

    def _parts(self, found: list[Held], how: Rendering) -> Iterator[Part]:
        for held in found:
            yield Part(how.media_type, (self._draw(held, 1, how),))

    def _draw(self, held: Held, frame: int, how: Rendering) -> bytes:
        path = self._reader.path(held)
        if not path.is_file():
            raise NotFound("no longer stored here")
        return self._renderer.render(RenderRequest(path, frame, how))


def rendering(request: Request, viewport: Viewport | None) -> Rendering:
    """How the request wants it shown; `viewport` unless it says. BadRequest, NotAcceptable."""
    asked = request.query_params
    return Rendering(
        media_type=media.chosen(request, tuple(render.FORMATS)),
        viewport=_viewport(asked["viewport"]) if "viewport" in asked else viewport,
        window=_window(asked["window"]) if "window" in asked else None,
        quality=_quality(asked),
    )


def _quality(asked: QueryParams) -> int:
    text = asked.get("quality", str(render.QUALITY))
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= 100):
        raise BadRequest("quality is a whole number from 1 to 100")
    return int(text)


def _viewport(text: str) -> Viewport:
    """`vw,vh` or `vw,vh,sx,sy,sw,sh`; of the source what is left out is the whole. PS3.18 8.3.5.1.4."""
    parts = text.split(",")
    width, height = (_number(part, "viewport") for part in (*parts, "", "")[:2])
    if len(parts) not in {2, 6} or not (1 <= width <= render.LARGEST_SIDE and 1 <= height <= render.LARGEST_SIDE):
        raise BadRequest(f"viewport is vw,vh or vw,vh,sx,sy,sw,sh, of at most {render.LARGEST_SIDE} pixels a side")
    if len(parts) == 2:
        return Viewport(int(width), int(height))
    x, y, wide, high = (_number(part or "0", "viewport") for part in parts[2:])
    return Viewport(int(width), int(height), (x, y, wide, high))


def _window(text: str) -> Window:
    """`centre,width` and a function: linear, linear-exact or sigmoid. PS3.18 8.3.5.1.5."""
    parts = text.split(",")
    function = FUNCTIONS.get(parts[2].strip().lower() if len(parts) == 3 else "linear")
    if len(parts) not in {2, 3} or function is None:
        raise BadRequest("window is centre,width,function; the function one of linear, linear-exact, sigmoid")
    centre, width = (_number(part, "window") for part in parts[:2])
    if width < 1 if function == "LINEAR" else width <= 0:
        raise BadRequest("window is too narrow")
    return Window(centre, width, function)


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e9:
        raise BadRequest(f"{name} is made of numbers")
    return number


def _frame(request: Request, held: Held) -> int:
    """The one frame of the path; the first where it names none."""
    text = str(request.path_params.get("frames", "1"))
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text)):
        raise BadRequest("one frame is shown, counted from 1")
    if int(text) > held.frames:
        raise NotFound(f"the instance has {held.frames} frames")
    return int(text)


def _etag(held: Held, frame: int, how: Rendering) -> str:
    return f'"{hashlib.sha256(repr((held.sha256, frame, how)).encode()).hexdigest()[:32]}"'
