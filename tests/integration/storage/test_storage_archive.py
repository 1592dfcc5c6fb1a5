"""The benchmark's large archive: made in bulk, it is what receiving and indexing would have written."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import archive
from storage.database import Database
from storage.records import Equals, Generation, Model, NewPatient, NewRegion, NewSeries, NewStudy, SearchRequest
from storage.schema import INSTANCE, REGION
from storage.store import DATABASE, Store
from storage.vectors.scoring import cosines
from tests.integration.storage.building import DIM, put, vectors_of

FILMS, REGIONS = 8, 6_000
MODEL = Model("model-1", "/nowhere", DIM, ("anatomy",), ("lung", "heart", "spine"))


def uid(kind: int, number: int) -> str:
    return f"2.25.{kind}{number:037d}"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Generation]:
    """Eight films of two modalities that were stored and indexed, grown to six thousand regions."""
    root: Path = tmp_path_factory.mktemp("archive") / "root"
    store = Store.open(root)
    live = store.generations.ensure_live(MODEL)
    for number in range(FILMS):
        put(
            store,
            number,
            patient=NewPatient(f"P{number:06d}", patient_sex="FM"[number % 2]),
            study=NewStudy(uid(1, number), study_date="20200115"),
            series=NewSeries(uid(2, number), modality="DX"),
            sop_instance_uid=uid(3, number),
            header=b"\x08\x00\x18\x00UI\x2c\x00" + uid(3, number).encode() + archive.MODALITY["DX"],
        )
    for job in store.jobs.claim("worker", 60, FILMS):
        found = [
            NewRegion(each, (1, 2, 30, 40), 0.9, {"anatomy": vectors_of(job.sop_instance_uid, each)})
            for each in range(3)
        ]
        store.jobs.finish(job, found)
    database = Database(f"sqlite:///{root / DATABASE}")
    archive.grow(database, archive.read(database), REGIONS)
    database.close()
    return store, live


def test_its_rows_belong_together(grown: tuple[Store, Generation]) -> None:
    store, live = grown
    counts = store.jobs.counts(live.id)
    assert (counts.indexed, counts.queued) == (REGIONS // 3, 0)
    assert store.vectors.warm(live.id) == store.regions.count(live.id) == REGIONS
    found = store.check()
    assert {one.kind for one in found} == {"file missing"}  # what is made up has no file
    assert len(found) == REGIONS // 3 - FILMS


def test_headers_say_what_rows_say(grown: tuple[Store, Generation]) -> None:
    store, _ = grown
    modalities = set()
    for row in list(store.catalog.find("IMAGE", wanted=("header", "modality", "sop_instance_uid")))[:50]:
        assert row["sop_instance_uid"].encode() in row["header"]
        assert archive.MODALITY[row["modality"]] in row["header"]
        modalities.add(row["modality"])
    assert modalities == {"DX", "CR"}


@pytest.mark.parametrize("modality", [None, "CR"])
def test_it_is_searched_without_loss(grown: tuple[Store, Generation], modality: str | None) -> None:
    """Invariants 6 and 7 where the scan of codes decides: thousands of vectors that are much alike."""
    store, live = grown
    allowed = None if modality is None else store.catalog.candidates([Equals("modality", modality)])
    rows = {
        one.instance.id: one for one in store.regions.details(list(range(1, REGIONS + 1))) if one.region.anatomy == 1
    }
    kept = [one for one in rows.values() if allowed is None or one.instance.id in allowed]
    stored = np.stack([store.regions.vector(one.region.id, "anatomy") for one in kept])
    for number in range(3):
        asked = vectors_of(uid(3, number), 1)
        answer = store.vectors.search(SearchRequest(live.id, "anatomy", (1,), asked, 25, allowed))
        scores = cosines(asked, stored)
        best = sorted(
            (-score, one.instance.sop_instance_uid, one.region.id) for score, one in zip(scores, kept, strict=True)
        )
        assert [(-hit.score, hit.region_id) for hit in answer.hits] == [(score, row) for score, _, row in best[:25]]
        assert answer.plans == {1: "exact"}


def test_growing_twice_goes_on_where_it_was(grown: tuple[Store, Generation]) -> None:
    store, live = grown
    database = Database(f"sqlite:///{store.root / DATABASE}")
    archive.grow(database, archive.read(database), REGIONS)
    assert store.regions.count(live.id) == REGIONS
    with database.reading() as connection:
        paths = connection.execute(INSTANCE.select().with_only_columns(INSTANCE.c.path)).scalars().all()
        newest = connection.execute(REGION.select().with_only_columns(REGION.c.id)).scalars().all()
    database.close()
    assert len(set(paths)) == len(paths)
    assert sorted(newest) == list(range(1, REGIONS + 1))
