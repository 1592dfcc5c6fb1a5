"""What a film and a region take: bytes in SQL and in the index, on disk and in memory; seconds of a processor.

Of a processor, not of the clock: a plan adds them up for any number of machines, and a busy one does not change them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from pydicom import dcmread
from sqlalchemy import text

from benchmarks import films
from dicomnode import models
from dicomnode.attributes.header import new_instance
from dicomnode.pixels import decode
from encoder.pipeline import SHIPPED, Pipeline
from storage.records import KeptFile, NewInstance, NewRegion, NewSeries, NewStudy
from storage.store import Store
from storage.vectors.exact import ExactIndex
from storage.vectors.hnsw import HnswIndex
from storage.vectors.index import VectorIndex

FILMS = 1000  # of 29 regions each
VECTORS = 50_000  # of one anatomy
CLUSTERS, K, QUERIES = 400, 10, 100
TOGETHER = 32  # films catalogued in one commit, as associations share one
MIB = 1 << 20


def run(repeat: int) -> dict[str, Any]:
    """A made-up archive of the shipped model's shape, in a scratch folder."""
    return {**_in_sql(), **_a_film(repeat), **_in_the_index(repeat)}


def _cpu_s(work: Callable[[], Any]) -> float:
    """Seconds that one call takes of processors, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


# --- SQL -------------------------------------------------------------------------------------------------------------


def _in_sql() -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="bench-sizing-") as scratch, Store.open(Path(scratch)) as store:
        model = models.describe(SHIPPED)
        store.generations.ensure_live(model)
        empty = _size(store)
        films.drawn()  # not counted
        catalogued_s = _cpu_s(lambda: _catalogue(store))
        catalogued = _size(store)
        indexed_s = _cpu_s(lambda: _index(store, model.dim))
        indexed, regions = _size(store), FILMS * len(model.regions)
        return {
            "archive": f"{FILMS} films, {len(model.regions)} regions each, {model.dim} numbers a vector",
            "SQL, KiB a film without its regions": f"{(catalogued - empty) / FILMS / 1024:.1f}",
            "SQL, bytes a region with its vector": f"{(indexed - catalogued) / regions:.0f}",
            "CPU ms to catalogue a film, 32 to a commit": f"{1000 * catalogued_s / FILMS:.2f}",
            "CPU ms to commit a film's regions": f"{1000 * indexed_s / FILMS:.2f}",
        }


def _size(store: Store) -> int:
    """Bytes of the database, nothing in its journal."""
    with store._database.engine.connect() as connection:
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return int(connection.execute(text("PRAGMA page_count")).scalar_one()) * 4096


def _catalogue(store: Store) -> None:
    dataset = dcmread(films.drawn()[0])
    shown = new_instance(dataset, str(dataset.file_meta.TransferSyntaxUID), "SENDER")
    arrivals = [_arrival(shown, number) for number in range(FILMS)]
    for start in range(0, FILMS, TOGETHER):
        store.catalog.add_all(arrivals[start : start + TOGETHER])


def _arrival(shown: NewInstance, number: int) -> tuple[NewInstance, KeptFile]:
    """A study of its own, two of them a patient's; the file is not written."""
    uid = f"{shown.sop_instance_uid[:40]}.{number}"
    new = NewInstance(
        **{
            **vars(shown),
            "patient": type(shown.patient)(**{**vars(shown.patient), "patient_id": f"P{number // 2}"}),
            "study": NewStudy(**{**vars(shown.study), "study_instance_uid": f"{uid}.1"}),
            "series": NewSeries(**{**vars(shown.series), "series_instance_uid": f"{uid}.2"}),
            "sop_instance_uid": uid,
        }
    )
    return new, KeptFile(f"files/00/00/{number:064d}.0123456789abcdef.0123456789abcdef.dcm", f"{number:064d}", 10 << 20)


def _index(store: Store, dim: int) -> None:
    vectors = _clustered(dim, 29 * 64)
    while jobs := store.jobs.claim("bench", 600, 64):
        for number, job in enumerate(jobs):
            store.jobs.finish(job, [_region(anatomy, vectors[29 * number + anatomy]) for anatomy in range(29)])


def _region(anatomy: int, vector: NDArray[np.float32]) -> NewRegion:
    return NewRegion(anatomy, (10.5, 20.25, 300.125, 400.0), 0.9, {"anatomy": vector})


# --- the index -------------------------------------------------------------------------------------------------------


def _a_film(repeat: int) -> dict[str, str]:
    policy, pipeline, path = decode.Policy(), Pipeline.load(threads=1), films.drawn()[0]

    def analysed() -> Any:
        image = decode.film(path, policy)
        return pipeline.analyse(image.pixels, image.spacing_mm)

    local = analysed().local
    taken = [_cpu_s(analysed) for _ in range(3 * repeat)]
    rows = {"CPU ms to decode, detect and encode a film": f"{1000 * statistics.median(taken):.0f}"}
    return rows if local is None else rows | {"local map, KiB a film": f"{local.features.nbytes / 1024:.1f}"}


def _in_the_index(repeat: int) -> dict[str, str]:
    dim = models.describe(SHIPPED).dim
    vectors, ids = _clustered(dim, VECTORS), np.arange(VECTORS, dtype=np.int64)
    queries = _clustered(dim, QUERIES, seed=1)
    rows: dict[str, str] = {}
    for name, index in (("exact", ExactIndex(dim, labels=2)), ("graph", HnswIndex(dim))):
        before = psutil.Process().memory_info().rss
        given = (np.zeros((VECTORS, 2), np.int64),) if name == "exact" else ()
        built_s = _cpu_s(lambda index=index, given=given: index.add(ids, vectors, *given))
        grown = psutil.Process().memory_info().rss - before
        taken = [_cpu_s(lambda index=index: [index.search(query, K) for query in queries]) for _ in range(repeat)]
        rows |= {
            f"{name}, bytes a vector on disk": f"{_saved(index) / VECTORS:.0f}",
            f"{name}, bytes a vector in memory": f"{grown / VECTORS:.0f}",
            f"{name}, CPU s to build 100,000 vectors": f"{100_000 * built_s / VECTORS:.2f}",
            f"{name}, CPU ms a search of {VECTORS:,}": f"{1000 * statistics.median(taken) / QUERIES:.2f}",
        }
    return rows


def _saved(index: VectorIndex) -> int:
    with tempfile.TemporaryDirectory(prefix="bench-sizing-") as scratch:
        path = Path(scratch) / "index"
        index.save(path)
        return path.stat().st_size


def _clustered(dim: int, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors (count, dim) around CLUSTERS centres."""
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, dim))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(CLUSTERS, size=count)] + 0.7 * rng.normal(size=(count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
