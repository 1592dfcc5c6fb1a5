"""A template's name and its values in, an HTML page out, with headers that let nothing else run in it."""

from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

POLICY: Final = (  # nothing but this port's own files; no script, style or frame but those
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",  # names of patients do not stay on a shared disk
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all a browser's own forms come from Origin `null`
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
NOBODY: Final[dict[str, Any]] = {"user": "", "can_leave": False, "is_admin": False}  # of a page for who is not known
_FOLDER: Final = files("dicomnode.web.pages") / "static"


class Renderer:
    """Fills the templates. Every value is escaped; a name that a template misspells is an error."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("dicomnode.web.pages", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def page(self, template: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response:
        """The page of that template."""
        html = self._templates.get_template(template).render(values)
        return HTMLResponse(html.encode("utf-8", "replace"), status, {**HEADERS, **(headers or {})})

    def error(self, status: int, detail: str) -> Response:
        """What went wrong, in words."""
        return self.page("error.html", status, title=HTTPStatus(status).phrase, detail=detail, **NOBODY)


def static(request: Request) -> Response:
    """The script, the style sheet or the icon: the only files there are."""
    name = str(request.path_params["name"])
    if name not in STATIC:
        return Response("no such file", 404, media_type="text/plain")
    content = (_FOLDER / name).read_bytes()
    return Response(content, media_type=STATIC[name], headers={"Cache-Control": "no-cache"})
