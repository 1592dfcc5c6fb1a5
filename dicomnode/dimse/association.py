"""Requests of one association in, each handed to the service of its kind. PS3.7 Table E.1-1 Command Field.

pynetdicom keeps association control and C-ECHO; C-STORE requests never come here (`dimse.lane`). The requests that are
answered many times, and those it knows no good answer to, are served by our own services.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, N_ACTION

from dicomnode import log
from dicomnode.dimse import contexts, status
from dicomnode.dimse.exchange import Exchange, Service, is_over
from dicomnode.dimse.wire import Command
from dicomnode.errors import PeerError

logger = logging.getLogger(__name__)
Services = Mapping[Command, Service]

COMMAND_OF = {C_FIND: Command.C_FIND, C_GET: Command.C_GET, C_MOVE: Command.C_MOVE, N_ACTION: Command.N_ACTION}
_SERVICE_OF = {
    Command.C_FIND: "Query",
    Command.C_GET: "Retrieve by C-GET",
    Command.C_MOVE: "Retrieve by C-MOVE",
    Command.N_ACTION: "Storage Commitment",
}
# The contexts on which a command may come. Permission was given by context: elsewhere it would go round that.
SOP_CLASSES_OF = {
    command: frozenset(uid for service in contexts.SERVICES if service.name == name for uid in service.sop_classes)
    for command, name in _SERVICE_OF.items()
}


class NodeAssociation(Association):  # type: ignore[misc]
    """An accepted association that knows the node's services."""

    services: Services = MappingProxyType({})

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """pynetdicom's reactor calls this with each complete message."""
        try:
            self._serve(msg, context_id)
        finally:
            if msg.is_valid_request:
                self.dimse.msg_queue.served()

    def _serve(self, msg: Any, context_id: int) -> None:
        command = COMMAND_OF.get(type(msg))
        if command is None or command not in self.services:
            super()._serve_request(msg, context_id)
            return
        context = self._accepted_cx.get(context_id)
        if context is None or not msg.is_valid_request:
            logger.warning("association of %s aborted: a message out of place", log.printable(self.requestor.ae_title))
            self.abort()
            return
        self._is_paused = True  # nobody else takes messages off the queue meanwhile
        try:
            with Exchange(self, command, msg, context) as exchange:
                _serve(self.services[command], exchange, SOP_CLASSES_OF[command])
        except PeerError as error:
            logger.info("%s of %s ended: %s", command.name, log.printable(self.requestor.ae_title), error)
            if not is_over(self):  # else the reactor sees what the peer did
                self.abort()
        except Exception as error:  # noqa: BLE001 - the association's boundary: the peer sees an abort, the log why
            logger.error("%s failed: %s", command.name, log.frames(error))
            self.abort()
        finally:
            self._is_paused = False
            self.dimse.cancel_req = {}
            self.dul._idle_timer.restart()  # what was sent past pynetdicom did not move its clock


def _serve(service: Service, exchange: Exchange, sop_classes: frozenset[str]) -> None:
    """A request on a context of another service, or that names another SOP class than its context, is refused."""
    if exchange.sop_class_uid not in sop_classes:
        exchange.respond(status.SOP_CLASS_NOT_SUPPORTED, "no such request on this presentation context")
    elif exchange.named_sop_class_uid != exchange.sop_class_uid:
        exchange.respond(status.SOP_CLASS_NOT_SUPPORTED, "SOP class differs from its presentation context's")
    else:
        service(exchange)
    exchange.writer.flush()
