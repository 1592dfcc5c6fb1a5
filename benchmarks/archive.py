"""A small archive of real films in, a large one out: the same rows as receiving and indexing write, in bulk.

Every added image is one of the first films' with UIDs, patient, date and modality of its own; its regions' vectors lie
between those of two films and are moved by noise, so that they are as near to each other as real ones are. It has no
file and no local map: only films that were really stored are asked about.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, insert, select

from storage.database import Database, advance
from storage.schema import INSTANCE, JOB, PATIENT, REGION, SERIES, STUDY, VECTOR

BATCH = 1_000  # images in a transaction
NO_FILE = "files/00/none."  # what the path of an added image begins with
MODALITY = {"DX": b"\x08\x00\x60\x00CS\x02\x00DX", "CR": b"\x08\x00\x60\x00CS\x02\x00CR"}  # (0008,0060), explicit VR
FIRST_DAY, DAYS = date(2014, 1, 1), 3_650
NOISE = 0.5  # of the distance between two films' nearest vectors
ACROSS = 0.5  # of the way from one film's vector to another's, at most
TABLES = {"patient": PATIENT, "study": STUDY, "series": SERIES, "instance": INSTANCE, "job": JOB}

Row = dict[str, Any]


@dataclass(frozen=True)
class Film:
    """One that was received and indexed: its rows by table, and of each anatomy its region's row and vector."""

    rows: Mapping[str, Mapping[str, Any]]
    regions: Mapping[int, Mapping[str, Any]]
    vectors: Mapping[int, NDArray[np.float32]]  # (dim,)


@dataclass(frozen=True)
class Films:
    """The films that all others are made of."""

    films: Sequence[Film]
    noise: Mapping[int, float]  # by anatomy: length of what is added to a vector

    @property
    def anatomies(self) -> list[int]:
        return sorted(self.noise)


def read(database: Database) -> Films:
    """The films that an archive has received and indexed itself; its live generation has one projection."""
    received = select(INSTANCE).where(INSTANCE.c.path.not_like(f"{NO_FILE}%")).order_by(INSTANCE.c.id)
    with database.reading() as connection:
        films = [_film(connection, row) for row in connection.execute(received).mappings()]
    together: dict[int, list[NDArray[np.float32]]] = {}
    for film in films:
        for anatomy, vector in film.vectors.items():
            together.setdefault(anatomy, []).append(vector)
    return Films(films, {anatomy: NOISE * _apart(np.stack(vectors)) for anatomy, vectors in together.items()})


def _film(connection: Connection, instance: Mapping[str, Any]) -> Film:
    def one(table: Any, row_id: int) -> Mapping[str, Any]:
        return dict(connection.execute(select(table).where(table.c.id == row_id)).mappings().one())

    series = one(SERIES, instance["series_row_id"])
    study = one(STUDY, series["study_row_id"])
    job = connection.execute(select(JOB).where(JOB.c.instance_id == instance["id"])).mappings().one()
    rows = {
        **{"instance": dict(instance), "series": series, "study": study, "job": dict(job)},
        "patient": one(PATIENT, study["patient_row_id"]),
    }
    regions, vectors = {}, {}
    found = select(REGION, VECTOR.c.data).join(VECTOR).where(REGION.c.instance_id == instance["id"])
    for row in connection.execute(found).mappings():
        vector = np.frombuffer(row["data"], "<f2").astype(np.float32)
        regions[row["anatomy"]] = {column.name: row[column.name] for column in REGION.columns}
        vectors[row["anatomy"]] = vector / np.linalg.norm(vector)
    return Film(rows, regions, vectors)


def _apart(vectors: NDArray[np.float32]) -> float:
    """The median distance from a vector to the nearest other one: (n, dim)."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    return float(np.sqrt(np.maximum(2 - 2 * np.median(cosines.max(axis=1)), 0.0)))


def grow(database: Database, films: Films, regions: int) -> None:
    """Add images until the archive has that many regions, or a few more."""
    have = _count(database, REGION)
    first = _count(database, INSTANCE)
    images = -(-max(regions - have, 0) // len(films.anatomies))
    for start in range(0, images, BATCH):
        numbers = range(first + start, first + min(start + BATCH, images))
        database.write(partial(_write, films=films, numbers=numbers))


def _count(database: Database, table: Any) -> int:
    with database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _write(connection: Connection, films: Films, numbers: Sequence[int]) -> None:
    rng = np.random.default_rng([7, numbers[0]])
    ids = {
        name: int(connection.execute(select(func.coalesce(func.max(t.c.id), 0))).scalar_one())
        for name, t in TABLES.items()
    }
    made = [
        _image(films, number, {name: top + 1 + at for name, top in ids.items()}, rng)
        for at, number in enumerate(numbers)
    ]
    for name, table in TABLES.items():
        connection.execute(insert(table), [rows[name] for rows, _ in made])
    found = [pair for _, regions in made for pair in regions]
    last = advance(connection, "change", len(found))
    for region_id, (region, _) in enumerate(found, start=last - len(found) + 1):
        region["id"] = region_id
    connection.execute(insert(REGION), [region for region, _ in found])
    vectors = ({"region_id": region["id"], "projection": 0, "data": data} for region, data in found)
    connection.execute(insert(VECTOR), list(vectors))


def _image(
    films: Films, number: int, ids: Mapping[str, int], rng: np.random.Generator
) -> tuple[dict[str, dict[str, Any]], list[tuple[dict[str, Any], bytes]]]:
    """The rows of one image, and its regions with their vectors."""
    one, other = (films.films[at] for at in rng.choice(len(films.films), 2, replace=False))
    rows = {name: dict(row) | {"id": ids[name]} for name, row in one.rows.items()}
    day = f"{FIRST_DAY + timedelta(days=int(rng.integers(DAYS))):%Y%m%d}"
    modality = "CR" if number % 3 == 0 else "DX"
    _named(rows, number, day, modality)
    for child, parent, key in (
        ("study", "patient", "patient_row_id"),
        ("series", "study", "study_row_id"),
        ("instance", "series", "series_row_id"),
        ("job", "instance", "instance_id"),
    ):
        rows[child][key] = ids[parent]
    return rows, list(_regions(films, one, other, ids["instance"], rng))


def _named(rows: dict[str, dict[str, Any]], number: int, day: str, modality: str) -> None:
    """UIDs, patient, date and modality of its own, in columns and, as long as before, in the header."""
    instance, series, study, patient = (rows[name] for name in ("instance", "series", "study", "patient"))
    header: bytes = instance["header"]
    for row, key in ((instance, "sop_instance_uid"), (series, "series_instance_uid"), (study, "study_instance_uid")):
        new = _like(row[key], f"{key} {number}")
        header, row[key] = header.replace(row[key].encode(), new.encode()), new
    identifier = f"N{number:0{len(patient['patient_id']) - 1}d}"
    header = header.replace(patient["patient_id"].encode(), identifier[-len(patient["patient_id"]) :].encode())
    patient["patient_id"] = identifier
    header = header.replace(study["study_date"].encode(), day.encode())
    header = header.replace(MODALITY[series["modality"]], MODALITY[modality])
    study["study_date"], series["modality"] = day, modality
    instance["header"], instance["path"] = header, f"{NO_FILE}{number}"
    instance["sha256"] = hashlib.sha256(instance["sop_instance_uid"].encode()).hexdigest()
    study["last_received_at"] = instance["received_at"] = time.time()
    study["completed_at"] = study["last_received_at"]


def _like(uid: str, seed: str) -> str:
    """Another UID of the same length, PS3.5 B.2."""
    digits = str(int.from_bytes(hashlib.sha256(seed.encode()).digest(), "big")).lstrip("0")
    return "2.25." + ("1" + digits)[: len(uid) - 5]


def _regions(
    films: Films, one: Film, other: Film, instance_id: int, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Any], bytes]]:
    for anatomy, row in one.regions.items():
        vector = one.vectors[anatomy]
        noise = rng.standard_normal(len(vector)).astype(np.float32)
        towards = other.vectors.get(anatomy, vector) - vector
        moved = vector + ACROSS * rng.random() * towards + noise * (films.noise[anatomy] / np.linalg.norm(noise))
        unit = (moved / np.linalg.norm(moved)).astype("<f2")
        yield dict(row) | {"instance_id": instance_id}, unit.tobytes()
