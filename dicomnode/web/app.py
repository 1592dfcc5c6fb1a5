"""The services of a node in, one ASGI application out: every path, who may ask it, and what runs where.

Requests are read by the event loop, which never blocks: what reads SQL or files runs in a thread of a bounded pool.
Pictures and region queries, which wait for a child process, have small pools of their own, so that they never take
the threads that searches need.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicomnode.audit.auditor import Auditor
from dicomnode.contacts import Contacts
from dicomnode.errors import DicomNodeError
from dicomnode.intake import Intake
from dicomnode.query.keys import Level
from dicomnode.query.occlusion import Explainer
from dicomnode.query.service import Question
from dicomnode.query.service import Response as Found
from dicomnode.settings import Config
from dicomnode.web import openapi, problems, qido, rooms
from dicomnode.web.access import ECHO, FIND, GET, QUERY, STORE, Access, Caller, permit
from dicomnode.web.audited import WebAudit
from dicomnode.web.health import Health
from dicomnode.web.metrics import Metrics
from dicomnode.web.pages import routes as pages
from dicomnode.web.pictures import Pictures
from dicomnode.web.resources import ROOT
from dicomnode.web.shelf import WebShelf
from dicomnode.web.similar import MAXIMUM_QUESTION, Similar
from dicomnode.web.stow import Stored, Stow, pieces
from dicomnode.web.wado import Wado
from dicomnode.workers.renderer import RendererProcess
from dicomnode.workers.transcoder import TranscoderProcess
from storage.errors import StorageError
from storage.store import Store

THREADS: Final = 24  # that read SQL and files
PICTURES, QUESTIONS, UPLOADS, EXPLANATIONS = (
    4,
    4,
    8,
    4,
)  # requests of these kinds that are worked on at once; others wait
BODIES: Final = 8  # questions that are read into memory at once
# Errors made on purpose are named beside Exception: that one's handler answers, and the error is raised on behind it.
_HANDLERS: Final[dict[Any, Any]] = {
    HTTPException: problems.on_http,
    DicomNodeError: problems.on_error,
    StorageError: problems.on_error,
    Exception: problems.on_error,
}
STUDY, SERIES, INSTANCE = "/studies/{study}", "/series/{series}", "/instances/{instance}"
Endpoint = Callable[[Request], Awaitable[Response]]
Plain = Callable[[Request], Response]


@dataclass(frozen=True)
class Services:
    """What the port is made of."""

    config: Config
    store: Store
    intake: Intake
    stored: Stored  # told of each instance that STOW-RS made durable
    answer: Callable[[Question], Iterator[Found]]
    transcoder: TranscoderProcess
    renderer: RendererProcess
    metrics: Metrics
    health: Health
    contacts: Contacts
    explainer: Explainer
    auditor: Auditor

    @property
    def audit(self) -> WebAudit:
        """What tells of requests."""
        return WebAudit(self.auditor, self.store.catalog)


class Rooms:
    """How many requests of each kind are worked on at once; made inside the event loop."""

    def __init__(self) -> None:
        self.pictures = CapacityLimiter(PICTURES)
        self.questions = CapacityLimiter(QUESTIONS)
        self.uploads = CapacityLimiter(UPLOADS)
        self.explanations = CapacityLimiter(EXPLANATIONS)
        self.bodies = CapacityLimiter(BODIES)


def application(services: Services) -> ASGIApp:
    """The whole of it."""
    web = services.config.web
    access = Access(web, services.config.dimse, services.config.peers, services.contacts.heard, services.auditor)
    app = Starlette(
        routes=[
            *_dicomweb(services, access),
            *_similar(services, access),
            *_watching(services, access),
            *_pages(services, access),
        ],
        middleware=_cors(web.cors_origins),
        exception_handlers=_HANDLERS,
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    return _Told(app, services.metrics)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    app.state.rooms = Rooms()
    yield


def _cors(origins: tuple[str, ...]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "HEAD"],
            allow_headers=["Accept", "Authorization", "Content-Type", "If-None-Match", "Range"],
            expose_headers=["Content-Location", "Content-Range", "ETag", "Location", "Warning"],
        )
    ]


class _Told:
    """Headers that every answer has unless it says otherwise, and its status counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        began = time.monotonic()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(message["status"], time.monotonic() - began)
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in _HEADERS if pair[0] not in given)]
            await send(message)

        await self._app(scope, receive, sending)


_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),  # pages with COEP, such as OHIF, need it; CORS still decides
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'"),  # pages have their own; of all else nothing is to be run
)


def _dicomweb(services: Services, access: Access) -> list[BaseRoute]:
    """PS3.18 Table 10.1-1, below ROOT."""
    store, web = services.store, services.config.web
    reader = WebShelf(store.files, services.transcoder)
    wado = Wado(store.catalog, reader, web.public_url)
    pictures = Pictures(store.catalog, reader, services.renderer)
    get = partial(_threaded, access, GET, services.audit)
    show = partial(_threaded, access, GET, services.audit, room="pictures")
    paths: list[tuple[str, Endpoint]] = []
    for level, path in _SEARCHES:
        paths.append((path, _threaded(access, FIND, services.audit, _searcher(services, level))))
    for path in (STUDY, STUDY + SERIES, STUDY + SERIES + INSTANCE):
        paths += [
            (path, get(wado.instances)),
            (f"{path}/metadata", get(wado.metadata)),
            (f"{path}/rendered", show(pictures.rendered)),
            (f"{path}/thumbnail", show(pictures.thumbnail)),
        ]
    instance = STUDY + SERIES + INSTANCE
    paths += [
        (f"{instance}/frames/{{frames}}", get(wado.frames)),
        (f"{instance}/frames/{{frames}}/rendered", show(pictures.rendered)),
        (f"{instance}/frames/{{frames}}/thumbnail", show(pictures.thumbnail)),
        (f"{instance}/bulkdata/{{tag}}", get(wado.bulkdata)),
    ]
    stow = Stow(services.intake, services.stored, web.maximum_body_mib, web.timeout_s, web.public_url)
    storing = _storing(stow, access)
    return [
        *(Route(ROOT + path, storing, methods=["POST"]) for path in ("/studies", STUDY)),
        *(Route(ROOT + path, endpoint, methods=["GET"]) for path, endpoint in paths),
    ]


_SEARCHES: Final = (
    (Level.STUDY, "/studies"),
    (Level.SERIES, "/series"),
    (Level.IMAGE, "/instances"),
    (Level.SERIES, f"{STUDY}/series"),
    (Level.IMAGE, f"{STUDY}/instances"),
    (Level.IMAGE, f"{STUDY}{SERIES}/instances"),
)


def _searcher(services: Services, level: Level) -> Plain:
    config = services.config

    def search(request: Request) -> Response:
        return qido.answer(
            request,
            level,
            services.store.catalog,
            config.web.maximum_results,
            config.dimse.ae_title,
            config.web.public_url,
        )

    return search


def _threaded(access: Access, service: str, audit: WebAudit, plain: Plain, room: str = "") -> Endpoint:
    """A request that may be asked, answered in a thread; `room`: of which kind it is."""
    check = permit(access, service)

    async def endpoint(request: Request) -> Response:
        caller = check(request)
        limiter = getattr(request.app.state.rooms, room) if room else None
        answer = partial(plain, request)
        return await rooms.answered(request, limiter, audit.answered, service, request, caller, answer)

    return endpoint


def _storing(stow: Stow, access: Access) -> Endpoint:
    check = permit(access, STORE)

    async def endpoint(request: Request) -> Response:
        caller = check(request)
        return await stow.store(request, caller, partial(_run, request.app.state.rooms.uploads))

    return endpoint


async def _run(limiter: CapacityLimiter, function: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread, to its end: what has begun to be stored is not left alone because its client has gone."""
    return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)


def _similar(services: Services, access: Access) -> list[BaseRoute]:
    web, store = services.config.web, services.store
    similar = Similar(services.answer, store.catalog, store.files, web.public_url)
    check, audit = permit(access, QUERY), services.audit

    async def ask(request: Request) -> Response:
        caller: Caller = check(request)
        rooms = request.app.state.rooms
        async with rooms.bodies:
            body = b"".join([piece async for piece in pieces(request, MAXIMUM_QUESTION, web.timeout_s)])
            answer = partial(similar.ask, request, caller, body)
            kind = request.headers.get("content-type", "")
            return await anyio.to_thread.run_sync(audit.asked, caller, body, kind, answer, limiter=rooms.questions)

    async def kept(request: Request) -> Response:
        caller = check(request)
        return audit.answered(QUERY, request, caller, partial(similar.kept, request, caller))

    return [Route("/similar", ask, methods=["POST"]), Route("/similar/{query}", kept, methods=["GET"])]


def _watching(services: Services, access: Access) -> list[BaseRoute]:
    """What says how the node is, and what the port can do: nothing of a patient, and open but for the metrics."""
    document = openapi.document(services.config)

    async def described(request: Request) -> Response:
        return JSONResponse(document)

    async def page(request: Request) -> Response:
        return openapi.page(document)

    return [
        Route("/health/live", services.health.live, methods=["GET"]),
        Route("/health/ready", services.health.ready, methods=["GET"]),
        Route(
            "/metrics", _threaded(access, ECHO, services.audit, lambda _: services.metrics.response()), methods=["GET"]
        ),
        Route("/openapi.json", described, methods=["GET"]),
        Route("/docs", page, methods=["GET"]),
    ]


def _pages(services: Services, access: Access) -> list[BaseRoute]:
    """What people see."""
    reader = WebShelf(services.store.files, services.transcoder)
    pictures = Pictures(services.store.catalog, reader, services.renderer)
    return pages.routes(
        pages.Desk(
            services.config,
            services.store,
            services.answer,
            pictures,
            access,
            services.contacts,
            services.explainer,
            services.audit,
        )
    )
