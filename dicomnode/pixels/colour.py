"""Colour: the stored samples of a frame in, its grey levels out when it is grey in fact, else NotIndexable.

Captures, scanners and viewers save radiographs as RGB, YBR or palette colour. Such a picture is a film all the same.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from dicomnode.errors import NotIndexable
from dicomnode.pixels.eligibility import Reason
from dicomnode.pixels.greyscale import bands, histogram, mapped

TOLERANCE: Final = 8 / 255  # of the range: what lossy codecs and colour transforms leave between equal channels
COLOURED_SHARE: Final = 1e-3  # of the pixels: more than this beyond the tolerance is a colour picture


def grey_of_samples(stored: npt.NDArray[Any], bits: int) -> npt.NDArray[np.float32]:
    """Grey levels of a frame of three samples: (H, W) float32, 0..1 of the range of `bits`.

    stored: (H, W, 3) unsigned, RGB or YBR. Headers and codestreams often disagree on which of the two it is, so both
    are tried: grey is three equal channels, or two chroma channels in the middle of theirs (PS3.3 C.7.6.3.1.2).
    """
    top = (1 << bits) - 1
    if _differing(stored, stored[..., :1], top) <= COLOURED_SHARE:
        return _levels(stored[..., 1], top)
    if _differing(stored[..., 1:], 1 << (bits - 1), top) <= COLOURED_SHARE:
        return _levels(stored[..., 0], top)
    raise NotIndexable(Reason.COLOUR)


def grey_of_palette(stored: npt.NDArray[Any], header: Dataset) -> npt.NDArray[np.float32]:
    """Grey levels of a frame of palette indices: (H, W) float32, 0..1 of the palette's range (PS3.3 C.7.6.3.1.5)."""
    indices, counts, places = histogram(stored)
    colours = apply_color_lut(indices.astype(stored.dtype.newbyteorder("=")).reshape(1, -1), header)[0][..., :3]
    # Some writers put 8 bit colours into 16 bit entries.
    top = 255 if colours[counts > 0].max() <= 255 else 65535
    if counts[np.ptp(colours, axis=1) > TOLERANCE * top].sum() > COLOURED_SHARE * counts.sum():
        raise NotIndexable(Reason.PALETTE)
    return mapped(_levels(colours[:, 1], top), places)


def _differing(channels: npt.NDArray[Any], from_what: npt.NDArray[Any] | int, top: int) -> float:
    """The share of pixels of which a channel is further than the tolerance from that channel, or that level."""
    found = 0
    for rows in bands(channels):
        reference = from_what if isinstance(from_what, int) else from_what[rows].astype(np.int32)
        off = np.abs(channels[rows].astype(np.int32) - reference) > TOLERANCE * top  # (h, W, channels)
        found += int(np.count_nonzero(off.any(axis=-1)))
    return found / float(channels.shape[0] * channels.shape[1])


def _levels(channel: npt.NDArray[Any], top: int) -> npt.NDArray[np.float32]:
    return np.asarray(channel, np.float32) / np.float32(top)
