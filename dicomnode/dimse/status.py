"""Errors in, DICOM statuses with an Error Comment out: the one place where the two meet."""

import logging
from dataclasses import dataclass

from dicomnode import errors, log
from storage import errors as stored

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.5
NOT_AUTHORIZED = 0x0124  # PS3.7 C.5, Refused: Not Authorized
NO_SUCH_INSTANCE = 0x0112  # PS3.7 C.5, and as a Failure Reason PS3.3 C.14.1.1
PROCESSING_FAILURE = 0x0110
INVALID_ARGUMENT = 0x0115
CLASS_INSTANCE_CONFLICT = 0x0119
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
PENDING = 0xFF00
PENDING_WARNING = 0xFF01  # optional keys were not supported, PS3.4 C.4.1.1.4
CANCEL = 0xFE00
OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3, C.4.1.1.4
UNABLE_TO_PERFORM = 0xA702  # sub-operations, PS3.4 C.4.2.1.5
UNKNOWN_DESTINATION = 0xA801
SOME_FAILED = 0xB000  # sub-operations complete, one or more failures or warnings
DOES_NOT_MATCH = 0xA900  # "data set" for C-STORE, "identifier" for C-FIND: does not match SOP class
CANNOT_UNDERSTAND = 0xC000
UNABLE_TO_PROCESS = 0xC001

# The first row whose class fits wins, so subclasses stand above their parents.
STATUS_OF: tuple[tuple[type[Exception], int], ...] = (
    (errors.SopClassDiffers, DOES_NOT_MATCH),
    (errors.InvalidInstance, CANNOT_UNDERSTAND),
    (errors.PatientConflict, DOES_NOT_MATCH),
    (errors.IdentifierError, DOES_NOT_MATCH),
    (errors.NotPermitted, NOT_AUTHORIZED),
    (errors.UnknownAction, NO_SUCH_ACTION),
    (errors.UnknownObject, NO_SUCH_INSTANCE),
    (errors.ActionTooLarge, RESOURCE_LIMITATION),
    (errors.ActionError, INVALID_ARGUMENT),
    (errors.UnknownDestination, UNKNOWN_DESTINATION),
    (errors.NotReady, OUT_OF_RESOURCES),
    (stored.StorageFull, OUT_OF_RESOURCES),
    (stored.FileError, OUT_OF_RESOURCES),  # a disk or a database that is away may be back when a peer tries again
    (stored.DatabaseAway, OUT_OF_RESOURCES),
    (errors.DecodeError, UNABLE_TO_PROCESS),
    (errors.ModelFailure, UNABLE_TO_PROCESS),
    (Exception, UNABLE_TO_PROCESS),
)


@dataclass(frozen=True)
class Meaning:
    """What a status says in some services (names of `contexts.SERVICES`); the conformance statement prints it."""

    code: int
    services: tuple[str, ...]
    text: str


_STORE, _FIND, _MOVE, _GET, _COMMIT = (
    "Storage",
    "Query",
    "Retrieve by C-MOVE",
    "Retrieve by C-GET",
    "Storage Commitment",
)
_QUERY_RETRIEVE = (_FIND, _MOVE, _GET)

MEANINGS: tuple[Meaning, ...] = (
    Meaning(SUCCESS, ("Verification", *_QUERY_RETRIEVE), "done"),
    Meaning(SUCCESS, (_STORE,), "the instance is durable and catalogued"),
    Meaning(SUCCESS, (_COMMIT,), "the request is kept; the report follows"),
    Meaning(PENDING, (_FIND,), "a match, every optional key supported"),
    Meaning(PENDING_WARNING, (_FIND,), "a match, an optional key was not supported"),
    Meaning(PENDING, (_MOVE, _GET), "sub-operations go on"),
    Meaning(CANCEL, _QUERY_RETRIEVE, "ended by C-CANCEL"),
    Meaning(SOME_FAILED, (_MOVE, _GET), "complete, some sub-operations failed or gave warnings; the failed are listed"),
    Meaning(UNABLE_TO_PERFORM, (_MOVE, _GET), "no sub-operation could be done; the failed are listed"),
    Meaning(UNKNOWN_DESTINATION, (_MOVE,), "Move Destination is no configured peer with a host"),
    Meaning(OUT_OF_RESOURCES, (_STORE,), "disk above its watermark; files or database not available now"),
    Meaning(
        OUT_OF_RESOURCES,
        (_FIND,),
        "nothing is indexed yet; more matches than the configured limit; database not available now",
    ),
    Meaning(DOES_NOT_MATCH, (_STORE,), "SOP class is not that of the command; study of another patient, by policy"),
    Meaning(DOES_NOT_MATCH, _QUERY_RETRIEVE, "identifier malformed; in a region query the SR or ROI, or no such image"),
    Meaning(CANNOT_UNDERSTAND, (_STORE,), "data set unreadable, or its identifying UIDs missing or malformed"),
    Meaning(UNABLE_TO_PROCESS, (_STORE, *_QUERY_RETRIEVE), "anything unforeseen"),
    Meaning(SOP_CLASS_NOT_SUPPORTED, (*_QUERY_RETRIEVE, _COMMIT), "SOP class is not that of the presentation context"),
    Meaning(NOT_AUTHORIZED, (_STORE, _FIND), "the peer shares the context but not the permission"),
    Meaning(NO_SUCH_INSTANCE, (_COMMIT,), "not the well-known instance; as Failure Reason: not stored"),
    Meaning(CLASS_INSTANCE_CONFLICT, (_COMMIT,), "Failure Reason: stored under another SOP class"),
    Meaning(PROCESSING_FAILURE, (_COMMIT,), "anything unforeseen; as Failure Reason: the file is not as it was stored"),
    Meaning(INVALID_ARGUMENT, (_COMMIT,), "Transaction UID or Referenced SOP Sequence missing or malformed"),
    Meaning(NO_SUCH_ACTION, (_COMMIT,), "Action Type ID is not 1"),
    Meaning(RESOURCE_LIMITATION, (_COMMIT,), "too many references, or reports that nobody has taken"),
)
_AWAY = (stored.FileError, stored.DatabaseAway)
COMMENT_LENGTH = 64  # Error Comment (0000,0902) is LO
UNFORESEEN = "unable to process: see the node's log"
AWAY = "storage not available now: try again later"


def status_of(error: Exception) -> int:
    """The status code that a peer is given for this error."""
    return next(status for cls, status in STATUS_OF if isinstance(error, cls))


def is_foreseen(error: Exception) -> bool:
    """Whether the error's text was written for a peer; anything else is told without its text."""
    return isinstance(error, errors.DicomNodeError | stored.StorageFull)


def comment_of(error: Exception) -> str:
    """At most 64 printable ASCII characters for Error Comment; never the text of an unforeseen error."""
    text = AWAY if isinstance(error, _AWAY) else str(error) if is_foreseen(error) else UNFORESEEN
    return log.printable(text)[:COMMENT_LENGTH]


def tell(service: str, peer: str, error: Exception) -> None:
    """The log line of a request that failed."""
    if is_foreseen(error):
        logger.warning("%s from %s refused: %s", service, log.printable(peer), comment_of(error))
    else:
        logger.error("%s from %s failed: %s", service, log.printable(peer), log.frames(error))


def failure(error: Exception) -> tuple[int, str]:
    """Status and Error Comment for an error."""
    return status_of(error), comment_of(error)
