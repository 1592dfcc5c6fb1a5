"""Short ways to fill a store: instances, regions, work done."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from storage.records import (
    Added,
    ConflictPolicy,
    Generation,
    Job,
    Model,
    NewInstance,
    NewPatient,
    NewRegion,
    NewSeries,
    NewStudy,
    Policy,
)
from storage.store import Store

DIM = 16
MODEL = Model("model-1", "/nowhere", DIM, ("anatomy", "finding"), ("lung", "heart", "spine"))


ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)
ON_PGVECTOR = pytest.param("pgvector", marks=pytest.mark.postgresql)
on_every_engine = pytest.mark.parametrize("bench", ["sqlite", ON_POSTGRESQL, ON_PGVECTOR], indirect=True)


@dataclass
class Clock:
    """A clock that only moves when told."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A store with short ways to fill it."""

    root: Path
    url: str | None
    engine: str = "auto"
    clock: Clock = field(default_factory=Clock)
    opened: list[Store] = field(default_factory=list)

    def open(self, exact_limit: int = 50_000) -> Store:
        self.opened.append(Store.open(self.root, self.url, self.clock, exact_limit, engine=self.engine))
        return self.opened[-1]


def new_instance(number: int, **changes: object) -> NewInstance:
    """Two instances a series, one series a study, two studies a patient."""
    study = number // 2
    values: dict[str, object] = {
        "patient": NewPatient(
            f"P{study // 2:03}", patient_name_key=f"NAME^{study // 2:03}", patient_sex="FM"[study % 2]
        ),
        "study": NewStudy(f"2.{study:04}", study_date=f"2020{1 + study % 12:02}15", study_time="1030"),
        "series": NewSeries(f"3.{study:04}", modality="DX" if study % 2 else "CR"),
        "sop_instance_uid": f"4.{number:04}",
        "sop_class_uid": "class",
        "transfer_syntax_uid": "syntax",
        "rows": 2500,
        "columns": 2000,
        "header": b"head",
    }
    return NewInstance(**{**values, **changes})  # type: ignore[arg-type]


def put(
    store: Store,
    number: int,
    content: bytes | None = None,
    policy: Policy = "keep",
    conflicts: ConflictPolicy = "keep",
    **changes: object,
) -> Added:
    """Store one instance as a receiver does."""
    new = new_instance(number, **changes)
    with store.files.scratch() as scratch:
        scratch.write(content if content is not None else f"content of {number}".encode())
        kept = store.files.keep(scratch, new.sop_instance_uid)
    return store.catalog.add(new, kept, policy, conflicts)


def vectors_of(uid: str, anatomy: int, projection: int = 0) -> NDArray[np.float32]:
    """What our pretended model makes of an image: the same for the same image, whenever it is asked."""
    seed = [*uid.encode(), anatomy, projection]
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def regions_of(uid: str, anatomies: Sequence[int] = (0, 1, 2)) -> list[NewRegion]:
    return [
        NewRegion(
            anatomy,
            (1.0, 2.0, 30.5, 40.25),
            0.75,
            {"anatomy": vectors_of(uid, anatomy, 0), "finding": vectors_of(uid, anatomy, 1)},
        )
        for anatomy in anatomies
    ]


def work_off(store: Store, owner: str = "worker", limit: int = 1_000_000) -> list[Job]:
    """Do up to `limit` jobs as a worker does; returns them in order."""
    done: list[Job] = []
    while len(done) < limit and (jobs := store.jobs.claim(owner, 60, min(5, limit - len(done)))):
        for job in jobs:
            store.jobs.finish(job, regions_of(job.sop_instance_uid))
        done += jobs
    return done


def filled(store: Store, n: int) -> Generation:
    """A live generation with n indexed instances, stored in one transaction because many tests want some."""
    generation = store.generations.ensure_live(MODEL)
    arrivals = []
    for number in range(n):
        with store.files.scratch() as scratch:
            scratch.write(f"content of {number}".encode())
            arrivals.append((new_instance(number), store.files.keep(scratch, f"4.{number:04}")))
    store.catalog.add_all(arrivals)
    work_off(store)
    return generation
