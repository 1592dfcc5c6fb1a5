"""A map of signed numbers in, a picture to be laid over a film out: PNG, clear where the map is 0.

Above 0 from dark orange to light yellow, below from dark to light blue: told apart, and ordered by lightness, with any
of the common kinds of colour blindness.
"""

from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

CELL: Final = 24  # pixels of the picture along a cell of the map
FAINTEST: Final = 5e-4  # of a cosine: a map whose largest number is below it is drawn as faintly as it is


class Stop(NamedTuple):
    """A colour of the ramp. `share`: of the largest number, 0..1; `opacity` 0..1."""

    share: float
    colour: tuple[int, int, int]
    opacity: float


ABOVE: Final = (
    Stop(0.0, (150, 40, 20), 0.0),
    Stop(0.25, (190, 62, 18), 0.3),
    Stop(0.6, (240, 132, 20), 0.55),
    Stop(1.0, (255, 240, 130), 0.78),
)
BELOW: Final = (Stop(0.0, (20, 60, 130), 0.0), Stop(0.25, (33, 102, 172), 0.3), Stop(1.0, (146, 205, 240), 0.78))
RAMP: Final = (*reversed(BELOW), *ABOVE)  # from the lowest to the highest, for a legend


def picture(costs: npt.NDArray[np.float32]) -> bytes:
    """The map (rows, columns) as PNG, CELL pixels a cell, row 0 at the top; its largest number is the brightest."""
    rows, columns = costs.shape
    shares = costs / max(float(np.abs(costs).max()), FAINTEST)
    smooth = Image.fromarray(shares.astype(np.float32)).resize((columns * CELL, rows * CELL), Image.Resampling.BILINEAR)
    buffer = BytesIO()
    Image.fromarray(_coloured(np.asarray(smooth)), "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def _coloured(shares: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W) from -1 to 1 -> (H, W, 4)."""
    above, below = (_ramp(shares * sign, stops) for sign, stops in ((1, ABOVE), (-1, BELOW)))
    return np.where((shares >= 0)[..., None], above, below)


def _ramp(shares: npt.NDArray[np.float32], stops: tuple[Stop, ...]) -> npt.NDArray[np.uint8]:
    at = [stop.share for stop in stops]
    channels = [*zip(*(stop.colour for stop in stops), strict=True), [255 * stop.opacity for stop in stops]]
    found: npt.NDArray[np.uint8] = (
        np.stack([np.interp(shares, at, channel) for channel in channels], axis=-1).round().astype(np.uint8)
    )
    return found
