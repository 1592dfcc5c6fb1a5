"""An application and the settings of its port in, a listening HTTP server in a thread of this process out."""

import socket
import threading
import time
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from dicomnode.errors import ConfigError
from dicomnode.settings import WebSettings
from dicomnode.web.protocol import Guard, guarded

MAXIMUM_HEAD: Final = 64 << 10  # bytes of a request's line and headers
KEEP_ALIVE_S: Final = 15  # of a connection without a request
START_S: Final = 10.0
STOP_S: Final = 5.0  # answers in the middle end within it, or are cut
BACKLOG: Final = 1024  # connections that wait to be accepted: beyond it a client tries again after a second
ACCEPTED: Final = 64  # connections accepted in one round, each an open file before the guard sees it


class WebServer:
    """uvicorn in a thread. It handles no signals: the node's stop does."""

    def __init__(self, app: ASGIApp, settings: WebSettings, host: str) -> None:
        self._settings = settings
        self._host = host
        self._server = uvicorn.Server(_configured(app, settings))
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="http-port", daemon=True)

    @property
    def port(self) -> int | None:
        """The real one where the setting says 0; None before the start and after the stop."""
        return None if self._socket is None else int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Bind and serve. ConfigError when the address cannot be had."""
        self._socket = _bound(self._host, self._settings)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ConfigError("the HTTP port did not start")
            time.sleep(0.01)
        self._socket.listen(BACKLOG)  # asyncio has one number for both, and has told it to the system

    def stop(self) -> None:
        """Stop listening, let answers end for a moment, cut the rest."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(2 * STOP_S)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _run(self) -> None:
        assert self._socket is not None
        self._server.run([self._socket])


def _configured(app: ASGIApp, settings: WebSettings) -> uvicorn.Config:
    guard = Guard(
        settings.maximum_connections, settings.maximum_per_address, settings.trusted_proxies, settings.timeout_s
    )
    options: dict[str, Any] = {
        "http": guarded(guard),
        "ws": "none",
        "loop": "asyncio",
        "lifespan": "on",
        "log_config": None,
        "log_level": "critical",  # its words quote requests; `problems` tells what failed
        "access_log": False,  # paths hold UIDs, queries names
        "server_header": False,
        "date_header": True,
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": list(settings.trusted_proxies),
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": int(STOP_S),
        "h11_max_incomplete_event_size": MAXIMUM_HEAD,
        "backlog": ACCEPTED,
    }
    return uvicorn.Config(app, **options)


def _bound(host: str, settings: WebSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.create_server((host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{settings.port}: {error.strerror}") from error
    # A reader that takes nothing for so long is cut off by the system, its window of zero bytes too: tcp(7). What the
    # listening socket is told holds for the connections that it accepts.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.timeout_s * 1000))
    return found
