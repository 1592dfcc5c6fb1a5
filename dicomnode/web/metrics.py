"""What the node counts in; the Prometheus text format out. No patient data: numbers and words of this program only."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.responses import Response

from dicomnode import __version__
from dicomnode.query.service import Question
from dicomnode.query.service import Response as Found
from dicomnode.settings import Config
from storage.store import Store

QUERY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STORE_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
MIB: Final = 1 << 20
Answer = Callable[[Question], Iterator[Found]]


class Waiting(Protocol):
    """Messages of the audit trail that are to be written, and those that never will be."""

    @property
    def waiting(self) -> int: ...

    @property
    def lost(self) -> int: ...


@dataclass(frozen=True)
class Gauges:
    """Numbers that are looked up when they are asked for."""

    store: Store
    config: Config
    associations: Callable[[], int]
    trail: Waiting
    clock: Callable[[], float] = time.time


class Metrics:
    """Counters of one node. Safe for threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._received = Counter(
            "dicomnode_received_instances", "Instances that were acknowledged, by any port.", registry=self._registry
        )
        self._queries = Histogram(
            "dicomnode_query_seconds",
            "Seconds from a query to its last answer.",
            ("kind",),
            buckets=QUERY_BUCKETS_S,
            registry=self._registry,
        )
        self._refused = Counter(
            "dicomnode_refused",
            "Who was turned away, by door: see docs/operations.md.",
            ("door",),
            registry=self._registry,
        )
        self._sent = Counter(
            "dicomnode_sent_instances", "Instances sent to peers by DIMSE.", ("outcome",), registry=self._registry
        )
        self._stores = Histogram(
            "dicomnode_store_seconds",
            "Seconds from an instance's last byte until it was durable and catalogued, by any port.",
            buckets=STORE_BUCKETS_S,
            registry=self._registry,
        )
        self._requests = Counter(
            "dicomnode_http_requests", "HTTP requests that were answered.", ("status",), registry=self._registry
        )
        self._answers = Histogram(
            "dicomnode_http_seconds",
            "Seconds from an HTTP request to the head of its answer.",
            buckets=QUERY_BUCKETS_S,
            registry=self._registry,
        )
        self._records = Counter(
            "dicomnode_log_records", "Warnings and worse in the log.", ("level",), registry=self._registry
        )
        for level in ("warning", "error"):
            self._records.labels(level)  # there before the first one: else its first is no increase

    def watch(self, gauges: Gauges) -> None:
        """Say these numbers too."""
        self._registry.register(_Looked(gauges))

    def received(self) -> None:
        """An instance was acknowledged."""
        self._received.inc()

    def refused(self, door: str) -> None:
        """Somebody was turned away."""
        self._refused.labels(door).inc()

    def sent(self, count: int, *, failed: bool) -> None:
        """So many instances were sent to a peer, or could not be."""
        self._sent.labels("failed" if failed else "sent").inc(count)

    def took(self, seconds: float) -> None:
        """So long an instance took to be taken in."""
        self._stores.observe(seconds)

    def logged(self, level: str) -> None:
        """Something was worth a warning, or worse."""
        self._records.labels(level).inc()

    def answered(self, status: int, seconds: float) -> None:
        """An HTTP request was answered, and how long that took."""
        self._requests.labels(str(status)).inc()
        self._answers.observe(seconds)

    def timed(self, answer: Answer) -> Answer:
        """The same, and how long it takes is counted."""

        def timing(question: Question) -> Iterator[Found]:
            started, kind = time.monotonic(), "plain"
            try:
                for found in answer(question):
                    kind = "plain" if found.is_plain else "region"
                    yield found
            finally:
                self._queries.labels(kind).observe(time.monotonic() - started)

        return timing

    def response(self) -> Response:
        """All of them."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Looked(Collector):
    """Gauges of the store, as they are now."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Prometheus asks for each scrape."""
        for part in (self._archive, self._queue, self._questions, self._ports, self._disk):
            yield from part()

    def _archive(self) -> Iterator[Metric]:
        store = self._gauges.store
        generations = GaugeMetricFamily(
            "dicomnode_generation", "Generations that are live or being built, by model.", labels=("state", "model")
        )
        for each in store.generations.active():
            generations.add_metric((each.state, each.model.id), each.id)
        yield generations
        yield InfoMetricFamily("dicomnode", "The program.", {"version": __version__})

    def _queue(self) -> Iterator[Metric]:
        store = self._gauges.store
        live = store.generations.live()
        counts = store.jobs.counts(live.id if live else 0)
        yield GaugeMetricFamily("dicomnode_instances", "Instances stored.", counts.instances)
        jobs = GaugeMetricFamily("dicomnode_jobs", "Instances by what became of them.", labels=("state",))
        for state in ("queued", "indexed", "not_indexable", "failed"):
            jobs.add_metric((state,), getattr(counts, state))
        yield jobs
        waiting = GaugeMetricFamily(
            "dicomnode_queue_oldest_seconds", "Age of the first job that is not done, by generation.", labels=("state",)
        )
        for each in store.generations.active():
            waiting.add_metric((each.state,), self._age(store.jobs.oldest(each.id)))
        yield waiting

    def _questions(self) -> Iterator[Metric]:
        store = self._gauges.store
        for name, about, counts in (
            ("dicomnode_questions", "Stored SRs that ask, by state.", store.questions.counts()),
            ("dicomnode_deliveries", "Result objects for peers, by state.", store.deliveries.counts()),
        ):
            found = GaugeMetricFamily(name, about, labels=("state",))
            for state, count in sorted(counts.items()):
                found.add_metric((state,), count)
            yield found
        yield GaugeMetricFamily(
            "dicomnode_question_oldest_seconds", "Age of the first question that is not done with.",
            self._age(store.questions.oldest()),
        )  # fmt: skip

    def _age(self, since: float | None) -> float:
        return 0.0 if since is None else max(0.0, self._gauges.clock() - since)

    def _ports(self) -> Iterator[Metric]:
        most, trail = self._gauges.config.dimse.maximum_associations, self._gauges.trail
        yield GaugeMetricFamily("dicomnode_associations", "Associations that are open.", self._gauges.associations())
        yield GaugeMetricFamily("dicomnode_associations_maximum", "Associations there may be.", most)
        yield GaugeMetricFamily("dicomnode_audit_waiting", "Audit messages that are to be written.", trail.waiting)
        yield CounterMetricFamily("dicomnode_audit_lost", "Audit messages that were lost.", trail.lost)

    def _disk(self) -> Iterator[Metric]:
        files, least = self._gauges.store.files, self._gauges.config.storage.minimum_free_mib * MIB
        yield GaugeMetricFamily("dicomnode_disk_free_bytes", "Room on the archive's disk.", files.free_bytes())
        yield GaugeMetricFamily("dicomnode_disk_total_bytes", "Size of that disk.", files.total_bytes())
        yield GaugeMetricFamily("dicomnode_disk_minimum_bytes", "Room below which nothing is stored.", least)
