"""Calls from many threads in, one call with all their items out: how associations share a commit.

Whoever comes while a call is running waits and goes along with the next one. Alone, an item costs what it always did.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from storage.errors import DatabaseAway, StorageFull

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 64  # items in one call: a commit stays short
NOBODYS = (DatabaseAway, StorageFull)  # errors that no item is at fault for: each alone would wait for the same one


class Together(Generic[Item, Result]):
    """Runs `work` on lists of items, one call at a time. Nobody is put off for longer than one call."""

    def __init__(self, work: Callable[[list[Item]], list[Result]]) -> None:
        """`work` returns a result for each item in order, or raises and has done nothing."""
        self._work = work
        self._turn = threading.Lock()
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._adding = threading.Lock()

    def do(self, item: Item) -> Result:
        """The item's own result or error, as if it had been alone."""
        future: Future[Result] = Future()
        with self._adding:
            self._waiting.append((item, future))
        with self._turn:
            while not future.done():  # else somebody took it along
                self._run(self._taken())
        return future.result()

    def _taken(self) -> list[tuple[Item, Future[Result]]]:
        with self._adding:
            taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        return taken

    def _run(self, calls: list[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._work([item for item, _ in calls])
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            if len(calls) == 1 or isinstance(error, NOBODYS) or not isinstance(error, Exception):
                for _, future in calls:
                    future.set_exception(error)
                return
            for call in calls:  # one of them is at fault: the others shall not suffer for it
                self._run([call])
            return
        for (_, future), result in zip(calls, results, strict=True):
            future.set_result(result)
