"""The tables the node is built from in, a DICOM conformance statement in PS3.2 order out (Markdown or plain values)."""

from typing import Any

from dicomnode import __version__, uids
from dicomnode.conformance import content, networking
from dicomnode.conformance.document import markdown
from dicomnode.dimse import contexts, status
from dicomnode.private import TABLE
from dicomnode.query.keys import KEYS
from dicomnode.settings import Config


def as_markdown(config: Config) -> str:
    """The statement, in the order of PS3.2 Annex A."""
    sections = [
        content.overview(),
        content.introduction(),
        content.terms(),
        networking.networking(config),
        content.media(),
        content.character_sets(),
        content.security(config),
        content.annexes(),
    ]
    return markdown(f"DICOM Conformance Statement: dicomnode {__version__}", sections)


def as_values(config: Config) -> dict[str, Any]:
    """What the statement says, for a script."""
    return {
        "implementation": {
            "class_uid": uids.IMPLEMENTATION_CLASS_UID,
            "version_name": uids.IMPLEMENTATION_VERSION_NAME,
            "ae_title": config.dimse.ae_title,
        },
        "services": [_service(service, "SCP") for service in contexts.SERVICES],
        "uses": [_service(use, use.role) for use in contexts.USES],
        "keys": [
            {"keyword": key.keyword, "level": key.level.value, "type": key.need.value, "matching": key.matching.value}
            for key in KEYS
        ],
        "private": [
            {
                "tag": content.private_tag(element),
                "vr": row.vr,
                "name": row.name,
                "meaning": row.meaning,
                "request": row.in_request,
                "response": row.in_response,
            }
            for element, row in TABLE.items()
        ],
        "statuses": [
            {"status": f"{row.code:04X}", "services": list(row.services), "meaning": row.text}
            for row in status.MEANINGS
        ],
        "character_sets": content.terms_of_character_sets(),
    }


def _service(row: Any, role: str) -> dict[str, Any]:
    return {
        "name": row.name,
        "role": role,
        "sop_classes": list(row.sop_classes),
        "transfer_syntaxes": [str(syntax) for syntax in row.transfer_syntaxes],
    }
