"""An archive in, what in it contradicts something else out, and what of that can be mended without losing anything.

Files against their digests and sizes, rows against files, jobs, regions and local maps against each other, snapshots of
the index against SQL. Beside a node that serves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from storage.check import Care, Report
from storage.records import Disagreement
from storage.store import SWEEP_AGE_S, Store
from storage.vectors.shelf import Damage

# What is lost, or wrong in a way that only a person can judge; all else is untidy and is mended by `repair`.
GRAVE: Final = frozenset(
    {"file missing", "file differs", "regions unexpected", "row empty", "local map unexpected", "local map damaged"}
)
ADVICE: Final = {
    "file missing": "send the instance again, or restore it from a backup",
    "file differs": "`dicomnode delete --instance UID`, then send it again, or restore it from a backup",
    "regions unexpected": "`dicomnode reindex` makes them anew",
    "local map unexpected": "`dicomnode reindex` makes it anew",
    "local map damaged": "`dicomnode reindex --only features` makes it anew",
}


@dataclass(frozen=True)
class Finding:
    """One contradiction, and what was done about it; empty: nothing."""

    disagreement: Disagreement
    mend: Callable[[Store], str] | None = None
    done: str = ""

    @property
    def is_grave(self) -> bool:
        return self.disagreement.kind in GRAVE


def verify(store: Store, report: Report, now: float, *, contents: bool = True) -> list[Finding]:
    """Everything that is found; nothing is changed. `now`: seconds since 1970; `contents`: False to look at sizes only.

    A file that no row names counts from ten minutes on: before that it may be arriving.
    """
    care = Care(report, contents, settled_since=now - SWEEP_AGE_S)
    found = [_finding(each) for each in store.check(care)]
    for generation in store.generations.active():
        damages = store.vectors.examine(generation.id, lambda done, total: report("index", done, total, ""))
        found += [Finding(damage.disagreement, _discarding(damage)) for damage in damages]
    return found


def repair(store: Store, findings: list[Finding]) -> list[Finding]:
    """Mend what can be; each with what was done. StorageError stops it where it is: run it again."""
    return [_mended(store, finding) for finding in findings]


def _mended(store: Store, finding: Finding) -> Finding:
    return finding if finding.mend is None else Finding(finding.disagreement, None, finding.mend(store))


def _finding(found: Disagreement) -> Finding:
    if found.kind == "file unknown":
        return Finding(found, lambda store: f"moved to {store.files.quarantine(found.subject)}")
    if found.kind == "job missing":
        return Finding(found, _queue)
    return Finding(found)


def _queue(store: Store) -> str:
    for generation in store.generations.active():
        store.generations.missing(generation.id)
    return "queued"


def _discarding(damage: Damage) -> Callable[[Store], str]:
    def discard(store: Store) -> str:
        store.vectors.discard(damage.key)
        return "index removed: it is made anew from the database"

    return discard
