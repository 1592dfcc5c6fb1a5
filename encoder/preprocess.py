"""A picture as it should be seen goes in, the network's square frame comes out, with the way back for boxes.

The picture is (H, W), high = bright: MONOCHROME1, modality and VOI look-up tables are undone before (in dicomnode,
where DICOM lives). What is left to remove here is scale: bit depth, exposure, tone curve, pixel aspect. Two channels
do it. Both are the same for a picture and for any rising straight line of it (8, 12 or 16 bit):

0  rank: each pixel's place in the film's own histogram, -1..1. Equal for every rising tone curve.
1  local: the distance to the mean of its neighbourhood, in its standard deviations, -1..1. Equal under slow shading,
   and blind to black plates and borders beyond a neighbourhood.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from encoder.boxes import Box
from encoder.errors import ImageError

CHANNELS = 2
STRETCH = (0.005, 0.995)  # quantiles that become 0 and 1: markers and dead pixels do not set the scale
NEIGHBOURHOOD = 8  # a local window is 1/8 of the frame wide: wider than a rib and its gap, narrower than a lung
LOCAL_FLOOR = 0.03  # of the stretched range: what is flatter than this is flat, not texture to be blown up
LOCAL_LIMIT = 3.0  # standard deviations that become -1 and 1
SAMPLED = 32_768  # pixels that stand for the histogram: sorting all of them says the same and costs four times as much
LEVELS = 2048  # grey levels that the rank channel tells apart
SMALLEST = 16  # pixels: below this there is no film

SETTINGS: dict[str, object] = {
    "channels": ["rank", "local"],
    "stretch": list(STRETCH),
    "neighbourhood": NEIGHBOURHOOD,
    "local_floor": LOCAL_FLOOR,
    "local_limit": LOCAL_LIMIT,
    "levels": LEVELS,
    "version": 1,
}


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the square frame: scaled to keep its true proportions, centred, padded."""

    image_width: int  # pixels of the stored image
    image_height: int
    size: int  # pixels, side of the frame
    left: int  # frame pixels of padding before the image
    top: int
    width: int  # frame pixels that the image covers
    height: int

    @property
    def area(self) -> Box:
        """What the frame covers, stored pixels: the image and its padding."""
        sx, sy = self.image_width / self.width, self.image_height / self.height
        left, top = -self.left * sx, -self.top * sy
        return Box(left, top, left + self.size * sx, top + self.size * sy)

    def to_frame(self, box: Box) -> Box:
        """Stored pixels -> shares of the frame, 0..1 from its top-left corner."""
        sx, sy = self.width / self.image_width, self.height / self.image_height
        return Box(
            (box.x1 * sx + self.left) / self.size,
            (box.y1 * sy + self.top) / self.size,
            (box.x2 * sx + self.left) / self.size,
            (box.y2 * sy + self.top) / self.size,
        )

    def to_image(self, box: Box) -> Box:
        """Shares of the frame -> stored pixels, clipped to the image."""
        sx, sy = self.image_width / self.width, self.image_height / self.height
        return Box(
            (box.x1 * self.size - self.left) * sx,
            (box.y1 * self.size - self.top) * sy,
            (box.x2 * self.size - self.left) * sx,
            (box.y2 * self.size - self.top) * sy,
        ).clipped(self.image_width, self.image_height)


def placement(height: int, width: int, spacing_mm: tuple[float, float] | None, size: int) -> Placement:
    """`spacing_mm` is (between rows, between columns), PS3.3 10.7.1.3; only their ratio matters, None means square."""
    row_mm, column_mm = spacing_mm or (1.0, 1.0)
    if not (row_mm > 0 and column_mm > 0):
        raise ImageError(f"pixel spacing {spacing_mm} is not positive")
    extent = (height * row_mm, width * column_mm)
    rows, columns = (max(1, round(size * part / max(extent))) for part in extent)
    return Placement(width, height, size, (size - columns) // 2, (size - rows) // 2, columns, rows)


def checked(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """(H, W) float32 of any number type. ImageError when it is no picture."""
    if image.ndim != 2 or min(image.shape) < SMALLEST:
        raise ImageError(f"expected a picture of (rows, columns), each at least {SMALLEST}, got shape {image.shape}")
    pixels = np.array(image, dtype=np.float32, order="C")  # a copy, to be changed in place: a film is 20 MB and more
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("the picture holds values that are not finite")
    if low == high:
        raise ImageError("the picture has one value everywhere")
    pixels -= low
    pixels /= high - low
    return pixels


def frame(image: NDArray[np.generic], spacing_mm: tuple[float, float] | None, size: int) -> tuple[Tensor, Placement]:
    """The network's input (2, size, size) float32 and where the image lies in it. ImageError when it is no picture."""
    pixels = torch.from_numpy(checked(image))
    placed = placement(pixels.shape[0], pixels.shape[1], spacing_mm, size)
    return framed(resized(pixels, placed.height, placed.width), placed), placed


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """(H, W) -> (height, width), each new pixel the weighted mean of those it covers, so that grids do not alias."""
    image = pixels[None, None]
    return F.interpolate(image, size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0, 0]


def framed(pixels: Tensor, placed: Placement) -> Tensor:
    """Normalise (height, width) pixels and put them in the frame; padding is 0 in both channels."""
    right, bottom = placed.size - placed.left - placed.width, placed.size - placed.top - placed.height
    return F.pad(normalised(pixels, placed.size), (placed.left, right, placed.top, bottom))


def normalised(pixels: Tensor, size: int) -> Tensor:
    """(h, w) -> (2, h, w): rank and local channel, both -1..1. `size` is the side of the frame, for the window."""
    grey = stretched(pixels)
    return torch.stack([_rank(grey), _local(grey, size)])


def stretched(pixels: Tensor) -> Tensor:
    """(h, w) 0..1 between two quantiles."""
    flat = pixels.flatten()
    ordered = np.sort(flat[:: max(1, len(flat) // SAMPLED)].numpy())  # torch sorts the same numbers 20 times slower
    last = len(ordered) - 1
    low, high = (torch.tensor(ordered[round(share * last)]) for share in STRETCH)
    if high <= low:  # nearly all of the picture is one value
        low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low).clamp_min(1e-12)).clamp_(0.0, 1.0)


def _rank(stretched: Tensor) -> Tensor:
    """Share of pixels below, with half of those equal, so that ties (plates, few grey levels) sit in their middle."""
    level = (stretched * (LEVELS - 1)).round_().int()
    counts = torch.bincount(level.flatten(), minlength=LEVELS).to(stretched.dtype)
    middle = counts.cumsum(0) - counts / 2
    return (middle * (2.0 / level.numel()) - 1.0).index_select(0, level.flatten()).view_as(stretched)


def _mean(pixels: Tensor, half: int) -> Tensor:
    """The mean of a (2 half + 1) square around each pixel, of what lies inside the picture.

    By running sums along each side: the cost does not grow with the window.
    """
    return _mean_along(_mean_along(pixels, half, 0), half, 1)


def _mean_along(pixels: Tensor, half: int, side: int) -> Tensor:
    """(h, w) -> (h, w), means along one side of the picture: 0 down the columns, 1 across the rows."""
    length, window = pixels.shape[side], 2 * half + 1
    sums = pixels.cumsum(side)
    before = torch.zeros_like(sums.narrow(side, 0, half + 1))
    whole = sums.narrow(side, length - 1, 1)
    after = whole.expand(half, -1) if side == 0 else whole.expand(-1, half)
    padded = torch.cat([before, sums, after], side)  # sums as they stand before the picture and behind it
    at = torch.arange(length)
    count = (at + half + 1).clamp_max(length) - (at - half).clamp_min(0)
    inside = padded.narrow(side, window, length) - padded.narrow(side, 0, length)
    return inside.div_(count[:, None] if side == 0 else count)


def _local(pixels: Tensor, size: int) -> Tensor:
    half = max(1, min(size // (2 * NEIGHBOURHOOD), min(pixels.shape) // 2 - 1))
    mean = _mean(pixels, half)
    deviation = (_mean(pixels * pixels, half) - mean * mean).clamp_min_(0.0).sqrt_()
    return ((pixels - mean) / deviation.add_(LOCAL_FLOOR)).clamp_(-LOCAL_LIMIT, LOCAL_LIMIT) / LOCAL_LIMIT
