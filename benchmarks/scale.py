"""The query path at size: archives of 10 thousand to 3 million regions in; what starting, asking and keeping cost out.

One archive grows from size to size. At each: the index from SQL and from its snapshot, a node of its own from start to
first answer, drawn ROIs over C-FIND alone and by eight clients at once, filters, recall, memory; and the vectors of one
anatomy in other engines.
"""

import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from pynetdicom.dsutils import encode
from sqlalchemy import select

from benchmarks import archive, engines, films, growth, timing
from benchmarks.query import BOX, _config, _indexed
from benchmarks.tables import Table
from benchmarks.wire import EXPLICIT, STUDY_FIND, Association, Context
from dicomnode.demo.run import serving
from dicomnode.dimse import client
from dicomnode.node import open_store
from dicomnode.query import request
from dicomnode.query.request import Keys
from dicomnode.workers.embedding import RoiRequest
from dicomnode.workers.roi import RoiProcess, RoiSettings
from storage.database import Database, counted
from storage.records import AnyOf, Condition, Equals, InRange, SearchRequest
from storage.schema import GENERATION
from storage.store import DATABASE, Store
from storage.vectors import rows
from storage.vectors.partition import Key
from storage.vectors.scoring import units

SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
QUICK = (10_000, 30_000)
FILMS, FEW_FILMS = 150, 24  # drawn to begin with; of a quick run
HEART = 24
OURS = "DICOMNODE"
FIND = Context(STUDY_FIND, EXPLICIT)
K = 10
CLIENTS = 8
EACH = 12  # questions of one client
QUESTIONS = 40  # of the index
MODALITY = "1.2.840.10008.5.1.4.1.1.1.1"  # what the films are stored as
MIB = 2**20
SETTLED_S = 2.0  # after which a node has loaded its index, beside the time that loading it took


@dataclass(frozen=True)
class Size:
    """What was measured at one size. Milliseconds, seconds, MiB as named."""

    regions: int
    from_sql_s: float
    from_snapshot_s: float
    first_answer_s: float  # from starting the program
    snapshot_mib: float
    database_mib: float
    node_mib: float  # PSS of the process that holds the index
    all_mib: float  # PSS of it and its children
    encode_ms: float
    scan_ms: float  # numpy, of one anatomy
    first_ms: float  # ROI to first answer over C-FIND
    ratio: float
    question_cpu_ms: float  # of a question in all processes of the node, all ten answers written
    alone_cpu_ms: float  # of encoding and scanning alone
    p50_ms: float  # to the first answer, eight clients at once
    p99_ms: float
    search_ms: float  # in the process, SQL of the hits included
    filtered_ms: Mapping[str, float]
    recall: Mapping[str, float]
    refresh_ms: float  # after one more film
    engines: Mapping[str, engines.Measured]


def run(
    repeat: int,
    *,
    quick: bool = False,
    regions: int | None = None,
    source: Path | None = None,
    plot: Path | None = None,
) -> Table:
    """All sizes up to `regions`. `source`: a folder of films to start from, instead of drawn ones."""
    busy = os.getloadavg()[0]
    largest = regions or (QUICK if quick else SIZES)[-1]
    sizes = sorted({size for size in (QUICK if quick else SIZES) if size < largest} | {largest})
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch:
        root = Path(scratch) / "root"
        drawn = () if source else films.drawn(FEW_FILMS if quick else FILMS)
        _first_films(root, sorted(source.rglob("*.dcm")) if source else drawn)
        database = Database(f"sqlite:///{root / DATABASE}")
        begun = archive.read(database)
        measured = []
        for size in sizes:
            archive.grow(database, begun, size)
            measured.append(_size(root, database, begun, repeat))
            print(f"{size} regions: {asdict(measured[-1])}", flush=True)
        database.close()
    if plot is not None:
        growth.draw([asdict(size) for size in measured], plot)
    return _table(measured, len(begun.films), (busy, os.getloadavg()[0]))


def _first_films(root: Path, paths: Sequence[Path]) -> None:
    with serving(root) as ready:
        assert all(sent.ok for sent in client.send(client.Peer(ready["host"], ready["port"]), list(paths)))
        _indexed(root)


def _size(root: Path, database: Database, begun: archive.Films, repeat: int) -> Size:
    shutil.rmtree(root / "index", ignore_errors=True)
    from_sql, from_snapshot, saved = _index(root)
    uids = [film.rows["instance"]["sop_instance_uid"] for film in begun.films]
    anatomy = _Anatomy(database)
    asked = _wire(root, uids, anatomy, repeat, from_snapshot)
    with open_store(_config(root)) as store:
        live = store.generations.live()
        assert live is not None
        store.vectors.warm(live.id)
        within = _within(store, anatomy, begun)
        archive.grow(database, begun, anatomy.total + 1)
        refreshed = timing.seconds(store.vectors.refresh)
    return Size(
        regions=anatomy.total,
        from_sql_s=from_sql,
        from_snapshot_s=from_snapshot,
        snapshot_mib=saved,
        database_mib=sum(path.stat().st_size for path in root.glob(f"{DATABASE}*")) / MIB,
        refresh_ms=1000 * refreshed,
        engines=engines.compared(anatomy.stored, anatomy.questions, repeat),
        **asked,
        **within,
    )


def _index(root: Path) -> tuple[float, float, float]:
    """Seconds from SQL, seconds from the snapshot, MiB of the snapshot."""
    taken = []
    for _ in range(2):
        with open_store(_config(root)) as store:
            live = store.generations.live()
            assert live is not None
            taken.append(timing.seconds(lambda s=store, number=live.id: s.vectors.warm(number)))
            store.vectors.snapshot()
    saved = sum(path.stat().st_size for path in (root / "index").rglob("*") if path.is_file())
    return taken[0], taken[1], saved / MIB


# --- over the wire -----------------------------------------------------------------------------------------------


def _wire(root: Path, uids: Sequence[str], anatomy: "_Anatomy", repeat: int, loading: float) -> dict[str, Any]:
    questions = [_question(uid) for uid in uids]
    start = time.perf_counter()
    with serving(root, "--workers", "0") as ready:
        association = Association(ready["port"], OURS, (FIND,))
        _first_answer(association, questions[0])
        first_answer = time.perf_counter() - start
        time.sleep(SETTLED_S + 2 * loading)
        node, everything = _memory()
        alone = _in_turn(root, uids, association, questions, anatomy.stored, EACH * repeat)
        association.release()
        together = _clients(ready["port"], questions)
    return {
        "first_answer_s": first_answer,
        **{f"{name}_ms": 1000 * taken for name, taken in alone.items()},
        "ratio": alone["first"] / (alone["encode"] + alone["scan"]),
        "p50_ms": 1000 * float(np.quantile(together, 0.5)),
        "p99_ms": 1000 * float(np.quantile(together, 0.99)),
        "node_mib": node / MIB,
        "all_mib": everything / MIB,
    }


def _question(uid: str) -> bytes:
    """An ROI drawn on a stored film where there is no region like it: it has to be encoded."""
    encoded = encode(request.by_box(uid, MODALITY, BOX, Keys(matches=K)), False, True)
    assert encoded is not None
    return encoded


def _first_answer(association: Association, question: bytes) -> float:
    """Seconds to the first answer; all of them are read."""
    start = time.perf_counter()
    answers = association.answers(question)
    next(answers)
    taken = time.perf_counter() - start
    assert sum(1 for _ in answers) == K - 1
    return taken


def _clients(port: int, questions: Sequence[bytes]) -> list[float]:
    """Seconds to first answers of CLIENTS that ask at once, again and again."""
    together = threading.Barrier(CLIENTS)

    def work(who: int) -> list[float]:
        association = Association(port, OURS, (FIND,), calling=f"CLIENT{who}")
        together.wait()
        mine = (questions[(who * EACH + number) % len(questions)] for number in range(EACH))
        taken = [_first_answer(association, question) for question in mine]
        association.release()
        return taken

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [taken for all_of_one in pool.map(work, range(CLIENTS)) for taken in all_of_one]


def _in_turn(
    root: Path,
    uids: Sequence[str],
    association: Association,
    questions: Sequence[bytes],
    stored: NDArray[np.float16],
    count: int,
) -> dict[str, float]:
    """Seconds of a question over the wire, of encoding its ROI alone, and of a scan of one anatomy by numpy.

    Medians; and means of the processor time of the node, and of the two alone, which a busy machine does not stretch.
    """
    config, vectors = _config(root), units(stored)
    taken: dict[str, list[float]] = {"first": [], "encode": [], "scan": []}
    with open_store(config) as store:
        live = store.generations.live()
        assert live is not None
        process = RoiProcess(RoiSettings(config.query.threads, config.ingest, config.log, root / live.model.path), 60.0)
        (node,) = psutil.Process().children()
        process.start()
        (own,) = (child for child in psutil.Process().children() if child.pid != node.pid)
        first = store.catalog.instance(uids[0])
        assert first is not None
        for _ in range(2):  # the model is loaded by then
            process.embed(RoiRequest(root / live.model.path, store.files.path(first.path), 1, (tuple(BOX),)))
        before, scanned = (_cpu(node), _cpu(own)), 0.0
        for number in range(count):
            row = store.catalog.instance(uids[number % len(uids)])
            assert row is not None
            taken["first"].append(_first_answer(association, questions[number % len(uids)]))
            asked = RoiRequest(root / live.model.path, store.files.path(row.path), 1, (tuple(BOX),))
            start = time.perf_counter()
            vector = process.embed(asked).vectors["anatomy"][0]
            between, cpu = time.perf_counter(), time.process_time()
            np.argpartition(vectors @ vector, -K)
            scanned += time.process_time() - cpu
            taken["scan"].append(time.perf_counter() - between)
            taken["encode"].append(between - start)
        of_node, alone = _cpu(node) - before[0], _cpu(own) - before[1] + scanned
        process.stop()
    medians = {name: statistics.median(values[2:]) for name, values in taken.items()}
    return medians | {"question_cpu": of_node / count, "alone_cpu": alone / count}


def _memory() -> tuple[int, int]:
    """PSS, bytes, of the node that this process started, and of it with its children."""
    (node,) = psutil.Process().children()
    sizes = [process.memory_full_info().pss for process in _tree(node)]
    return sizes[0], sum(sizes)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    """Seconds of processor time that it and its children have taken."""
    return sum(each.cpu_times().user + each.cpu_times().system for each in _tree(process))


# --- within the process ------------------------------------------------------------------------------------------


class _Anatomy:
    """The regions of one anatomy as SQL has them, and questions near some: what the index is judged by."""

    def __init__(self, database: Database) -> None:
        with database.reading() as connection:
            live = select(GENERATION.c.id).where(GENERATION.c.state == "live")
            generation = int(connection.execute(live).scalar_one())
            key = Key(generation, 0, HEART)
            counter = counted(connection, "change")
            pages = list(rows.added(connection, key, 0, counter))
            self.total = sum(rows.extent(connection, Key(generation, 0, anatomy), counter)[0] for anatomy in range(29))
        self.generation = generation
        self.ids, self.stored, self.labels = (np.concatenate(part) for part in zip(*pages, strict=True))
        wide = self.stored.astype(np.float64)
        self._units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        rng = np.random.default_rng(5)
        self.chosen = rng.choice(len(self.ids), QUESTIONS, replace=False)
        noise = rng.standard_normal((QUESTIONS, wide.shape[1])) / 50 / wide.shape[1] ** 0.5
        asked = self._units[self.chosen] + noise
        self.questions = (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)

    def request(self, number: int, allowed: NDArray[np.int64] | None) -> SearchRequest:
        patient = int(self.labels[self.chosen[number], 1])
        vector = self.questions[number]
        return SearchRequest(
            self.generation, "anatomy", (HEART,), vector, K, allowed, patient if allowed is None else None
        )

    def found(self, asked: SearchRequest, hits: Sequence[int]) -> float:
        """The share of the exact min(K, matching) that is among the hits; equals count."""
        scores = self._units @ asked.vector.astype(np.float64)
        keep = np.ones(len(scores), np.bool_) if asked.allowed is None else np.isin(self.labels[:, 0], asked.allowed)
        keep &= self.labels[:, 1] != (asked.excluded_patient or -1)
        wanted = min(K, int(keep.sum()))
        if not wanted:
            return float(not hits)
        worst = np.sort(scores[keep])[-wanted] - 1e-6
        at = np.searchsorted(self.ids, np.array(hits, np.int64))
        good = (scores[at] >= worst) & keep[at]
        return int(good.sum()) / wanted if len(hits) == wanted else 0.0


def _within(store: Store, anatomy: _Anatomy, begun: archive.Films) -> dict[str, Any]:
    """Search without and with filters: milliseconds, SQL of filter and hits included, and recall."""
    patients = [store.catalog.by_id(film.rows["instance"]["id"]) for film in begun.films]
    one = next(row.patient_row_id for row in patients if row is not None)
    filters: dict[str, tuple[Condition, ...] | None] = {
        "none": None,
        "one patient": (AnyOf("patient_row_id", (one,)),),
        "modality": (Equals("modality", "CR"),),
        "one year": (InRange("study_date", "20180101", "20181231"),),
        "sex": (Equals("patient_sex", "F"),),
    }
    taken: dict[str, float] = {}
    recall: dict[str, float] = {}
    for name, conditions in filters.items():
        times, shares = zip(*_asked(store, anatomy, conditions), strict=True)
        taken[name], recall[name] = 1000 * statistics.median(times), statistics.mean(shares)
    return {"search_ms": taken.pop("none"), "filtered_ms": taken, "recall": recall}


def _asked(store: Store, anatomy: _Anatomy, conditions: tuple[Condition, ...] | None) -> Iterator[tuple[float, float]]:
    for number in range(QUESTIONS):
        start = time.perf_counter()
        allowed = None if conditions is None else store.catalog.candidates(conditions)
        asked = anatomy.request(number, allowed)
        hits = [hit.region_id for hit in store.vectors.search(asked).hits]
        yield time.perf_counter() - start, anatomy.found(asked, hits)


# --- told ----------------------------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[Size], str]] = {
    "start of the program to first answer, s": lambda size: f"{size.first_answer_s:.1f}",
    "whole index from its snapshot, s": lambda size: f"{size.from_snapshot_s:.2f}",
    "whole index from SQL, s": lambda size: f"{size.from_sql_s:.1f}",
    "snapshot, MiB": lambda size: f"{size.snapshot_mib:.0f}",
    "database, MiB": lambda size: f"{size.database_mib:.0f}",
    "memory (PSS), process with the index, MiB": lambda size: f"{size.node_mib:.0f}",
    "memory (PSS), with its children, MiB": lambda size: f"{size.all_mib:.0f}",
    "encode a drawn ROI, ms": lambda size: f"{size.encode_ms:.1f}",
    "exact scan of its anatomy (numpy), ms": lambda size: f"{size.scan_ms:.2f}",
    "drawn ROI to first answer, C-FIND, ms": lambda size: f"{size.first_ms:.1f}",
    "against encode + scan": lambda size: f"{size.ratio:.2f} x",
    "processor time of the whole question, ms": lambda size: f"{size.question_cpu_ms:.1f}",
    "processor time of encode + scan, ms": lambda size: f"{size.alone_cpu_ms:.1f}",
    "eight clients at once, p50, ms": lambda size: f"{size.p50_ms:.0f}",
    "eight clients at once, p99, ms": lambda size: f"{size.p99_ms:.0f}",
    "search in the process, ms": lambda size: f"{size.search_ms:.2f}",
    "with a filter, ms": lambda size: ", ".join(f"{name} {value:.1f}" for name, value in size.filtered_ms.items()),
    "recall@10": lambda size: f"{size.recall['none']:.4f}",
    "recall@10, filtered, least": lambda size: (
        f"{min(value for name, value in size.recall.items() if name != 'none'):.4f}"
    ),
    "index brought up after one more film, ms": lambda size: f"{size.refresh_ms:.1f}",
}


def _table(sizes: Sequence[Size], count: int, busy: tuple[float, float]) -> Table:
    columns = ("", *(f"{size.regions:,} regions" for size in sizes))
    told = [(name, *(tell(size) for size in sizes)) for name, tell in ROWS.items()]
    for name in sizes[0].engines:
        of = [size.engines[name] for size in sizes]
        told.append((f"one anatomy, {name}: ms a query", *(f"{one.query_ms:.3f}" for one in of)))
        told.append((f"one anatomy, {name}: recall@10", *(f"{one.recall:.4f}" for one in of)))
        told.append((f"one anatomy, {name}: s to build", *(f"{one.build_s:.2f}" for one in of)))
        told.append((f"one anatomy, {name}: MiB of its file", *(f"{one.size / MIB:.1f}" for one in of)))
    notes = (
        f"Made from {count} films that were stored and indexed; medians; files in the system's cache.",
        "One anatomy: a 29th of the regions, given to each engine alone, one thread, the same questions in turn.",
        "Drawn ROIs are asked over one open association, in turn with encoding and scanning alone.",
        "The eight clients run beside the node, on the same cores.",
        f"Load average of the machine's {os.cpu_count()} cores: {busy[0]:.1f} at the start, {busy[1]:.1f} at the end.",
    )
    return Table(columns, tuple(told), notes, [asdict(size) for size in sizes])
