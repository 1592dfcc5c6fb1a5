"""Errors in, HTTP statuses with JSON problem details out: the one place where the two meet. RFC 9457."""

import logging
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dicomnode import errors, log
from dicomnode.web.errors import WebError
from storage import errors as stored

logger = logging.getLogger(__name__)
MEDIA_TYPE: Final = "application/problem+json"
UNFORESEEN: Final = "unable to process: see the node's log"

# The first row whose class fits wins, so subclasses stand above their parents. Of a WebError its own status.
STATUS_OF: Final[tuple[tuple[type[Exception], int], ...]] = (
    (errors.InvalidInstance, 400),
    (errors.PatientConflict, 409),
    (errors.ImageNotStored, 404),
    (errors.IdentifierError, 400),
    (errors.NotPermitted, 403),
    (errors.NotReady, 503),
    (errors.NotIndexable, 406),
    (errors.DecodeError, 422),
    (errors.ModelFailure, 503),
    (stored.StorageFull, 507),
    (stored.FileError, 503),
    (stored.DatabaseAway, 503),
    (Exception, 500),
)


def status_of(error: Exception) -> int:
    """The HTTP status that a client is given for this error."""
    if isinstance(error, WebError):
        return error.status
    return next(status for cls, status in STATUS_OF if isinstance(error, cls))


def is_foreseen(error: Exception) -> bool:
    """Whether the error's text was written for a client."""
    return isinstance(error, errors.DicomNodeError | stored.StorageFull)


def response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Problem details: the status's own words as title, ours as detail."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def on_error(request: Request, error: Exception) -> Response:
    """The answer to a request that failed, and the log line of what is not the client's fault."""
    status = status_of(error)
    detail = str(error) if is_foreseen(error) else UNFORESEEN
    if not is_foreseen(error):
        logger.error("%s failed: %s", request.method, log.frames(error))
    elif status >= 500:
        logger.warning("%s refused: %s", request.method, log.printable(detail))
    headers = {"WWW-Authenticate": 'Bearer realm="dicomnode"'} if status == 401 else {}
    if status == 503:
        headers["Retry-After"] = "5"
    return response(status, detail, headers)


def on_http(_request: Request, error: Exception) -> Response:
    """What the routing itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    return response(
        error.status_code,
        "no such resource" if error.status_code == 404 else error.detail,
        {
            **(error.headers or {}),
        },
    )
