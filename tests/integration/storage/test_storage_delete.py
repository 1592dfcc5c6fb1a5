"""Instances out: rows, files, jobs, regions, index entries, all or none, whatever goes on; on every database."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, event, func, select

from storage import deletion
from storage.errors import LeaseLost
from storage.records import Condition, Equals, LocalFeatures, NewPatient, NewSeries, NewStudy, SearchRequest
from storage.schema import CONFLICT, METADATA, REMOVAL
from storage.store import Store
from storage.vectors import rows as rows_of_index
from tests.integration.storage.building import (
    MODEL,
    Bench,
    filled,
    on_every_engine,
    put,
    regions_of,
    vectors_of,
    work_off,
)

PROJECT = Path(__file__).resolve().parents[3]
InThreads = Callable[..., None]
LOCAL = LocalFeatures(np.ones((2, 2, 4), np.int8), (0.0, 0.0, 8.0, 8.0))


def rows(store: Store) -> dict[str, int]:
    """How many rows each table has."""
    with store._database.reading() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in METADATA.sorted_tables
        }


def kept_files(store: Store) -> int:
    return sum(1 for path in (store.root / "files").rglob("*") if path.is_file())


def delete(store: Store, *conditions: Condition) -> tuple[int, int]:
    """How many studies something went of, and instances."""
    gone = list(store.deletion.delete(conditions))
    return len(gone), sum(share.instances for share in gone)


def swept(store: Store) -> int:
    """How many files a sweep of all ages removes."""
    return store.files.sweep(lambda prefix: set(store.catalog.files_under(prefix)), time.time() + 60)


def sound(store: Store) -> None:
    """Nothing kept contradicts anything else, and no file is left over."""
    for generation in store.generations.active():
        store.vectors.warm(generation.id)
    assert store.check() == []
    assert swept(store) == 0


def ask(generation_id: int, number: int = 0, k: int = 100) -> SearchRequest:
    return SearchRequest(generation_id, "anatomy", (0, 1, 2), vectors_of(f"query {number}", 0), k)


def found(store: Store, generation_id: int) -> set[str]:
    """The instances that a search of everything answers with."""
    hits = store.vectors.search(ask(generation_id)).hits
    details = store.regions.details([hit.region_id for hit in hits])
    assert len(details) == len(hits)
    return {one.instance.sop_instance_uid for one in details}


# --- what goes, and what stays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "gone", "left"),
    [
        (Equals("sop_instance_uid", "4.0001"), (1, 1), (2, 4, 4, 7)),
        (Equals("series_instance_uid", "3.0000"), (1, 2), (2, 3, 3, 6)),
        (Equals("study_instance_uid", "2.0000"), (1, 2), (2, 3, 3, 6)),
        (Equals("patient_id", "P000"), (2, 4), (1, 2, 2, 4)),
        (Equals("patient_id", "P00"), (0, 0), (2, 4, 4, 8)),
    ],
)
def test_everything_made_of_it_goes_and_nothing_else(
    store: Store, condition: Condition, gone: tuple[int, int], left: tuple[int, ...]
) -> None:
    generation = filled(store, 0)
    for number in range(8):
        put(store, number)
    for job in store.jobs.claim("worker", 60, 100):
        store.jobs.finish(job, regions_of(job.sop_instance_uid), LOCAL)
    planned = store.deletion.plan([condition])
    assert (len(planned), sum(share.instances for share in planned)) == gone
    assert sum(share.size for share in planned) == gone[1] * len(b"content of 0")
    assert delete(store, condition) == gone
    n = rows(store)
    assert tuple(n[table] for table in ("patient", "study", "series", "instance")) == left
    assert (n["job"], n["local_map"], n["region"], n["vector"]) == (left[3], left[3], 3 * left[3], 6 * left[3])
    assert kept_files(store) == left[3]
    assert len(found(store, generation.id)) == left[3]
    assert store.deletion.plan([condition]) == []
    sound(store)


def test_without_a_condition_nothing_is_deleted(store: Store) -> None:
    filled(store, 2)
    with pytest.raises(ValueError, match="everything"):
        list(store.deletion.delete([]))
    assert store.catalog.count() == 2


def test_a_study_larger_than_a_transaction_goes_in_several(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "BATCH", 3)
    generation = filled(store, 2)
    for number in range(10, 18):
        put(store, number, study=NewStudy("2.big"), series=NewSeries("3.big"), patient=NewPatient("big"))
    work_off(store)
    assert delete(store, Equals("study_instance_uid", "2.big")) == (1, 8)
    assert found(store, generation.id) == {"4.0000", "4.0001"}
    sound(store)


def test_an_instance_sent_again_is_new_and_indexed_again(store: Store) -> None:
    generation = filled(store, 4)
    before = store.catalog.instance("4.0001")
    assert before is not None
    delete(store, Equals("sop_instance_uid", "4.0001"))
    added = put(store, 1)
    assert added.outcome == "new"
    assert added.instance_id > before.id
    assert [job.sop_instance_uid for job in work_off(store)] == ["4.0001"]
    assert len(found(store, generation.id)) == 4
    sound(store)


# --- beside others -------------------------------------------------------------------------------------------------


@on_every_engine
@pytest.mark.parametrize("exact_limit", [50_000, 10])
def test_the_index_of_another_process_follows_at_once(bench: Bench, store: Store, exact_limit: int) -> None:
    """With a graph too, and from a snapshot that still holds what went."""
    generation = filled(store, 24)
    serving = bench.open(exact_limit)
    serving.vectors.warm(generation.id)
    serving.vectors.improve()
    serving.vectors.snapshot()
    assert len(found(serving, generation.id)) == 24
    delete(store, Equals("study_instance_uid", "2.0003"))
    left = {f"4.{number:04}" for number in range(24)} - {"4.0006", "4.0007"}
    assert found(serving, generation.id) == left
    again = bench.open(exact_limit)
    assert found(again, generation.id) == left
    assert serving.vectors.check() == again.vectors.check() == []
    sound(store)


@on_every_engine
def test_searches_that_run_meanwhile_neither_fail_nor_fall_short(bench: Bench, store: Store) -> None:
    generation = filled(store, 40)
    serving = bench.open(exact_limit=10)
    serving.vectors.warm(generation.id)
    serving.vectors.improve()
    over, lengths = threading.Event(), []

    def search() -> None:
        while not over.is_set():
            lengths.append(len(serving.vectors.search(ask(generation.id, len(lengths), k=10)).hits))

    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in searching:
        thread.start()
    for study in range(14):
        delete(store, Equals("study_instance_uid", f"2.{study:04}"))
    over.set()
    for thread in searching:
        thread.join()
    assert set(lengths) == {10}
    assert len(found(serving, generation.id)) == 12


def test_an_answer_is_full_although_its_best_hits_go_under_every_attempt(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = filled(store, 40)
    stored = rows_of_index.stored

    def late(connection: Connection, place: int, region_ids: list[int]) -> list[rows_of_index.StoredRow]:
        best = store.regions.details(region_ids)[0]
        delete(store, Equals("study_instance_uid", best.instance.study_instance_uid))
        with store._database.reading() as fresh:
            return stored(fresh, place, region_ids)

    monkeypatch.setattr(rows_of_index, "stored", late)
    hits = store.vectors.search(ask(generation.id, k=10)).hits
    monkeypatch.undo()
    assert len(hits) == 10
    assert hits == store.vectors.search(ask(generation.id, k=10)).hits
    assert store.catalog.count() < 40


def test_a_worker_with_it_in_hand_loses_the_job(store: Store) -> None:
    generation = filled(store, 0)
    put(store, 0)
    (job,) = store.jobs.claim("worker", 60, 1)
    delete(store, Equals("sop_instance_uid", "4.0000"))
    put(store, 0)  # SQLite gives its job the same number, and the same worker takes it
    (again,) = store.jobs.claim("worker", 60, 1)
    for late in (
        lambda: store.jobs.finish(job, regions_of("4.0000")),
        lambda: store.jobs.fail(job, "gone", retry=True),
        lambda: store.jobs.not_indexable(job, "gone"),
        lambda: store.jobs.extend(job, 60),
    ):
        with pytest.raises(LeaseLost):
            late()
    store.jobs.finish(again, regions_of("4.0000"))
    assert store.regions.count(generation.id) == 3
    sound(store)


@on_every_engine
def test_workers_receivers_and_deletions_at_once(bench: Bench, in_threads: InThreads) -> None:
    """What was deleted last stays away, what was stored last is there, and nothing contradicts anything."""
    opened = [bench.open() for _ in range(3)]
    generation = opened[0].generations.ensure_live(MODEL)
    over = threading.Event()

    def receive() -> None:
        for number in [*range(12), *range(12), *range(12)]:
            put(opened[0], number)

    def work() -> None:
        while not over.is_set() or opened[1].jobs.counts(generation.id).queued:
            for job in opened[1].jobs.claim("worker", 600, 2):
                try:
                    opened[1].jobs.finish(job, regions_of(job.sop_instance_uid))
                except LeaseLost:
                    continue

    def remove() -> None:
        for study in [*range(6), *range(6), *range(6), *range(6)]:
            delete(opened[2], Equals("study_instance_uid", f"2.{study:04}"))
        over.set()

    in_threads(receive, work, remove)
    work_off(opened[0])
    counts = opened[0].jobs.counts(generation.id)
    assert counts.indexed == counts.instances
    sound(opened[0])


@on_every_engine
def test_while_a_generation_is_built_both_lose_it(bench: Bench, store: Store) -> None:
    live = filled(store, 8)
    building = store.generations.start(replace(MODEL, id="model-2"))
    work_off(store, limit=4)  # of the building one: half
    (job,) = store.jobs.claim("worker", 60, 1)
    assert (job.generation_id, job.sop_instance_uid) == (building.id, "4.0004")
    delete(store, Equals("study_instance_uid", "2.0000"))
    delete(store, Equals("study_instance_uid", "2.0002"))  # its job is held, the next one's queued
    with pytest.raises(LeaseLost):
        store.jobs.finish(job, regions_of(job.sop_instance_uid))
    work_off(store)
    sound(store)
    assert store.generations.make_live(building.id).state == "live"
    left = {"4.0002", "4.0003", "4.0006", "4.0007"}
    assert found(store, building.id) == found(bench.open(), live.id) == left
    sound(store)


def test_what_contradicted_a_study_goes_with_it(store: Store) -> None:
    put(store, 0)
    put(store, 1, patient=NewPatient("P999"))
    put(store, 4, patient=NewPatient("P001", patient_name_key="OTHER"))
    put(store, 5)
    assert store.conflicts.count() == 2
    delete(store, Equals("sop_instance_uid", "4.0001"))
    assert store.conflicts.count() == 2
    delete(store, Equals("study_instance_uid", "2.0000"))
    assert [one.study_instance_uid for one in store.conflicts.all()] == ["2.0002"]
    delete(store, Equals("study_instance_uid", "2.0002"))
    assert rows(store)[CONFLICT.name] == 0


# --- killed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "number", "gone"),
    [
        *(("statement", number, False) for number in (1, 7, 20)),
        ("commit", 1, False),
        ("file", 1, True),
        ("file", 2, True),
    ],
)
def test_killed_on_the_way_it_is_all_there_or_all_gone(
    bench: Bench, store: Store, where: str, number: int, gone: bool
) -> None:
    generation = filled(store, 8)
    before = rows(store)
    command = [sys.executable, "-m", "tests.integration.storage.deleter", str(bench.root), bench.url or ""]
    done = subprocess.run(
        [*command, "2.0001", where, str(number)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-9, ""), done.stderr
    serving = bench.open()
    after = found(serving, generation.id)
    assert after == {f"4.{n:04}" for n in range(8)} - ({"4.0002", "4.0003"} if gone else set())
    assert rows(store) == before if not gone else rows(store)["instance"] == 6
    assert {one.kind for one in store.check()} <= {"file unknown"}
    assert swept(serving) == (3 - number) * gone  # it has two files
    sound(serving)
    list(serving.deletion.delete([Equals("study_instance_uid", "2.0001")]))
    assert len(found(serving, generation.id)) == 6
    sound(serving)


# --- the log of removals -------------------------------------------------------------------------------------------


def removals(store: Store) -> int:
    return rows(store)[REMOVAL.name]


@on_every_engine
def test_removals_are_forgotten_and_who_is_behind_begins_anew(bench: Bench, store: Store) -> None:
    generation = filled(store, 12)
    behind, snapshots = bench.open(exact_limit=5), bench.open(exact_limit=5)
    for each in (behind, snapshots):
        each.vectors.warm(generation.id)
        each.vectors.improve()
    snapshots.vectors.snapshot()
    delete(store, Equals("patient_id", "P000"))
    upto = store.vectors.refresh()
    put(store, 30)
    work_off(store)
    delete(store, Equals("sop_instance_uid", "4.0030"))
    assert removals(store) == 15
    assert store.vectors.prune(upto) == 12
    assert removals(store) == 3  # of after
    left = {f"4.{number:04}" for number in range(4, 12)}
    fresh = bench.open(exact_limit=5)
    for each in (behind, fresh):  # in memory, and from a snapshot of before
        assert found(each, generation.id) == left
        assert each.vectors.check() == []
    assert store.vectors.prune(store.vectors.refresh()) == 3
    assert found(behind, generation.id) == found(bench.open(), generation.id) == left


def test_pruning_never_goes_back(store: Store) -> None:
    generation = filled(store, 6)
    store.vectors.warm(generation.id)
    delete(store, Equals("patient_id", "P000"))
    assert store.vectors.prune(10_000) == 12
    assert store.vectors.prune(10_000) == 0
    delete(store, Equals("patient_id", "P001"))
    assert store.vectors.prune(1) == 0
    assert found(store, generation.id) == set()
    assert store.vectors.check() == []


def test_no_statement_of_a_deletion_reads_a_whole_table(tmp_path: Path) -> None:
    """Each would grow with the archive, and the receiver would wait for it."""
    with Store.open(tmp_path) as store:
        seen: list[tuple[str, object]] = []

        def see(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            if statement.startswith(("DELETE", "SELECT")):
                seen.append((statement, parameters))

        filled(store, 4)
        event.listen(store._database._writer, "before_cursor_execute", see)
        delete(store, Equals("study_instance_uid", "2.0000"))
        assert len(seen) > 10
        with store._database.engine.connect() as connection:
            for statement, parameters in seen:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
                assert [row[-1] for row in plan if row[-1].startswith("SCAN")] == []
