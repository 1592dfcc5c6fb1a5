"""The client side of retrieval: a peer and unique keys in, files in a folder out; or a C-MOVE asked of the peer.

What the peer holds is asked first (C-FIND), so that the association of the C-GET carries contexts for exactly that:
each SOP class in the transfer syntax it is stored in, and uncompressed.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicomnode.dimse import client, contexts, status
from dicomnode.dimse.client import Peer, status_in
from dicomnode.errors import PeerError
from dicomnode.quiet import quiet_libraries
from dicomnode.uids import is_uid

# Level and unique key of what is asked for, and the SOP classes of C-GET and C-MOVE: a patient has a model of its own.
_STUDY_ROOT: Final = (StudyRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelMove)
_PATIENT_ROOT: Final = (PatientRootQueryRetrieveInformationModelGet, PatientRootQueryRetrieveInformationModelMove)
LEVELS: Final = {
    "PatientID": ("PATIENT", _PATIENT_ROOT),
    "StudyInstanceUID": ("STUDY", _STUDY_ROOT),
    "SeriesInstanceUID": ("SERIES", _STUDY_ROOT),
    "SOPInstanceUID": ("IMAGE", _STUDY_ROOT),
}
ABOVE: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
Report = Callable[[int, int], None]  # done, of how many


@dataclass
class Fetched:
    """What became of a retrieval."""

    status: int = 0
    reason: str = ""
    completed: int = 0
    failed: int = 0
    warnings: int = 0
    files: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status == status.SUCCESS

    def take(self, answer: Dataset) -> int:
        """The counts of a response; returns how many sub-operations remain."""
        self.status, self.reason = status_in(answer), str(answer.get("ErrorComment", ""))
        self.completed = int(answer.get("NumberOfCompletedSuboperations") or 0)
        self.failed = int(answer.get("NumberOfFailedSuboperations") or 0)
        self.warnings = int(answer.get("NumberOfWarningSuboperations") or 0)
        return int(answer.get("NumberOfRemainingSuboperations") or 0)


def fetch(peer: Peer, keyword: str, value: str, folder: Path, report: Report) -> Fetched:
    """C-GET of a patient, study, series or image; a file each, named by its SOP Instance UID. Raises PeerError."""
    quiet_libraries()
    held = _held(peer, keyword, value)
    if not held:
        return Fetched(reason="nothing matches")
    model = LEVELS[keyword][1][0]
    storage = _proposed(held)
    roles = tuple(
        build_role(uid, scp_role=True) for uid in dict.fromkeys(str(each.abstract_syntax) for each in storage)
    )
    fetched = Fetched()
    handlers = ((evt.EVT_C_STORE, lambda event: _keep(event, folder, fetched)),)
    query = build_context(model, list(contexts.QUERY))
    with client.association(peer, [query, *storage], roles, handlers) as opened:
        return _follow(client.at_rest(opened).send_c_get(_identifier(held, keyword, value), model), fetched, report)


def move(peer: Peer, keyword: str, value: str, destination: str, report: Report) -> Fetched:
    """C-MOVE of the same to an AE title that the peer knows. Raises PeerError."""
    quiet_libraries()
    held = _held(peer, keyword, value)
    if not held:
        return Fetched(reason="nothing matches")
    model = LEVELS[keyword][1][1]
    with client.association(peer, [build_context(model, list(contexts.QUERY))]) as opened:
        answers = client.at_rest(opened).send_c_move(_identifier(held, keyword, value), destination, model)
        return _follow(answers, Fetched(), report)


def _follow(answers: Iterable[Any], fetched: Fetched, report: Report) -> Fetched:
    for answer, _ in answers:
        left = fetched.take(answer)
        done = fetched.completed + fetched.failed + fetched.warnings
        report(done, done + left)
    return fetched


def _held(peer: Peer, keyword: str, value: str) -> list[Dataset]:
    """The instances that the peer has of it, with what a retrieval must name. Relational: from the image's level."""
    asked = Dataset()
    asked.QueryRetrieveLevel = "IMAGE"
    for each in (*ABOVE, "SOPClassUID", "AvailableTransferSyntaxUID"):
        setattr(asked, each, "")
    setattr(asked, keyword, value)
    return [match for match in client.find(peer, asked) if match.get("SOPClassUID")]


def _identifier(held: list[Dataset], keyword: str, value: str) -> Dataset:
    """The unique keys from the top of the model down to the level. PS3.4 C.4.2.2.1."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = LEVELS[keyword][0]
    for each in ABOVE[: ABOVE.index(keyword)] if keyword in ABOVE else ():
        setattr(identifier, each, held[0].get(each, ""))
    setattr(identifier, keyword, value)
    return identifier


def _proposed(held: list[Dataset]) -> list[PresentationContext]:
    """Each class as it is stored, then uncompressed; as many as an association carries beside the query's own."""
    kinds = dict.fromkeys((str(each.SOPClassUID), str(each.get("AvailableTransferSyntaxUID") or "")) for each in held)
    stored = [build_context(uid, syntax) for uid, syntax in kinds if syntax in contexts.STORED]
    plain = [build_context(uid, list(contexts.QUERY)) for uid in dict.fromkeys(uid for uid, _ in kinds)]
    return [*plain, *stored][: client.MOST_CONTEXTS]


def _keep(event: Any, folder: Path, fetched: Fetched) -> int:
    """One object that came: a whole file under its name, or none. Its UID is checked: it is a peer's string."""
    uid = str(event.request.AffectedSOPInstanceUID)
    if not is_uid(uid):
        return status.CANNOT_UNDERSTAND
    path, scratch = folder / f"{uid}.dcm", folder / f".{uid}.part"
    try:
        scratch.write_bytes(event.encoded_dataset())
        scratch.replace(path)
    except OSError:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        return status.OUT_OF_RESOURCES
    fetched.files.append(path)
    return status.SUCCESS


def prepare(folder: Path) -> None:
    """The folder, made where it is not there. PeerError when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PeerError(f"cannot use {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise PeerError(f"cannot write to {folder}")
