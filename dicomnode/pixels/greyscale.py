"""Greyscale: the stored values of a frame and its header in; a display picture 0..1 with high = bright out.

PS3.4 N.2.1.1: modality transform, VOI transform, presentation. Every step maps a value to a value, so each is applied
to the few distinct values of the frame and not to its millions of pixels.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicomnode.codes import items_of

Floats = npt.NDArray[np.float64]

# A window that leaves less than this share of the picture between its ends shows nothing: it is ignored.
_SHOWN_SHARE: Final = 0.02
_END: Final = 1e-3  # of the display range; SIGMOID never quite reaches its ends
_BAND_PIXELS: Final = 1 << 17  # 1 MiB of indices


class Histogram(NamedTuple):
    """A frame as its distinct stored values, how often each occurs, and where."""

    values: Floats  # (n,) ascending for 32-bit and float frames, in bit pattern order else
    counts: npt.NDArray[np.int64]  # (n,)
    places: npt.NDArray[np.integer]  # (H, W) index into values


def display(stored: npt.NDArray[np.generic], header: Dataset) -> npt.NDArray[np.float32]:
    """The picture a viewer would show first.

    stored: (H, W) integers or floats as decoded. Returns (H, W) float32, 0 darkest, 1 brightest. With a VOI transform
    0..1 is its output range; without one it is the range of the frame's own values. Padding pixels are 0.
    """
    return mapped(*levels(stored, header))


def levels(
    stored: npt.NDArray[np.generic], header: Dataset, window: "Window | None" = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer]]:
    """What `display` shows, before it is put in its places: (n,) levels, and (H, W) indices into them.

    `window`: instead of the VOI transform, however little it shows.
    """
    values, counts, places = histogram(stored)
    real = (counts > 0) & ~_padding(values, header)
    shown = np.zeros(values.shape, np.float32)
    if real.any():
        found = _levels(values[real], counts[real], header) if window is None else window.levels(values[real], header)
        shown[real] = 1 - found if _is_inverted(header) else found
    return shown, places


def histogram(stored: npt.NDArray[np.generic]) -> Histogram:
    """A frame of numbers, (H, W), by its distinct values; what is not finite counts as 0."""
    if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
        unsigned = np.dtype(f"u{stored.dtype.itemsize}")
        native = np.ascontiguousarray(stored, stored.dtype.newbyteorder("="))
        places = native.view(unsigned)
        patterns = np.arange(1 << (8 * unsigned.itemsize), dtype=unsigned)
        return Histogram(patterns.view(native.dtype).astype(np.float64), _counted(places, patterns.size), places)
    finite = np.nan_to_num(stored.astype(np.float64), posinf=0.0, neginf=0.0)
    values, places, counts = np.unique(finite, return_inverse=True, return_counts=True)
    return Histogram(values, counts, places.reshape(stored.shape))


def _counted(places: npt.NDArray[np.integer], size: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(size, np.int64)
    for rows in bands(places):
        counts += np.bincount(places[rows].ravel(), minlength=size)
    return counts


def mapped(shown: npt.NDArray[np.float32], places: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """A histogram's levels put where its values are: (n,) and (H, W) to (H, W)."""
    picture = np.empty(places.shape, np.float32)
    for rows in bands(places):
        np.take(shown, places[rows], out=picture[rows], mode="clip")  # places are in range: clip spares the check
    return picture


def bands(places: npt.NDArray[np.generic]) -> Iterator[slice]:
    """Bands of rows that fit a CPU's cache with the indices numpy widens them to: half the time of the whole frame."""
    height = max(1, _BAND_PIXELS // places.shape[1])
    for top in range(0, places.shape[0], height):
        yield slice(top, top + height)


def _padding(values: Floats, header: Dataset) -> npt.NDArray[np.bool_]:
    """Which stored values are Pixel Padding Value, or between it and its limit (PS3.3 C.7.5.1.1.2)."""
    first = _number(header, "PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, np.bool_)
    limit = _number(header, "PixelPaddingRangeLimit")
    last = first if limit is None else limit
    mask: npt.NDArray[np.bool_] = (values >= min(first, last)) & (values <= max(first, last))
    return mask


def _levels(stored: Floats, counts: npt.NDArray[np.int64], header: Dataset) -> Floats:
    """Display levels 0..1, before any inversion, of the values that the frame holds."""
    values = _modality(stored, header)
    for transform in _voi_transforms(header):
        levels = transform(values)
        if counts[(levels > _END) & (levels < 1 - _END)].sum() >= _SHOWN_SHARE * counts.sum():
            return levels
    low, high = values.min(), values.max()
    stretched: Floats = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return stretched


def _modality(stored: Floats, header: Dataset) -> Floats:
    """PS3.3 C.11.1: the Modality LUT, else rescale slope and intercept, else the values as they are."""
    for item in items_of(header, "ModalityLUTSequence")[:1]:
        if (table := _Table.read(item)) is not None:
            return table.look_up(stored)
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    return stored * (slope or 1.0) + (intercept or 0.0)  # a slope of zero would erase the picture


def _voi_transforms(header: Dataset) -> Iterator[Callable[[Floats], Floats]]:
    """PS3.3 C.11.2: each VOI transform to 0..1, in the order to try: the first LUT, then the first window."""
    for item in items_of(header, "VOILUTSequence")[:1]:
        if (table := _Table.read(item)) is not None:
            yield lambda values: table.look_up(values) / table.maximum
    centre, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is not None and width is not None and function in _WINDOWS and width > (1 if function == "LINEAR" else 0):
        yield lambda values: _WINDOWS[function](values, centre, width)


def _linear(values: Floats, centre: float, width: float) -> Floats:
    """PS3.3 C.11.2.1.2.1"""
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _linear_exact(values: Floats, centre: float, width: float) -> Floats:
    """PS3.3 C.11.2.1.3.2"""
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _sigmoid(values: Floats, centre: float, width: float) -> Floats:
    """PS3.3 C.11.2.1.3.1; the exponent is bounded where float64 would overflow."""
    curve: Floats = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    return curve


_WINDOWS: Final = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


class Window(NamedTuple):
    """A window of somebody's choice, PS3.3 C.11.2.1.2."""

    centre: float
    width: float
    function: str = "LINEAR"

    def levels(self, stored: Floats, header: Dataset) -> Floats:
        """Display levels 0..1 of stored values."""
        return _WINDOWS[self.function](_modality(stored, header), self.centre, self.width)


class _Table(NamedTuple):
    """A lookup table (PS3.3 C.11.1.1, C.11.2.1.1)."""

    entries: Floats  # (n,)
    first: int  # the value that entry 0 maps
    maximum: float  # the largest output that its bit depth allows

    @classmethod
    def read(cls, item: Dataset) -> "_Table | None":
        """The table of a LUT item; None when descriptor and data do not make one."""
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
        if descriptor is None or data is None or len(descriptor) != 3:
            return None
        count, first, bits = (int(part) for part in descriptor)
        count = count or 1 << 16  # PS3.3 C.11.1.1: 0 stands for 65536
        entries = _entries(data, count)
        if len(entries) != count or not 1 <= bits <= 16:
            return None
        return cls(entries, first, float(max((1 << bits) - 1, entries.max())))

    def look_up(self, values: Floats) -> Floats:
        # An unsigned first value over 32767 beside negative input was meant signed (implicit VR loses the sign).
        first = self.first - 65536 if self.first > 32767 and values.min() < 0 else self.first
        at = np.clip(np.round(values) - first, 0, len(self.entries) - 1)
        return self.entries[at.astype(np.int64)]


def _entries(data: object, count: int) -> Floats:
    """LUT Data as US numbers, or as OW bytes of one or two bytes an entry; empty when it is neither."""
    if isinstance(data, bytes):
        size = "<u2" if len(data) >= 2 * count else "u1"
        return np.frombuffer(data, size)[:count].astype(np.float64)
    return np.atleast_1d(np.asarray(data, np.float64))[:count]


def _is_inverted(header: Dataset) -> bool:
    """Low values are bright: MONOCHROME1 (PS3.3 C.7.6.3.1.2), which Presentation LUT Shape INVERSE repeats."""
    photometric = str(header.get("PhotometricInterpretation") or "").strip()
    return photometric == "MONOCHROME1" or str(header.get("PresentationLUTShape") or "").strip() == "INVERSE"


def _number(header: Dataset, keyword: str) -> float | None:
    """The first value as a finite number; None when absent or none."""
    value = header.get(keyword)
    try:
        first = value if value is None or isinstance(value, str | int | float) else next(iter(value), None)
        number = float(first) if first is not None and first != "" else None
    except (TypeError, ValueError):
        return None
    return number if number is not None and np.isfinite(number) else None
