"""The services of a node in, the routes of its page out: what each shows, who may see it, and how errors look.

Pages call the functions that DICOMweb calls, not its URLs. A browser is let in by a session where the peers table asks
for a token (`sessions`), and by the address or as anybody where it does not, as everywhere on the port.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from dicomnode.contacts import Contacts
from dicomnode.errors import DicomNodeError, IdentifierError, NotPermitted, NotReady
from dicomnode.pixels import heat
from dicomnode.query.occlusion import Explainer, Pair, Side
from dicomnode.settings import Config
from dicomnode.uids import is_uid
from dicomnode.web import problems, resources, rooms
from dicomnode.web.access import FIND, GET, QUERY, Access, Caller
from dicomnode.web.audited import WebAudit
from dicomnode.web.errors import BadRequest, NotAuthenticated
from dicomnode.web.pages import admin, films, given, hits, links, sessions, studies, why, words
from dicomnode.web.pages.films import Film
from dicomnode.web.pages.hits import Answer
from dicomnode.web.pages.render import NOBODY, Renderer, static
from dicomnode.web.pages.sessions import Sessions
from dicomnode.web.pictures import Pictures
from dicomnode.web.stow import pieces
from dicomnode.web.wado import PRIVATE
from encoder.anatomy import VOCABULARY
from storage.errors import StorageError
from storage.store import Store

REFRESH_S: Final = 15  # of the admin page
MAXIMUM_FORM: Final = 16 << 10  # bytes of a form's body
WHY_SIDE: Final = 640  # pixels of a picture on the page that explains a hit
ADMIN: Final = "admin"
PICTURE: Final = links.PICTURES + "/studies/{study}/series/{series}/instances/{instance}"
_WORDS: Final = {FIND: "searching", GET: "seeing images", QUERY: "asking for similar regions"}
View = Callable[["Pages", Request, Caller], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Desk:
    """What the pages are made from."""

    config: Config
    store: Store
    answer: Answer
    pictures: Pictures
    access: Access
    contacts: Contacts
    explainer: Explainer
    audit: WebAudit


def routes(desk: Desk) -> list[BaseRoute]:
    """Every path of the page; none where it is switched off."""
    if not desk.config.web.page:
        return []
    pages = Pages(desk)
    shown = (
        ("/", Pages.on_studies, FIND, ""),
        ("/study/{study}", Pages.on_study, FIND, ""),
        ("/image/{instance}", Pages.on_image, GET, ""),
        ("/hits", Pages.on_hits, QUERY, "questions"),
        (links.WHY, Pages.on_why, QUERY, "explanations"),
        ("/admin", Pages.on_admin, ADMIN, ""),
    )
    drawn = (
        (f"{PICTURE}/rendered", Pages.on_rendered),
        (f"{PICTURE}/frames/{{frames}}/rendered", Pages.on_rendered),
        (f"{PICTURE}/thumbnail", Pages.on_thumbnail),
    )
    fetched = ((f"{links.WHY}/map", Pages.on_why_map), (f"{links.WHY}/picture", Pages.on_why_picture))
    return [
        *(Route(path, pages.shown(view, service, room), methods=["GET"]) for path, view, service, room in shown),
        *(Route(path, pages.shown(view, GET, "pictures"), methods=["GET"]) for path, view in drawn),
        *(Route(path, pages.fetched(view, QUERY, "explanations"), methods=["GET"]) for path, view in fetched),
        Route("/admin/retry", pages.posted(Pages.on_retry), methods=["POST"]),
        Route("/login", pages.answered(Pages.on_form), methods=["GET"]),
        Route("/login", pages.posted(Pages.on_login), methods=["POST"]),
        Route("/logout", pages.posted(Pages.on_logout), methods=["POST"]),
        Route("/static/{name}", static, methods=["GET"]),
    ]


class Pages:
    """Answers the page's requests. State: the sessions."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._web = desk.config.web
        self._store = desk.store
        self._sessions = Sessions()
        self._renderer = Renderer()

    # --- who and how -----------------------------------------------------------------------------------------

    def shown(self, view: View, service: str, room: str) -> Endpoint:
        """A page of a service; `room`: of which kind it is. Who is not logged in is sent to the form."""

        async def endpoint(request: Request) -> Response:
            try:
                return await self._viewed(request, view, service, room)
            except NotAuthenticated:
                return RedirectResponse("/login?" + urlencode({"next": _path_of(request)}), 303)
            except (DicomNodeError, StorageError) as error:
                return self._error(request, error)

        return endpoint

    def fetched(self, view: View, service: str, room: str) -> Endpoint:
        """What the script or another program fetches: errors are problem details, as in the rest of HTTP."""

        async def endpoint(request: Request) -> Response:
            try:
                return await self._viewed(request, view, service, room)
            except (DicomNodeError, StorageError) as error:
                return problems.on_error(request, error)

        return endpoint

    async def _viewed(self, request: Request, view: View, service: str, room: str) -> Response:
        caller = self._permitted(request, service)
        limiter = getattr(request.app.state.rooms, room) if room else None
        answer = partial(view, self, request, caller)
        return await rooms.answered(request, limiter, self._desk.audit.answered, service, request, caller, answer)

    def posted(self, view: Callable[["Pages", Request, Mapping[str, str]], Response]) -> Endpoint:
        """A form that changes something: of this port's pages only."""

        async def endpoint(request: Request) -> Response:
            try:
                sessions.check_same_origin(request, self._base(request))
                body = b"".join([piece async for piece in pieces(request, MAXIMUM_FORM, self._web.timeout_s)])
                form = {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
                return await anyio.to_thread.run_sync(view, self, request, form)
            except (DicomNodeError, StorageError) as error:
                return self._error(request, error)

        return endpoint

    def answered(self, view: Callable[["Pages", Request], Response]) -> Endpoint:
        """A page that everybody may see."""

        async def endpoint(request: Request) -> Response:
            return view(self, request)

        return endpoint

    def _permitted(self, request: Request, service: str) -> Caller:
        caller = self._desk.access.caller(request, self._sessions.token(request))
        if service == ADMIN:
            if not self._is_administrator(caller):
                self._desk.access.denied(caller, "admin not permitted")
                raise NotPermitted("this page is for administrators: see web.administrators")
        elif service not in caller.services:
            self._desk.access.denied(caller, f"{service} not permitted")
            raise NotPermitted(f"{_WORDS[service]} is not permitted")
        return caller

    def _is_administrator(self, caller: Caller) -> bool:
        return not self._desk.config.peers or caller.name in self._web.administrators

    def _error(self, request: Request, error: Exception) -> Response:
        """The page of an error; `problems` says its status and writes the log line."""
        status = problems.on_error(request, error).status_code
        detail = str(error) if problems.is_foreseen(error) else problems.UNFORESEEN
        return self._renderer.error(status, words.capital(detail))

    def _page(self, template: str, request: Request, caller: Caller, **values: Any) -> Response:
        is_in = self._sessions.token(request) is not None
        user = caller.name or ("" if not is_in else "logged in")
        is_admin = self._is_administrator(caller)
        return self._renderer.page(template, user=user, can_leave=is_in, is_admin=is_admin, **values)

    def _base(self, request: Request) -> str:
        return resources.base_url(request, self._web.public_url)

    # --- pages -----------------------------------------------------------------------------------------------

    def on_studies(self, request: Request, caller: Caller) -> Response:
        """The studies that match the form; what is wrong with the form beside it."""
        wrong, search, matches = "", studies.Search(), studies.StudyList((), has_more=False)
        try:
            search = studies.Search.of(request.query_params)
            matches = studies.found(self._store.catalog, search)
        except (IdentifierError, BadRequest) as error:
            wrong = words.capital(str(error))
        return self._page("studies.html", request, caller, search=search, found=matches, wrong=wrong)

    def on_study(self, request: Request, caller: Caller) -> Response:
        """A study's images."""
        uid, page = _uid(request, "study"), studies.page_of(request.query_params)
        found = studies.study(self._store.catalog, uid)
        series, has_more = studies.images(self._store.catalog, uid, page)
        viewers = links.viewers(self._web, uid, self._base(request))
        return self._page(
            "study.html", request, caller, study=found, series=series, page=page, has_more=has_more, viewers=viewers
        )

    def on_image(self, request: Request, caller: Caller) -> Response:
        """A film with its regions; with a box of the URL marked on it."""
        asked = request.query_params
        film = films.film(self._store, _uid(request, "instance"), given.frame(asked))
        found = films.regions(self._store, film, self._store.generations.live())
        marked = given.box(asked) if "x1" in asked else None
        return self._page(
            "image.html",
            request,
            caller,
            film=film,
            study_url=links.study(film.uids[0]),
            marks=films.marks(film, found),
            marked=marked,
            frames=films.steps(film, marked),
            viewers=links.viewers(self._web, film.uids[0], self._base(request)),
        )

    def on_hits(self, request: Request, caller: Caller) -> Response:
        """The regions that look like the one of the URL. Without an index yet: a page that says so."""
        asked = hits.asked(request.query_params)
        film = films.film(self._store, asked.image, asked.frame)
        inside = asked.box.clipped(*film.size)
        if not inside.area:
            raise BadRequest("the rectangle lies outside the image")
        wrong, found = "", hits.Found((), 0, (), "")
        try:
            found = self._found(request, asked, film)
        except (IdentifierError, NotReady) as error:
            wrong = words.capital(str(error))
        return self._page(
            "hits.html",
            request,
            caller,
            asked=asked,
            asked_for=words.capital(asked.anatomy.name) if asked.anatomy else "Drawn region",
            film=film,
            film_url=links.image(film.uid, asked.box, film.frame),
            study_url=links.study(film.uids[0]),
            picture=hits.picture(film.uids, film.size, inside, film.frame),
            found=found,
            wrong=wrong,
            is_explained=self._desk.explainer.is_on,
            ramp=heat.RAMP,
            region=links.region(film.uid, asked.box, film.frame),
            anatomies=[(name, words.capital(name)) for name in VOCABULARY.names],
            scopes=hits.SCOPES,
            sexes=words.SEXES,
            counts=hits.COUNTS,
        )

    def _found(self, request: Request, asked: hits.Asked, film: Film) -> hits.Found:
        row = self._store.catalog.instance(film.uid)
        sop_class_uid = row.sop_class_uid if row is not None else ""
        viewers = partial(links.viewers, self._web, base=self._base(request))
        return hits.found(asked, film, sop_class_uid, self._desk.answer, viewers)

    # --- why a hit is one ------------------------------------------------------------------------------------

    def on_why(self, request: Request, caller: Caller) -> Response:
        """Both regions of a hit, with what covering each part of them takes from the score."""
        pair = why.pair(request.query_params)
        asked = films.film(self._store, pair.image_uid, pair.frame)
        found = films.film(self._store, pair.hit_uid)
        sides = [self._side(pair, side, film) for side, film in ((Side.ASKED, asked), (Side.FOUND, found))]
        return self._page(
            "why.html",
            request,
            caller,
            film=asked,
            found=found,
            film_url=links.image(asked.uid, pair.box, pair.frame),
            found_url=links.image(found.uid, sides[1]["picture"].box),
            hits_url=links.hits(asked.uid, pair.box, frame=pair.frame),
            study_url=links.study(asked.uids[0]),
            anatomy=words.anatomy(pair.anatomy),
            is_place=pair.is_place,
            sides=sides,
            ramp=heat.RAMP,
        )

    def _side(self, pair: Pair, side: Side, film: Film) -> dict[str, Any]:
        explanation = self._desk.explainer.explain(pair, side)
        picture = hits.picture(film.uids, film.size, explanation.box, film.frame, WHY_SIDE)
        said = why.words_of(explanation)
        return {"picture": picture, "heat": why.overlay(pair, side, explanation.box), "words": said, "film": film}

    def on_why_map(self, request: Request, _caller: Caller) -> Response:
        """One side's map as JSON."""
        return self._explained(
            request, lambda pair, side: JSONResponse(why.told(pair, side, self._desk.explainer.explain(pair, side)))
        )

    def on_why_picture(self, request: Request, _caller: Caller) -> Response:
        """One side's map as a picture to be laid over its film."""
        return self._explained(
            request,
            lambda pair, side: Response(
                heat.picture(self._desk.explainer.explain(pair, side).costs), media_type="image/png"
            ),
        )

    def _explained(self, request: Request, answer: Callable[[Pair, Side], Response]) -> Response:
        """What a browser has already is not made again."""
        pair, side = why.pair(request.query_params), why.side(request.query_params)
        version = f"{request.url.path} {self._desk.explainer.version(pair, side)}"
        etag = f'"{hashlib.sha256(version.encode()).hexdigest()[:32]}"'
        is_known = etag in request.headers.get("if-none-match", "")
        response = Response(status_code=304) if is_known else answer(pair, side)
        response.headers.update({**PRIVATE, "ETag": etag})
        return response

    # --- pictures and the rest -------------------------------------------------------------------------------

    def on_rendered(self, request: Request, _caller: Caller) -> Response:
        """A picture, or a part of one."""
        return self._desk.pictures.rendered(request)

    def on_thumbnail(self, request: Request, _caller: Caller) -> Response:
        """A small picture."""
        return self._desk.pictures.thumbnail(request)

    def on_admin(self, request: Request, caller: Caller) -> Response:
        """What an administrator watches; it comes again by itself unless the URL says `refresh=0`."""
        refresh_s = 0 if request.query_params.get("refresh") == "0" else REFRESH_S
        retried = request.query_params.get("retried", "")
        return self._page(
            "admin.html",
            request,
            caller,
            now=admin.overview(self._store, self._desk.config, self._desk.contacts.last),
            refresh_s=refresh_s,
            retried=retried if retried.isdecimal() else "",
        )

    # --- what changes something ------------------------------------------------------------------------------

    def on_retry(self, request: Request, _form: Mapping[str, str]) -> Response:
        """Queue what failed again."""
        self._permitted(request, ADMIN)
        return RedirectResponse(f"/admin?retried={admin.retry(self._store)}", 303)

    def on_form(self, request: Request) -> Response:
        """The login form."""
        onward = sessions.local_path(request.query_params.get("next", "/"))
        return self._renderer.page("login.html", onward=onward, wrong="", **NOBODY)

    def on_login(self, request: Request, form: Mapping[str, str]) -> Response:
        """A session for the token of the form, or the form again."""
        token, onward = form.get("token", "").strip(), sessions.local_path(form.get("next", "/"))
        try:
            self._desk.access.caller(request, token or "-", logs_in=True)
        except (NotAuthenticated, NotPermitted) as refused:
            wrong = words.capital(str(refused))
            return self._renderer.page("login.html", 403, onward=onward, wrong=wrong, **NOBODY)
        self._sessions.end(request)
        response = RedirectResponse(onward, 303)
        is_secure = self._base(request).startswith("https://")
        sessions.set_cookie(response, self._sessions.begin(token), is_secure=is_secure)
        return response

    def on_logout(self, request: Request, _form: Mapping[str, str]) -> Response:
        """The end of the session."""
        token = self._sessions.token(request)
        if token is not None:
            with suppress(DicomNodeError):
                self._desk.access.left(self._desk.access.caller(request, token))
        self._sessions.end(request)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(sessions.COOKIE, path="/", httponly=True, samesite="strict")
        return response


def _uid(request: Request, name: str) -> str:
    uid = str(request.path_params[name])
    if not is_uid(uid):
        raise BadRequest("the path holds something that is no UID")
    return uid


def _path_of(request: Request) -> str:
    query = request.url.query
    return request.url.path + (f"?{query}" if query else "")
