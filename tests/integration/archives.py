"""A small archive with made-up films, regions and vectors: what a node would have indexed, without a model."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.attributes.header import new_instance
from dicomnode.demo.dx import FilmFacts, dx_dataset
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.records import Model, NewRegion
from storage.store import Store

DIM = 16
SIDE = 96
SHOWN = (0, 8, 24)  # right lung, left lung, heart
BOXES = {0: Box(10, 10, 40, 80), 8: Box(55, 10, 86, 80), 24: Box(35, 40, 65, 78)}
MODEL = Model(
    "made-up", "models/made-up", DIM, ("anatomy",), VOCABULARY.names, {str(anatomy): 0.5 for anatomy in SHOWN}
)


def film(number: int, patient: int) -> Dataset:
    """A DX film of noise."""
    pixels = np.random.default_rng(number).integers(0, 4000, (SIDE, SIDE)).astype(np.uint16)
    facts = FilmFacts(f"P{patient}", f"Name^{patient}", "O", "", "20240101", seed=f"film {number}")
    return dx_dataset(pixels, facts)


def put(store: Store, dataset: Dataset, folder: Path) -> str:
    """Store one data set as a receiver does; its UID."""
    path = folder / "one.dcm"
    dataset.save_as(path, enforce_file_format=True)
    new = new_instance(dataset, str(dataset.file_meta.TransferSyntaxUID), "SENDER")
    with store.files.scratch() as scratch:
        scratch.write(path.read_bytes())
        kept = store.files.keep(scratch, new.sop_instance_uid)
    store.catalog.add(new, kept)
    return new.sop_instance_uid


def index(store: Store) -> None:
    """Do every job: a film gets its regions at BOXES, vectors of one anatomy alike; anything else gets none."""
    store.generations.ensure_live(MODEL)
    means = np.random.default_rng(0).standard_normal((len(VOCABULARY), DIM))
    while jobs := store.jobs.claim("worker", 60, 10):
        for job in jobs:
            rng = np.random.default_rng(list(job.sop_instance_uid.encode()))
            shown = SHOWN if job.sop_class_uid.startswith("1.2.840.10008.5.1.4.1.1.1") else ()
            store.jobs.finish(job, [_region(anatomy, means[anatomy], rng) for anatomy in shown])


def _region(anatomy: int, mean: np.ndarray, rng: np.random.Generator) -> NewRegion:
    vector = mean + 0.3 * rng.standard_normal(DIM)
    return NewRegion(anatomy, BOXES[anatomy], 0.9, {"anatomy": (vector / np.linalg.norm(vector)).astype(np.float32)})


def built(root: Path, folder: Path, films: int = 12) -> list[Dataset]:
    """An indexed archive of films, each of a patient of its own but for the last two; returns them."""
    shown = [film(number, min(number, films - 2)) for number in range(films)]
    with Store.open(root) as store:
        store.generations.ensure_live(MODEL)
        for dataset in shown:
            put(store, dataset, folder)
        index(store)
    return shown
