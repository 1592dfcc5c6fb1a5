"""Indexes of vectors: one suite for every kind, then what each promises alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from storage.database import Database
from storage.errors import FileError, SnapshotDamaged, VectorError
from storage.vectors import codes
from storage.vectors.exact import ExactIndex
from storage.vectors.hnsw import HnswIndex
from storage.vectors.index import SavedIndex, VectorIndex
from storage.vectors.partition import Key
from storage.vectors.pgvector import PgvectorIndex, Tables
from storage.vectors.scoring import cosines, unit, units

DIM = 32
Make = Callable[[int], VectorIndex]
MakeSaved = Callable[[int], SavedIndex]


def some(n: int, seed: int = 0) -> np.ndarray:
    """As SQL keeps them: unit vectors that went through fp16."""
    vectors = np.random.default_rng(seed).standard_normal((n, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def ids_of(n: int, first: int = 1) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.int64)


@pytest.fixture(params=[ExactIndex, HnswIndex])
def saved(request: pytest.FixtureRequest) -> MakeSaved:
    return request.param


def in_database(url: str, *, graph: bool) -> Iterator[Make]:
    """Makes indexes in PostgreSQL, scanned or with a graph."""
    database = Database(url)
    database.upgrade()
    numbers = count(1)

    def new(dim: int) -> PgvectorIndex:
        key = Key(next(numbers), 0, 1)
        database.write(lambda connection: Tables(key.generation, 0).create(connection, dim, 2))
        index = PgvectorIndex(database, key, dim)
        if graph:
            database.write(index.build_graph)
        return index

    yield new
    database.close()


KINDS = [
    "exact",
    "hnsw",
    *(pytest.param(kind, marks=pytest.mark.postgresql) for kind in ("pgvector", "pgvector graph")),
]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    if request.param in ("exact", "hnsw"):
        yield {"exact": ExactIndex, "hnsw": HnswIndex}[request.param]
    else:
        yield from in_database(request.getfixturevalue("pgvector"), graph=request.param == "pgvector graph")


# --- every index ---------------------------------------------------------------------------------------------------


def test_empty(make: Make) -> None:
    index = make(DIM)
    ids, scores = index.search(some(1)[0], 5)
    assert (len(index), len(ids), len(scores)) == (0, 0, 0)


def test_finds_the_nearest_best_first(make: Make) -> None:
    index, vectors = make(DIM), some(3000)
    index.add(ids_of(3000), vectors)
    hits = 0
    for query in some(20, seed=1):
        ids, scores = index.search(query, 10)
        assert list(scores) == sorted(scores, reverse=True)
        assert np.allclose(scores, vectors[ids - 1] @ query, atol=1e-3)  # fp16 misses unit norm by 5e-4
        hits += len(set(ids[:10].tolist()) & set((1 + np.argsort(-(units(vectors) @ query))[:10]).tolist()))
    assert hits >= 0.97 * 200


def test_asking_for_more_than_there_is_gives_all(make: Make) -> None:
    index = make(DIM)
    index.add(ids_of(7), some(7))
    ids, _ = index.search(some(1, seed=2)[0], 100)
    assert sorted(ids.tolist()) == list(range(1, 8))


def test_asking_for_none_gives_none(make: Make) -> None:
    index = make(DIM)
    index.add(ids_of(7), some(7))
    assert len(index.search(some(1)[0], 0)[0]) == 0


def test_grows_piece_by_piece(make: Make) -> None:
    index, vectors = make(DIM), some(2500)
    for start in range(0, 2500, 100):
        index.add(ids_of(100, start + 1), vectors[start : start + 100])
    assert len(index) == 2500
    assert all(index.search(vectors[row], 1)[0][0] == row + 1 for row in range(0, 2500, 250))


def test_removed_is_never_found(make: Make) -> None:
    index, vectors = make(DIM), some(500)
    index.add(ids_of(500), vectors)
    gone = ids_of(250)
    index.remove(gone)
    index.remove(np.array([1, 99_999], np.int64))  # again, and never there
    assert len(index) == 250
    for query in vectors[:20]:
        ids, _ = index.search(query, 250)
        assert len(ids) == 250
        assert ids.min() > 250


def test_everything_removed(make: Make) -> None:
    index = make(DIM)
    index.add(ids_of(10), some(10))
    index.remove(ids_of(10))
    assert len(index) == 0
    assert len(index.search(some(1)[0], 3)[0]) == 0
    index.add(ids_of(3, 20), some(3, seed=4))
    assert sorted(index.search(some(1)[0], 9)[0].tolist()) == [20, 21, 22]


def test_another_dimension_is_refused(make: Make) -> None:
    index = make(DIM)
    with pytest.raises(VectorError, match="dimension 32"):
        index.add(ids_of(2), np.ones((2, DIM + 1), np.float32))
    with pytest.raises(VectorError, match="dimension 32"):
        index.search(np.ones(DIM - 1, np.float32), 1)


def test_saved_and_loaded_is_the_same(saved: MakeSaved, tmp_path: Path) -> None:
    index = saved(DIM)
    index.add(ids_of(400), some(400))
    index.remove(ids_of(50, 100))
    index.save(tmp_path / "index")
    again = saved(DIM)
    again.load(tmp_path / "index")
    assert len(again) == 350
    for query in some(10, seed=5):
        one, other = index.search(query, 20), again.search(query, 20)
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
    again.add(ids_of(5, 1000), some(5, seed=6))
    assert len(again) == 355
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_file_of_another_dimension_is_refused(saved: MakeSaved, tmp_path: Path) -> None:
    saved(DIM).save(tmp_path / "empty")
    index = saved(DIM)
    index.add(ids_of(10), some(10))
    index.save(tmp_path / "index")
    for name in ("index", "empty"):
        with pytest.raises(SnapshotDamaged):
            saved(DIM * 2).load(tmp_path / name)


def test_a_missing_folder_is_an_error(saved: MakeSaved, tmp_path: Path) -> None:
    index = saved(DIM)
    index.add(ids_of(10), some(10))
    with pytest.raises(FileError):
        index.save(tmp_path / "none" / "index")


def test_searches_while_others_add_and_remove(make: Make) -> None:
    index, vectors = make(DIM), some(4000)
    index.add(ids_of(1000), vectors[:1000])

    def change() -> None:
        for start in range(1000, 4000, 250):
            index.add(ids_of(250, start + 1), vectors[start : start + 250])
            index.remove(ids_of(50, start - 900))

    def look(seed: int) -> None:
        for row in np.random.default_rng(seed).integers(900, 1000, 150):  # among those that stay
            ids, _ = index.search(vectors[row], 3)
            assert ids[0] == row + 1
            assert len(ids) >= 3

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(change), *(pool.submit(look, seed) for seed in range(3))]
        for future in futures:
            future.result()
    assert len(index) == 4000 - 12 * 50


# --- exact --------------------------------------------------------------------------------------------------------


def test_exact_gives_everything_near_the_last() -> None:
    index, vector = ExactIndex(DIM), some(1)[0]
    index.add(ids_of(40), np.tile(vector, (40, 1)))
    assert len(index.search(vector, 3)[0]) == 40  # equals must not be cut off before ties are broken


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_exact_filters_by_labels(share: float) -> None:
    index, vectors = ExactIndex(DIM, labels=1), some(1000)
    labels = (np.arange(1000) >= 1000 * share).astype(np.int64).reshape(-1, 1)
    index.add(ids_of(1000), vectors, labels)
    query = some(1, seed=3)[0]
    ids, _ = index.search(query, 15, lambda labels: labels[:, 0] == 0)
    rows = np.arange(int(1000 * share))
    best = rows[np.argsort(-(units(vectors[rows]) @ query))[:15]] + 1
    assert ids[:15].tolist() == best.tolist()


def test_exact_takes_ids_in_any_order() -> None:
    index, vectors = ExactIndex(DIM, labels=1), some(30)
    for rows in (np.arange(20, 30), np.array([3, 1, 2]), np.arange(10, 20)):
        index.add(rows.astype(np.int64), vectors[rows], rows.reshape(-1, 1).astype(np.int64))
    view = index.view
    assert list(view.ids) == [1, 2, 3, *range(10, 30)]
    assert np.array_equal(view.stored.take(np.arange(len(view.ids))), vectors[view.ids])
    assert np.array_equal(view.labels[:, 0], view.ids)


def test_a_view_never_changes() -> None:
    index = ExactIndex(DIM)
    index.add(ids_of(100), some(100))
    view, everything = index.view, np.arange(100)
    copy = view.stored.take(everything).copy()
    index.add(ids_of(5000, 101), some(5000, seed=1))
    index.remove(ids_of(60))
    assert len(view.ids) == 100
    assert np.array_equal(view.stored.take(everything), copy)


@pytest.mark.parametrize("length", [0, 10, 31, 32, 100])
def test_exact_refuses_a_cut_file(tmp_path: Path, length: int) -> None:
    index = ExactIndex(DIM)
    index.add(ids_of(10), some(10))
    index.save(tmp_path / "index")
    content = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(content[:length])
    with pytest.raises(SnapshotDamaged):
        ExactIndex(DIM).load(tmp_path / "index")


def alike(n: int, seed: int = 0, spread: float = 0.01) -> np.ndarray:
    """Vectors as one anatomy has them, through fp16: all near to each other."""
    centre = np.random.default_rng(99).standard_normal(DIM)
    vectors = centre / np.linalg.norm(centre) + spread * np.random.default_rng(seed).standard_normal((n, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def scored(stored: np.ndarray, query: np.ndarray) -> np.ndarray:
    wide = stored.astype(np.float64)
    return wide @ query.astype(np.float64) / np.linalg.norm(wide, axis=1)


SHAPES = {"alike": alike, "the same": lambda n: np.tile(alike(1), (n, 1)), "apart": some}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("query", [alike(1, 7)[0], alike(1, 8, 0.5)[0], some(1, 9)[0], -alike(1, 7)[0]])
def test_codes_are_never_farther_off_than_they_say(shape: str, query: np.ndarray) -> None:
    stored, asked = SHAPES[shape](3000).astype(np.float16), unit(query.astype(np.float32), DIM)
    around = codes.centre(3000, lambda piece: units(stored[piece]))
    made, probe = codes.coded(units(stored), around), codes.Probe(asked, around)
    products = probe.products(made.codes)
    own = codes.coded(asked[None], around).codes[0].astype(np.int64)
    assert np.array_equal(products, made.codes.astype(np.int64) @ own)
    off = np.abs(probe.scores(products, made.scales, made.offsets) - scored(stored, asked))
    margins = probe.margins(made.rests, made.lengths)
    assert (off <= margins).all()
    assert margins.max() < 0.03  # and they say something


def test_largest_codes_are_multiplied_exactly() -> None:
    """Products of bytes near the ends of their range overflow where a processor's instruction is used wrongly."""
    probe = codes.Probe(unit(np.ones(DIM, np.float32), DIM), np.zeros(DIM, np.float32))
    edges = np.array([[127] * DIM, [-127] * DIM, [127, -127] * (DIM // 2)], np.int8)
    assert probe.products(edges).tolist() == [127 * 127 * DIM, -127 * 127 * DIM, 0]


def grown(stored: np.ndarray, tmp_path: Path) -> ExactIndex:
    """Half of the rows in a mapped file, then others behind them, with some of both removed in between."""
    half, n = len(stored) // 2, len(stored)
    first = ExactIndex(DIM, labels=1)
    first.add(ids_of(half), stored[:half], ids_of(half).reshape(-1, 1) % 3)
    first.save(tmp_path / "index")
    index = ExactIndex(DIM, labels=1)
    index.load(tmp_path / "index")
    for start in range(half, n, 300):
        ids = ids_of(min(300, n - start), start + 1)
        index.add(ids, stored[start : start + 300], ids.reshape(-1, 1) % 3)
    index.remove(ids_of(5, half - 2))
    return index


@pytest.mark.parametrize("shape", ["alike", "apart"])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_scan_of_codes_finds_exactly_the_nearest(tmp_path: Path, shape: str, filtered: bool) -> None:
    stored = SHAPES[shape](6000).astype(np.float16)
    index = grown(stored, tmp_path)
    there = np.setdiff1d(ids_of(6000), ids_of(5, 2998))
    there = there[there % 3 == 1] if filtered else there
    for query in (*alike(10, 3), *some(5, 4)):
        asked = unit(query.astype(np.float32), DIM)
        ids, _ = index.search(asked, 12, (lambda labels: labels[:, 0] == 1) if filtered else None)
        scores = scored(stored[there - 1], asked)
        worst = np.sort(scores)[-12]
        assert set(there[scores > worst + 1e-7]) <= set(ids[:12].tolist())
        assert scored(stored[ids[:12] - 1], asked).min() >= worst - 1e-6
        assert set(ids.tolist()) <= set(there.tolist())


def test_the_order_of_arrival_does_not_change_what_a_scan_finds() -> None:
    """The centre that codes are around differs; the nearest do not."""
    stored, shuffled = alike(5000), np.random.default_rng(1).permutation(5000)
    one, other = ExactIndex(DIM), ExactIndex(DIM)
    one.add(ids_of(5000), stored)
    for rows in np.array_split(shuffled, 7):
        other.add(rows.astype(np.int64) + 1, stored[rows])
    for query in alike(10, 5):
        asked = unit(query.astype(np.float32), DIM)
        assert one.search(asked, 20)[0][:20].tolist() == other.search(asked, 20)[0][:20].tolist()


def test_a_loaded_index_outlives_its_file(tmp_path: Path) -> None:
    """A snapshot is replaced while the node that loaded it serves."""
    index = grown(alike(4000), tmp_path)
    before = index.search(unit(alike(1, 6)[0].astype(np.float32), DIM), 10)[0].tolist()
    (tmp_path / "index").unlink()
    assert index.search(unit(alike(1, 6)[0].astype(np.float32), DIM), 10)[0].tolist() == before


# --- scores ---------------------------------------------------------------------------------------------------------


def test_scores_do_not_depend_on_company() -> None:
    stored, query = some(500).astype(np.float16), some(1, seed=9)[0]
    together = cosines(query, stored)
    assert together == [cosines(query, row.reshape(1, -1))[0] for row in stored]
    assert together[::-1] == cosines(query, stored[::-1])


def test_scores_are_cosines() -> None:
    stored, query = some(50).astype(np.float16), some(1, seed=9)[0]
    wide = stored.astype(np.float64)
    expected = wide @ query.astype(np.float64) / np.linalg.norm(wide, axis=1) / np.linalg.norm(query.astype(np.float64))
    assert np.allclose(cosines(query, stored), expected, atol=1e-6)
    assert cosines(3 * stored[0].astype(np.float32), stored[:1]) == [1.0]
    assert cosines(-stored[0].astype(np.float32), stored[:1]) == [-1.0]


def test_what_indexes_hold_is_near_the_score() -> None:
    stored, query = some(2000).astype(np.float16), some(1, seed=9)[0]
    assert np.abs(units(stored) @ unit(query, DIM) - cosines(query, stored)).max() < 5e-6


@pytest.mark.parametrize("query", [np.zeros(DIM), np.full(DIM, np.nan), np.full(DIM, np.inf), np.ones(DIM + 1)])
def test_a_query_without_direction_is_refused(query: np.ndarray) -> None:
    with pytest.raises(VectorError):
        unit(query.astype(np.float32), DIM)
