"""Named points of the program in; a process that dies there, at the n-th passing, out.

A point is a function and whether death comes before it or behind it. One process dies once: the first that takes the
token, so what replaces it lives.
"""

import importlib
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

VARIABLE = "FAULT"  # of the environment: which point, for a process and all that it starts
Who = Literal["self", "all"]


@dataclass(frozen=True)
class Place:
    """A function of the program. `passes`: whether the call counts, by what it returned."""

    function: str  # module:name or module:Class.name
    when: Literal["before", "behind"]
    passes: Callable[[Any], bool] = lambda result: True


POINTS: dict[str, Place] = {
    # A C-STORE, in the order of invariant 1.
    "scratch file made": Place("storage.files:Files.scratch", "behind"),
    "file synced, not renamed": Place("storage.files:Scratch.sync", "behind"),
    "file kept, no row": Place("storage.files:Files.keep", "behind"),
    "rows written, not committed": Place("storage.arrivals:Arrivals.end", "behind"),
    "catalogued, not answered": Place("storage.catalog:Catalog.add", "behind"),
    # Any transaction, in any process.
    "before a commit": Place("sqlalchemy.engine.default:DefaultDialect.do_commit", "before"),
    "behind a write's commit": Place("storage.database:Database._attempt", "behind"),
    # A film, in a worker.
    "job claimed": Place("storage.jobs:Jobs.claim", "behind", bool),
    "film analysed": Place("storage.jobs:Jobs.finish", "before"),
    "regions written, not committed": Place("storage.jobs:replace_regions", "behind"),
    "job ended": Place("storage.jobs:Jobs.finish", "behind"),
    # The index on disk.
    "index data half written": Place("storage.vectors.exact:_write", "behind"),
    "index data in place, no manifest": Place("storage.vectors.exact:ExactIndex.save", "behind"),
    "index manifest in place, old data there": Place("storage.vectors.snapshot:Snapshots._tidy", "before"),
    # Generations.
    "generation started": Place("storage.generations:Generations.start", "behind"),
    "old generation retired, none live": Place("storage.generations:Generations._set", "behind"),
    "swapped": Place("storage.generations:Generations.make_live", "behind"),
    "old generation half deleted": Place("storage.generations:_delete_batch", "behind"),
    # Deletion of instances.
    "rows deleted, not committed": Place("storage.deletion:_delete", "behind"),
    "rows deleted, files there": Place("storage.files:Files.remove", "before"),
    # A question that was stored, and one that is asked.
    "question claimed": Place("storage.questions:Questions.claim", "behind", lambda found: found is not None),
    "answer found, not kept": Place("storage.questions:Questions.answer", "before"),
    "answer kept, no object": Place("storage.questions:Questions.answer", "behind"),
    "objects stored, question open": Place("storage.questions:Questions.finish", "before"),
    "in the middle of an answer": Place("dicomnode.workers.roi:RoiEncoder.embed", "behind"),
    # The schema.
    "a migration's statement run": Place("alembic.ddl.impl:DefaultImpl._exec", "behind"),
    "migrated, not committed": Place("storage.migrations.run:upgrade", "behind"),
}


@dataclass(frozen=True)
class Fault:
    """Death at a point: of the process that passes it, or of its whole group."""

    point: str
    skip: int  # passings of one process that come to nothing
    who: Who
    token: Path  # taken by who dies

    @property
    def environment(self) -> dict[str, str]:
        """For the processes that are to die of it."""
        return {VARIABLE: json.dumps(asdict(self) | {"token": str(self.token)})}

    @property
    def happened(self) -> bool:
        return self.token.exists()

    @classmethod
    def given(cls) -> Self | None:
        """The one of this process."""
        told = os.environ.get(VARIABLE)
        if not told:
            return None
        values = json.loads(told)
        return cls(values["point"], values["skip"], values["who"], Path(values["token"]))


def arm(fault: Fault) -> None:
    """Let this process die of the fault."""
    place = POINTS[fault.point]
    owner, name = _found(place.function)
    called = getattr(owner, name)
    left = fault.skip
    counting = threading.Lock()

    def passed() -> None:
        nonlocal left
        with counting:
            left -= 1
            if left < 0:
                _die(fault)

    def armed(*arguments: Any, **keywords: Any) -> Any:
        if place.when == "before":
            passed()
        result = called(*arguments, **keywords)
        if place.when == "behind" and place.passes(result):
            passed()
        return result

    setattr(owner, name, armed)


def _found(function: str) -> tuple[Any, str]:
    """Where a function is looked up when it is called, and its name there."""
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    return owner, name


def _die(fault: Fault) -> None:
    """kill -9, as long as nobody died of it before."""
    try:
        os.close(os.open(fault.token, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    if fault.who == "all":
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
