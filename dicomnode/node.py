"""The composition root: a Config in, a running node out. Everything with state is built, joined and ended here."""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

from dicomnode import calibration, log, models
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
from dicomnode.errors import ConfigError, DicomNodeError
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
from dicomnode.upkeep import Keeper
from dicomnode.web.metrics import Gauges, Metrics
from dicomnode.web.port import Queries, Watchers, WebPort
from dicomnode.workers.drafts import ScribeSettings
from dicomnode.workers.indexer import IndexerPlan
from dicomnode.workers.pool import Pool
from dicomnode.workers.roi import RoiProcess, RoiSettings
from dicomnode.workers.scribe import ScribeProcess
from dicomnode.workers.transcoder import TranscoderProcess, TranscoderSettings
from storage.errands import Errand
from storage.errors import DatabaseAway, FileError, StorageError
from storage.records import GenerationState
from storage.store import SWEEP_AGE_S, Store

logger = logging.getLogger(__name__)
IMPORTING = "import.lock"  # under the root, held by who takes files in without the node
RECEIVED_S = 60.0  # a commit that waits for SQLite takes half of it
INGEST_NICENESS = 5  # nice(2): the query model comes first, reindexing last
REFRESH_S = 1.0  # how often the index takes up what the workers committed; a query takes it up at once
SCRIBE_AFTER = 15  # refreshes: the models are loaded then, and the first stored question does not wait for it
SNAPSHOT_EVERY = 300  # refreshes between snapshots of the index
SWEEP_AFTER = 700  # refreshes after which what nodes left that died shortly before this one started is old enough
CALIBRATE_EVERY = 30  # refreshes between looks at whether the archive has outgrown its thresholds


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
        self._errands: dict[Errand, Callable[[], None]] = {"rebuild": self._rebuild, "prepare": self._prepare}
        self._run: dict[Errand, int] = {}  # the number of each that this node has done; other nodes do it too
        self._snapshots = Lock(config.root / "index.lock", "another node that writes snapshots")
        self._writes_snapshots = False
        self._stopping = threading.Event()
        self._metrics = Metrics()
        self._trail = trail.of_config(config, socket.gethostname())
        self._counting = log.Counting(self._metrics.logged)
        self._auditor = Auditor(self._trail if self._trail.is_on else None, config.dimse.ae_title, self._metrics)
        self._web: WebPort | None = None
        self._warm = 0  # the generation whose index is loaded
        self._generations: list[tuple[int, GenerationState]] = []  # of the last round
        self._snapshotted = 0  # the watermark of the snapshot before: an index in use is no farther behind
        self._keeper = threading.Thread(target=self._keep_index, name="index-keeper", daemon=True)

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
        self._sweep(SWEEP_AGE_S if config.storage.shared else 0.0)
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
        self._upkeep = Keeper(self._store, config.storage, config.retention, self._auditor)
        if config.web.enabled:
            explainer = Explainer(self._store, self._roi, config.query)
            asking = Queries(answer, self._questions.ask, explainer)
            checks = {
                "index": self._is_indexed,
                "query_model": lambda: self._roi.alive,
                "storage": self._store.files.is_there,
            }
            watchers = Watchers(self._metrics, contacts, self._auditor)
            self._web = WebPort(config, self._store, intake, asking, watchers, checks)
        self._metrics.watch(Gauges(self._store, config, lambda: self._receiver.associations, self._trail))
        self._begin()

    def _on_arrival(self) -> None:
        self._metrics.received()
        self._pool.wake()

    def _is_indexed(self) -> bool:
        """Whether the index of the live generation is loaded."""
        live = self._store.generations.live()
        return live is not None and live.id == self._warm

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
        self._stopping.set()
        self._questions.stop()
        self._commitment.stop()
        self._deliveries.stop()
        self._scribe.stop()
        self._transcoder.stop()
        self._pool.stop()
        self._roi.stop()
        self._questions.join()  # what it waits for has ended
        self._upkeep.stop()
        self._keeper.join()
        self._take_up()
        self._snapshot()
        self._auditor.stop()
        self._trail.close()
        logging.getLogger().removeHandler(self._counting)
        self._store.close()
        if self._writes_snapshots:
            self._snapshots.__exit__(None, None, None)
        self._locks.close()

    def _keep_index(self) -> None:
        rounds = 0
        while not self._stopping.wait(REFRESH_S):
            self._take_up()
            self._run_errands()
            rounds += 1
            if rounds == SCRIBE_AFTER:
                with suppress(OSError):  # no room for a process: it is tried again when it is needed
                    self._scribe.start()
            if rounds % CALIBRATE_EVERY == 0:
                self._calibrate()
            if rounds % SNAPSHOT_EVERY == 0:
                self._snapshot()
            if rounds == SWEEP_AFTER and self._config.storage.shared:
                with suppress(StorageError):  # the next start tries again
                    self._sweep(SWEEP_AGE_S)

    def _take_up(self) -> None:
        try:
            live = self._store.generations.live()
            if live is not None and live.id != self._warm:
                self._store.vectors.warm(live.id)
                self._warm = live.id
                self._roi.settle(self._store.root / live.model.path)
            self._forget()
            self._store.vectors.refresh()
            self._store.vectors.improve()
        except Exception as error:  # noqa: BLE001 - upkeep goes on: queries bring the index up themselves
            logger.error("the index could not be brought up to date, the next round tries again: %s", log.frames(error))

    def _forget(self) -> None:
        """Let go of what is kept of generations that have gone: by a swap, given up, or dropped long after."""
        generations = [(each.id, each.state) for each in self._store.generations.all()]
        if generations != self._generations:
            self._store.vectors.forget()
            self._generations = generations

    def _run_errands(self) -> None:
        """What commands have asked for since the last round."""
        for errand, work in self._errands.items():
            try:
                asked = self._store.errands.asked(errand)
                if asked > self._run.setdefault(errand, self._store.errands.done(errand)):
                    work()
                    self._store.errands.finish(errand, asked)
                    self._run[errand] = asked
            except DatabaseAway:  # who takes up what is new has said so
                return
            except Exception as error:  # noqa: BLE001 - whoever asked gives up; the next round tries again
                logger.error("asked to %s the index, the next round tries again: %s", errand, log.frames(error))

    def _rebuild(self) -> None:
        live = self._store.generations.live()
        if live is not None:
            vectors = self._store.vectors.renew(live.id)
            self._snapshot()
            logger.info("index of generation %d made anew from the database: %d vectors", live.id, vectors)

    def _prepare(self) -> None:
        """Load what the generation being built will need: the first question after the swap waits for nothing."""
        building = self._store.generations.building()
        if building is not None:
            self._store.vectors.warm(building.id)
            self._roi.prepare(self._store.root / building.model.path)

    def _calibrate(self) -> None:
        try:
            live = self._store.generations.live()
            if live is not None and calibration.due(self._store, live):
                calibration.calibrate(self._store, live)
        except Exception as error:  # noqa: BLE001 - the thresholds it has go on
            logger.warning("what is unlike the archive could not be measured: %s", log.frames(error))

    def _sweep(self, age_s: float) -> None:
        """Remove what earlier processes left, but for what an import may be writing. StorageError."""
        with ExitStack() as locks:
            try:
                locks.enter_context(Lock(self._config.root / IMPORTING, "an import"))
            except DicomNodeError:
                age_s = SWEEP_AGE_S
            removed = self._store.sweep(age_s)
        if removed:
            logger.info("%d left-over files of an earlier run removed", removed)

    def _may_snapshot(self) -> bool:
        """Alone, always; of nodes that share a root, the first that asks, until it ends."""
        if self._config.storage.shared and not self._writes_snapshots:
            with suppress(DicomNodeError):
                self._snapshots.__enter__()
                self._writes_snapshots = True
            return self._writes_snapshots
        return True

    def _snapshot(self) -> None:
        if not self._may_snapshot():
            return
        try:
            if not self._store.files.is_there():
                raise FileError("root folder: not the one that was opened")
            watermark = self._store.vectors.refresh()
            self._store.vectors.snapshot()
            self._store.vectors.prune(self._snapshotted)
            self._snapshotted = watermark
        except Exception as error:  # noqa: BLE001 - a snapshot is a cache
            logger.warning("no index snapshot, it will be rebuilt from the database: %s", log.frames(error))
