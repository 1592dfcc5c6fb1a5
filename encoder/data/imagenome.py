"""A Chest ImaGenome folder and MIMIC-CXR pictures go in, a collection of frontal films comes out (PhysioNet 1.0.0).

    silver_dataset/scene_graph/<dicom_id>_SceneGraph.json     or silver_dataset/scene_graph.zip
    silver_dataset/splits/{train,valid,test}.csv              subject_id, dicom_id, path, ViewPosition
    silver_dataset/splits/images_to_avoid.csv                 the same columns: the images of the gold patients
    gold_dataset/gold_bbox_coordinate_annotations_1000images.csv

Splits: train is `dev_train`, valid `dev_val`, test `test`. An image with gold boxes is of split `gold`, whatever table
lists it, and has its gold boxes alone: what evaluation compares with is then all drawn by people. Every other image of
`images_to_avoid.csv` is left out of train and valid.

Boxes are `original_x1` and so on, pixels of the full image. Where those are missing, `x1` and so on are mapped back
from the 224-pixel frame: the image's longer side is 224 there, and it is centred. A region without a box stays
unlabelled. A film whose right lung lies to the right of its left lung in the picture is left out.

Findings are the tokens `anatomicalfinding|yes|name` and `disease|yes|name` of each region; `|no|` takes one back. Where
phrases contradict each other, the last in the list wins. A region of which tokens say no more than normal or abnormal,
or only `|no|`, is known to show nothing of either kind; one that no phrase speaks of has no entry.

Pictures: `<images>/<path>` of the split table, as JPEG (MIMIC-CXR-JPG) or DICOM, or `<images>/<dicom_id>` with .jpg,
.png or .dcm. Each is opened here for its size alone. Memory bound: about 12 KiB a film.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.data.boxes import Notes, numbers, regions
from encoder.data.pictures import DICOM, Pictures, Size
from encoder.data.records import GOLD, HELD, TEST, TRAIN, Collection, Film, Findings, Listed, Reason, Regions
from encoder.errors import ImageError, TrainingDataError

SILVER = "silver_dataset"
SOURCE = "chest-imagenome"
SPLITS = {"train.csv": TRAIN, "valid.csv": HELD, "test.csv": TEST}
AVOID = "images_to_avoid.csv"
GOLD_BOXES = Path("gold_dataset/gold_bbox_coordinate_annotations_1000images.csv")
GRAPH = "_SceneGraph.json"
FRONTAL = frozenset({"AP", "PA"})
FRAME = 224  # pixels, side of the frame that `x1` and so on are of
EDGES = ("x1", "y1", "x2", "y2")
FOUND = frozenset({"anatomicalfinding", "disease"})  # categories that name a finding
JUDGED = FOUND | {"nlp"}  # nlp|yes|normal, nlp|yes|abnormal: spoken of, nothing named
REPORTED = 200  # films between two reports
RIGHT_LUNG, LEFT_LUNG = (VOCABULARY.named(f"{side} lung").index for side in ("right", "left"))

Report = Callable[[str, int, int, str], None]  # stage, done, total, text
Graph = Mapping[str, Any]


@dataclass(frozen=True)
class _Row:
    """One line of the split tables."""

    dicom_id: str
    subject_id: str
    path: str
    view: str
    split: str


class _Graphs:
    """The scene graphs by image, in a folder or in the archive that they are published as."""

    def __init__(self, names: Iterable[str], content: Callable[[str], bytes]) -> None:
        found = (name for name in names if name.endswith(GRAPH))
        self.names = {PurePosixPath(name).name.removesuffix(GRAPH): name for name in found}  # dicom_id -> file
        self._content = content

    def read(self, dicom_id: str) -> Graph | None:
        """None when it is no scene graph."""
        try:
            graph = json.loads(self._content(self.names[dicom_id]))
        except (OSError, ValueError, BadZipFile):
            return None
        whole = isinstance(graph, dict) and isinstance(graph.get("objects"), list)
        return graph if whole and all(isinstance(each, dict) for each in graph["objects"]) else None


@dataclass(frozen=True)
class _Reading:
    """What one film is made from."""

    graphs: _Graphs
    gold: Mapping[str, Sequence[Graph]]  # dicom_id -> objects drawn by people
    images: Path
    pictures: Pictures
    notes: Notes
    shared: dict[frozenset[str], frozenset[str]]  # equal findings are one object

    def film(self, row: _Row) -> Film | None:
        """None, and a line that says why, where the image cannot be used."""
        graph = self._graph(row)
        placed = self._picture(row) if graph else None
        if graph is None or placed is None:
            return None
        path, size = placed
        objects = self.gold.get(row.dicom_id, graph["objects"])
        listed = regions(row.dicom_id, dict(self._boxes(row.dicom_id, objects, size)), size, self.notes)
        if not listed or _swapped(listed):
            self._skip(row, Reason.SWAPPED if listed else Reason.NO_REGION)
            return None
        return Film(
            id=row.dicom_id,
            patient=row.subject_id,
            split=row.split,
            path=path,
            size=size,
            listed=listed,
            labels=Listed(tuple(listed.items())),
            pictures=self.pictures,
            source=SOURCE,
            findings=self._findings(graph),
        )

    def _graph(self, row: _Row) -> Graph | None:
        graph = None
        if row.view not in FRONTAL:
            self._skip(row, Reason.NOT_FRONTAL, row.view or "no ViewPosition")
        elif not row.subject_id:
            self._skip(row, Reason.NO_RECORD)
        elif row.dicom_id not in self.graphs.names:
            self._skip(row, Reason.NO_GRAPH)
        elif (graph := self.graphs.read(row.dicom_id)) is None:
            self._skip(row, Reason.GRAPH)
        return graph

    def _picture(self, row: _Row) -> tuple[Path, Size] | None:
        path = next((each for each in _places(self.images, row) if each.is_file()), None)
        if path is None:
            self._skip(row, Reason.NO_IMAGE)
            return None
        try:
            return path, self.pictures.size(path)
        except ImageError as error:
            self._skip(row, Reason.UNREADABLE, str(error))
            return None

    def _boxes(self, name: str, objects: Sequence[Graph], size: Size) -> Iterator[tuple[str, object]]:
        for each in objects:
            region = str(each.get("bbox_name"))
            given = [each.get(f"original_{edge}") for edge in EDGES]
            framed = numbers([each.get(edge) for edge in EDGES])
            if numbers(given) is None and framed and region in VOCABULARY.names:
                self.notes.add(name, Reason.PADDED_FRAME, region)
                given = list(_unpadded(framed, size))
            yield region, given

    def _findings(self, graph: Graph) -> Findings | None:
        said = _said(graph)
        return {index: self.shared.setdefault(found, found) for index, found in sorted(said.items())} or None

    def _skip(self, row: _Row, reason: Reason, detail: str = "") -> None:
        self.notes.add(row.dicom_id, reason, detail)


def read(folder: Path, images: Path, pictures: Pictures, report: Report | None = None) -> Collection:
    """Every usable film in the order of the split tables. TrainingDataError when the folder is not in this layout."""
    notes = Notes()
    gold = _gold_boxes(folder / GOLD_BOXES)
    rows = _rows(folder / SILVER / "splits", gold.keys(), notes)
    films = []
    with ExitStack() as stack:
        graphs = _scene_graphs(folder / SILVER, stack)
        for dicom_id in sorted(graphs.names.keys() - rows.keys()):
            notes.add(dicom_id, Reason.NO_SPLIT)
        reading = _Reading(graphs, gold, images, pictures, notes, {})
        wanted = [row for row in rows.values() if row.split]
        for number, row in enumerate(wanted, start=1):
            film = reading.film(row)
            if film:
                films.append(film)
            if report and (number % REPORTED == 0 or number == len(wanted)):
                report("scene graphs", number, len(wanted), "")
    return Collection(tuple(films), tuple(notes.lines))


def _scene_graphs(silver: Path, stack: ExitStack) -> _Graphs:
    """TrainingDataError when there are none. The archive is closed with the stack."""
    unpacked = silver / "scene_graph"
    if (unpacked / unpacked.name).is_dir():  # the archive's own folder, where it was unpacked into one of that name
        unpacked = unpacked / unpacked.name
    if unpacked.is_dir():
        graphs = _Graphs((path.name for path in unpacked.iterdir()), lambda name: (unpacked / name).read_bytes())
    else:
        try:
            packed = stack.enter_context(ZipFile(silver / "scene_graph.zip"))
        except (OSError, BadZipFile) as error:
            raise TrainingDataError(f"no scene graphs in {silver.name}: {error}") from error
        graphs = _Graphs(packed.namelist(), packed.read)
    if not graphs.names:
        raise TrainingDataError(f"no scene graphs in {silver.name}: no name ends in {GRAPH}")
    return graphs


def _rows(folder: Path, gold: Set[str], notes: Notes) -> dict[str, _Row]:
    """Every image that a table lists; its split is empty where it is to be left out."""
    avoid = {row.dicom_id: row for row in _table(folder / AVOID, "")}
    rows: dict[str, _Row] = {}
    for file, split in SPLITS.items():
        for row in _table(folder / file, split):
            if row.dicom_id in rows:
                notes.add(row.dicom_id, Reason.DUPLICATE, file)
            else:
                rows[row.dicom_id] = row
    if not rows:
        raise TrainingDataError(f"no split table in {folder.name}: {', '.join(SPLITS)}")
    for dicom_id, row in {**avoid, **rows}.items():
        if dicom_id in gold:
            rows[dicom_id] = replace(row, split=GOLD)
        elif dicom_id in avoid and row.split != TEST:
            rows[dicom_id] = replace(row, split="")
            notes.add(dicom_id, Reason.AVOIDED)
    return rows


def _table(path: Path, split: str) -> list[_Row]:
    return [
        _Row(
            dicom_id=line["dicom_id"].strip(),
            subject_id=line["subject_id"].strip(),
            path=line["path"].strip(),
            view=line["ViewPosition"].strip().upper(),
            split=split,
        )
        for line in _lines(path, ("dicom_id", "subject_id", "path", "ViewPosition"))
    ]


def _gold_boxes(path: Path) -> dict[str, list[Graph]]:
    """dicom_id -> objects with the keys of a scene graph's."""
    found: dict[str, list[Graph]] = {}
    for line in _lines(path, ("image_id", "bbox_name")):
        edges = {key: _number(line.get(key) or "") for edge in EDGES for key in (edge, f"original_{edge}")}
        found.setdefault(line["image_id"].removesuffix(DICOM), []).append({"bbox_name": line["bbox_name"], **edges})
    return found


def _lines(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a table; none where there is no such file. TrainingDataError when it has not these columns."""
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as table:
            reader = csv.DictReader(table, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise TrainingDataError(f"{path.name} has no column {missing[0]}")
            return list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise TrainingDataError(f"cannot read {path.name}: {error}") from error


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _places(images: Path, row: _Row) -> Iterator[Path]:
    """Where the picture may lie, the likeliest first. A path that leads out of the folder is none."""
    listed = PurePosixPath(row.path)
    inside = bool(row.path) and not listed.is_absolute() and ".." not in listed.parts
    if inside:
        yield from (images / listed.with_suffix(suffix) for suffix in (".jpg", DICOM))
    if PurePosixPath(row.dicom_id).name == row.dicom_id:
        yield from (images / f"{row.dicom_id}{suffix}" for suffix in (".jpg", ".png", DICOM))


def _unpadded(framed: Box, size: Size) -> Box:
    """A box of the 224-pixel frame, in pixels of the image."""
    rows, columns = size
    scale = max(size) / FRAME
    left, top = (max(size) - columns) / 2, (max(size) - rows) / 2
    return Box(framed.x1 * scale - left, framed.y1 * scale - top, framed.x2 * scale - left, framed.y2 * scale - top)


def _swapped(listed: Regions) -> bool:
    """The patient's right is at the picture's left in every frontal film."""
    if RIGHT_LUNG not in listed or LEFT_LUNG not in listed:
        return False
    right, left = listed[RIGHT_LUNG], listed[LEFT_LUNG]
    return right.x1 + right.x2 > left.x1 + left.x2


def _said(graph: Graph) -> dict[int, frozenset[str]]:
    """Vocabulary index -> findings present, of each region that a phrase speaks of."""
    said: dict[int, dict[str, bool]] = {}
    for item in graph.get("attributes") or ():
        if isinstance(item, dict) and item.get("bbox_name") in VOCABULARY.names:
            for category, present, name in _tokens(item.get("attributes")):
                if category in JUDGED:
                    found = said.setdefault(VOCABULARY.named(item["bbox_name"]).index, {})
                    found |= {name: present} if category in FOUND else {}
    return {index: frozenset(name for name, there in found.items() if there) for index, found in said.items()}


def _tokens(phrases: object) -> Iterator[tuple[str, bool, str]]:
    """Category, whether it is there, name: of every phrase in turn."""
    for phrase in phrases if isinstance(phrases, list) else ():
        for token in phrase if isinstance(phrase, list) else ():
            category, _, rest = str(token).partition("|")
            answer, _, name = rest.partition("|")
            if answer in ("yes", "no") and name:
                yield category, answer == "yes", name
