"""Errors in, DICOM statuses with an Error Comment out: the one place where the two meet."""

import logging

from pydicom.dataset import Dataset

from dicomnode import errors, log
from storage import errors as stored

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.5
PENDING = 0xFF00
PENDING_WARNING = 0xFF01  # optional keys were not supported, PS3.4 C.4.1.1.4
CANCEL = 0xFE00
OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3, C.4.1.1.4
DOES_NOT_MATCH = 0xA900  # "data set" for C-STORE, "identifier" for C-FIND: does not match SOP class
CANNOT_UNDERSTAND = 0xC000
UNABLE_TO_PROCESS = 0xC001

# The first row whose class fits wins, so subclasses stand above their parents.
STATUS_OF: tuple[tuple[type[Exception], int], ...] = (
    (errors.SopClassDiffers, DOES_NOT_MATCH),
    (errors.InvalidInstance, CANNOT_UNDERSTAND),
    (errors.IdentifierError, DOES_NOT_MATCH),
    (errors.NotReady, OUT_OF_RESOURCES),
    (stored.StorageFull, OUT_OF_RESOURCES),
    (errors.DecodeError, UNABLE_TO_PROCESS),
    (errors.ModelFailure, UNABLE_TO_PROCESS),
    (Exception, UNABLE_TO_PROCESS),
)
COMMENT_LENGTH = 64  # Error Comment (0000,0902) is LO
UNFORESEEN = "unable to process: see the node's log"


def status_of(error: Exception) -> int:
    """The status code that a peer is given for this error."""
    return next(status for cls, status in STATUS_OF if isinstance(error, cls))


def is_foreseen(error: Exception) -> bool:
    """Whether the error's text was written for a peer; anything else is told without its text."""
    return isinstance(error, errors.DicomNodeError | stored.StorageFull)


def comment_of(error: Exception) -> str:
    """At most 64 printable ASCII characters for Error Comment; never the text of an unforeseen error."""
    text = str(error) if is_foreseen(error) else UNFORESEEN
    return log.printable(text)[:COMMENT_LENGTH]


def tell(service: str, peer: str, error: Exception) -> None:
    """The log line of a request that failed."""
    if is_foreseen(error):
        logger.warning("%s from %s refused: %s", service, log.printable(peer), comment_of(error))
    else:
        logger.error("%s from %s failed: %s", service, log.printable(peer), log.frames(error))


def response(status: int, comment: str = "") -> Dataset:
    """The status data set pynetdicom takes from a handler."""
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment[:COMMENT_LENGTH]
    return answer


def failure(error: Exception) -> Dataset:
    """The whole status data set for an error."""
    return response(status_of(error), comment_of(error))
