"""Committed rows in, an index that has them out: taken up every second, kept on disk, handed over at a swap.

One thread of the node. Queries bring up by themselves what they need; this makes it rare that they have to.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from dicomnode import calibration, log
from dicomnode.errors import DicomNodeError
from dicomnode.locks import Lock
from dicomnode.workers.roi import RoiProcess
from storage.errands import Errand
from storage.errors import DatabaseAway, FileError
from storage.records import GenerationState
from storage.store import Store

logger = logging.getLogger(__name__)
REFRESH_S = 1.0  # how often the index takes up what the workers committed; a query takes it up at once
SNAPSHOT_EVERY = 300  # rounds between snapshots of the index
CALIBRATE_EVERY = 30  # rounds between looks at whether the archive has outgrown its thresholds


class IndexKeeper:
    """Keeps the index of one node. `chores`: what is done once besides, by the number of the round."""

    def __init__(
        self, store: Store, roi: RoiProcess, *, shared: bool, chores: Mapping[int, Callable[[], None]]
    ) -> None:
        """`shared`: other nodes have the same root; one of all writes the snapshots."""
        self._store = store
        self._roi = roi
        self._shared = shared
        self._chores = chores
        self._errands: dict[Errand, Callable[[], None]] = {"rebuild": self._rebuild, "prepare": self._prepare}
        self._run: dict[Errand, int] = {}  # the number of each that this node has done; other nodes do it too
        self._snapshots = Lock(store.root / "index.lock", "another node that writes snapshots")
        self._writes_snapshots = False
        self._warm = 0  # the generation whose index is loaded
        self._generations: list[tuple[int, GenerationState]] = []  # of the last round
        self._snapshotted = 0  # the watermark of the snapshot before: an index in use is no farther behind
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="index-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def halt(self) -> None:
        """Begin no other round."""
        self._stopping.set()

    def stop(self) -> None:
        """Wait for the round, take up the last, write it down, and let others write snapshots."""
        self.halt()
        if self._thread.is_alive():
            self._thread.join()
        self.take_up()
        self.snapshot()
        if self._writes_snapshots:
            self._snapshots.__exit__(None, None, None)
            self._writes_snapshots = False

    def is_current(self) -> bool:
        """Whether the index of the live generation is loaded."""
        live = self._store.generations.live()
        return live is not None and live.id == self._warm

    def _keep(self) -> None:
        rounds = 0
        while not self._stopping.wait(REFRESH_S):
            self.take_up()
            self._run_errands()
            rounds += 1
            if chore := self._chores.get(rounds):
                chore()
            if rounds % CALIBRATE_EVERY == 0:
                self._calibrate()
            if rounds % SNAPSHOT_EVERY == 0:
                self.snapshot()

    def take_up(self) -> None:
        """What was committed, and what became of generations."""
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
            self.snapshot()
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

    def snapshot(self) -> None:
        """Write down what has changed, where this node may."""
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

    def _may_snapshot(self) -> bool:
        """Alone, always; of nodes that share a root, the first that asks, until it ends."""
        if self._shared and not self._writes_snapshots:
            with suppress(DicomNodeError):
                self._snapshots.__enter__()
                self._writes_snapshots = True
            return self._writes_snapshots
        return True
