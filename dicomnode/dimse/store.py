"""C-STORE: bytes from an association become one durable instance, and only then 0x0000.

The order is invariant 1: scratch file as the fragments arrive, header parsed, file fsynced under its final name, row
and jobs committed, response. A crash before the commit leaves a scratch file or an unreferenced file, both swept at
the next start; the peer was told nothing.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ

from dicomnode import uids
from dicomnode.attributes import header
from dicomnode.config import StorageSettings
from dicomnode.dimse import status
from dicomnode.errors import DecodeError, InvalidInstance, PatientConflict, SopClassDiffers
from dicomnode.pixels import headers
from storage.errors import StorageError, StorageFull
from storage.files import Scratch
from storage.records import ConflictKind, ConflictPolicy, KeptFile, NewInstance, Policy
from storage.store import Store

log = logging.getLogger(__name__)
MIB = 1 << 20
CONFLICTS: dict[ConflictKind, str] = {  # in a log line; `dicomnode status --conflicts` says more
    "patient": "instance names another patient than its study is kept under",
    "study": "instance names another study than its series is kept under",
    "demographics": "instance names its patient or the date of birth otherwise than kept",
}


class ReceivedFile:
    """The data set of one C-STORE as it arrives, behind a Part 10 head. Never raises: `failure` tells the handler."""

    def __init__(self, scratch: Scratch | None, head: bytes, failure: Exception | None = None) -> None:
        self.scratch = scratch
        self.failure = failure
        self.received = 0
        self.name = str(scratch.path) if scratch else ""
        if scratch:
            self._write(head)

    @property
    def file(self) -> "ReceivedFile":
        return self  # pynetdicom flushes through this name

    def flush(self) -> None:
        """Nothing: the file is synced once, when it is complete."""

    def write(self, fragment: bytes) -> int:
        """Take one fragment. After a failure the rest is read off the wire and dropped."""
        self.received += len(fragment)
        self._write(fragment)
        return len(fragment)

    def _write(self, data: bytes) -> None:
        if self.scratch is None or self.failure is not None:
            return
        try:
            self.scratch.write(data)
        except (StorageError, OSError) as error:
            self.failure = error

    def close(self) -> None:
        """Discard what was not kept."""
        if self.scratch is not None:
            self.scratch.discard()


class StoreService:
    """Receives data sets and makes them instances."""

    def __init__(self, store: Store, settings: StorageSettings, arrived: Callable[[], None]) -> None:
        """`arrived` is called after each new instance is committed: it wakes the workers and must not block."""
        self._store = store
        self._settings = settings
        self._arrived = arrived

    def spool(self, association: Association, message: C_STORE_RQ) -> ReceivedFile:
        """Where the data set of this request goes; a refusal when the disk is above its watermark."""
        try:
            head = _part10_head(association, message)
            if self._store.files.free_bytes() < self._settings.minimum_free_mib * MIB:
                return ReceivedFile(None, b"", StorageFull("disk above its watermark"))
            return ReceivedFile(self._store.files.scratch(), head)
        except (StorageError, OSError, InvalidInstance) as error:
            return ReceivedFile(None, b"", error)

    def on_store(self, event: Any) -> Dataset:
        """The status of one C-STORE (PS3.4 B.2.3). 0x0000 only when the instance is durable and catalogued."""
        received: ReceivedFile | None = event.request._dataset_file
        try:
            if received is None or not received.received:
                raise InvalidInstance("empty data set")
            self._keep(received, event)
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a status and a log line
            status.tell("C-STORE", event.assoc.requestor.ae_title, error)
            return status.failure(error)
        finally:
            if received is not None:
                received.close()
        return status.response(status.SUCCESS)

    def _keep(self, received: ReceivedFile, event: Any) -> None:
        if received.failure is not None:
            raise received.failure
        assert received.scratch is not None
        dataset = _read_header(Path(received.name))
        new = header.new_instance(dataset, str(dataset.file_meta.TransferSyntaxUID), event.assoc.requestor.ae_title)
        _check_command(new, event)
        kept = self._store.files.keep(received.scratch, new.sop_instance_uid)
        try:
            added = self._store.catalog.add(new, kept, *_policies(self._settings))
        except StorageError:
            self._forget(kept, new.sop_instance_uid)
            raise
        if added.outcome in {"kept", "replaced"}:
            log.warning("duplicate SOP Instance UID with other bytes: %s, by policy", added.outcome)
        for kind in added.conflicts:
            log.warning("%s: %s, by policy, study %s", CONFLICTS[kind], added.outcome, added.study_instance_uid)
        if added.outcome == "refused":
            raise PatientConflict("study belongs to another patient")
        self._arrived()

    def _forget(self, kept: KeptFile, uid: str) -> None:
        """Remove a file that was not catalogued, where that is certain; else the next start's sweep decides."""
        with suppress(StorageError):
            row = self._store.catalog.instance(uid)
            if row is None or row.path != kept.path:
                self._store.files.remove(kept.path)


def _policies(settings: StorageSettings) -> tuple[Policy, ConflictPolicy]:
    """For a second instance of the same UID, and for a study of another patient."""
    return (
        "replace" if settings.duplicates == "replace" else "keep",
        "refuse" if settings.patient_conflicts == "refuse" else "keep",
    )


def _part10_head(association: Association, message: C_STORE_RQ) -> bytes:
    """Preamble and File Meta Information (PS3.10 7.1) for the data set that follows."""
    command = message.command_set
    context = association._accepted_cx.get(message.context_id)
    if context is None:
        raise InvalidInstance("no such presentation context")
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = str(command.get("AffectedSOPClassUID", ""))
    meta.MediaStorageSOPInstanceUID = str(command.get("AffectedSOPInstanceUID", ""))
    meta.TransferSyntaxUID = context.transfer_syntax[0]
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    try:
        write_file_meta_info(buffer, meta, enforce_standard=True)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInstance("malformed UID in the command") from error
    return buffer.getvalue()


def _read_header(path: Path) -> Dataset:
    try:
        return headers.header(path)
    except DecodeError as error:
        raise InvalidInstance(str(error)) from error


def _check_command(new: NewInstance, event: Any) -> None:
    """PS3.7 9.1.1.1, PS3.4 B.2.3: context, command and data set name one SOP class, command and data set one UID."""
    if new.sop_instance_uid != str(event.request.AffectedSOPInstanceUID):
        raise InvalidInstance("SOP Instance UID differs from the command's")
    if new.sop_class_uid != str(event.request.AffectedSOPClassUID):
        raise SopClassDiffers("SOP class differs from the command's")
    if new.sop_class_uid != str(event.context.abstract_syntax):
        raise SopClassDiffers("SOP class differs from its presentation context's")
