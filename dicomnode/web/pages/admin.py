"""The store in, what an administrator watches out: the queue, failures and why, generations, questions, peers, disk."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dicomnode import progress
from dicomnode.settings import Config, PeerSettings
from dicomnode.web.pages import words
from storage.records import Generation, Question, Unindexed
from storage.store import Store

FAILURES: Final = 50  # jobs that ended without vectors, the failed first
QUESTIONS: Final = 20  # stored SRs, the latest


@dataclass(frozen=True)
class Progress:
    """A generation and how far it is."""

    id: int
    model: str
    state: str
    since: str
    ended: int
    instances: int
    indexed: int
    not_indexable: int
    failed: int
    regions: int
    note: str  # of one that is being built: how fast, how long still, or why it stands

    @property
    def percent(self) -> int:
        return 100 * self.ended // self.instances if self.instances else 100


@dataclass(frozen=True)
class Failure:
    """An instance without vectors."""

    uid: str
    state: str
    reason: str
    attempts: int
    at: str


@dataclass(frozen=True)
class Asked:
    """A stored SR that asks."""

    at: str
    who: str
    state: str
    reason: str
    attempts: int
    report_uid: str


@dataclass(frozen=True)
class Peer:
    """A row of the peers table; nothing secret."""

    name: str
    ae_title: str
    address: str
    services: str
    has_token: bool
    last: str  # contact, since the node started


@dataclass(frozen=True)
class Disk:
    """Bytes as text; `percent`: of the disk that is in use, by whatever."""

    archive: str
    free: str
    total: str
    percent: int
    is_low: bool


@dataclass(frozen=True)
class Overview:
    """The whole page."""

    counts: tuple[tuple[str, int], ...]
    generations: tuple[Progress, ...]
    failures: tuple[Failure, ...]
    failed: int
    questions: tuple[Asked, ...]
    question_counts: tuple[tuple[str, int], ...]
    peers: tuple[Peer, ...]
    disk: Disk


def overview(store: Store, config: Config, last: Callable[[str], float | None]) -> Overview:
    """The state of the node, as it is now. `last`: when a peer was heard of."""
    generations = tuple(_progress(store, each) for each in store.generations.all())
    return Overview(
        counts=tuple(_counts(store, config)),
        generations=generations,
        failures=tuple(map(_failure, store.jobs.failures(FAILURES))),
        failed=sum(each.failed for each in generations if each.state == "live"),
        questions=tuple(map(_asked, store.questions.all(QUESTIONS))),
        question_counts=tuple(sorted(store.questions.counts().items())),
        peers=tuple(_peer(peer, last(peer.ae_title)) for peer in config.peers),
        disk=_disk(store, config),
    )


def _counts(store: Store, config: Config) -> Iterator[tuple[str, int]]:
    live = store.generations.live()
    if live is not None:
        counts = store.jobs.counts(live.id)
        for name in ("instances", "queued", "indexed", "not_indexable", "failed"):
            yield words.capital(name.replace("_", " ")), getattr(counts, name)
        yield "Regions", store.regions.count(live.id)
    studies = store.studies.counts(config.storage.stable_age_s)
    yield "Studies complete", studies.complete
    yield "Studies arriving", studies.arriving
    yield "Conflicts", store.conflicts.count()


def _progress(store: Store, generation: Generation) -> Progress:
    counts = store.jobs.counts(generation.id)
    return Progress(
        id=generation.id,
        model=generation.model.id,
        state=generation.state,
        since=words.moment(generation.live_since or generation.created_at),
        ended=counts.instances - counts.queued,
        instances=counts.instances,
        indexed=counts.indexed,
        not_indexable=counts.not_indexable,
        failed=counts.failed,
        regions=store.regions.count(generation.id),
        note=progress.of(store, generation).text if generation.state == "building" else "",
    )


def _failure(row: Unindexed) -> Failure:
    state = row.state.replace("_", " ")
    return Failure(row.sop_instance_uid, state, row.reason, row.attempts, words.moment(row.updated_at))


def _asked(question: Question) -> Asked:
    return Asked(
        at=words.moment(question.asked_at),
        who=question.source_ae or words.NOT_SAID,
        state=question.state,
        reason=question.reason,
        attempts=question.attempts,
        report_uid=question.report_uid or "",
    )


def _peer(peer: PeerSettings, last: float | None) -> Peer:
    address = f"{peer.host}:{peer.port}" if peer.host else "never called"
    return Peer(peer.name, peer.ae_title, address, ", ".join(peer.services), bool(peer.token), words.moment(last))


def _disk(store: Store, config: Config) -> Disk:
    disk = shutil.disk_usage(store.root)
    return Disk(
        archive=words.room(store.studies.size()),
        free=words.room(disk.free),
        total=words.room(disk.total),
        percent=round(100 * (1 - disk.free / disk.total)),
        is_low=disk.free < config.storage.minimum_free_mib << 20,
    )


def retry(store: Store) -> int:
    """Queue the live generation's failed instances again; how many. Workers look for work by themselves."""
    live = store.generations.live()
    return store.jobs.retry(live.id) if live is not None else 0
