"""HTTP requests that were answered in, what the audit trail is told of them out.

`find` and `query` requests are queries, `get` requests instances that were sent; storing is told instance by instance,
where the port takes them in.
"""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dicomnode.audit import subjects
from dicomnode.audit.auditor import Auditor
from dicomnode.errors import DicomNodeError
from dicomnode.web import resources
from dicomnode.web.access import FIND, GET, QUERY, Caller
from storage.catalog import Catalog

Answer = Callable[[], Response]
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"  # what every query over HTTP is one of
_URL: Final = "text/uri-list"


class WebAudit:
    """Tells what was asked and what was given. Safe for threads."""

    def __init__(self, auditor: Auditor, catalog: Catalog) -> None:
        self._auditor = auditor
        self._catalog = catalog

    def answered(self, service: str, request: Request, caller: Caller, answer: Answer) -> Response:
        """The answer, told of."""
        if service not in {FIND, GET, QUERY}:
            return answer()
        query = f"{request.url.path}?{request.url.query}".encode() if service != GET else b""
        return self.asked(caller, query, _URL, answer) if query else self._given(request, caller, answer)

    def asked(self, caller: Caller, query: bytes, media_type: str, answer: Answer) -> Response:
        """The answer to a query, told of with what was asked."""
        try:
            response = answer()
        except DicomNodeError as error:
            self._auditor.queried(caller.party, STUDY_ROOT_FIND, query, media_type, str(error))
            raise
        self._auditor.queried(caller.party, STUDY_ROOT_FIND, query, media_type)
        return response

    def _given(self, request: Request, caller: Caller, answer: Answer) -> Response:
        """What was retrieved, told of once its answer has begun."""
        response = answer()
        if self._auditor.is_on and response.status_code < 300:
            named = resources.of_request(request)
            found = subjects.stored(self._catalog, named.conditions) if named.conditions else ()
            self._auditor.sent(caller.party, found, asked_by=caller.party)
        return response
