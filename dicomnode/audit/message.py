"""An event with who took part and whose data it was in, one line of XML out. PS3.15 A.5.1.1, the DICOM audit schema."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from dicomnode.audit import codes
from dicomnode.audit.codes import Code

APPLICATION_SERVER: Final = "4"  # Audit Source Type Code, PS3.15 A.5.1.2.1
IP_ADDRESS: Final = "2"  # NetworkAccessPointTypeCode
# XML 1.0 2.2 has no such characters, and a message is one line.
_UNFIT: Final = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Participant:
    """Who took part in an event. `alternative`: the AE titles, as `AETITLES=A;B` (PS3.15 A.5.2.2)."""

    user_id: str
    is_requestor: bool
    role: Code | None = None
    address: str = ""  # IP; empty: not known, or the node's own
    alternative: str = ""


@dataclass(frozen=True)
class Subject:
    """What an event was about. The schema wants a name or a query in each."""

    id: str
    id_type: Code
    type_code: str  # 1 person, 2 system object
    role: str  # PS3.15 A.5.1.2.2; empty: none
    name: str = ""
    query: bytes | None = None
    details: tuple[tuple[str, bytes], ...] = ()
    accession: str = ""
    instances: Mapping[str, int] = field(default_factory=dict)  # how many of each SOP class; "": of any


@dataclass(frozen=True)
class Message:
    """One audit message. `at`: seconds since 1970."""

    event: Code
    action: str
    at: float
    participants: tuple[Participant, ...]
    subjects: tuple[Subject, ...] = ()
    types: tuple[Code, ...] = ()
    outcome: str = codes.SUCCESS
    why: str = ""  # of an outcome that is no success

    def xml(self, source: str) -> str:
        """The message on one line; `source`: which system reports it."""
        root = Element("AuditMessage")
        self._identify(root)
        for participant in self.participants:
            _add_participant(root, participant)
        reporter = SubElement(root, "AuditSourceIdentification", AuditSourceID=_fit(source))
        SubElement(reporter, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
        for subject in self.subjects:
            _add_subject(root, subject)
        return ElementTree.tostring(root, encoding="unicode")

    def _identify(self, root: Element) -> None:
        event = SubElement(
            root,
            "EventIdentification",
            EventActionCode=self.action,
            EventDateTime=moment(self.at),
            EventOutcomeIndicator=self.outcome,
        )
        _add_code(event, "EventID", self.event)
        for code in self.types:
            _add_code(event, "EventTypeCode", code)
        if self.why:
            SubElement(event, "EventOutcomeDescription").text = _fit(self.why)


def moment(at: float) -> str:
    """xsd:dateTime in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fit(text: str) -> str:
    return _UNFIT.sub("?", text)


def _add_code(parent: Element, name: str, code: Code) -> None:
    values = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    SubElement(parent, name, values)


def _add_participant(root: Element, participant: Participant) -> None:
    values = {"UserID": _fit(participant.user_id), "UserIsRequestor": str(participant.is_requestor).lower()}
    if participant.alternative:
        values["AlternativeUserID"] = _fit(participant.alternative)
    if participant.address:
        values |= {"NetworkAccessPointID": _fit(participant.address), "NetworkAccessPointTypeCode": IP_ADDRESS}
    element = SubElement(root, "ActiveParticipant", values)
    if participant.role is not None:
        _add_code(element, "RoleIDCode", participant.role)


def _add_subject(root: Element, subject: Subject) -> None:
    values = {"ParticipantObjectID": _fit(subject.id), "ParticipantObjectTypeCode": subject.type_code}
    if subject.role:
        values["ParticipantObjectTypeCodeRole"] = subject.role
    element = SubElement(root, "ParticipantObjectIdentification", values)
    _add_code(element, "ParticipantObjectIDTypeCode", subject.id_type)
    if subject.query is None:
        SubElement(element, "ParticipantObjectName").text = _fit(subject.name)
    else:
        SubElement(element, "ParticipantObjectQuery").text = _base64(subject.query)
    for kind, value in subject.details:
        SubElement(element, "ParticipantObjectDetail", type=kind, value=_base64(value))
    _describe(element, subject)


def _describe(element: Element, subject: Subject) -> None:
    if not (subject.accession or subject.instances):
        return
    description = SubElement(element, "ParticipantObjectDescription")
    if subject.accession:
        SubElement(description, "Accession", Number=_fit(subject.accession))
    for uid, count in sorted(subject.instances.items()):
        SubElement(description, "SOPClass", {**({"UID": uid} if uid else {}), "NumberOfInstances": str(count)})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
