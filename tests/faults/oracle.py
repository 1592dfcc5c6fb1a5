"""An archive and what was acknowledged in, what is wrong with it out. Asked between two storms, of a quiet node.

Every rule is checked against something other than what keeps it: digests against what was sent, the node's answers
over the wire against a scan of SQL's vectors, files against rows.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import DigitalXRayImageStorageForPresentation
from sqlalchemy import func, select

from dicomnode.dimse import client
from dicomnode.query import request
from dicomnode.query.request import Keys
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.records import Generation, Question
from storage.schema import GENERATION, JOB
from storage.store import Store
from tests.faults.quick import SHOWN
from tests.faults.senders import Ledger, Made, data_set_of, digest
from tests.nodes import RunningNode

HEART = VOCABULARY.named("cardiac silhouette")
ENDED = {"indexed", "not_indexable", "failed"}
SETTLE_S = 240.0
LATELY_S = 2.0
KEPT_NAMES = {"files", "scratch", "index", "models", "settings.json", "reindex.json"}
LOCKS = {"serve.lock", "reindex.lock", "import.lock", "index.lock", "receive.lock", "models.lock"}
DATABASE_NAMES = {"dicomnode.sqlite", "dicomnode.sqlite-wal", "dicomnode.sqlite-shm"}
GENERATIONS = 4  # live, kept for rollback, building, half deleted
EXACT_TOLERANCE = 2e-3  # between a cosine of fp16 vectors in float32 and in float64


@dataclass(frozen=True)
class Place:
    """Where an archive is."""

    root: Path
    url: str  # empty: SQLite under the root

    def open(self) -> Store:
        return Store.open(self.root, self.url or None)


def settle(place: Place, node: RunningNode) -> list[str]:
    """Wait until every job and question has ended and nothing is arriving; what did not end in time."""
    deadline = time.monotonic() + SETTLE_S
    with place.open() as store:
        while node.process.poll() is None and (waiting := _unended(store)):
            if time.monotonic() > deadline:
                return [f"not ended in {SETTLE_S:.0f} s: {waiting}"]
            time.sleep(0.1)
    return []


def _unended(store: Store) -> str:
    live = store.generations.live()
    queued = store.jobs.counts(live.id).queued if live else -1
    asked = [question.state for question in store.questions.all() if _is_open(question)]
    arriving = len(list((store.root / "scratch").iterdir()))
    gone = _indexes_of_gone(store)  # a node that has just started lets go of them in its first round
    waiting = f"{queued} jobs, questions {asked}, {arriving} scratch files, index of generations {gone}"
    return waiting if queued or asked or arriving or gone else ""


def _indexes_of_gone(store: Store) -> list[str]:
    """The generations that have an index on disk, and are not there."""
    folder, there = store.root / "index", {str(generation.id) for generation in store.generations.all()}
    return sorted({path.name for path in folder.iterdir()} - there) if folder.is_dir() else []


def _is_open(question: Question) -> bool:
    return question.state not in {"stored", "failed"}


def violations(place: Place, ledger: Ledger, node: RunningNode, canaries: list[Made]) -> Iterator[str]:
    """What is wrong, one sentence each."""
    with place.open() as store:
        live = store.generations.live()
        if live is None:
            yield "no generation is live"
            return
        yield from _acknowledged(store, ledger, live)
        yield from _jobs(store)
        store.vectors.warm(live.id)
        yield from (f"check: {each.kind} {each.subject}: {each.detail}" for each in store.check())
        yield from _questions(store)
        yield from _grown(place, store)
        for canary in canaries:
            yield from _answers(store, node, live, canary)


def _acknowledged(store: Store, ledger: Ledger, live: Generation) -> Iterator[str]:
    for uid, made in list(ledger.kept.items()):
        row = store.catalog.instance(uid)
        if row is None:
            yield f"LOST: {uid} was acknowledged and has no row"
        elif not store.files.has(row.path):
            yield f"LOST: {uid} was acknowledged and has no file"
        elif digest(data_set_of(store.files.path(row.path))) != made.sha256:
            yield f"LOST: {uid} has other bytes than were acknowledged"
        else:
            yield from _indexed(store, made, row.id, live)


def _indexed(store: Store, made: Made, instance_id: int, live: Generation) -> Iterator[str]:
    with store._database.reading() as connection:
        mine = select(JOB.c.state, JOB.c.reason).where(JOB.c.instance_id == instance_id)
        rows = connection.execute(mine.where(JOB.c.generation_id == live.id)).all()
    if len(rows) != 1:
        yield f"{made.uid} has {len(rows)} jobs in the live generation"
        return
    state, reason = rows[0]
    anatomies = [region.anatomy for region in store.regions.of_instance(live.id, instance_id)]
    if state not in ENDED or (state != "indexed" and not reason):
        yield f"{made.uid} is {state} for the reason {reason!r}"
    if state == "not_indexable" and made.is_film:
        yield f"{made.uid} is a film and was not indexable: {reason}"
    if sorted(anatomies) != (list(SHOWN) if state == "indexed" else []):
        yield f"{made.uid} is {state} with regions {anatomies}"


def _jobs(store: Store) -> Iterator[str]:
    """Of every instance, acknowledged or not, one end in the live generation."""
    live = select(GENERATION.c.id).where(GENERATION.c.state == "live").scalar_subquery()
    twice = select(JOB.c.instance_id).where(JOB.c.generation_id == live).group_by(JOB.c.instance_id)
    with store._database.reading() as connection:
        for instance_id in connection.execute(twice.having(func.count() > 1)).scalars():
            yield f"instance {instance_id} has several jobs in the live generation"


def _questions(store: Store) -> Iterator[str]:
    """Each was answered once, and what answers it is there."""
    for question in store.questions.all():
        if question.state == "failed":
            yield f"question {question.id} failed: {question.reason}"
        elif question.report_uid is None or store.catalog.instance(question.report_uid) is None:
            yield f"question {question.id} is {question.state} without its result"
        reports = [each for each in store.questions.all() if each.report_uid == question.report_uid]
        if len(reports) > 1:
            yield f"one result answers {len(reports)} questions"


def _grown(place: Place, store: Store) -> Iterator[str]:
    """What is on disk and nothing names."""
    files = sum(len(store.files.under(prefix)) for prefix in store.files.prefixes())
    if files != store.catalog.count():
        yield f"{files} files of {store.catalog.count()} instances"
    if left := list((place.root / "scratch").iterdir()):
        yield f"{len(left)} scratch files are left"
    generations = store.generations.all()
    if len(generations) > GENERATIONS:
        yield f"{len(generations)} generations are kept"
    models = {Path(generation.model.path).name for generation in generations}
    if strange := {path.name for path in (place.root / "models").iterdir()} - models:
        yield f"models of no generation: {sorted(strange)}"
    if strange := {path.name for path in place.root.iterdir()} - KEPT_NAMES - LOCKS - DATABASE_NAMES:
        yield f"strange names in the root: {sorted(strange)}"
    yield from _index_files(place.root / "index")
    yield from (f"index of a generation that is gone: {name}" for name in _indexes_of_gone(store))


def _changed(path: Path, now: float) -> float:
    """Seconds since 1970; now, when the node has just finished it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return now


def _index_files(folder: Path) -> Iterator[str]:
    """No scratch of an earlier process."""
    now = time.time()
    for path in folder.rglob("*"):
        if path.name.startswith(".") and now - _changed(path, now) > LATELY_S:
            yield f"left beside the index: {path.relative_to(folder)}"


def _answers(store: Store, node: RunningNode, live: Generation, canary: Made) -> Iterator[str]:
    """The node's answer over C-FIND against a scan of every vector in SQL."""
    found = store.catalog.instance(canary.uid)
    if found is None:
        yield f"LOST: canary {canary.uid}"
        return
    own = [region for region in store.regions.of_instance(live.id, found.id) if region.anatomy == HEART.index]
    if not own:
        yield f"canary {canary.uid} has no heart"
        return
    hits = asked(node, canary.uid, Box(*own[0].box))
    expected = _scanned(store, live, own[0].id)
    if not hits or hits[0][1] != canary.uid or hits[0][0] < 0.999:
        yield f"canary {canary.uid} does not find itself: {hits[:2]}"
    if [uid for _, uid in hits] != [uid for _, uid in expected[: len(hits)]]:
        yield f"canary {canary.uid}: {hits[:3]} by the index, {expected[:3]} by a scan of SQL"
    if any(abs(one - other) > EXACT_TOLERANCE for (one, _), (other, _) in zip(hits, expected, strict=False)):
        yield f"canary {canary.uid}: the index scores {hits[:3]}, a scan of SQL {expected[:3]}"


def asked(node: RunningNode, uid: str, box: Box, matches: int = 10) -> list[tuple[float, str]]:
    """(score, SOP Instance UID) of the hits of a region query, best first. PeerError."""
    keys = Keys(anatomy=HEART, matches=matches, scope="ANY")
    identifier = request.by_box(uid, DigitalXRayImageStorageForPresentation, box, keys)
    hits = [request.read_hit(match) for match in client.find(node.peer, identifier)]
    return [(hit.score, hit.sop_instance_uid) for hit in hits]


def _scanned(store: Store, live: Generation, region_id: int) -> list[tuple[float, str]]:
    """Every heart in SQL by its cosine with that region, best first; ties by SOP Instance UID."""
    projection = live.model.projections[0]
    wanted = _unit(store.regions.vector(region_id, projection).astype(np.float64))
    instances = store.regions.instances(live.id)[:, 0].tolist()
    hearts = [
        (row.region.instance_id, float(_unit(row.vector.astype(np.float64)) @ wanted))
        for row in store.regions.with_vectors(live.id, projection, instances)
        if row.region.anatomy == HEART.index
    ]
    named = []
    for instance_id, score in hearts:
        instance = store.catalog.by_id(instance_id)
        assert instance is not None
        named.append((score, instance.sop_instance_uid))
    return sorted(named, key=lambda hit: (-hit[0], hit[1]))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)
