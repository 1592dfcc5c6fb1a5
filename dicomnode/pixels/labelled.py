"""The path of a DICOM file in, its size or its display pixels out: what the readers of `encoder.data` are given."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicomnode.errors import DecodeError, NotIndexable
from dicomnode.pixels.decode import DecodeLimits, image, read
from encoder.errors import ImageError


class LabelledFilms:
    """An `encoder.data.Decoder`. What a file cannot give is an ImageError that names the file."""

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        self._limits = limits or DecodeLimits()

    def size(self, path: Path) -> tuple[int, int]:
        """(rows, columns), from what stands before the pixel data."""
        try:
            header = read(path, self._limits, header_only=True)
        except DecodeError as error:
            raise ImageError(f"{path.name}: {error}") from error
        rows, columns = header.get("Rows"), header.get("Columns")
        if not isinstance(rows, int) or not isinstance(columns, int) or min(rows, columns) < 1:
            raise ImageError(f"{path.name}: no picture in it")
        return rows, columns

    def pixels(self, path: Path) -> npt.NDArray[np.float32]:
        """(rows, columns), 0 darkest, 1 brightest."""
        try:
            return image(path, 1, self._limits).pixels
        except (DecodeError, NotIndexable) as error:
            raise ImageError(f"{path.name}: {error}") from error
