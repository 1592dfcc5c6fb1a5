"""C-FIND: an identifier from an association becomes Pending responses and a final status (PS3.4 C.4.1)."""

from collections.abc import Callable, Iterator
from typing import Any

from dicomnode.audit.auditor import Auditor, silent
from dicomnode.dimse import status
from dicomnode.dimse.contexts import OPTIONS, PATIENT_ROOTS
from dicomnode.dimse.exchange import Exchange
from dicomnode.dimse.parties import requestor_of
from dicomnode.query.service import Question, Response

# Service-class-application-information of the extended negotiation, PS3.4 C.5.1.1 Table C.5-1.
RELATIONAL, DATE_TIME = 0, 1


class FindService:
    """Answers C-FIND from the query service."""

    def __init__(
        self, answer: Callable[[Question], Iterator[Response]], most: int = 0, auditor: Auditor | None = None
    ) -> None:
        """`most` plain matches are returned, 0: all; with more the final status says that some were left out."""
        self._auditor = auditor or silent()
        self._answer = answer
        self._most = most

    def on_find(self, exchange: Exchange) -> None:
        """Every response, the first as soon as it is known; stops at a C-CANCEL, fails with an Error Comment."""
        try:
            final = self._respond(exchange)
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a status and a log line
            self._audit(exchange, status.comment_of(error))
            exchange.fail("C-FIND", error)
        else:
            self._audit(exchange)
            exchange.respond(*final)

    def _audit(self, exchange: Exchange, failure: str = "") -> None:
        if self._auditor.is_on:
            asked = exchange.message.Identifier.getvalue() if exchange.message.Identifier else b""
            syntax = str(exchange.transfer_syntax)
            self._auditor.queried(requestor_of(exchange.association), exchange.sop_class_uid, asked, syntax, failure)

    def _respond(self, exchange: Exchange) -> tuple[int, str]:
        """The Pending responses; returns the final status and its comment."""
        for number, response in enumerate(self._answer(_question(exchange))):
            if exchange.is_cancelled:
                return status.CANCEL, ""
            if self._most and number >= self._most and response.is_plain:
                return status.OUT_OF_RESOURCES, f"more than {self._most} matches: narrow the query"
            code = status.PENDING if response.every_key_supported else status.PENDING_WARNING
            encoded = response.match.encoded(implicit_vr=exchange.transfer_syntax.is_implicit_VR)
            exchange.respond(code, data_set=encoded, hold=number > 0)
        return status.SUCCESS, ""

    def on_extended(self, event: Any) -> dict[str, bytes]:
        """What of the extended negotiation is granted, for C-FIND, C-MOVE and C-GET alike: `contexts.OPTIONS`."""
        return {
            sop_class: bytes(value & 1 if option < OPTIONS[sop_class] else 0 for option, value in enumerate(asked))
            for sop_class, asked in event.app_info.items()
            if sop_class in OPTIONS
        }


def _question(exchange: Exchange) -> Question:
    asked = exchange.association.requestor.sop_class_extended.get(exchange.sop_class_uid, b"")
    return Question(
        identifier=exchange.data_set(),
        patient_root=exchange.sop_class_uid in PATIENT_ROOTS,
        relational=granted(asked, RELATIONAL),
        combined_date_time=granted(asked, DATE_TIME),
    )


def granted(asked: bytes, option: int) -> bool:
    """Whether an option that the node grants was asked for."""
    return len(asked) > option and asked[option] == 1
