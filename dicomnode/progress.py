"""A generation that is being built in, how far it is out: for `status`, the admin page and the bar.

Counts come from its jobs. What the reindexing does at the moment it says in `reindex.json` under the root, again and
again: a note that grows old is of one that was stopped or killed.
"""

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from storage.records import Generation, JobCounts
from storage.store import Store

WINDOW_S = 60.0  # over which films a second are counted
RENEW_S = 3.0
OLD_S = 15.0  # a note this old is nobody's any more
Doing = Literal["encoding", "waiting", "verifying", "stopped"]
WORDS: dict[Doing, str] = {
    "encoding": "",
    "waiting": "waits for its hours",
    "verifying": "is verified before the swap",
    "stopped": "stopped: `dicomnode reindex` goes on",
}


@dataclass(frozen=True)
class Note:
    """What a reindexing says of itself; times are seconds since 1970."""

    generation: int
    doing: Doing
    since: float  # this run's start
    at: float

    def leave(self, root: Path) -> None:
        """Replace the note of before; not synced, it is of the moment."""
        scratch = root / f".reindex.json.{threading.get_ident()}"
        scratch.write_text(json.dumps(asdict(self)), encoding="utf-8")
        scratch.replace(root / "reindex.json")


class Telling:
    """Keeps the note of a run fresh, whatever that is busy with; takes it away at the end."""

    def __init__(self, root: Path, generation: int) -> None:
        self._root = root
        self._generation = generation
        self._since = time.time()
        self._doing: Doing = "encoding"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="reindex-note", daemon=True)

    def __enter__(self) -> Self:
        self._leave()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        (self._root / "reindex.json").unlink(missing_ok=True)

    def says(self, doing: Doing) -> None:
        """What the run does from now on."""
        if doing != self._doing:
            self._doing = doing
            self._leave()

    def _renew(self) -> None:
        while not self._stopping.wait(RENEW_S):
            self._leave()

    def _leave(self) -> None:
        with suppress(OSError):  # a full disk: it is only a note
            Note(self._generation, self._doing, self._since, time.time()).leave(self._root)


def read(root: Path) -> Note | None:
    """The note, if there is one that can be read."""
    try:
        return Note(**json.loads((root / "reindex.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Progress:
    """How far a generation is. `seconds_left`: None while no film ends."""

    generation: int
    model: str
    instances: int
    done: int
    failed: int
    doing: Doing
    films_per_s: float
    seconds_left: float | None

    @property
    def text(self) -> str:
        """For people: beside the count."""
        parts = [WORDS[self.doing]] if WORDS[self.doing] else []
        if self.doing == "encoding" and self.films_per_s:
            parts.append(f"{self.films_per_s:.1f} films/s")
        if self.doing == "encoding" and self.seconds_left is not None:
            parts.append(f"about {_long(self.seconds_left)} left")
        return ", ".join([*parts, *([f"{self.failed} failed"] if self.failed else [])])

    def values(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def of(store: Store, generation: Generation) -> Progress:
    """Where a generation that is being built stands now."""
    now = time.time()
    note = read(store.root)
    current = note if note and note.generation == generation.id and now - note.at < OLD_S else None
    counts = store.jobs.counts(generation.id)
    films_per_s = _rate(store, generation, current.since if current else generation.created_at, now) if current else 0.0
    return Progress(
        generation=generation.id,
        model=generation.model.id,
        instances=counts.instances,
        done=counts.instances - counts.queued,
        failed=counts.failed,
        doing=current.doing if current else "stopped",
        films_per_s=films_per_s,
        seconds_left=_left(counts, films_per_s),
    )


def _rate(store: Store, generation: Generation, since: float, now: float) -> float:
    start = max(since, now - WINDOW_S)
    return store.jobs.ended_since(generation.id, start) / max(now - start, 1.0)


def _left(counts: JobCounts, films_per_s: float) -> float | None:
    if not counts.queued:
        return 0.0
    return round(counts.queued / films_per_s, 1) if films_per_s else None


def _long(seconds: float) -> str:
    """A length of time, in the unit that people would say it in."""
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
