"""A frame's stored values and how it is to be shown in, a picture as JPEG or PNG out. PS3.18 8.3.5, PS3.4 N.2.

Runs in a child process, as all that decodes. Memory bound: the frame as stored, as 8 bit and as it is sent.
"""

import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, convert_color_space

from dicomnode.errors import DecodeError
from dicomnode.pixels.eligibility import PALETTE
from dicomnode.pixels.greyscale import Window, bands, levels

FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG"}
QUALITY: Final = 90
LARGEST_SIDE: Final = 8192  # pixels of a viewport
# A film's noise repeats nowhere: looking for runs alone takes less time than level 3, and gives up little.
_PNG: Final = {"compress_level": 1, "compress_type": int(zlib.Z_RLE)}
_YBR: Final = frozenset({"YBR_FULL", "YBR_FULL_422"})  # others leave their codecs as RGB


@dataclass(frozen=True)
class Viewport:
    """What is shown and how large. PS3.18 8.3.5.1.4. Pixels; the source is a rectangle of the frame."""

    width: int
    height: int
    source: tuple[float, float, float, float] | None = None  # x, y, width, height; negative sizes are mirrored


@dataclass(frozen=True)
class Rendering:
    """How a frame is shown."""

    media_type: str = "image/jpeg"
    viewport: Viewport | None = None
    window: Window | None = None  # instead of the one in the header
    quality: int = QUALITY  # 1 to 100, of JPEG


def rendered(header: Dataset, stored: npt.NDArray[Any], how: Rendering) -> bytes:
    """The encoded picture. DecodeError where the header does not say how the values are shown."""
    try:
        picture = Image.fromarray(_eight_bit(header, stored, how.window))
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as wrong:
        raise DecodeError(f"pixel data cannot be shown: {type(wrong).__name__}") from wrong
    if how.viewport is not None:
        picture = _fitted(picture, how.viewport)
    buffer = BytesIO()
    picture.save(buffer, FORMATS[how.media_type], **_options(how))
    return buffer.getvalue()


def _options(how: Rendering) -> dict[str, int]:
    return {"quality": how.quality} if FORMATS[how.media_type] == "JPEG" else _PNG


def _eight_bit(header: Dataset, stored: npt.NDArray[Any], window: Window | None) -> npt.NDArray[np.uint8]:
    """(rows, columns) grey or (rows, columns, 3) RGB."""
    photometric = str(header.get("PhotometricInterpretation") or "").strip(" \0").upper()
    if stored.ndim == 3:
        rgb = convert_color_space(stored, photometric, "RGB") if photometric in _YBR else stored
        return _scaled(rgb, (1 << int(header.BitsStored)) - 1)
    if photometric == PALETTE:
        colours = apply_color_lut(stored, header)[..., :3]
        return _scaled(colours, 255 if colours.max() <= 255 else 65535)  # some write 8 bits into entries of 16
    shown, places = levels(stored, header, window)
    table = np.rint(shown * 255).astype(np.uint8)
    grey = np.empty(places.shape, np.uint8)
    for rows in bands(places):
        np.take(table, places[rows], out=grey[rows], mode="clip")
    return grey


def _scaled(colours: npt.NDArray[Any], top: int) -> npt.NDArray[np.uint8]:
    if top == 255:
        return np.asarray(colours, np.uint8)
    scaled: npt.NDArray[np.uint8] = np.rint(colours.astype(np.float32) * (255 / top)).astype(np.uint8)
    return scaled


def _fitted(picture: Image.Image, viewport: Viewport) -> Image.Image:
    """The source rectangle scaled into the viewport, its shape kept: never larger than asked."""
    if viewport.source is not None:
        picture = _cut(picture, *viewport.source)
    scale = min(viewport.width / picture.width, viewport.height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _cut(picture: Image.Image, x: float, y: float, width: float, height: float) -> Image.Image:
    left, upper = max(0, round(x)), max(0, round(y))
    right = min(picture.width, round(x + (abs(width) or picture.width)))
    lower = min(picture.height, round(y + (abs(height) or picture.height)))
    if right <= left or lower <= upper:
        raise DecodeError("viewport shows nothing of the image")
    part = picture.crop((left, upper, right, lower))
    if width < 0:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return part.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if height < 0 else part
