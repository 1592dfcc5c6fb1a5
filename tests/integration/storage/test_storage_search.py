"""Questions in, regions out: every plan gives the oracle's answer, whatever happened to the index on the way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from storage.errors import DatabaseError, GenerationError, VectorError
from storage.records import Generation, NewPatient, NewRegion, NewSeries, NewStudy, Plan, SearchAnswer, SearchRequest
from storage.store import Store
from storage.vectors import snapshot
from storage.vectors.hnsw import HnswIndex
from storage.vectors.scoring import cosines
from tests.integration.storage.building import (
    DIM,
    MODEL,
    Bench,
    filled,
    on_every_engine,
    put,
    regions_of,
    vectors_of,
    work_off,
)

InThreads = Callable[..., None]
N = 24


@pytest.fixture
def live(store: Store) -> Generation:
    """Twenty-four instances of six patients."""
    return filled(store, N)


def ask(generation: Generation, number: int = 3, **changes: object) -> SearchRequest:
    vector = vectors_of(f"query {number}", 0)
    return replace(SearchRequest(generation.id, "anatomy", (0, 1), vector, 10), **changes)  # type: ignore[arg-type]


def oracle(store: Store, request: SearchRequest) -> list[tuple[float, str, int]]:
    """All of SQL's regions, scored one by one and sorted: (score, SOP Instance UID, anatomy)."""
    found = []
    for instance_id in store.catalog.candidates([]).tolist():
        row = store.catalog.by_id(instance_id)
        assert row is not None
        if request.allowed is not None and instance_id not in request.allowed:
            continue
        if row.patient_row_id == request.excluded_patient:
            continue
        for region in store.regions.of_instance(request.generation, instance_id):
            if region.anatomy in request.anatomies:
                stored = store.regions.vector(region.id, request.projection)
                (score,) = cosines(request.vector, stored.reshape(1, -1))
                found.append((-score, row.sop_instance_uid, region.anatomy))
    return [(-score, uid, anatomy) for score, uid, anatomy in sorted(found) if -score >= request.minimum_score][
        : request.k
    ]


def told(store: Store, answer: SearchAnswer) -> list[tuple[float, str, int]]:
    """The answer without row ids: what a peer sees of it."""
    details = {one.region.id: one for one in store.regions.details([hit.region_id for hit in answer.hits])}
    return [(hit.score, details[hit.region_id].instance.sop_instance_uid, hit.anatomy) for hit in answer.hits]


def few(store: Store, n: int) -> np.ndarray:
    return store.catalog.candidates([])[::2][:n]


# --- every plan ---


@on_every_engine
@pytest.mark.parametrize(
    ("exact_limit", "gather_limit", "filtered", "plan"),
    [
        (50_000, 512, False, "exact"),
        (50_000, 512, True, "gather"),
        (50_000, 5, True, "exact"),
        (10, 512, False, "hnsw"),
        (10, 5, True, "exact"),
    ],
)
def test_every_plan_gives_the_oracles_answer(
    bench: Bench, live: Generation, exact_limit: int, gather_limit: int, filtered: bool, plan: Plan
) -> None:
    store = bench.open(exact_limit)
    store.vectors._gather_limit = gather_limit
    store.vectors.warm(live.id)
    store.vectors.improve()
    for number in range(12):
        request = ask(live, number, allowed=few(store, 15) if filtered else None, excluded_patient=1 + number % 3)
        answer = store.vectors.search(request)
        assert told(store, answer) == oracle(store, request)
        assert answer.plans == {0: plan, 1: plan}
        assert len(answer.hits) == 10


@on_every_engine
def test_a_filter_never_shortens_the_answer(bench: Bench, live: Generation) -> None:
    """The excluded patient owns the nearest regions; the graph must not be asked for too few."""
    store = bench.open(exact_limit=10)
    near = vectors_of("query 3", 0)
    crowd = [
        put(store, n, patient=NewPatient("crowd"), study=NewStudy("2.c"), series=NewSeries("3.c"))
        for n in range(200, 280)
    ]
    for job in store.jobs.claim("worker", 60, 1000):
        store.jobs.finish(job, [NewRegion(0, (0, 0, 1, 1), 1.0, {"anatomy": near, "finding": near})])
    patient = store.catalog.by_id(crowd[0].instance_id)
    assert patient is not None
    store.vectors.warm(live.id)
    store.vectors.improve()
    for k in (1, 10, N, 1000):
        request = ask(live, 3, excluded_patient=patient.patient_row_id, k=k, anatomies=(0,))
        answer = store.vectors.search(request)
        assert len(answer.hits) == min(k, N)
        assert told(store, answer) == oracle(store, request)


def test_a_graph_that_finds_too_little_is_not_believed(
    bench: Bench, live: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.open(exact_limit=10)
    store.vectors.warm(live.id)
    store.vectors.improve()
    nothing = np.empty(0, np.int64), np.empty(0, np.float32)
    monkeypatch.setattr(HnswIndex, "search", lambda *_: nothing)
    answer = store.vectors.search(ask(live))
    assert told(store, answer) == oracle(store, ask(live))
    assert set(answer.plans.values()) == {"hnsw->exact"}


def test_one_that_only_scans_makes_no_graph(bench: Bench, live: Generation) -> None:
    bench.engine = "exact"
    store = bench.open(exact_limit=1)
    store.vectors.warm(live.id)
    assert store.vectors.improve() == 0
    assert set(store.vectors.search(ask(live)).plans.values()) == {"exact"}


def test_a_database_without_pgvector_is_one_clear_error(bench: Bench, live: Generation) -> None:
    bench.engine = "pgvector"
    with pytest.raises(DatabaseError, match="pgvector"):
        bench.open()


@pytest.mark.postgresql
@pytest.mark.parametrize("bench", ["pgvector"], indirect=True)
def test_tables_of_the_database_are_mended_and_made_anew(bench: Bench, live: Generation) -> None:
    """They are a cache: what differs from SQL's rows is told, and a rebuild is right again, with its graphs."""
    store = bench.open(exact_limit=10)
    assert store.vectors.warm(live.id) == 2 * 3 * N
    assert store.vectors.improve() == 6
    assert store.vectors.check() == []
    with store._database.engine.begin() as connection:
        connection.execute(text(f"DELETE FROM nearest_{live.id}_0 WHERE anatomy = 1"))
    assert [found.kind for found in store.vectors.check()] == ["index differs"]
    stranger = bench.open(exact_limit=10)  # a command, which follows no tables
    (damage,) = stranger.vectors.examine(live.id, lambda *_: None)
    stranger.vectors.discard(damage.key)
    assert told(store, store.vectors.search(ask(live))) == oracle(store, ask(live))
    assert stranger.vectors.examine(live.id, lambda *_: None) == store.vectors.check() == []
    assert stranger.vectors.renew(live.id) == 2 * 3 * N
    assert store.vectors.check() == []
    assert told(store, store.vectors.search(ask(live))) == oracle(store, ask(live))
    new = store.generations.start(replace(MODEL, id="model-2"))
    work_off(store)
    store.generations.make_live(new.id)
    store.vectors.warm(new.id)
    store.generations.delete(live.id)
    bench.open().vectors.forget()  # by another node
    with store._database.reading() as connection:
        parents = connection.execute(text("SELECT relname FROM pg_class WHERE relkind = 'p' ORDER BY 1")).scalars()
        assert list(parents) == [f"nearest_{new.id}_0", f"nearest_{new.id}_1"]
    assert store.vectors.check() == []


@on_every_engine
def test_the_asking_patient_never_answers_and_scores_are_limited(store: Store, live: Generation) -> None:
    request = ask(live, excluded_patient=1, minimum_score=0.2, k=1000)
    answer = store.vectors.search(request)
    assert told(store, answer) == oracle(store, request)
    assert all(hit.score >= 0.2 for hit in answer.hits)
    owners = {one.instance.patient_row_id for one in store.regions.details([hit.region_id for hit in answer.hits])}
    assert 1 not in owners


@on_every_engine
def test_projections_are_not_mixed(store: Store, live: Generation) -> None:
    own = vectors_of("4.0003", 1, projection=1)
    best = store.vectors.search(ask(live, vector=own, projection="finding", k=1)).hits[0]
    assert best.score == 1.0
    assert store.vectors.search(ask(live, vector=own, projection="anatomy", k=1)).hits[0].score < 0.99


@on_every_engine
def test_nothing_asked_nothing_found(store: Store, live: Generation) -> None:
    for changes in ({"anatomies": ()}, {"anatomies": (77,)}, {"k": 0}, {"allowed": np.empty(0, np.int64)}):
        assert store.vectors.search(ask(live, **changes)).hits == ()


@on_every_engine
def test_questions_that_make_no_sense_are_refused(store: Store, live: Generation) -> None:
    with pytest.raises(GenerationError, match="no generation 99"):
        store.vectors.search(replace(ask(live), generation=99))
    with pytest.raises(VectorError, match="no projection"):
        store.vectors.search(ask(live, projection="other"))
    with pytest.raises(VectorError, match="a query of shape"):
        store.vectors.search(ask(live, vector=np.ones(DIM + 1, np.float32)))
    with pytest.raises(VectorError, match="no direction"):
        store.vectors.search(ask(live, vector=np.zeros(DIM, np.float32)))


# --- the same list, byte for byte ---


def _archive(bench: Bench, order: list[int], root: Path) -> tuple[Store, Generation]:
    store = Store.open(root, None, bench.clock)
    bench.opened.append(store)
    generation = store.generations.ensure_live(MODEL)
    for number in order:
        put(store, number)
    for job in store.jobs.claim("worker", 60, 1000):
        store.jobs.finish(job, regions_of(f"4.{int(job.sop_instance_uid[2:]) % 7}"))  # many equal vectors
    return store, generation


def test_the_order_of_arrival_does_not_show(bench: Bench, tmp_path: Path) -> None:
    numbers = list(range(30))
    shuffled = np.random.default_rng(0).permutation(numbers).tolist()
    answers = []
    for name, order in (("one", numbers), ("other", shuffled)):
        store, generation = _archive(bench, order, tmp_path / name)
        asked = [ask(generation, number, k=13) for number in range(8)]
        answers.append([told(store, store.vectors.search(request)) for request in asked])
        assert answers[-1] == [oracle(store, request) for request in asked]
    assert answers[0] == answers[1]
    ties = answers[0][0]
    assert ties == sorted(ties, key=lambda hit: (-hit[0], hit[1], hit[2]))
    assert len({score for score, _, _ in ties}) < len(ties)


@on_every_engine
def test_company_and_plan_do_not_show(bench: Bench, live: Generation) -> None:
    scan, graph = bench.open(), bench.open(exact_limit=1)
    graph.vectors.warm(live.id)
    graph.vectors.improve()
    everyone = scan.catalog.candidates([])
    for number in range(5):
        answers = [
            told(scan, scan.vectors.search(ask(live, number))),
            told(scan, scan.vectors.search(ask(live, number, allowed=everyone))),
            told(graph, graph.vectors.search(ask(live, number))),
        ]
        assert answers[0] == answers[1] == answers[2]


# --- following SQL ---


@on_every_engine
def test_what_is_committed_is_found_at_once(bench: Bench, live: Generation) -> None:
    """By another process's index too, added or removed."""
    writer, reader = bench.open(), bench.open(exact_limit=10)
    reader.vectors.warm(live.id)
    reader.vectors.improve()
    own = ask(live, vector=vectors_of("4.0100", 0), k=1)
    assert reader.vectors.search(own).hits[0].score < 0.99
    put(writer, 100)
    work_off(writer)
    hit = reader.vectors.search(own).hits[0]
    assert hit.score == 1.0
    put(writer, 100, b"other bytes", "replace")
    assert reader.vectors.search(own).hits[0].score < 0.99
    assert reader.vectors.check() == []
    assert reader.vectors.improve() == 0


def test_nothing_changed_costs_one_row(store: Store, live: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    store.vectors.warm(live.id)
    monkeypatch.setattr("storage.vectors.shelf._replay", lambda *_: pytest.fail("replayed"))
    assert store.vectors.refresh() == 3 * N


@on_every_engine
def test_many_ask_while_others_write(bench: Bench, live: Generation, in_threads: InThreads) -> None:
    writer, reader = bench.open(), bench.open(exact_limit=10)
    everyone = reader.catalog.candidates([])

    def write() -> None:
        for number in range(500, 530):
            put(writer, number)
            work_off(writer)
        for number in range(500, 510):
            put(writer, number, b"other", "replace")
        work_off(writer)

    def read(who: int) -> None:
        for number in range(25):
            request = ask(live, 100 * who + number, allowed=everyone if number % 3 == 0 else None)
            answer = reader.vectors.search(request)
            assert len(answer.hits) == 10
            if number % 10 == 0:
                reader.vectors.improve()

    in_threads(write, lambda: read(1), lambda: read(2), lambda: read(3))
    reader.vectors.refresh()
    assert reader.vectors.check() == []
    for number in range(5):
        assert told(reader, reader.vectors.search(ask(live, number))) == oracle(reader, ask(live, number))


# --- snapshots ---


@pytest.fixture
def saved(bench: Bench, live: Generation) -> Generation:
    """The live generation with a snapshot on disk, with graphs, and ten instances newer than it."""
    store = bench.open(exact_limit=10)
    store.vectors.warm(live.id)
    store.vectors.improve()
    assert store.vectors.snapshot() == 6
    assert store.vectors.snapshot() == 0
    for number in range(100, 110):
        put(store, number)
    put(store, 0, b"other", "replace")
    work_off(store)
    return live


def _starts(bench: Bench, generation: Generation) -> tuple[Store, set[int]]:
    """A store that has just started, with all loaded; and the watermarks its partitions were loaded from."""
    store = bench.open(exact_limit=10)
    store.vectors.warm(generation.id)
    return store, {partition.saved for partition in store.vectors._partitions.values()}


def _right(store: Store, generation: Generation) -> bool:
    asked = [ask(generation, number) for number in range(4)]
    right = all(told(store, store.vectors.search(request)) == oracle(store, request) for request in asked)
    return right and store.vectors.check() == []


def test_a_start_uses_the_snapshot_and_replays(bench: Bench, saved: Generation) -> None:
    store, watermarks = _starts(bench, saved)
    assert watermarks == {3 * N}
    assert all(partition.graph is not None for partition in store.vectors._partitions.values())
    assert _right(store, saved)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.77, 0.999])
def test_flipped_bytes_are_noticed(bench: Bench, saved: Generation, share: float) -> None:
    """One byte of one file of each partition: the manifest's, the matrix's or the graph's."""
    folder = bench.root / "index" / str(saved.id)
    for path in sorted(folder.iterdir()):
        anatomy = path.name[2]
        if path.suffix == {"0": ".json", "1": ".exact", "2": ".hnsw"}[anatomy]:
            content = bytearray(path.read_bytes())
            content[int(share * len(content))] ^= 0x41
            path.write_bytes(content)
    store, watermarks = _starts(bench, saved)
    assert watermarks == {-1}  # every partition was rebuilt from SQL
    assert _right(store, saved)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "swapped", "no json", "list"])
def test_other_damage_is_noticed(bench: Bench, saved: Generation, damage: str) -> None:
    folder = bench.root / "index" / str(saved.id)
    for path in sorted(folder.glob("0-0.*")):
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-3])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "gone":
            path.unlink()
        elif damage == "swapped":  # a whole and valid snapshot, of another projection
            path.write_bytes(path.with_name(path.name.replace("0-0", "1-0")).read_bytes())
        else:
            folder.joinpath("0-0.json").write_text("{" if damage == "no json" else "[]")
    store, watermarks = _starts(bench, saved)
    assert watermarks == {-1, 3 * N}
    assert _right(store, saved)


@pytest.mark.parametrize("when", ["checksum", "_checked"])
@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_snapshot_that_its_owner_replaces_as_it_is_read_is_done_without(
    bench: Bench, saved: Generation, kind: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = getattr(snapshot, when)

    def looked(*given: Any) -> Any:
        """Before its digest is made, or behind that."""
        found = look(*given) if when == "_checked" else None
        path = found or given[0]
        if path.suffix == f".{kind}":
            path.unlink()
        return found or look(*given)

    monkeypatch.setattr(snapshot, when, looked)
    store, watermarks = _starts(bench, saved)
    assert watermarks == {-1}
    assert _right(store, saved)


def test_a_snapshot_of_another_database_is_not_used(bench: Bench, saved: Generation, tmp_path: Path) -> None:
    """Same generation number, same model, as many regions, other images."""
    bench.clock.now += 1
    other = Store.open(tmp_path / "elsewhere", None, bench.clock, 10)
    bench.opened.append(other)
    generation = other.generations.ensure_live(MODEL)
    for number in range(300, 300 + 2 * N):
        put(other, number)
    work_off(other)
    assert generation.id == saved.id
    (bench.root / "index").rename(tmp_path / "elsewhere" / "index")
    other.vectors.warm(generation.id)
    assert {partition.saved for partition in other.vectors._partitions.values()} == {-1}
    assert _right(other, generation)


def test_a_snapshot_newer_than_the_database_is_not_used(tmp_path: Path) -> None:
    """A database that was restored from a backup: a copy of SQLite's file."""
    bench = Bench(tmp_path, None)
    with bench.open() as store:
        generation = filled(store, 3)
    backup = (tmp_path / "dicomnode.sqlite").read_bytes()
    with bench.open() as store:
        put(store, 7)
        work_off(store)
        store.vectors.warm(generation.id)
        store.vectors.snapshot()
    (tmp_path / "dicomnode.sqlite").write_bytes(backup)
    store, watermarks = _starts(bench, generation)
    with store:
        assert watermarks == {-1}
        assert _right(store, generation)


def test_old_files_go_with_the_new_snapshot(bench: Bench, saved: Generation) -> None:
    store, _ = _starts(bench, saved)
    store.vectors.snapshot()
    names = [path.name for path in (bench.root / "index" / str(saved.id)).iterdir()]
    assert len(names) == 6 * 3
    assert not [name for name in names if f".{3 * N}." in name]


def test_a_deleted_generation_is_forgotten(bench: Bench, saved: Generation) -> None:
    store, _ = _starts(bench, saved)
    new = store.generations.start(replace(MODEL, id="model-2"))
    work_off(store)
    store.generations.make_live(new.id)
    store.generations.delete(saved.id)
    store.vectors.forget()
    assert list((bench.root / "index").iterdir()) == []
    assert store.vectors._partitions == {}
    with pytest.raises(GenerationError):
        store.vectors.search(ask(saved))
    assert len(store.vectors.search(ask(new)).hits) == 10


@on_every_engine
def test_two_generations_answer_alike(store: Store, live: Generation) -> None:
    """A reindex with the same vectors changes nothing that a peer sees."""
    before = told(store, store.vectors.search(ask(live)))
    new = store.generations.start(replace(MODEL, id="model-2"))
    work_off(store)
    store.generations.make_live(new.id)
    assert told(store, store.vectors.search(ask(new))) == before
    assert told(store, store.vectors.search(ask(live))) == before  # the old one still can
