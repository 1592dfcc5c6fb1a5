"""A folder of pictures and DICOM files in, a sample of them as grey pictures out: what is no chest film."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicomnode.errors import DicomNodeError
from dicomnode.pixels.labelled import LabelledFilms
from encoder.errors import ImageError

PICTURES = {".png", ".jpg", ".jpeg"}
GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L"}  # Pillow's modes; others are made grey
MOST = 60  # pictures


class Others:
    """Up to MOST files below a folder, drawn with a seed. What cannot be read is counted in `refused` as it is met.

    Memory bound: one picture at a time. DicomNodeError when there is no such folder or no file in it.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            raise DicomNodeError(f"no pictures in {folder}")
        chosen = np.random.default_rng(seed).permutation(len(files))[:MOST]
        self._files = [files[number] for number in sorted(chosen.tolist())]
        self._films = LabelledFilms()
        self.refused: Counter[str] = Counter()

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        for path in self._files:
            try:
                picture = _opened(path) if path.suffix.lower() in PICTURES else self._films.pixels(path)
            except ImageError as error:
                self.refused[str(error).removeprefix(f"{path.name}: ")] += 1
            else:
                yield picture


def _opened(path: Path) -> npt.NDArray[np.float32]:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture if picture.mode in GREY else picture.convert("L"), dtype=np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path.name}: no readable picture") from error
