"""A node's configuration and services in, its HTTP port out, with the child processes that it alone uses."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dicomnode.audit import subjects
from dicomnode.audit.auditor import Auditor
from dicomnode.contacts import Contacts
from dicomnode.intake import Intake, Taken
from dicomnode.pixels.eligibility import Policy
from dicomnode.query.occlusion import Explainer
from dicomnode.query.service import Question, Response
from dicomnode.settings import Config
from dicomnode.sr.reader import ASKING_CLASSES
from dicomnode.web.access import QUERY, Caller
from dicomnode.web.app import Services, application
from dicomnode.web.health import Check, Health
from dicomnode.web.metrics import Metrics
from dicomnode.web.server import WebServer
from dicomnode.workers.renderer import RendererProcess, RendererSettings
from dicomnode.workers.transcoder import TranscoderProcess, TranscoderSettings
from storage.store import Store

MIB = 1 << 20


@dataclass(frozen=True)
class Queries:
    """What the port asks of the rest of the node. `ask` makes a stored SR a question, durably."""

    answer: Callable[[Question], Iterator[Response]]
    ask: Callable[[str, str], object]
    explainer: Explainer


@dataclass(frozen=True)
class Watchers:
    """What is told of requests: what counts them, remembers who asks, and writes it down."""

    metrics: Metrics
    contacts: Contacts
    auditor: Auditor


class WebPort:
    """DICOMweb and the rest of HTTP, listening from `start` to `stop`."""

    def __init__(
        self,
        config: Config,
        store: Store,
        intake: Intake,
        queries: Queries,
        watchers: Watchers,
        checks: Mapping[str, Check],
    ) -> None:
        """`checks`: whether it is ready."""
        self._config = config
        self._ask = queries.ask
        self._auditor = watchers.auditor
        limits = Policy.of(config.ingest).limits
        self._transcoder = TranscoderProcess(TranscoderSettings(limits, config.log))
        self._renderer = RendererProcess(RendererSettings(limits, config.log))
        services = Services(
            config=config,
            store=store,
            intake=intake,
            stored=self._stored,
            answer=queries.answer,
            transcoder=self._transcoder,
            renderer=self._renderer,
            metrics=watchers.metrics,
            health=Health({"disk": lambda: _has_room(store, config), **checks}),
            contacts=watchers.contacts,
            explainer=queries.explainer,
            auditor=watchers.auditor,
        )
        self._server = WebServer(application(services), config.web, config.web.host or config.dimse.host)

    @property
    def port(self) -> int | None:
        """Where it listens; None when it does not."""
        return self._server.port

    def start(self) -> None:
        """ConfigError when the address cannot be had."""
        self._server.start()

    def stop(self) -> None:
        """The port first: nothing new is acknowledged; then what its answers waited for."""
        self._server.stop()
        self._transcoder.stop()
        self._renderer.stop()

    def _stored(self, taken: Taken, caller: Caller) -> None:
        """Before the answer: killed in between, the client sends it again. An SR is a question where it may be one."""
        self._auditor.received(0, caller.party, subjects.arrived(taken.new), taken.added.outcome)
        if self._config.web.ask and taken.new.sop_class_uid in ASKING_CLASSES and QUERY in caller.services:
            self._ask(taken.new.sop_instance_uid, caller.name)


def _has_room(store: Store, config: Config) -> bool:
    return store.files.free_bytes() >= config.storage.minimum_free_mib * MIB
