"""The indexers of one node: started, woken, watched and ended.

A worker that dies is replaced, and what it had leased is released: the attempt counts, so an instance that kills its
worker ends as failed and not in a loop.
"""

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable

from dicomnode.workers.child import Child
from dicomnode.workers.indexer import IndexerPlan
from storage.store import Store

logger = logging.getLogger(__name__)
MODULE = "dicomnode.workers.indexer"
STOP_S = 8.0  # for all workers together: a film in hand takes less than one
WATCH_S = 0.5
RESTART_S = 2.0  # pause before a dead worker is replaced, so that a broken model does not spin


class Pool:
    """`size` indexer processes on one store."""

    def __init__(self, store: Store, plan: IndexerPlan, size: int, start: Callable[..., Child] = Child) -> None:
        self._store = store
        self._plan = plan
        self._start = start
        self._children: list[Child] = []
        self._owners: dict[int, str] = {}
        self._size = size
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="worker-watch", daemon=True)

    def start(self) -> None:
        """Release what earlier processes of this owner held, then start every worker."""
        self._store.jobs.release(f"{self._plan.owner}/", counts=False)
        self._children = [self._new() for _ in range(self._size)]
        self._watcher.start()

    def wake(self) -> None:
        """Tell the workers that there is work. Never blocks: a worker with a wake-up waiting needs no other."""
        for each in self._children:
            each.wake()

    def check(self) -> None:
        """Nothing to say: a worker that dies is replaced."""

    def stop(self) -> None:
        """Hang up, let each finish the film in hand, and release what is left."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for each in self._children:
            each.hang_up()
        deadline = time.monotonic() + STOP_S
        for each in self._children:
            each.join(max(0.0, deadline - time.monotonic()))
        self._store.jobs.release(f"{self._plan.owner}/", counts=False)

    def _new(self) -> Child:
        owner = f"{self._plan.owner}/{secrets.token_hex(4)}"  # never the name of an earlier process
        child = self._start(MODULE, dataclasses.replace(self._plan, owner=owner))
        self._owners[child.pid] = owner
        return child

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            for number, each in enumerate(self._children):
                if each.alive or self._stopping.is_set():
                    continue
                try:
                    self._replace(number, each)
                except Exception as error:  # noqa: BLE001 - the watch goes on: a full disk gets room again
                    logger.warning("worker %s cannot be replaced yet: %s", each.pid, type(error).__name__)
                    self._stopping.wait(RESTART_S)

    def _replace(self, number: int, dead: Child) -> None:
        logger.warning("worker %s ended unexpectedly and is replaced", dead.pid)
        self._store.jobs.release(self._owners[dead.pid])
        if not self._stopping.wait(RESTART_S):
            self._children[number] = self._new()
            del self._owners[dead.pid]
