"""A token typed into the login form in, a cookie that stands for it out: browsers send no bearer token by themselves.

Sessions are in memory: a restart of the node ends them. Memory bound: MOST of them. The cookie is a random name of
the session, HttpOnly and SameSite=Strict; the token stays here.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from dicomnode.errors import NotPermitted

COOKIE: Final = "dicomnode-session"
MOST: Final = 1000
IDLE_S: Final = 8 * 3600.0  # without a request


@dataclass(frozen=True)
class Session:
    """Who logged in, by token, and when it was last used."""

    token: str
    used_at: float

    def __repr__(self) -> str:
        return "Session(***)"


class Sessions:
    """The logins of one node. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, token: str) -> str:
        """The name of a new session; the one unused for longest goes when there are too many."""
        name = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[name] = Session(token, self._clock())
            while len(self._sessions) > MOST:
                self._sessions.popitem(last=False)
        return name

    def token(self, request: Request) -> str | None:
        """The token that the request's cookie stands for; None without one, and when it was idle for too long."""
        name = request.cookies.get(COOKIE, "")
        with self._lock:
            session = self._sessions.pop(name, None)
            if session is None or self._clock() - session.used_at > IDLE_S:
                return None
            self._sessions[name] = replace(session, used_at=self._clock())
            return session.token

    def end(self, request: Request) -> None:
        """Forget the session of the request's cookie."""
        with self._lock:
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)


def set_cookie(response: Response, name: str, *, is_secure: bool) -> None:
    """Give the browser the session's name; `is_secure`: it sends it over TLS only."""
    response.set_cookie(COOKIE, name, httponly=True, samesite="strict", secure=is_secure, path="/")


def check_same_origin(request: Request, base: str) -> None:
    """A form of another site changes nothing here. `base`: this port's URL. NotPermitted.

    Browsers say where a POST comes from in Sec-Fetch-Site, older ones in Origin; programs without a browser in neither.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_ours = site == "same-origin" if site else origin is None or urlsplit(origin)[:2] == urlsplit(base)[:2]
    if not is_ours:
        raise NotPermitted("the form is of another site")


def local_path(text: str) -> str:
    """A path of this port to go on to, the first page for anything else: no login leads to another site."""
    is_local = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_local else "/"
