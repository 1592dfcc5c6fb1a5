"""A scratch file that a peer filled in, one durable and catalogued instance out: the one way into the archive.

Every door comes here (C-STORE, STOW-RS, what the node makes itself). The order is invariant 1: header parsed, file
fsynced under its final name, row and jobs committed; only then may a peer be told. A crash before the commit leaves a
scratch file or an unreferenced file, both swept at the next start.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dicomnode.attributes import header, part10
from dicomnode.attributes.extents import Buffer
from dicomnode.errors import DecodeError, InvalidInstance, PatientConflict
from dicomnode.pixels import headers
from dicomnode.settings import StorageSettings
from storage.errors import StorageError, StorageFull
from storage.files import Scratch
from storage.records import Added, ConflictKind, ConflictPolicy, KeptFile, NewInstance, Policy
from storage.store import Store

log = logging.getLogger(__name__)
MIB = 1 << 20
CONFLICTS: dict[ConflictKind, str] = {  # in a log line; `dicomnode status --conflicts` says more
    "patient": "instance names another patient than its study is kept under",
    "study": "instance names another study than its series is kept under",
    "demographics": "instance names its patient or the date of birth otherwise than kept",
}
Check = Callable[[NewInstance], None]


@dataclass(frozen=True)
class Begun:
    """An instance whose file is still arriving."""

    new: NewInstance
    least: int  # bytes the file has to have


@dataclass(frozen=True)
class Taken:
    """An instance that is durable and catalogued, and what that changed."""

    new: NewInstance
    added: Added


class Intake:
    """Makes instances of received files. Safe for threads."""

    def __init__(
        self,
        store: Store,
        settings: StorageSettings,
        arrived: Callable[[], None],
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`arrived` is called after each new instance is committed: it wakes the workers and must not block.

        `took` is told how long it was from the last byte to that.
        """
        self._took = took
        self._store = store
        self._settings = settings
        self._arrived = arrived

    def scratch(self) -> Scratch:
        """Where a Part 10 file goes as it arrives. StorageFull when the disk is above its watermark; FileError."""
        if self._store.files.free_bytes() < self._settings.minimum_free_mib * MIB:
            raise StorageFull("disk above its watermark")
        return self._store.files.scratch()

    def keep(self, scratch: Scratch, source: str | None, check: Check = lambda new: None) -> Taken:
        """The instance that the file holds, durable on return. `source`: the AE title or peer that it came from.

        `check` may refuse what the header says before anything is kept. Raises InvalidInstance, PatientConflict, what
        `check` raises, and storage's errors: then nothing is kept.
        """
        return self.keep_as(scratch, new_instance(scratch, None, source), check)

    def keep_as(self, scratch: Scratch, new: NewInstance, check: Check) -> Taken:
        """`keep` of a file that was read already."""
        began = time.monotonic()
        check(new)
        kept = self._store.files.keep(scratch, new.sop_instance_uid)
        try:
            added = self._store.catalog.add(new, kept, *_policies(self._settings))
        except StorageError:
            self._forget(kept, new.sop_instance_uid)
            raise
        _tell(added)
        if added.outcome == "refused":
            raise PatientConflict("study belongs to another patient")
        self._arrived()
        self._took(time.monotonic() - began)
        return Taken(new, added)

    def _forget(self, kept: KeptFile, uid: str) -> None:
        """Remove a file that was not catalogued, where that is certain; else the next start's sweep decides."""
        with suppress(StorageError):
            row = self._store.catalog.instance(uid)
            if row is None or row.path != kept.path:
                self._store.files.remove(kept.path)


def _tell(added: Added) -> None:
    """The log lines of what an arrival contradicts."""
    if added.outcome in {"kept", "replaced"}:
        log.warning("duplicate SOP Instance UID with other bytes: %s, by policy", added.outcome)
    for kind in added.conflicts:
        log.warning("%s: %s, by policy, study %s", CONFLICTS[kind], added.outcome, added.study_instance_uid)


def _policies(settings: StorageSettings) -> tuple[Policy, ConflictPolicy]:
    """For a second instance of the same UID, and for a study of another patient."""
    return (
        "replace" if settings.duplicates == "replace" else "keep",
        "refuse" if settings.patient_conflicts == "refuse" else "keep",
    )


def new_instance(scratch: Scratch, head: part10.Head | None, source: str | None) -> NewInstance:
    """What the file says; `head`: its own, where it is known. InvalidInstance."""
    try:
        dataset = headers.header(scratch.path, head)
    except DecodeError as error:
        raise InvalidInstance(str(error)) from error
    syntax = head.transfer_syntax_uid if head else str(dataset.file_meta.TransferSyntaxUID)
    return header.new_instance(dataset, syntax, source)


def begun(part: Buffer, head: part10.Head, source: str | None) -> Begun | None:
    """What a data set says of which the first `part` has come; None where that has to wait for all. InvalidInstance."""
    found = headers.begun(part, head)
    if found is None:
        return None
    return Begun(header.new_instance(found.header, head.transfer_syntax_uid, source), found.least)
