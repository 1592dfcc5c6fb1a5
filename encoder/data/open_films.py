"""A folder in the layout of data/cxr goes in, a collection of films comes out.

    regions.json     [{"id", "file", "patient", "boxes": {name: [x1, y1, x2, y2]}, "derived": {...}, "split",
                      "dataset", "finding", "lesion": [x1, y1, x2, y2]}, ...]
    images/<file>    8 or 16 bit PNG, high = bright
    landmarks.npz    <patient>/{RL, LL, H, RCLA, LCLA} (n, 2) x, y in pixels
    masks/<file>     bit 1 right lung, 2 left lung, 4 heart

Of a record only `file` and `patient` must be there. A film with landmarks has all 29 regions by `encoder.rules`; one
with masks has those that lungs and heart place; any other has its listed boxes.

`finding` is a diagnosis or `non-nodule`. A region whose box holds the lesion's centre shows {"nodule"}, every other
region of that film and all regions of a film without a nodule show nothing. A diagnosis without a lesion box says that
there is a nodule and not where: nothing is known of any region.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder.boxes import Box
from encoder.data.boxes import Notes, inside, regions
from encoder.data.pictures import FAILURES, Pictures, Size
from encoder.data.records import STILL, Collection, Film, Findings, Labels, Landmarks, Listed, Outlines, Reason, Regions
from encoder.errors import ImageError, TrainingDataError

RECORDS = "regions.json"
LANDMARKS = ("RL", "LL", "H", "RCLA", "LCLA")
MASKS = (1, 2, 4)  # right lung, left lung, heart
HEALTHY = "non-nodule"
NODULE = "nodule"

Contours = Mapping[str, NDArray[np.floating]]
Record = Mapping[str, object]


def read(folder: Path, images: Path, pictures: Pictures) -> Collection:
    """Every usable film in record order. TrainingDataError when the folder is not in this layout."""
    records = _records(folder)
    contours = _contours(folder / "landmarks.npz")
    notes = Notes()
    films: dict[str, Film] = {}
    for number, record in enumerate(records):
        film = _film(folder, images, number, record, contours, pictures, notes)
        if film and film.id in films:
            notes.add(film.id, Reason.DUPLICATE)
        elif film:
            films[film.id] = film
    return Collection(tuple(films.values()), tuple(notes.lines))


def _records(folder: Path) -> list[object]:
    try:
        records = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingDataError(f"cannot read {RECORDS} in the data folder: {error}") from error
    if not isinstance(records, list):
        raise TrainingDataError(f"{RECORDS} is not a list of records")
    return records


def _contours(path: Path) -> Contours:
    if not path.exists():
        return {}
    try:
        with np.load(path) as stored:
            return {key: np.asarray(stored[key]) for key in stored.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise TrainingDataError(f"cannot read {path.name} in the data folder: {error}") from error


def _film(
    folder: Path, images: Path, number: int, record: object, contours: Contours, pictures: Pictures, notes: Notes
) -> Film | None:
    if not isinstance(record, dict) or any(record.get(key) in (None, "") for key in ("file", "patient")):
        notes.add(_name(number, record), Reason.NO_RECORD)
        return None
    name, file, patient = _name(number, record), str(record["file"]), str(record["patient"])
    path = images / file
    size = _size(name, path, pictures, notes)
    if size is None:
        return None
    listed = _listed(name, record, size, notes)
    labels = _labels(name, folder / "masks" / file, patient, contours, listed, size, notes)
    lesion = _lesion(name, record, size, notes)
    diagnosis = str(record.get("finding") or "")
    film = Film(
        id=name,
        patient=patient,
        split=str(record.get("split") or ""),
        path=path,
        size=size,
        listed=listed,
        labels=labels,
        pictures=pictures,
        source=str(record.get("dataset") or ""),
        findings=_findings(diagnosis, lesion, {**labels.moved(STILL), **listed}),
        lesion=lesion,
        diagnosis=diagnosis,
    )
    if not film.regions:
        notes.add(name, Reason.NO_REGION)
        return None
    return film


def _name(number: int, record: object) -> str:
    """What a line calls the record: its id, its file, or its place in the list."""
    named = (record.get("id") or record.get("file")) if isinstance(record, dict) else None
    return str(named or f"record {number + 1}")


def _size(name: str, path: Path, pictures: Pictures, notes: Notes) -> Size | None:
    if not path.is_file():
        notes.add(name, Reason.NO_IMAGE, path.name)
        return None
    try:
        return pictures.size(path)
    except ImageError as error:
        notes.add(name, Reason.UNREADABLE, str(error))
        return None


def _listed(name: str, record: Record, size: Size, notes: Notes) -> Regions:
    """An annotated box wins over a derived one of the same name."""
    found: Regions = {}
    for key in ("derived", "boxes"):
        part = record.get(key) or {}
        if isinstance(part, dict):
            found |= regions(name, part, size, notes)
        else:
            notes.add(name, Reason.NOT_A_BOX, f"`{key}` is no table of boxes")
    return dict(sorted(found.items()))


def _lesion(name: str, record: Record, size: Size, notes: Notes) -> Box | None:
    given = record.get("lesion")
    return None if given is None else inside(name, "lesion", given, size, notes)


def _findings(diagnosis: str, lesion: Box | None, placed: Regions) -> Findings | None:
    if not diagnosis or (lesion is None and diagnosis != HEALTHY):
        return None
    return {index: frozenset({NODULE} if lesion and _holds(box, lesion) else ()) for index, box in placed.items()}


def _holds(box: Box, lesion: Box) -> bool:
    x, y = (lesion.x1 + lesion.x2) / 2, (lesion.y1 + lesion.y2) / 2
    return box.x1 <= x < box.x2 and box.y1 <= y < box.y2


def _labels(
    name: str, mask: Path, patient: str, contours: Contours, listed: Regions, size: Size, notes: Notes
) -> Labels:
    if all(f"{patient}/{key}" in contours for key in LANDMARKS):
        marks = {key: contours[f"{patient}/{key}"] for key in LANDMARKS}
        if all(points.ndim == 2 and points.shape[1] == 2 and np.isfinite(points).all() for points in marks.values()):
            return Landmarks(marks)
        notes.add(name, Reason.CONTOUR, "landmarks are not finite points")
    elif mask.is_file():
        labels = _outlined(name, mask, size, notes)
        if labels:
            return labels
    return Listed(tuple(listed.items()))


def _outlined(name: str, mask: Path, size: Size, notes: Notes) -> Labels | None:
    try:
        with Image.open(mask) as picture:
            bits = np.asarray(picture)
    except FAILURES as error:
        notes.add(name, Reason.CONTOUR, f"mask: {error}")
        return None
    if bits.shape != size:
        notes.add(name, Reason.CONTOUR, f"mask of shape {bits.shape}, film of {size}")
        return None
    outlined = outlines(bits)
    if outlined is None:
        notes.add(name, Reason.CONTOUR, "mask without one of lungs and heart")
    return outlined


def outlines(bits: NDArray[np.uint8]) -> Outlines | None:
    """The boundary pixels of the three masks; None when one of them is empty."""
    right, left, heart = (_boundary((bits & bit) > 0) for bit in MASKS)
    return Outlines((right, left, heart)) if len(right) and len(left) and len(heart) else None


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.floating]:
    """x, y of the mask's pixels with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    y, x = np.nonzero(mask & ~inner)
    return np.stack([x, y], axis=1).astype(np.float64)
