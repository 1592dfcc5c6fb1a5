"""C-STORE: bytes from an association become one durable instance, and only then 0x0000.

The fragments go to a scratch file as they arrive; `dicomnode.intake` does the rest, in the order of invariant 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ

from dicomnode.attributes import part10
from dicomnode.audit import subjects
from dicomnode.audit.auditor import Auditor, silent
from dicomnode.dimse import status
from dicomnode.dimse.parties import requestor_of
from dicomnode.errors import InvalidInstance, NotPermitted, SopClassDiffers
from dicomnode.intake import Intake
from dicomnode.sr.reader import ASKING_CLASSES
from storage.errors import StorageError
from storage.files import Scratch
from storage.records import NewInstance


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


@dataclass(frozen=True)
class Questions:
    """What is done with an SR that comes to the query AE title."""

    called: str  # that AE title
    ask: Callable[[str, str], object]  # SOP Instance UID and who asks; durable on return

    def meant(self, event: Any) -> bool:
        """Whether an instance of this request is a question."""
        called = str(event.assoc.requestor.primitive.called_ae_title).strip()
        return called == self.called and str(event.request.AffectedSOPClassUID) in ASKING_CLASSES


class StoreService:
    """Receives data sets and makes them instances."""

    def __init__(self, intake: Intake, questions: Questions | None = None, auditor: Auditor | None = None) -> None:
        self._intake = intake
        self._auditor = auditor or silent()
        self._questions = questions

    def spool(self, association: Association, message: C_STORE_RQ) -> ReceivedFile:
        """Where the data set of this request goes; a refusal when the disk is above its watermark."""
        try:
            head = _part10_head(association, message)
            return ReceivedFile(self._intake.scratch(), head)
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
        asks = self._questions if self._questions is not None and self._questions.meant(event) else None
        if asks is not None and "query" not in event.assoc.permitted:
            raise NotPermitted("region queries are not permitted")
        calling = event.assoc.requestor.ae_title
        taken = self._intake.keep(received.scratch, calling, partial(_check_command, event=event))
        if self._auditor.is_on:
            who, what = requestor_of(event.assoc), subjects.arrived(taken.new)
            self._auditor.received(event.assoc.channel, who, what, taken.added.outcome)
        if asks is not None:  # before 0x0000: killed in between, the peer sends it again
            asks.ask(taken.new.sop_instance_uid, calling)


def _part10_head(association: Association, message: C_STORE_RQ) -> bytes:
    """Preamble and File Meta Information (PS3.10 7.1) for the data set that follows."""
    command = message.command_set
    context = association._accepted_cx.get(message.context_id)
    if context is None:
        raise InvalidInstance("no such presentation context")
    return part10.head(
        str(command.get("AffectedSOPClassUID", "")),
        str(command.get("AffectedSOPInstanceUID", "")),
        context.transfer_syntax[0],
    )


def _check_command(new: NewInstance, event: Any) -> None:
    """PS3.7 9.1.1.1, PS3.4 B.2.3: context, command and data set name one SOP class, command and data set one UID."""
    if new.sop_instance_uid != str(event.request.AffectedSOPInstanceUID):
        raise InvalidInstance("SOP Instance UID differs from the command's")
    if new.sop_class_uid != str(event.request.AffectedSOPClassUID):
        raise SopClassDiffers("SOP class differs from the command's")
    if new.sop_class_uid != str(event.context.abstract_syntax):
        raise SopClassDiffers("SOP class differs from its presentation context's")
