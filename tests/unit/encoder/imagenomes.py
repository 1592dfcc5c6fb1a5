"""A seed goes in, a made-up Chest ImaGenome folder and its pictures come out, with every trap of the real one."""

import csv
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder.anatomy import VOCABULARY
from encoder.rules import derive
from tests.unit.encoder import chests

ROWS, COLUMNS, LEFT = chests.SIDE, chests.SIDE + 24, 12  # the chest lies LEFT pixels from the picture's left edge
FRAME = 224
SCALE = COLUMNS / FRAME
PADDING = (COLUMNS - ROWS) / 2  # above and below, where the picture is padded to a square
CARDIOPHRENIC = "right cardiophrenic angle"

Pixels = NDArray[np.uint8]
Save = Callable[[Pixels, Path], None]


@dataclass
class Made:
    """One image, to be changed before it is written."""

    number: int
    split: str  # train, valid, test, avoid
    pixels: Pixels
    objects: list[dict[str, Any]]
    attributes: list[dict[str, Any]] = field(default_factory=list)
    view: str = "PA"
    graph: bool = True
    picture: bool = True

    @property
    def dicom_id(self) -> str:
        return f"{self.number:08x}-0000"

    @property
    def subject(self) -> str:
        return f"1{self.number:07}"

    @property
    def path(self) -> str:
        return f"files/p{self.subject[:2]}/p{self.subject}/s5{self.number:07}/{self.dicom_id}.dcm"

    def box(self, name: str) -> dict[str, Any]:
        return next(each for each in self.objects if each["bbox_name"] == name)


def made(count: int, splits: Sequence[str] = ("train", "train", "valid", "test"), seed: int = 1) -> list[Made]:
    """`count` images, each of its own patient; all 29 regions and one of the seven others are boxed."""
    rng = np.random.default_rng(seed)
    films = []
    for number in range(count):
        shape = chests.contours(rng)
        pixels = np.full((ROWS, COLUMNS), 150, np.uint8)
        pixels[:, LEFT : LEFT + chests.SIDE] = chests.picture(shape, rng)
        boxes = {VOCABULARY.names[index]: list(box) for index, box in derive(shape).items()}
        boxes[CARDIOPHRENIC] = [30.0, 60.0, 40.0, 70.0]
        objects = [boxed(name, [x1 + LEFT, y1, x2 + LEFT, y2]) for name, (x1, y1, x2, y2) in boxes.items()]
        films.append(Made(number, splits[number % len(splits)], pixels, objects))
    return films


def boxed(name: str, box: Sequence[float]) -> dict[str, Any]:
    """An object of a scene graph: whole pixels of the image, and the same in the padded frame."""
    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    framed = [x1 / SCALE, (y1 + PADDING) / SCALE, x2 / SCALE, (y2 + PADDING) / SCALE]
    return {
        "object_id": name,
        "bbox_name": name,
        "name": name.title(),
        **dict(zip(("x1", "y1", "x2", "y2"), framed, strict=True)),
        **dict(zip(("original_x1", "original_y1", "original_x2", "original_y2"), (x1, y1, x2, y2), strict=True)),
        "original_width": x2 - x1,
        "original_height": y2 - y1,
    }


def said(name: str, *phrases: Sequence[str]) -> dict[str, Any]:
    """An attribute of a scene graph: the tokens of each phrase."""
    return {"bbox_name": name, "attributes": [list(tokens) for tokens in phrases], "phrases": ["" for _ in phrases]}


def write(folder: Path, films: Sequence[Made], zipped: bool = False, gold: Sequence[Made] = ()) -> Path:
    """The data set without its pictures. `gold`: images whose boxes are also in the gold table, two pixels lower."""
    splits = folder / "silver_dataset" / "splits"
    splits.mkdir(parents=True)
    columns = ("subject_id", "study_id", "dicom_id", "path", "ViewPosition")
    for split in ("train", "valid", "test"):
        rows = [film for film in films if film.split == split]
        table = [("", *columns)] + [(number, *_row(film)) for number, film in enumerate(rows)]
        _table(splits / f"{split}.csv", table)
    _table(splits / "images_to_avoid.csv", [columns, *(_row(film) for film in films if film.split == "avoid")])
    _graphs(folder / "silver_dataset", [film for film in films if film.graph], zipped)
    if gold:
        _gold(folder / "gold_dataset", gold)
    return folder


def draw(
    images: Path, films: Sequence[Made], suffix: str = ".jpg", flat: bool = False, save: Save | None = None
) -> Path:
    """The pictures, where MIMIC-CXR has them or all in one folder. `save`: writes one, when it is none of Pillow's."""
    for film in films:
        listed = Path(film.path).with_suffix(suffix)
        path = images / listed.name if flat else images / listed
        path.parent.mkdir(parents=True, exist_ok=True)
        if film.picture and save:
            save(film.pixels, path)
        elif film.picture:
            Image.fromarray(film.pixels).save(path)
    return images


def _row(film: Made) -> tuple[str, ...]:
    return film.subject, f"5{film.number:07}", film.dicom_id, film.path, film.view


def _graphs(silver: Path, films: Sequence[Made], zipped: bool) -> None:
    named = {f"scene_graph/{film.dicom_id}_SceneGraph.json": json.dumps(_graph(film)) for film in films}
    if zipped:
        with zipfile.ZipFile(silver / "scene_graph.zip", "w") as packed:
            for name, text in named.items():
                packed.writestr(name, text)
        return
    (silver / "scene_graph").mkdir()
    for name, text in named.items():
        (silver / name).write_text(text)


def _graph(film: Made) -> dict[str, Any]:
    return {
        "image_id": film.dicom_id,
        "viewpoint": film.view,
        "patient_id": int(film.subject),
        "objects": film.objects,
        "attributes": film.attributes,
        "relationships": [],
    }


def _gold(folder: Path, films: Sequence[Made]) -> None:
    folder.mkdir()
    edges = ("original_x1", "original_y1", "original_x2", "original_y2")
    rows: list[tuple[Any, ...]] = [("image_id", "bbox_name", *edges)]
    for film in films:
        for each in film.objects:
            x1, y1, x2, y2 = (each[edge] for edge in edges)
            rows.append((f"{film.dicom_id}.dcm", each["bbox_name"], x1, y1 + 2, x2, y2 + 2))
    _table(folder / "gold_bbox_coordinate_annotations_1000images.csv", rows)


def _table(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as table:
        csv.writer(table).writerows(rows)
