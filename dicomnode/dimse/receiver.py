"""The DICOM ports as one object: services in, listening servers out, one without and one with TLS."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, evt

from dicomnode import log, private
from dicomnode.audit.auditor import Auditor, silent
from dicomnode.dimse import contexts
from dicomnode.dimse.access import Access, guarded_find, guarded_stores
from dicomnode.dimse.annexes import Annexes
from dicomnode.dimse.association import Services
from dicomnode.dimse.entity import entity_of
from dicomnode.dimse.find import FindService
from dicomnode.dimse.lobby import Lobby, Places
from dicomnode.dimse.parties import requestor_of
from dicomnode.dimse.server import GuardedServer, House
from dicomnode.dimse.status import SUCCESS
from dicomnode.dimse.store import StoreService
from dicomnode.dimse.tls import Certificates
from dicomnode.dimse.wire import Command
from dicomnode.errors import ConfigError
from dicomnode.quiet import quiet_libraries
from dicomnode.settings import Config

logger = logging.getLogger(__name__)

STOP_S = 15.0  # an association that is committing an instance ends after it
GRACE_S = 2.0  # for a process beside this one, which allows its associations as much
POLL_S = 0.1  # how soon the accept loop sees a shutdown


class Receiver:
    """Listens, and hands each request to its service."""

    def __init__(
        self,
        config: Config,
        certificates: Certificates | None,
        store: StoreService,
        find: FindService,
        others: Services,
        heard: Callable[[str], None] = lambda ae_title: None,
        auditor: Auditor | None = None,
        annexes: Annexes | None = None,
    ) -> None:
        """`others`: what is served besides C-ECHO, C-STORE and C-FIND; `heard`: told the AE title of who calls.

        `annexes`: processes that receive beside this one.
        """
        self._annexes = annexes
        self._config = config
        self._certificates = certificates
        self._store = store
        self._find = find
        self._others = others
        self._auditor = auditor or silent()
        self._access = Access(config.dimse, config.peers, (config.query.ae_title,), heard, self._auditor)
        self._lobby: Lobby | None = None
        self._plain: GuardedServer | None = None
        self._secure: GuardedServer | None = None

    @property
    def port(self) -> int | None:
        """The port without TLS, the real one where the setting says 0; None when it is off."""
        return _port(self._plain)

    @property
    def tls_port(self) -> int | None:
        """The port with TLS, likewise."""
        return _port(self._secure)

    @property
    def associations(self) -> int:
        """How many are open."""
        here = sum(len(server.active_associations) for server in self._servers())
        return here + (self._annexes.open if self._annexes else 0)

    def start(self) -> None:
        """Bind and serve in threads. ConfigError when an address cannot be had; what was bound is stopped by `stop`."""
        quiet_libraries()
        private.register()
        dimse, tls = self._config.dimse, self._config.tls
        self._lobby = Lobby(dimse.acse_timeout_s, tls.handshake_timeout_s)
        house = House(
            stores=guarded_stores(self._store.receive),
            services=self._services(),
            places=Places(2 * dimse.maximum_associations, dimse.maximum_per_address, self._auditor.counted),
            lobby=self._lobby,
            pdu_timeout_s=dimse.pdu_timeout_s,
            auditor=self._auditor,
            annexes=self._annexes,
        )
        annexes = self._annexes
        entity = entity_of(dimse, lambda: annexes.open if annexes else 0)
        if dimse.plain:
            self._plain = self._listen(entity, dimse.host, dimse.port, house, None)
        if self._certificates is not None:
            self._secure = self._listen(entity, tls.host or dimse.host, tls.port, house, self._certificates)
        if annexes is not None and self._plain is not None:
            annexes.start((dimse.host, int(self._plain.server_address[1])))
        self._lobby.start()
        for server in self._servers():
            threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": POLL_S}, name="dicom-port", daemon=True
            ).start()

    def reload_certificates(self) -> None:
        """Read the TLS files again, now; otherwise they are when they have changed."""
        if self._certificates is not None:
            self._certificates.reload()

    def stop(self) -> None:
        """Stop listening, then abort what is still open: a data set in the middle was not acknowledged."""
        servers = self._servers()
        self._plain = self._secure = None
        for server in servers:
            server.shutdown()
        if self._lobby is not None:
            self._lobby.stop()
        annexes = self._annexes
        if annexes is not None:
            annexes.stop()
        associations = [association for server in servers for association in server.active_associations]
        for association in associations:
            association.abort(block=False)
        deadline = time.monotonic() + STOP_S
        for association in associations:
            association.join(max(0.0, deadline - time.monotonic()))
        if annexes is not None:
            annexes.join(deadline + GRACE_S)

    def _servers(self) -> list[GuardedServer]:
        return [server for server in (self._plain, self._secure) if server is not None]

    def _listen(
        self, entity: AE, host: str, port: int, house: House, certificates: Certificates | None
    ) -> GuardedServer:
        try:
            server: GuardedServer = entity.make_server(
                (host, port),
                evt_handlers=self._handlers(),
                contexts=contexts.accepted(),  # of the entity's own pynetdicom forgets the roles
                server_class=GuardedServer,
                house=house,
                certificates=certificates,
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        return server

    def _services(self) -> dict[Command, Any]:
        """What is served by services of our own."""
        return {Command.C_FIND: guarded_find(self._find.on_find), **self._others}

    def _handlers(self) -> list[Any]:
        """What is left to pynetdicom, and what it asks on the way."""
        return [
            (evt.EVT_REQUESTED, self._access.on_requested),
            (evt.EVT_REJECTED, self._on_full),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_SOP_EXTENDED, self._find.on_extended),
        ]

    def _on_full(self, event: Any) -> None:
        """pynetdicom itself rejects for one reason only: there are too many associations."""
        who = requestor_of(event.assoc)
        logger.warning("association from %s (%s) refused: too many associations", log.printable(who.name), who.address)
        self._auditor.refused("association", who, "too many associations")


def _port(server: GuardedServer | None) -> int | None:
    return None if server is None else int(server.server_address[1])
