"""The DICOM port as one object: services in, a listening server out."""

import threading
import time
from typing import Any

from pynetdicom import AE, evt

from dicomnode import private, uids
from dicomnode.config import DimseSettings
from dicomnode.dimse import contexts
from dicomnode.dimse.find import FindService
from dicomnode.dimse.server import GuardedServer, Guards
from dicomnode.dimse.status import SUCCESS
from dicomnode.dimse.store import StoreService
from dicomnode.dimse.wire import Command
from dicomnode.quiet import quiet_libraries

STOP_S = 15.0  # an association that is committing an instance ends after it
POLL_S = 0.1  # how soon the accept loop sees a shutdown


class Receiver:
    """Listens, and hands each request to its service."""

    def __init__(self, settings: DimseSettings, store: StoreService, find: FindService) -> None:
        self._settings = settings
        self._store = store
        self._find = find
        self._server: GuardedServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, the real one where the setting says 0."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Bind and serve in a thread. OSError when the address is taken."""
        quiet_libraries()
        private.register()
        settings = self._settings
        self._server = _entity(settings).make_server(
            (settings.host, settings.port),
            ae_title=settings.ae_title,
            evt_handlers=self._handlers(),
            server_class=GuardedServer,
            spool_factory=self._store.spool,
            services={Command.C_FIND: self._find.on_find},
            guards=Guards(settings.pdu_timeout_s, settings.maximum_per_address, 2 * settings.maximum_associations),
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": POLL_S}, name="dicom-port", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, then abort what is still open: a data set in the middle was not acknowledged."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        associations = server.active_associations
        for association in associations:
            association.abort(block=False)
        deadline = time.monotonic() + STOP_S
        for association in associations:
            association.join(max(0.0, deadline - time.monotonic()))

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_C_STORE, self._store.on_store),
            (evt.EVT_SOP_EXTENDED, self._find.on_extended),
        ]


def _entity(settings: DimseSettings) -> AE:
    entity = AE(ae_title=settings.ae_title)
    entity.supported_contexts = contexts.accepted()
    entity.require_called_aet = settings.check_called_ae
    entity.maximum_associations = settings.maximum_associations
    entity.maximum_pdu_size = settings.maximum_pdu
    entity.acse_timeout = settings.acse_timeout_s
    entity.dimse_timeout = settings.network_timeout_s
    entity.network_timeout = settings.network_timeout_s
    entity.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = uids.IMPLEMENTATION_VERSION_NAME
    return entity
