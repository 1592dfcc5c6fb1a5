"""The path of a request in, the resource it names out: UIDs that were checked, URLs and the stored instances of it.

A path value is a UID or the request is refused: nothing of it is ever part of a path on disk. PS3.18 10.3.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from dicomnode.query.retrieval import Stored
from dicomnode.uids import is_uid
from dicomnode.web.errors import BadRequest, NotFound
from storage.catalog import Catalog
from storage.records import Condition, Equals

ROOT: Final = "/dicom-web"
_COLUMNS: Final = (
    "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid",
    "path", "size", "sha256", "frames", "rows",
)  # fmt: skip
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?")
_USUAL_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Resource:
    """A study, a series or an instance; nothing named: all of them."""

    study: str = ""
    series: str = ""
    instance: str = ""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        named = {
            "study_instance_uid": self.study,
            "series_instance_uid": self.series,
            "sop_instance_uid": self.instance,
        }
        return tuple(Equals(column, uid) for column, uid in named.items() if uid)

    def url(self, base: str) -> str:
        """Where it is, below the URL of the port."""
        named = (("studies", self.study), ("series", self.series), ("instances", self.instance))
        return "/".join([base + ROOT, *(f"{kind}/{uid}" for kind, uid in named if uid)])


@dataclass(frozen=True)
class Held:
    """A stored instance: where it lies and what tells it from another version of it."""

    resource: Resource
    stored: Stored
    sha256: str
    frames: int  # 0: no image
    is_image: bool

    @property
    def etag(self) -> str:
        return f'"{self.sha256[:32]}"'


def of_request(request: Request) -> Resource:
    """The resource that the path names. BadRequest when a part is no UID."""
    parts = {name: str(request.path_params.get(name, "")) for name in ("study", "series", "instance")}
    if any(text and not is_uid(text) for text in parts.values()):
        raise BadRequest("the path holds something that is no UID")
    return Resource(**parts)


def instances(catalog: Catalog, resource: Resource) -> list[Held]:
    """Every instance of it, by UID. NotFound when there is none. Memory: half a KiB each."""
    found = list(_held(catalog, resource))
    if not found:
        raise NotFound("not stored here")
    return found


def _held(catalog: Catalog, resource: Resource) -> Iterator[Held]:
    for row in catalog.find("IMAGE", resource.conditions, wanted=_COLUMNS):
        yield Held(
            Resource(row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"]),
            Stored(row["sop_instance_uid"], row["sop_class_uid"], row["transfer_syntax_uid"], row["path"], row["size"]),
            row["sha256"],
            row["frames"] or 1,
            bool(row["rows"]),
        )


def base_url(request: Request, public_url: str) -> str:
    """How the client sees the port, without a slash at its end: as configured, else as it asked.

    Some clients leave the port out of Host: then it is the one that they are connected to.
    """
    if public_url:
        return public_url.rstrip("/")
    scheme, (host, port) = request.url.scheme, request.scope.get("server") or ("localhost", None)
    given = _HOST.fullmatch(request.headers.get("host", ""))
    name = given[1] if given else (f"[{host}]" if ":" in str(host) else str(host))
    shown = given[2] if given and given[2] else ("" if port in {None, _USUAL_PORTS.get(scheme)} else f":{port}")
    return f"{scheme}://{name}{shown}"
