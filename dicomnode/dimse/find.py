"""C-FIND: an identifier from an association becomes Pending responses and a final status (PS3.4 C.4.1)."""

from collections.abc import Callable, Iterator
from typing import Any

from pydicom.dataset import Dataset

from dicomnode.dimse import status
from dicomnode.dimse.contexts import PATIENT_ROOT
from dicomnode.errors import IdentifierError
from dicomnode.query.service import Question, Response

# Service-class-application-information of the extended negotiation, PS3.4 C.5.1.1 Table C.5-1.
RELATIONAL, DATE_TIME = 0, 1


class FindService:
    """Answers C-FIND from the query service."""

    def __init__(self, answer: Callable[[Question], Iterator[Response]]) -> None:
        self._answer = answer

    def on_find(self, event: Any) -> Iterator[tuple[Dataset | int, Dataset | None]]:
        """Status and identifier of each response; stops at a C-CANCEL, fails with an Error Comment."""
        try:
            for response in self._answer(_question(event)):
                if event.is_cancelled:
                    yield status.CANCEL, None
                    return
                code = status.PENDING if response.every_key_supported else status.PENDING_WARNING
                yield code, response.identifier
        except Exception as error:  # noqa: BLE001 - the port's boundary: every error becomes a status and a log line
            status.tell("C-FIND", event.assoc.requestor.ae_title, error)
            yield status.failure(error), None

    def on_extended(self, event: Any) -> dict[str, bytes]:
        """What of the extended negotiation is granted: relational queries and combined date-time matching."""
        return {
            sop_class: bytes([*(value & 1 for value in asked[: DATE_TIME + 1]), *([0] * (len(asked) - DATE_TIME - 1))])
            for sop_class, asked in event.app_info.items()
        }


def _question(event: Any) -> Question:
    try:
        identifier: Dataset = event.identifier
    except Exception as error:
        raise IdentifierError("identifier cannot be decoded") from error
    sop_class = str(event.context.abstract_syntax)
    asked = event.assoc.requestor.sop_class_extended.get(sop_class, b"")
    return Question(
        identifier=identifier,
        patient_root=sop_class == PATIENT_ROOT,
        relational=_granted(asked, RELATIONAL),
        combined_date_time=_granted(asked, DATE_TIME),
    )


def _granted(asked: bytes, option: int) -> bool:
    return len(asked) > option and asked[option] == 1
