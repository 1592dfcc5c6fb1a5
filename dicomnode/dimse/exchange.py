"""One request of a peer in, its responses out: what a service sees of the association it serves. PS3.7 9.1, 10.1."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dsutils import decode
from pynetdicom.presentation import PresentationContext

from dicomnode.attributes import extents
from dicomnode.dimse import status, wire
from dicomnode.dimse.wire import Command, Element, Field, Writer
from dicomnode.errors import DecodeError, IdentifierError

# Where each request keeps its data set, and what answers it.
_DATA_SET: Final = {
    Command.C_FIND: "Identifier",
    Command.C_GET: "Identifier",
    Command.C_MOVE: "Identifier",
    Command.N_ACTION: "ActionInformation",
}
Service = Callable[["Exchange"], None]


@dataclass(frozen=True)
class Suboperations:
    """The counts of a C-GET or C-MOVE response, PS3.4 C.4.2.1.6. `remaining` is absent from a final one."""

    completed: int
    failed: int
    warning: int
    remaining: int | None = None

    def fields(self) -> list[Field]:
        """The elements of the command set."""
        counts: list[Field] = [
            (Element.COMPLETED_SUBOPERATIONS, self.completed),
            (Element.FAILED_SUBOPERATIONS, self.failed),
            (Element.WARNING_SUBOPERATIONS, self.warning),
        ]
        return counts if self.remaining is None else [(Element.REMAINING_SUBOPERATIONS, self.remaining), *counts]


def is_over(association: Association) -> bool:
    """Whether the peer has released or aborted the association, or closed the connection; or the node is stopping."""
    ended = association._sent_abort or not association.dul.is_alive()
    return ended or association.dul.peek_next_pdu() is not None


class Exchange:
    """A request being served on its association. Everything raises PeerError once the peer is gone."""

    def __init__(self, association: Association, command: Command, message: Any, context: PresentationContext) -> None:
        self.association = association
        self.message = message  # pynetdicom's primitive of the request
        self.context_id = int(context.context_id or 0)
        self.sop_class_uid = str(context.abstract_syntax)
        self.transfer_syntax = context.transfer_syntax[0]
        self._command = command
        self.writer = Writer(association)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.__exit__(kind, error, trace)

    @property
    def calling_ae(self) -> str:
        return str(self.association.requestor.ae_title)

    @property
    def named_sop_class_uid(self) -> str:
        """The SOP class of the request itself."""
        requested = getattr(self.message, "RequestedSOPClassUID", None)
        return str(requested or self.message.AffectedSOPClassUID)

    @property
    def message_id(self) -> int:
        return int(self.message.MessageID)

    @property
    def is_over(self) -> bool:
        """Whether the peer has left without waiting for the end."""
        return is_over(self.association)

    @property
    def is_cancelled(self) -> bool:
        """Whether a C-CANCEL for this request has arrived."""
        return self.message_id in self.association.dimse.cancel_req

    def data_set(self, most: int = extents.MAXIMUM_READ) -> Dataset:
        """The request's identifier or action information, of `most` elements. IdentifierError when it is none."""
        syntax = self.transfer_syntax
        try:
            encoded = getattr(self.message, _DATA_SET[self._command])
            extents.check(encoded.getvalue(), extents.Encoding(syntax.is_implicit_VR, syntax.is_little_endian), most)
            dataset: Dataset = decode(encoded, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        except DecodeError as error:
            raise IdentifierError(str(error)) from error
        except Exception as error:
            raise IdentifierError("identifier cannot be decoded") from error
        return dataset

    def respond(
        self,
        code: int,
        comment: str = "",
        *,
        data_set: bytes | None = None,
        counts: Suboperations | None = None,
        more: tuple[Field, ...] = (),
        hold: bool = False,
    ) -> None:
        """One response. `data_set` is encoded in `transfer_syntax`; `hold` lets it wait for the next one."""
        fields: list[Field] = [
            (Element.AFFECTED_SOP_CLASS_UID, self.sop_class_uid),
            (Element.COMMAND_FIELD, self._command | wire.RESPONSE),
            (Element.MESSAGE_ID_BEING_RESPONDED_TO, self.message_id),
            (Element.COMMAND_DATA_SET_TYPE, wire.NO_DATA_SET if data_set is None else wire.DATA_SET),
            (Element.STATUS, code),
            *([(Element.ERROR_COMMENT, comment)] if comment else []),
            *(counts.fields() if counts else []),
            *more,
        ]
        self.writer.send(self.context_id, wire.command_set(fields), data_set, hold=hold)

    def fail(self, service: str, error: Exception, data_set: bytes | None = None) -> None:
        """Log an error and tell the peer what `dimse.status` makes of it."""
        status.tell(service, self.calling_ae, error)
        self.respond(status.status_of(error), comment=status.comment_of(error), data_set=data_set)
