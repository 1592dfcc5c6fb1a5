"""The audit trail of everything that peers do: by the schema, complete, private, and the same over syslog."""

import base64
import stat
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests import audit_schema
from tests.integration import asking
from tests.integration.operations.traffic import Seen

TRANSFERRED, QUERY, ALERT, LOGIN = "110104", "110112", "110113", "110114"


@pytest.fixture(scope="module")
def trail(seen: Seen) -> list[Element]:
    return [ElementTree.fromstring(line) for line in seen.audit.read_text(encoding="utf-8").splitlines()]


def of(trail: list[Element], event: str, action: str = "") -> Iterator[Element]:
    for root in trail:
        identification = root.find("EventIdentification")
        found = root.find("EventIdentification/EventID")
        assert identification is not None
        assert found is not None
        if found.get("csd-code") == event and action in {"", identification.get("EventActionCode")}:
            yield root


def users(root: Element) -> list[str]:
    return [str(each.get("UserID")) for each in root.iter("ActiveParticipant")]


def subject(root: Element, kind: str) -> str:
    """The id of a participant object of that kind."""
    found = {
        code.get("csd-code"): each.get("ParticipantObjectID")
        for each in root.iter("ParticipantObjectIdentification")
        for code in each.iter("ParticipantObjectIDTypeCode")
    }
    return str(found.get(kind))


def failed(root: Element) -> bool:
    return root.find("EventIdentification").get("EventOutcomeIndicator") != "0"  # type: ignore[union-attr]


def queries(trail: list[Element]) -> list[bytes]:
    return [base64.b64decode(root.findtext(".//ParticipantObjectQuery") or "") for root in of(trail, QUERY)]


def test_every_message_is_by_the_schema_and_the_file_is_its_owner_s(seen: Seen) -> None:
    lines = seen.audit.read_text(encoding="utf-8").splitlines()
    assert [wrong for line in lines for wrong in audit_schema.violations(line)] == []
    assert stat.S_IMODE(seen.audit.stat().st_mode) == 0o600


def test_it_begins_with_the_start_and_ends_with_the_stop(trail: list[Element]) -> None:
    types = [root.find(".//EventTypeCode") for root in (trail[0], trail[-1])]
    assert [each.get("csd-code") for each in types if each is not None] == ["110120", "110121"]


def test_what_was_stored_is_one_message_an_association_and_study(seen: Seen, trail: list[Element]) -> None:
    study = str(asking.film(20).StudyInstanceUID)
    stored = [root for root in trail if "DICOMNODE_SCU" in users(root) and subject(root, "110180") == study]
    actions = [root.find("EventIdentification").get("EventActionCode") for root in stored]  # type: ignore[union-attr]
    # new, the same again, other bytes that are not kept, another patient's; then one instance deleted by the account
    assert actions == ["C", "R", "R", "C"]
    assert [subject(root, "2") for root in stored] == ["PID-0020-X"] * 3 + ["PID-0021-X"]
    assert {each.get("NumberOfInstances") for root in stored for each in root.iter("SOPClass")} == {"1"}
    names = {each.text for root in stored for each in root.iter("ParticipantObjectName")} - {study}
    assert names == {f"{asking.UNFORGETTABLE}{number}^Zoë" for number in (20, 21)}
    http = [root for root in of(trail, TRANSFERRED, "C") if "READER" in users(root)]
    assert [subject(root, "2") for root in http] == ["PID-0030-X"]


def test_what_was_given_names_who_asked_and_who_got_it(seen: Seen, trail: list[Element]) -> None:
    study = str(seen.films[1].StudyInstanceUID)
    reads = [root for root in of(trail, TRANSFERRED, "R") if subject(root, "110180") == study]
    told = {(tuple(users(root)[1:]), failed(root)) for root in reads}
    assert told == {(("DICOMNODE_SCU",), False), (("PACS", "DICOMNODE_SCU"), False), (("GONE", "DICOMNODE_SCU"), True)}
    over_http = {subject(root, "110180") for root in of(trail, TRANSFERRED, "R") if "READER" in users(root)}
    assert over_http == {str(seen.films[number].StudyInstanceUID) for number in (2, 3)}


def test_results_that_were_sent_are_told(seen: Seen, trail: list[Element]) -> None:
    asked = str(seen.films[0].StudyInstanceUID)
    results = [
        root for root in of(trail, TRANSFERRED, "R") if subject(root, "110180") == asked and "PACS" in users(root)
    ]
    assert results
    assert not any(map(failed, results))


def test_queries_are_kept_as_they_came(seen: Seen, trail: list[Element]) -> None:
    found = queries(trail)
    assert any(f"{asking.UNFORGETTABLE}*".encode() in query and b"STUDY" in query for query in found)
    assert any(query.startswith(b"/dicom-web/studies?PatientName=") for query in found)
    assert any(query.startswith(b'{"image"') for query in found)
    assert any(query.startswith(b"/?name=") for query in found)
    assert len([root for root in of(trail, QUERY) if failed(root)]) >= 4
    classes = {subject(root, "110181") for root in of(trail, QUERY)}
    assert {"1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.1.88.34"} <= classes


def test_who_was_turned_away_is_told_with_why_and_from_where(trail: list[Element]) -> None:
    alerts = [root for root in of(trail, ALERT) if subject(root, "110182") and failed(root)]
    told = {(users(root)[1], root.findtext(".//EventOutcomeDescription")) for root in alerts}
    assert ("STRANGER", "calling AE title not in the peers table") in told
    assert ("PACS", "address is none that the peers table has for this AE title") in told
    assert ("unknown", "the token is unknown") in told
    assert ("unknown", "the token is not used from this address") in told
    assert {each.get("NetworkAccessPointID") for root in alerts for each in root.iter("ActiveParticipant")} == {
        None,
        "127.0.0.1",
    }


def test_logins_and_their_end_are_told(trail: list[Element]) -> None:
    told = [
        (str(root.find(".//EventTypeCode").get("csd-code")), users(root)[0], failed(root))  # type: ignore[union-attr]
        for root in of(trail, LOGIN)
    ]
    assert ("110122", "READER", False) in told
    assert ("110122", "unknown", True) in told
    assert ("110123", "READER", False) in told


def test_what_the_administrator_did_is_told(seen: Seen, trail: list[Element]) -> None:
    (study,) = of(trail, "110105")
    assert (subject(study, "110180"), subject(study, "2")) == (
        str(seen.films[3].StudyInstanceUID),
        str(seen.films[3].PatientID),
    )
    (part,) = of(trail, "110103", "D")
    assert subject(part, "2") == "PID-0020-X"
    kinds = {root.find(".//EventTypeCode").get("csd-code") for root in of(trail, ALERT)}  # type: ignore[union-attr]
    assert "110129" in kinds  # certificates, on SIGHUP


def test_settings_that_have_changed_are_named_and_no_value_is(seen: Seen, trail: list[Element]) -> None:
    told = [
        base64.b64decode(str(detail.get("value"))).decode()
        for root in of(trail, ALERT)
        if root.find(".//EventTypeCode").get("csd-code") == "110131"  # type: ignore[union-attr]
        for detail in root.iter("ParticipantObjectDetail")
    ]
    assert len(told) == 1
    assert {"audit.to", "web.administrators", "peers.READER.token"} <= set(
        told[0].removeprefix("settings changed: ").split(", ")
    )
    assert "token-0123456789" not in seen.audit.read_text()


def test_syslog_had_the_same(seen: Seen) -> None:
    sent = [message.partition(b"\xef\xbb\xbf") for message in seen.syslog]
    assert {head.partition(b"1 ")[0] for head, _, _ in sent} == {b"<85>"}
    lines = seen.audit.read_bytes().splitlines()
    assert sorted(xml for _, _, xml in sent) == sorted(lines)
