"""What the node counts in; the Prometheus text format out. No patient data: numbers and words of this program only."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.responses import Response

from dicomnode.query.service import Question
from dicomnode.query.service import Response as Found
from storage.store import Store

QUERY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
Answer = Callable[[Question], Iterator[Found]]


@dataclass(frozen=True)
class Gauges:
    """Numbers that are looked up when they are asked for."""

    store: Store
    associations: Callable[[], int]


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
        self._requests = Counter(
            "dicomnode_http_requests", "HTTP requests that were answered.", ("status",), registry=self._registry
        )

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

    def answered(self, status: int) -> None:
        """An HTTP request was answered."""
        self._requests.labels(str(status)).inc()

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
        store = self._gauges.store
        live = store.generations.live()
        counts = store.jobs.counts(live.id if live else 0)
        yield GaugeMetricFamily("dicomnode_instances", "Instances stored.", counts.instances)
        jobs = GaugeMetricFamily("dicomnode_jobs", "Instances by what became of them.", labels=("state",))
        for state in ("queued", "indexed", "not_indexable", "failed"):
            jobs.add_metric((state,), getattr(counts, state))
        yield jobs
        yield GaugeMetricFamily("dicomnode_associations", "Associations that are open.", self._gauges.associations())
        yield GaugeMetricFamily("dicomnode_disk_free_bytes", "Room on the archive's disk.", store.files.free_bytes())
