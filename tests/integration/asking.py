"""Archives that a node can answer from at once, SRs that ask about their films, and what became of them."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode import models
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.sr import writer
from dicomnode.sr.writer import Marking
from dicomnode.uids import new_uid
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.records import NewRegion, Question
from storage.store import Store
from tests.integration import archives
from tests.raw import wait_until

SIDE = 256
HEART = VOCABULARY.named("cardiac silhouette")
BOXES = {
    HEART.index: Box(90, 100, 180, 200),
    VOCABULARY.named("right lung").index: Box(30, 20, 110, 220),
    VOCABULARY.named("right lower lung zone").index: Box(30, 140, 110, 220),
}
HEART_BOX = BOXES[HEART.index]
ENDED = {"stored", "failed"}
UNFORGETTABLE = "Forget-Me-Not"  # in every other patient's name


def film(number: int, patient: str = "") -> Dataset:
    """A film of noise with a bright heart, of a patient of its own."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 1500, (SIDE, SIDE)).astype(np.uint16)
    box = HEART_BOX
    pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] += 2000
    name = f"{UNFORGETTABLE}{number}^Zoë" if number else "Asking^Änne"
    facts = FilmFacts(patient or f"PID-{number:04d}-X", name, "F", "19610203", "20240506", seed=f"asking {number}")
    facts = FilmFacts(**{**vars(facts), "accession_number": f"ACC{number:05d}"})
    return dx_dataset(pixels, facts)


def indexed(root: Path, folder: Path, films: list[Dataset]) -> None:
    """An archive of the shipped model's generation, with these films and made-up vectors of two regions of each."""
    with Store.open(root) as store:
        models.ensure_live(store, "")
        for dataset in films:
            archives.put(store, dataset, folder)
        index(store)


def index(store: Store) -> None:
    """Do every job of the live generation, as an indexer would."""
    model = store.generations.live().model
    while jobs := store.jobs.claim("worker", 60, 10):
        for job in jobs:
            rng = np.random.default_rng(list(job.sop_instance_uid.encode()))
            shown = BOXES if job.sop_class_uid.startswith("1.2.840.10008.5.1.4.1.1.1.") else {}
            store.jobs.finish(job, [_region(anatomy, box, model, rng) for anatomy, box in shown.items()])


def _region(anatomy: int, box: Box, model, rng: np.random.Generator) -> NewRegion:
    vectors = {}
    for projection in model.projections:
        vector = np.random.default_rng(anatomy).standard_normal(model.dim) + 0.3 * rng.standard_normal(model.dim)
        vectors[projection] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return NewRegion(anatomy, tuple(box), 0.9, vectors)


def question(image: Dataset, *boxes: Box, anatomy=HEART) -> Dataset:
    """An SR that asks about rectangles on an image."""
    import datetime

    markings = [Marking(box, anatomy, f"ROI {number}") for number, box in enumerate(boxes or (HEART_BOX,), start=1)]
    return writer.query_sr(image, markings, at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))


def saved(document: Dataset, folder: Path) -> Path:
    path = folder / f"{document.SOPInstanceUID}.dcm"
    document.save_as(path, enforce_file_format=True)
    return path


def about(sample: Path, image: Dataset, old_uid: str) -> Dataset:
    """A copy of a viewer's SR that refers to another image, and is of its patient and study."""
    document = copy.deepcopy(dcmread(sample))
    for element in document.iterall():
        if element.keyword == "ReferencedSOPInstanceUID" and str(element.value) == old_uid:
            element.value = image.SOPInstanceUID
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID"):
        setattr(document, keyword, image[keyword].value)
    document.SpecificCharacterSet = image.SpecificCharacterSet
    document.SeriesInstanceUID = new_uid()
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = new_uid()
    return document


def asked(root: Path, uid: str) -> Question | None:
    with Store.open(root) as store:
        return store.questions.of_sr(uid)


def ended(root: Path, uid: str, timeout_s: float = 40.0) -> Question:
    """The question when it has ended."""
    assert wait_until(lambda: (found := asked(root, uid)) is not None and found.state in ENDED, timeout_s), asked(
        root, uid
    )
    found = asked(root, uid)
    assert found is not None
    return found


def when(root: Path, uid: str, condition: Callable[[Question], bool], timeout_s: float = 20.0) -> Question:
    """The question when something is true of it."""
    assert wait_until(lambda: (found := asked(root, uid)) is not None and condition(found), timeout_s)
    found = asked(root, uid)
    assert found is not None
    return found


def stored_file(root: Path, uid: str) -> Path:
    """The file of a stored instance."""
    with Store.open(root) as store:
        return store.files.path(store.catalog.instance(uid).path)


def strangers(films: list[Dataset]) -> list[bytes]:
    """What must not be in an object that others of these films' patients may see."""
    keywords = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    found = [str(each[keyword].value).encode() for each in films for keyword in keywords]
    return [*found, UNFORGETTABLE.encode()]
