"""The paths of the port in, an OpenAPI 3.1 document and a page of it out. The page asks nothing of anybody else."""

from html import escape
from typing import Any, Final

from starlette.responses import HTMLResponse, Response

from dicomnode import __version__
from dicomnode.private import PatientScope
from dicomnode.settings import Config
from dicomnode.web.resources import ROOT
from encoder.anatomy import VOCABULARY

Json = dict[str, Any]
_INSTANCE: Final = ROOT + "/studies/{study}/series/{series}/instances/{instance}"
# Method, path, what it does, media types of the answer.
PATHS: Final[tuple[tuple[str, str, str, tuple[str, ...]], ...]] = (
    ("post", "/similar", "Which stored regions look like this one?", ("application/json",)),
    ("get", "/similar/{query}", "The answer to a question of before, for who asked it.", ("application/json",)),
    ("get", f"{ROOT}/studies", "Search for studies (QIDO-RS).", ("application/dicom+json",)),
    ("get", f"{ROOT}/series", "Search for series in all studies.", ("application/dicom+json",)),
    ("get", f"{ROOT}/instances", "Search for instances in all studies.", ("application/dicom+json",)),
    ("get", f"{ROOT}/studies/{{study}}/series", "Search for series of a study.", ("application/dicom+json",)),
    ("get", f"{ROOT}/studies/{{study}}/instances", "Search for instances of a study.", ("application/dicom+json",)),
    (
        "get",
        f"{ROOT}/studies/{{study}}/series/{{series}}/instances",
        "Search for instances of a series.",
        ("application/dicom+json",),
    ),
    ("post", f"{ROOT}/studies", "Store instances (STOW-RS).", ("application/dicom+json",)),
    ("post", f"{ROOT}/studies/{{study}}", "Store instances of one study.", ("application/dicom+json",)),
    ("get", f"{ROOT}/studies/{{study}}", "Retrieve a study (WADO-RS).", ("multipart/related",)),
    ("get", f"{ROOT}/studies/{{study}}/metadata", "Its metadata.", ("application/dicom+json",)),
    ("get", f"{ROOT}/studies/{{study}}/rendered", "Its images as pictures.", ("multipart/related",)),
    ("get", f"{ROOT}/studies/{{study}}/thumbnail", "A small picture of it.", ("image/jpeg", "image/png")),
    ("get", f"{ROOT}/studies/{{study}}/series/{{series}}", "Retrieve a series.", ("multipart/related",)),
    (
        "get",
        f"{ROOT}/studies/{{study}}/series/{{series}}/metadata",
        "Its metadata.",
        ("application/dicom+json",),
    ),
    (
        "get",
        f"{ROOT}/studies/{{study}}/series/{{series}}/rendered",
        "Its images as pictures.",
        ("multipart/related",),
    ),
    (
        "get",
        f"{ROOT}/studies/{{study}}/series/{{series}}/thumbnail",
        "A small picture of it.",
        ("image/jpeg", "image/png"),
    ),
    ("get", _INSTANCE, "Retrieve an instance.", ("multipart/related", "application/dicom")),
    ("get", f"{_INSTANCE}/metadata", "Its metadata.", ("application/dicom+json",)),
    ("get", f"{_INSTANCE}/rendered", "A picture of it.", ("image/jpeg", "image/png")),
    ("get", f"{_INSTANCE}/thumbnail", "A small picture of it.", ("image/jpeg", "image/png")),
    ("get", f"{_INSTANCE}/frames/{{frames}}", "Frames by number.", ("multipart/related",)),
    ("get", f"{_INSTANCE}/frames/{{frames}}/rendered", "A picture of a frame.", ("image/jpeg", "image/png")),
    ("get", f"{_INSTANCE}/frames/{{frames}}/thumbnail", "A small one.", ("image/jpeg", "image/png")),
    ("get", f"{_INSTANCE}/bulkdata/{{tag}}", "One long value.", ("multipart/related",)),
    ("get", "/health/live", "Whether the port answers.", ("application/json",)),
    ("get", "/health/ready", "Whether the node can do its work: 200 or 503.", ("application/json",)),
    ("get", "/metrics", "Numbers for Prometheus.", ("text/plain",)),
    ("get", "/openapi.json", "This document.", ("application/json",)),
    ("get", "/docs", "It as a page.", ("text/html",)),
)
_UIDS: Final = frozenset({"study", "series", "instance"})
_OPEN: Final = frozenset({"/health/live", "/health/ready", "/openapi.json", "/docs"})
_SEARCH: Final = ("limit", "offset", "includefield")
_PICTURE: Final = ("viewport", "window", "quality")
_PROBLEM: Final[Json] = {
    "description": "Problem details, RFC 9457",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def document(config: Config) -> Json:
    """The OpenAPI 3.1 document."""
    paths: Json = {}
    for method, path, what, types in PATHS:
        paths.setdefault(path, {})[method] = _operation(method, path, what, types)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dicomnode",
            "version": __version__,
            "description": "DICOMweb (PS3.18) and similar regions. Not for diagnostic use.",
        },
        "servers": [{"url": config.web.public_url or "/"}],
        "paths": paths,
        "components": {"schemas": SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(method: str, path: str, what: str, types: tuple[str, ...]) -> Json:
    found: Json = {
        "summary": what,
        "parameters": _parameters(method, path),
        "responses": {
            "200": {"description": "Done", "content": {kind: {"schema": _schema(path)} for kind in types}},
            "default": _PROBLEM,
        },
        "security": [] if path in _OPEN else [{"token": []}, {}],
    }
    if method == "post":
        found["requestBody"] = _SIMILAR_BODY if path == "/similar" else _STORE_BODY
    return found


def _parameters(method: str, path: str) -> list[Json]:
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    found = [_parameter(name, "path") for name in names]
    last = path.rpartition("/")[2]
    if method == "get" and last in {"studies", "series", "instances"}:
        found += [_parameter(name, "query") for name in _SEARCH]
    if last in {"rendered", "thumbnail"}:
        found += [_parameter(name, "query") for name in _PICTURE]
    return found


def _parameter(name: str, where: str) -> Json:
    kind: Json = {"type": "integer"} if name in {"limit", "offset", "quality"} else {"type": "string"}
    if name in _UIDS:
        kind = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$", "maxLength": 64}
    return {"name": name, "in": where, "required": where == "path", "schema": kind}


def _schema(path: str) -> Json:
    return {"$ref": "#/components/schemas/Answer"} if path.startswith("/similar") else {}


_TEXT: Final[Json] = {"type": "string"}
_BOX: Final[Json] = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
    "description": "x1, y1, x2, y2 in pixels of the stored image, origin at its top-left corner, half-open",
}
SCHEMAS: Final[Json] = {
    "Question": {
        "type": "object",
        "description": "image and box, or sr",
        "properties": {
            "image": _TEXT | {"description": "SOP Instance UID of a stored image"},
            "frame": {"type": "integer", "minimum": 1, "description": "of an image of several frames, counted from 1"},
            "box": _BOX,
            "sr": _TEXT | {"description": "SOP Instance UID of a stored SR: each of its regions is asked for"},
            "anatomy": _TEXT | {"enum": list(VOCABULARY.names)},
            "k": {"type": "integer", "minimum": 1, "description": "hits wanted"},
            "scope": _TEXT | {"enum": [*map(str, PatientScope)], "default": "OTHER"},
            "minimum_score": {"type": "number", "minimum": -1, "maximum": 1},
            "keys": {
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "matching keys of C-FIND by keyword, which narrow before ranking",
            },
        },
        "additionalProperties": False,
    },
    "Answer": {
        "type": "object",
        "properties": {
            "query": _TEXT | {"description": "under which the answer is kept for a while"},
            "generation": _TEXT | {"description": "the models that the answer comes from"},
            "warnings": {"type": "array", "items": _TEXT},
            "hits": {"type": "array", "items": {"$ref": "#/components/schemas/Hit"}},
        },
    },
    "Hit": {
        "type": "object",
        "properties": {
            "rank": {"type": "integer", "description": "1 is the best"},
            "score": {"type": "number", "description": "cosine, -1 to 1"},
            "anatomy": _TEXT,
            "box": _BOX,
            "roi": _TEXT | {"description": "tracking identifier of the region that it answers"},
            "warnings": {"type": "array", "items": _TEXT},
            "url": _TEXT | {"description": "of the instance, as WADO-RS has it"},
            **dict.fromkeys(
                (
                    "patient_id", "patient_name", "patient_sex", "patient_birth_date", "study_date", "study_time",
                    "accession_number", "modality", "study_instance_uid", "series_instance_uid", "sop_instance_uid",
                    "generation", "warning",
                ),
                _TEXT,
            ),
        },
    },
    "Problem": {
        "type": "object",
        "properties": {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT},
    },
}  # fmt: skip
_SIMILAR_BODY: Final[Json] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Question"}},
        "application/dicom": {"schema": {"description": "an SR; the rest as parameters of the URL"}},
    },
}
_STORE_BODY: Final[Json] = {
    "required": True,
    "content": {'multipart/related; type="application/dicom"': {}, "application/dicom": {}},
}
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#111;background:#fff}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #bbb;"
    "vertical-align:top}code{font-size:.9em}"
)


def page(found: Json) -> Response:
    """The document for people."""
    rows = "".join(
        f"<tr><td><code>{escape(method.upper())}</code></td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation['summary'])}</td></tr>"
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    )
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dicomnode: HTTP</title>'
        f"<style>{_STYLE}</style></head><body><h1>dicomnode {escape(found['info']['version'])}</h1>"
        f"<p>{escape(found['info']['description'])} The whole document: "
        f'<a href="openapi.json">openapi.json</a>.</p>'
        f"<table><thead><tr><th>Method</th><th>Path</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
        "</body></html>"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})
