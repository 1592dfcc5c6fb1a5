"""The tables the node is built from in, a DICOM conformance statement in PS3.2 order out (Markdown or plain values)."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.uid import UID

from dicomnode import __version__, uids
from dicomnode.config import Config
from dicomnode.dimse import contexts, status
from dicomnode.dimse.contexts import Service
from dicomnode.pixels.eligibility import Reason
from dicomnode.private import CREATOR, GROUP, TABLE
from dicomnode.query import search
from dicomnode.query.keys import KEYS
from encoder.anatomy import VOCABULARY

STATUSES = (
    (status.SUCCESS, "C-ECHO, C-STORE, C-FIND", "done; for C-STORE: durable and catalogued"),
    (status.PENDING, "C-FIND", "a match, every optional key supported"),
    (status.PENDING_WARNING, "C-FIND", "a match, an optional key was not supported"),
    (status.CANCEL, "C-FIND", "ended by C-CANCEL"),
    (status.OUT_OF_RESOURCES, "C-STORE, C-FIND", "disk above its watermark; nothing indexed yet"),
    (status.DOES_NOT_MATCH, "C-FIND", "identifier, SR or ROI malformed; ROI's image not stored"),
    (status.CANNOT_UNDERSTAND, "C-STORE", "data set without or with malformed identifying UIDs, or unreadable"),
    (status.UNABLE_TO_PROCESS, "C-STORE, C-FIND", "anything unforeseen"),
)


def as_values(config: Config) -> dict[str, Any]:
    """What the statement says, for a script."""
    return {
        "implementation": {
            "class_uid": uids.IMPLEMENTATION_CLASS_UID,
            "version_name": uids.IMPLEMENTATION_VERSION_NAME,
            "ae_title": config.dimse.ae_title,
        },
        "services": [
            {
                "name": service.name,
                "role": "SCP",
                "sop_classes": list(service.sop_classes),
                "transfer_syntaxes": [str(syntax) for syntax in service.transfer_syntaxes],
            }
            for service in contexts.SERVICES
        ],
        "keys": [
            {"keyword": key.keyword, "level": key.level.value, "type": key.need.value, "matching": key.matching.value}
            for key in KEYS
        ],
        "private": [
            {
                "tag": _private_tag(element),
                "vr": row.vr,
                "name": row.name,
                "request": row.in_request,
                "response": row.in_response,
            }
            for element, row in TABLE.items()
        ],
        "statuses": [{"status": f"{code:04X}", "services": names, "meaning": text} for code, names, text in STATUSES],
    }


def as_markdown(config: Config) -> str:
    """The statement, in the order of PS3.2 Annex A."""
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    yield "# DICOM Conformance Statement: dicomnode"
    yield from _overview(config)
    yield from _networking(config)
    yield from _services()
    yield from _attributes()
    yield from _security()


def _overview(config: Config) -> Iterator[str]:
    yield f"\nVersion {__version__}. Not for diagnostic use.\n"
    yield "## 1 Overview\n"
    yield (
        "The node stores instances of every storage SOP class, answers queries of the Patient Root and Study Root "
        "information models, and, as a Standard Extended SOP Class, answers which stored anatomical regions are most "
        "similar to a region of interest.\n"
    )
    rows = [(service.name, "No", "Yes") for service in contexts.SERVICES]
    yield from _table(("Network service", "User (SCU)", "Provider (SCP)"), rows)
    yield "The commands `echo`, `send` and `query` are SCUs of Verification, Storage and Study Root FIND."
    yield "\n## 2 Terms\n\nAE Application Entity; ROI region of interest; SR Structured Report; SCP, SCU service class"
    yield "provider, user."
    yield f"\nDefault AE title: `{config.dimse.ae_title}`."


def _networking(config: Config) -> Iterator[str]:
    dimse = config.dimse
    yield "\n## 3 Networking\n\n### 3.1 Association policies\n"
    yield from _table(
        ("Policy", "Value"),
        [
            ("Application context", "1.2.840.10008.3.1.1.1"),
            ("Implementation Class UID", uids.IMPLEMENTATION_CLASS_UID),
            ("Implementation Version Name", uids.IMPLEMENTATION_VERSION_NAME),
            ("Maximum PDU length received", f"{dimse.maximum_pdu} bytes"),
            ("Associations at once", str(dimse.maximum_associations)),
            ("Associations at once from one address", str(dimse.maximum_per_address)),
            ("Called AE title checked", "yes" if dimse.check_called_ae else "no"),
            ("Asynchronous operations", "not negotiated"),
            ("Extended negotiation (FIND)", "relational queries, combined date-time matching"),
            ("Association idle time-out", f"{dimse.network_timeout_s:g} s"),
        ],
    )
    yield "### 3.2 Presentation contexts accepted"
    for service in contexts.SERVICES:
        yield from _contexts(service)


def _contexts(service: Service) -> Iterator[str]:
    yield f"\n#### {service.name} (SCP)\n"
    if service.extended:
        yield "Standard Extended SOP Classes (PS3.2 7.3): see the private attributes below.\n"
    yield from _table(("SOP class", "UID"), [(UID(uid).name, uid) for uid in service.sop_classes])
    yield from _table(
        ("Transfer syntax, in order of preference", "UID"),
        [(UID(uid).name, str(uid)) for uid in service.transfer_syntaxes],
    )


def _services() -> Iterator[str]:
    yield "## 4 Service class behaviour\n\n### 4.1 Storage\n"
    yield (
        "Level 2 (full): every attribute is kept, in the transfer syntax received. 0x0000 means that the file is "
        "synced to disk and catalogued. An instance already stored is a success when its bytes are the same; other "
        "bytes follow the configured policy, keep (default) or replace.\n"
    )
    yield "An instance that is not a picture for the models is kept and marked with one of these reasons:\n"
    yield from (f"- {reason.value}" for reason in Reason)
    yield "\n### 4.2 Query\n"
    rows = [(key.keyword, str(key.tag), key.level.value, key.need.value, key.matching.value) for key in KEYS]
    yield from _table(("Keyword", "Tag", "Level", "Type", "Matching"), rows)
    yield "Any other attribute may be asked: it is matched against, and returned from, the stored header.\n"
    yield "### 4.3 Status codes\n"
    yield from _table(
        ("Status", "Services", "Meaning"), [(f"0x{code:04X}", names, text) for code, names, text in STATUSES]
    )
    yield "Every failure carries Error Comment (0000,0902).\n"


def _attributes() -> Iterator[str]:
    yield "## 5 Extensions, specialisations and privatisations\n"
    yield f"Private creator `{CREATOR}`, group {GROUP:04X}. All are Type 3.\n"
    yield from _table(
        ("Tag", "VR", "Name", "Request", "Response"),
        [
            (
                _private_tag(element),
                row.vr,
                row.name,
                "optional" if row.in_request else "-",
                "yes" if row.in_response else "-",
            )
            for element, row in TABLE.items()
        ],
    )
    yield (
        "An IMAGE level identifier with a Query ROI or a Query SR SOP Instance UID is a region query: the standard "
        "keys narrow the candidates, the most similar regions are returned best first. All others are plain queries. "
        "Where a Query ROI holds several ROIs, each is searched and the answers are ranked together.\n"
    )
    yield (
        "Similarity Score is the cosine of two regions. For an ROI below a sixth of its region's area it is, unless "
        "switched off, the cosine of the ROI and the place in the matched region that looks most like it; Matched ROI "
        f"is then that place, its Finding Site the region, and Query Warning says {search.RANKED_LOCALLY}. Minimum "
        "Score applies to the score that is returned.\n"
    )
    yield f"Query Warning holds one or more of {', '.join(search.WARNINGS)}, separated by a semicolon.\n"
    yield "### 5.1 Anatomy codes\n"
    rows = [
        (entry.name, entry.code, entry.scheme, entry.meaning, {"R": "Right", "L": "Left"}.get(entry.laterality, "-"))
        for entry in VOCABULARY.entries
    ]
    yield from _table(("Region", "Code", "Scheme", "Meaning", "Laterality"), rows)
    yield "## 6 Character sets\n"
    yield (
        "Values are decoded by Specific Character Set (0008,0005), matched as Unicode, and returned in the asker's "
        "set, the stored one, or ISO_IR 192.\n"
    )


def _security() -> Iterator[str]:
    yield "## 7 Security\n"
    yield "No secure transport profile is supported. The port caps PDUs, connections and their duration."


def _private_tag(element: int) -> str:
    return f"({GROUP:04X},xx{element:02X})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join(' --- ' for _ in columns)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
