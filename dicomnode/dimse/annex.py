"""One process that receives beside the node's own: connections in, instances in the archive out.

Run as `python -m dicomnode.dimse FD` by `dimse.annexes`. It listens nowhere: connections come over the lifeline,
with their association requests unread. What the node is to know goes back the same way.
"""

import gc
import logging
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from pynetdicom import evt

from dicomnode import log, private
from dicomnode.audit.auditor import Auditor
from dicomnode.audit.message import Message
from dicomnode.dimse import contexts
from dicomnode.dimse.access import Access, guarded_stores
from dicomnode.dimse.annexes import STOP_S, AnnexPlan, Handed, Told
from dicomnode.dimse.entity import entity_of
from dicomnode.dimse.lobby import Lobby, Places
from dicomnode.dimse.server import GuardedServer, House
from dicomnode.dimse.status import SUCCESS
from dicomnode.dimse.store import StoreService
from dicomnode.intake import Intake
from dicomnode.locks import Lock
from dicomnode.quiet import quiet_libraries
from dicomnode.workers.child import lifeline
from storage.store import Store

logger = logging.getLogger(__name__)
RECEIVING = "receive.lock"  # under the root, shared by these processes: a node that starts waits for their end


class Line:
    """The way back to the node. Safe for threads; after the node's end it says nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def tell(self, name: str, *values: Any) -> None:
        """One thing that happened."""
        try:
            with self._sending:
                self._connection.send(Told(name, values))
        except OSError:
            return  # the node is gone: this process ends too

    def record(self, message: Message) -> None:
        """An audit message, as a trail takes it."""
        self.tell("record", message)

    def refused(self, door: str) -> None:
        """Somebody was turned away at a door."""
        self.tell("refused", door)

    def sent(self, count: int, *, failed: bool) -> None:
        """Nothing is sent from here."""


class HandedServer(GuardedServer):
    """A server that makes associations of connections that another process has accepted."""

    def server_bind(self) -> None:
        """It has no port."""

    def server_activate(self) -> None:
        """It has no port."""

    def receive(self, handed: Handed, connection: socket.socket, ended: Callable[[], None]) -> None:
        """Serve a connection."""
        self.serve(connection, handed.client_address, time.monotonic() + handed.request_by_s, ended)


def server_of(plan: AnnexPlan, store: Store, line: Line, auditor: Auditor) -> HandedServer:
    """What serves the connections of this process."""
    config = plan.config
    arrived, took = partial(line.tell, "arrived"), partial(line.tell, "took")
    service = StoreService(Intake(store, config.storage, arrived, took), auditor=auditor)
    heard = partial(line.tell, "heard")
    access = Access(config.dimse, config.peers, (config.query.ae_title,), heard, auditor)
    house = House(
        stores=guarded_stores(service.receive),
        services={},
        places=Places(0, 0),  # whoever is handed over has one
        lobby=Lobby(0.0, 0.0),
        pdu_timeout_s=config.dimse.pdu_timeout_s,
        auditor=auditor,
    )
    made = entity_of(config.dimse).make_server(
        plan.address,
        evt_handlers=[(evt.EVT_REQUESTED, access.on_requested), (evt.EVT_C_ECHO, lambda event: SUCCESS)],
        contexts=contexts.accepted(),
        server_class=HandedServer,
        house=house,
    )
    assert isinstance(made, HandedServer)
    return made


def serve(connection: Connection, line: Line, server: HandedServer) -> None:
    """Take connections until the node hangs up; then abort what is open and let what is being committed end."""
    line.tell("ready")
    try:
        while True:
            handed: Handed = connection.recv()
            given = socket.socket(fileno=reduction.recv_handle(connection))
            ended = partial(line.tell, "ended", handed.number)
            try:
                server.receive(handed, given, ended)
            except Exception as error:  # noqa: BLE001 - the others are served
                logger.error("a connection could not be served: %s", log.frames(error))
                given.close()
                ended()
    except (EOFError, OSError):
        associations = server.active_associations
    for association in associations:
        association.abort(block=False)
    deadline = time.monotonic() + STOP_S
    for association in associations:
        association.join(max(0.0, deadline - time.monotonic()))


def main() -> None:
    """The process: its plan from the lifeline, then connections until the node hangs up."""
    connection, plan = lifeline()
    config = plan.config
    log.configure(config.log.level, config.log.format)
    quiet_libraries()
    private.register()
    line = Line(connection)
    auditor = Auditor(line if plan.audits else None, config.dimse.ae_title, line)
    url, attempts = config.storage.url or None, config.ingest.maximum_attempts
    with (
        Lock(config.root / RECEIVING, "a node that starts", shared=True),
        Store.open(config.root, url, max_attempts=attempts, new=False) as store,
    ):
        auditor.gather()
        gc.freeze()  # as in the node: what the start has made stays
        serve(connection, line, server_of(plan, store, line, auditor))
        auditor.finish()
