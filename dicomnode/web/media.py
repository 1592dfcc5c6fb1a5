"""Accept and Content-Type headers in, media types out; what a client takes, the best first. RFC 9110 12.5, PS3.18 8.7.

Tolerant of what viewers send: `type` with and without quotes, parameters of a part beside those of the whole,
`multipart/related` without a type, and the `accept` query parameter of PS3.18 8.3.3.1 instead of the header.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from dicomnode.web.errors import NotAcceptable

JSON: Final = "application/dicom+json"
PLAIN_JSON: Final = "application/json"
XML: Final = "application/dicom+xml"
DICOM: Final = "application/dicom"
OCTETS: Final = "application/octet-stream"
RELATED: Final = "multipart/related"
ANY: Final = "*/*"
MAXIMUM_TYPES: Final = 64  # in one header
# Content of a frame by its transfer syntax, PS3.18 Table 8.7.3-5; of others octets.
FRAME_TYPES: Final = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{last}" for last in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{last}" for last in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{last}" for last in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{last}" for last in (201, 202, 203)), "image/jphc"),
}
# As older clients call them.
_OTHER_NAMES: Final = {"image/x-dicom-rle": "image/dicom-rle", "image/x-jls": "image/jls", "image/j2c": "image/jp2"}
_PARAMETER: Final = re.compile(r';\s*([\w.+-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"]*)')


@dataclass(frozen=True)
class MediaType:
    """One media type with its parameters; names in lower case."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        try:
            return min(1.0, max(0.0, float(self.parameters.get("q", "1"))))
        except ValueError:
            return 1.0

    @property
    def is_multipart(self) -> bool:
        return self.name == RELATED

    @property
    def content(self) -> str:
        """The type of the content: of a multipart that of its parts, anything where it says none."""
        name = self.parameters.get("type", ANY).lower() if self.is_multipart else self.name
        return _OTHER_NAMES.get(name, name)

    @property
    def transfer_syntax(self) -> str | None:
        """`*`: as stored; None: not said, which is the default of PS3.18 8.7.3."""
        return self.parameters.get("transfer-syntax")

    def takes(self, content: str) -> bool:
        """Whether the content may be of this type."""
        wanted = self.content
        return wanted in {ANY, "*", content} or (wanted.endswith("/*") and content.startswith(wanted[:-1]))


def parsed(text: str) -> MediaType:
    """One media type; an empty name where it is none."""
    name, _, _ = text.partition(";")
    found = {key.lower(): _unquoted(value.strip()) for key, value in _PARAMETER.findall(text)}
    return MediaType(name.strip().lower(), found)


def accepted(request: Request) -> list[MediaType]:
    """What the client takes, the best first; anything where it says nothing."""
    text = request.query_params.get("accept") or ", ".join(request.headers.getlist("accept"))
    found = [parsed(element) for element in _elements(text)[:MAXIMUM_TYPES]]
    wanted = [each for each in found if each.name and each.quality > 0]
    # Clients split what belongs to one type by commas: "..., transfer-syntax=*".
    wanted = [each for each in wanted if "/" in each.name or each.name == "*"]
    return sorted(wanted, key=lambda each: -each.quality) or [MediaType(ANY)]


def chosen(request: Request, offered: Sequence[str], *, fallback: str | None = None) -> str:
    """The first of `offered` that the client takes, in the order of its wishes. NotAcceptable without a fallback."""
    for wish in accepted(request):
        for offer in offered:
            if wish.takes(offer):
                return offer
    if fallback is None:
        raise NotAcceptable(f"the resource is available as {', '.join(offered)}")
    return fallback


def described(name: str, parameters: Iterable[tuple[str, str]]) -> str:
    """A Content-Type header; what is no token is quoted."""
    return "; ".join([name, *(f'{key}="{value}"' if "/" in value else f"{key}={value}" for key, value in parameters)])


def _elements(text: str) -> list[str]:
    """A list split at its commas, but for those in quotes."""
    parts, quoted = [""], False
    for char in text:
        quoted ^= char == '"'
        if char == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') and value.endswith('"') else value
