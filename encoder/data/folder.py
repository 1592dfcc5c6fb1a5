"""A folder goes in, its collection of films comes out, whichever of the two layouts it is in."""

from collections.abc import Callable
from pathlib import Path

from encoder.data import imagenome, open_films
from encoder.data.pictures import Decoder, Pictures
from encoder.data.records import Collection
from encoder.errors import TrainingDataError

Report = Callable[[str, int, int, str], None]  # stage, done, total, text


def read(
    folder: Path, images: Path | None = None, decoder: Decoder | None = None, report: Report | None = None
) -> Collection:
    """Every film that can be used, and a line for each that cannot.

    `images`: where the pictures lie, when not in the data folder. `decoder`: reads those that are DICOM files.
    TrainingDataError when the folder is in neither layout or no film of it can be used.
    """
    pictures = Pictures(decoder)
    if (folder / open_films.RECORDS).exists():
        found = open_films.read(folder, images or folder / "images", pictures)
    elif (folder / imagenome.SILVER).is_dir():
        found = imagenome.read(folder, images or folder, pictures, report)
    else:
        raise TrainingDataError(
            f"cannot read the data folder: it holds neither {open_films.RECORDS} nor {imagenome.SILVER}"
        )
    if not found.films:
        counts = ", ".join(f"{reason}: {count}" for reason, count in found.skipped.items())
        raise TrainingDataError(f"no film of the data folder can be used ({counts or 'it lists none'})")
    return found
