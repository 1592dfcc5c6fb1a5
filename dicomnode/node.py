"""The composition root: a Config in, a running node out. Everything with state is built, joined and ended here."""

import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

from dicomnode import log, models
from dicomnode.audit import changes, codes, trail
from dicomnode.audit.auditor import Auditor
from dicomnode.contacts import Contacts
from dicomnode.dimse.annex import RECEIVING
from dicomnode.dimse.annexes import Annexes, Hearers
from dicomnode.dimse.commitment import CommitmentService
from dicomnode.dimse.find import FindService
from dicomnode.dimse.outgoing import Caller
from dicomnode.dimse.receiver import Receiver
from dicomnode.dimse.retrieve import RetrieveService
from dicomnode.dimse.store import Questions, StoreService
from dicomnode.dimse.suboperations import Shelf
from dicomnode.dimse.tls import Certificates, peer_context
from dicomnode.dimse.wire import Command
from dicomnode.errors import ConfigError
from dicomnode.index_keeper import IndexKeeper
from dicomnode.intake import Intake
from dicomnode.locks import LOOK_S, Lock
from dicomnode.pixels.decode import Policy
from dicomnode.query.occlusion import Explainer
from dicomnode.query.placed import Placer
from dicomnode.query.search import RegionSearch
from dicomnode.query.service import QueryService
from dicomnode.questions.delivery import DeliveryService
from dicomnode.questions.keeper import QuestionKeeper
from dicomnode.questions.results import Results
from dicomnode.settings import Config
from dicomnode.upkeep import Keeper, sweep
from dicomnode.web.metrics import Gauges, Metrics
from dicomnode.web.port import Queries, Watchers, WebPort
from dicomnode.workers.drafts import ScribeSettings
from dicomnode.workers.indexer import IndexerPlan
from dicomnode.workers.pool import Pool
from dicomnode.workers.roi import RoiProcess, RoiSettings
from dicomnode.workers.scribe import ScribeProcess
from dicomnode.workers.transcoder import TranscoderProcess, TranscoderSettings
from storage.errors import StorageError
from storage.store import SWEEP_AGE_S, Store

logger = logging.getLogger(__name__)
RECEIVED_S = 60.0  # a commit that waits for SQLite takes half of it
INGEST_NICENESS = 5  # nice(2): the query model comes first, reindexing last
SCRIBE_AFTER = 15  # refreshes: the models are loaded then, and the first stored question does not wait for it
SWEEP_AFTER = 700  # refreshes after which what nodes left that died shortly before this one started is old enough


def place(config: Config) -> ExitStack:
    """The locks of one node: alone on its root, or one of those that share it, each of another name."""
    locks, root = ExitStack(), config.root
    locks.enter_context(Lock(root / "serve.lock", "a node", shared=config.storage.shared, wait_s=LOOK_S))
    if config.storage.shared:
        with locks:
            locks.enter_context(Lock(root / f"serve.{config.node}.lock", f"a node of the name {config.node}"))
            return locks.pop_all()
    return locks


def open_store(config: Config) -> Store:
    """The archive of this configuration, migrated to this program's schema."""
    return Store.open(
        config.root,
        config.storage.url or None,
        exact_limit=config.query.exact_below,
        max_attempts=config.ingest.maximum_attempts,
        engine=config.query.engine,
    )


class Node:
    """`serve`: receiver, query service, index and worker processes on one store."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._metrics = Metrics()
        self._trail = trail.of_config(config, socket.gethostname())
        self._counting = log.Counting(self._metrics.logged)
        self._auditor = Auditor(self._trail if self._trail.is_on else None, config.dimse.ae_title, self._metrics)
        self._web: WebPort | None = None

    @property
    def port(self) -> int | None:
        return self._receiver.port

    @property
    def http_port(self) -> int | None:
        return None if self._web is None else self._web.port

    @property
    def tls_port(self) -> int | None:
        return self._receiver.tls_port

    def start(self) -> None:
        """Open, recover, start. ConfigError when a port, the certificates or the models' runtime cannot be had."""
        config = self._config
        models.check_runtime(config.models)
        certificates = Certificates.configured(config.tls)
        self._locks = place(config)
        self._store = open_store(config)
        if not config.storage.shared:
            with Lock(config.root / RECEIVING, "a process of an earlier run that receives", wait_s=RECEIVED_S):
                pass  # it may be between the rename of a file and its row
        # Alone, the lock says that nothing is arriving; what other nodes are receiving is younger than the default.
        sweep(self._store, SWEEP_AGE_S if config.storage.shared else 0.0)
        generation = models.ensure_live(self._store, config.models.folder)
        self._roi = RoiProcess(
            RoiSettings(
                config.query.threads,
                config.ingest,
                config.log,
                self._store.root / generation.model.path,
                config.models,
            ),
            config.query.encode_timeout_s,
        )
        holder = f"serve@{config.node}({config.root.resolve()})"  # one node, see `place`
        self._pool = Pool(
            self._store,
            IndexerPlan(
                config.root,
                config.storage.url,
                holder,
                config.ingest,
                config.log,
                models=config.models,
                niceness=INGEST_NICENESS,
            ),
            config.ingest.workers,
        )
        search = RegionSearch(self._store, self._roi, local=config.query.local)
        policy = Policy.of(config.ingest)
        self._transcoder = TranscoderProcess(TranscoderSettings(policy.limits, config.log))
        placer = Placer(self._store, policy.modalities | policy.capture_modalities, self._transcoder.transcode)
        queries = QueryService(self._store, search, config.query, config.dimse.ae_title, placer.place)
        intake = Intake(self._store, config.storage, self._on_arrival, self._metrics.took)
        caller = Caller(config.dimse, partial(peer_context, config.tls))
        shelf = Shelf(self._store.files, self._transcoder)
        self._deliveries = DeliveryService(
            self._store, shelf, caller, config.peers, config.query.results_to, holder, self._auditor
        )
        self._scribe = ScribeProcess(ScribeSettings(policy.limits, config.log))
        results = Results(self._store, intake, self._scribe, config.dimse.ae_title)
        self._questions = QuestionKeeper(
            self._store, queries, results, config.query, self._deliveries.owe, holder, self._auditor
        )
        store = StoreService(intake, Questions(config.query.ae_title, self._questions.ask), self._auditor)
        answer = self._metrics.timed(queries.answer)
        find = FindService(answer, config.query.maximum_answers, self._auditor)
        retrieve = RetrieveService(self._store, shelf, caller, config.peers, self._auditor)
        self._commitment = CommitmentService(self._store, caller, config.peers, holder)
        others = {
            Command.C_MOVE: retrieve.on_move,
            Command.C_GET: retrieve.on_get,
            Command.N_ACTION: self._commitment.on_action,
        }
        contacts = Contacts(peer.ae_title for peer in config.peers)
        hearers = Hearers(
            self._on_arrival,
            self._metrics.took,
            contacts.heard,
            self._auditor.counted,
            self._trail if self._trail.is_on else None,
        )
        beside = config.dimse.receivers - 1
        annexes = Annexes(config, beside, hearers) if beside else None
        self._receiver = Receiver(config, certificates, store, find, others, contacts.heard, self._auditor, annexes)
        self._keeper = IndexKeeper(self._store, self._roi, shared=config.storage.shared, chores=self._chores())
        self._upkeep = Keeper(self._store, config.storage, config.retention, self._auditor)
        if config.web.enabled:
            explainer = Explainer(self._store, self._roi, config.query)
            asking = Queries(answer, self._questions.ask, explainer)
            checks = {
                "index": self._keeper.is_current,
                "query_model": lambda: self._roi.alive,
                "storage": self._store.files.is_there,
            }
            watchers = Watchers(self._metrics, contacts, self._auditor)
            self._web = WebPort(config, self._store, intake, asking, watchers, checks)
        self._metrics.watch(Gauges(self._store, config, lambda: self._receiver.associations, self._trail))
        self._begin()

    def _chores(self) -> dict[int, Callable[[], None]]:
        """What is done once, a while after the start."""

        def sweep_late() -> None:
            with suppress(StorageError):  # the next start tries again
                sweep(self._store, SWEEP_AGE_S)

        def start_scribe() -> None:
            with suppress(OSError):  # no room for a process: it is tried again when it is needed
                self._scribe.start()

        return {SCRIBE_AFTER: start_scribe} | ({SWEEP_AFTER: sweep_late} if self._config.storage.shared else {})

    def _on_arrival(self) -> None:
        self._metrics.received()
        self._pool.wake()

    def _begin(self) -> None:
        logging.getLogger().addHandler(self._counting)
        self._auditor.start()
        self._roi.start()
        self._pool.start()
        self._keeper.start()
        self._upkeep.start()
        try:
            self._receiver.start()
            self._commitment.start()
            self._questions.start()
            self._deliveries.start()
            if self._web is not None:
                self._web.start()
        except ConfigError:
            self.stop()
            raise
        self._tell_changes()

    def _tell_changes(self) -> None:
        try:
            changed = changes.since_last_start(self._config, self._store.root)
        except StorageError as error:  # a full disk: what is stored stays available
            logger.warning("settings cannot be compared with those of the last start: %s", error)
            return
        if changed:
            self._auditor.configured(codes.SOFTWARE_CONFIGURATION, f"settings changed: {', '.join(changed)}")

    def reload_certificates(self) -> None:
        """Take up the certificates of the TLS port anew; connections that are open keep theirs."""
        self._receiver.reload_certificates()
        self._auditor.configured(codes.SECURITY_CONFIGURATION, "TLS certificates read again")

    def stop(self) -> None:
        """Ports first, so that nothing new is acknowledged; then workers; then the index; the store last."""
        self._receiver.stop()
        if self._web is not None:
            self._web.stop()
        self._keeper.halt()
        self._questions.stop()
        self._commitment.stop()
        self._deliveries.stop()
        self._scribe.stop()
        self._transcoder.stop()
        self._pool.stop()
        self._roi.stop()
        self._questions.join()  # what it waits for has ended
        self._upkeep.stop()
        self._keeper.stop()
        self._auditor.stop()
        self._trail.close()
        logging.getLogger().removeHandler(self._counting)
        self._store.close()
        self._locks.close()
