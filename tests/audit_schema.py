"""An audit message in, where it breaks the schema of PS3.15 A.5.1.1 out: a table, written apart from the writer."""

import base64
import binascii
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

MANY = 10**9


def is_token(text: str) -> bool:
    return text == " ".join(text.split())


def is_base64(text: str) -> bool:
    try:
        return base64.b64decode(text, validate=True) is not None
    except binascii.Error:
        return False


def is_moment(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def one_of(*values: str) -> Callable[[str], bool]:
    return lambda text: text in values


def up_to(last: int) -> Callable[[str], bool]:
    return one_of(*map(str, range(1, last + 1)))


def anything(_text: str) -> bool:
    return True


Attributes = Mapping[str, tuple[bool, Callable[[str], bool]]]  # whether it is required, and what it may be
CODED: Attributes = {
    "csd-code": (True, is_token),
    "codeSystemName": (True, is_token),
    "displayName": (False, is_token),
    "originalText": (True, is_token),
}


@dataclass(frozen=True)
class Rule:
    """What an element may be: its attributes, its text, and its children in their order with least and most."""

    attributes: Attributes = field(default_factory=dict)
    text: Callable[[str], bool] | None = None  # None: it has none
    children: tuple[tuple[tuple[str, ...], int, int], ...] = ()


RULES: dict[str, Rule] = {
    "AuditMessage": Rule(
        children=(
            (("EventIdentification",), 1, 1),
            (("ActiveParticipant",), 1, MANY),
            (("AuditSourceIdentification",), 1, 1),
            (("ParticipantObjectIdentification",), 0, MANY),
        )
    ),
    "EventIdentification": Rule(
        {
            "EventActionCode": (False, one_of("C", "R", "U", "D", "E")),
            "EventDateTime": (True, is_moment),
            "EventOutcomeIndicator": (True, one_of("0", "4", "8", "12")),
        },
        children=((("EventID",), 1, 1), (("EventTypeCode",), 0, MANY), (("EventOutcomeDescription",), 0, 1)),
    ),
    "EventID": Rule(CODED),
    "EventTypeCode": Rule(CODED),
    "EventOutcomeDescription": Rule(text=anything),
    "ActiveParticipant": Rule(
        {
            "UserID": (True, anything),
            "AlternativeUserID": (False, anything),
            "UserName": (False, anything),
            "UserIsRequestor": (True, one_of("true", "false")),
            "NetworkAccessPointID": (False, is_token),
            "NetworkAccessPointTypeCode": (False, up_to(5)),
        },
        children=((("RoleIDCode",), 0, MANY), (("MediaIdentifier",), 0, 1)),
    ),
    "RoleIDCode": Rule(CODED),
    "AuditSourceIdentification": Rule(
        {"AuditEnterpriseSiteID": (False, is_token), "AuditSourceID": (True, is_token)},
        children=((("AuditSourceTypeCode",), 0, MANY),),
    ),
    "AuditSourceTypeCode": Rule(
        {**{name: (False, kind) for name, (_, kind) in CODED.items()}, "csd-code": (True, is_token)}
    ),
    "ParticipantObjectIdentification": Rule(
        {
            "ParticipantObjectID": (True, anything),
            "ParticipantObjectTypeCode": (False, up_to(4)),
            "ParticipantObjectTypeCodeRole": (False, up_to(26)),
            "ParticipantObjectDataLifeCycle": (False, up_to(15)),
            "ParticipantObjectSensitivity": (False, is_token),
        },
        children=(
            (("ParticipantObjectIDTypeCode",), 1, 1),
            (("ParticipantObjectName", "ParticipantObjectQuery"), 1, 1),
            (("ParticipantObjectDetail",), 0, MANY),
            (("ParticipantObjectDescription",), 0, MANY),
        ),
    ),
    "ParticipantObjectIDTypeCode": Rule(CODED),
    "ParticipantObjectName": Rule(text=anything),
    "ParticipantObjectQuery": Rule(text=is_base64),
    "ParticipantObjectDetail": Rule({"type": (True, is_token), "value": (True, is_base64)}),
    "ParticipantObjectDescription": Rule(
        children=(
            (("MPPS",), 0, MANY),
            (("Accession",), 0, MANY),
            (("SOPClass",), 0, MANY),
            (("ParticipantObjectContainsStudy",), 0, 1),
            (("Encrypted",), 0, 1),
            (("Anonymized",), 0, 1),
        )
    ),
    "Accession": Rule({"Number": (True, is_token)}),
    "SOPClass": Rule(
        {"UID": (False, is_token), "NumberOfInstances": (True, str.isdecimal)}, children=((("Instance",), 0, MANY),)
    ),
    "Instance": Rule({"UID": (True, is_token)}),
}


def violations(xml: str) -> list[str]:
    """Where a message is not by the schema; an empty list is what is right."""
    root = ElementTree.fromstring(xml)
    return [*(["no AuditMessage"] if root.tag != "AuditMessage" else []), *_of(root), *_of_requestors(root)]


def _of(element: Element) -> Iterator[str]:
    rule = RULES.get(element.tag)
    if rule is None:
        yield f"{element.tag}: no such element"
        return
    yield from _of_attributes(element, rule)
    if rule.text is None and (element.text or "").strip():
        yield f"{element.tag}: has text"
    if rule.text is not None and not rule.text(element.text or ""):
        yield f"{element.tag}: wrong text"
    yield from _of_order(element, rule)
    for child in element:
        yield from _of(child)


def _of_attributes(element: Element, rule: Rule) -> Iterator[str]:
    for name, value in element.attrib.items():
        if name not in rule.attributes:
            yield f"{element.tag}: no attribute {name}"
        elif not rule.attributes[name][1](value):
            yield f"{element.tag}: {name} is {value!r}"
    for name, (is_required, _) in rule.attributes.items():
        if is_required and name not in element.attrib:
            yield f"{element.tag}: lacks {name}"


def _of_order(element: Element, rule: Rule) -> Iterator[str]:
    left = [child.tag for child in element]
    for names, least, most in rule.children:
        count = 0
        while left and left[0] in names:
            left.pop(0)
            count += 1
        if not least <= count <= most:
            yield f"{element.tag}: {count} of {' or '.join(names)}"
    if left:
        yield f"{element.tag}: {left[0]} out of place"


def _of_requestors(root: Element) -> Iterator[str]:
    """PS3.15 Table A.5.2-1: at most one participant is the requestor."""
    asking = [each for each in root.iter("ActiveParticipant") if each.get("UserIsRequestor") == "true"]
    if len(asking) > 1:
        yield "several requestors"
