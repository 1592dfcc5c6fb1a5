"""The path of a picture goes in, its size or its grey pixels come out, high = bright.

Memory bound: the last few pictures that were asked for.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder.errors import ImageError

DICOM = ".dcm"
KEPT = 4  # pictures: one film is looked at from several sides before the next
FAILURES = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on files that lie

Size = tuple[int, int]  # rows, columns


class Decoder(Protocol):
    """Reads DICOM files, which this package does not know. ImageError when a file holds no grey picture."""

    def size(self, path: Path) -> Size:
        """From the header alone."""

    def pixels(self, path: Path) -> NDArray[np.float32]:
        """(rows, columns), high = bright."""


class Pictures:
    """Opens pictures when they are asked for, PNG and JPEG by itself, DICOM by the decoder it is given."""

    def __init__(self, decoder: Decoder | None = None, kept: int = KEPT) -> None:
        self._decoder = decoder
        self._most = kept
        self._kept: OrderedDict[Path, NDArray[np.float32]] = OrderedDict()

    def size(self, path: Path) -> Size:
        """(rows, columns), from the header alone. ImageError when that cannot be read."""
        if path.suffix == DICOM:
            return self._dicom(path).size(path)
        try:
            with Image.open(path) as picture:
                return picture.height, picture.width
        except FAILURES as error:
            raise ImageError(f"{path.name} is no readable picture: {error}") from error

    def read(self, path: Path) -> NDArray[np.float32]:
        """(rows, columns). ImageError when the file is no grey picture."""
        if path not in self._kept:
            self._kept[path] = self._dicom(path).pixels(path) if path.suffix == DICOM else _opened(path)
        self._kept.move_to_end(path)
        pixels = self._kept[path]
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return pixels

    def _dicom(self, path: Path) -> Decoder:
        if self._decoder is None:
            raise ImageError(f"{path.name} is a DICOM file, and no decoder was given")
        return self._decoder


def _opened(path: Path) -> NDArray[np.float32]:
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
    except FAILURES as error:
        raise ImageError(f"{path.name} is no readable picture: {error}") from error
    if pixels.ndim != 2:
        raise ImageError(f"{path.name} has shape {pixels.shape}, expected grey pixels (rows, columns)")
    return pixels.astype(np.float32)
