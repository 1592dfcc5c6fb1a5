"""Audit messages: by the schema, whatever a peer says; gathered by study; never waited for; to a file and to syslog."""

import base64
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dicomnode import config
from dicomnode.audit import changes, codes, gathering, sinks, trail
from dicomnode.audit.auditor import AGAIN_S, MOST_QUERY, Auditor, Party
from dicomnode.audit.gathering import Gathering, Instance, Kind, Whose
from dicomnode.audit.message import Message, Participant
from dicomnode.audit.sinks import DatagramSink, FileSink, Header
from dicomnode.audit.trail import FakeTrail, SinkTrail
from dicomnode.errors import ConfigError
from dicomnode.settings import Config
from storage.errors import DatabaseError
from storage.records import StudyShare
from tests import audit_schema
from tests.raw import wait_until

CT = "1.2.840.10008.5.1.4.1.1.2"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
NASTY = 'Müller^<b a="1">&amp;\x00\x1b[1m\n\ud800]]>日本'
PEER = Party("CT1", "10.0.0.7")


def instance(number: int, study: str = "1.2.3", sop_class: str = CT) -> Instance:
    return Instance(Whose(study, "P1", "Grün^Ada", "A1"), sop_class, f"1.9.{number}")


@pytest.fixture
def written() -> FakeTrail:
    return FakeTrail()


@pytest.fixture
def auditor(written: FakeTrail) -> Auditor:
    return Auditor(written, "DICOMNODE", clock=lambda: 1_700_000_000.25)


EVENTS: dict[str, tuple[Callable[[Auditor], object], str, str]] = {  # what is told, EventID, EventTypeCode
    "start": (Auditor.start, "110100", "110120"),
    "refusal": (lambda told: told.refused("association", PEER, "not in the table"), "110113", "110126"),
    "query": (
        lambda told: told.queried(PEER, "1.2.840.10008.5.1.4.1.2.2.1", b"\x08\x00", "1.2.840.10008.1.2"),
        "110112",
        "",
    ),
    "deletion": (
        lambda told: told.deleted(PEER, StudyShare("1.2.3", 2, 9, 0.0, "P1", "Ada"), whole=True),
        "110105",
        "",
    ),
    "a part": (lambda told: told.deleted(PEER, StudyShare("1.2.3", 1, 9, 0.0, "P1", None), whole=False), "110103", ""),
    "retention": (
        lambda told: told.deleted(None, StudyShare("1.2.3", 2, 9, 0.0, "P1", "Ada"), whole=True),
        "110105",
        "",
    ),
    "settings": (
        lambda told: told.configured(codes.SOFTWARE_CONFIGURATION, "settings changed: web.port"),
        "110113",
        "110131",
    ),
    "login": (lambda told: told.logged_in(PEER), "110114", "110122"),
    "wrong login": (lambda told: told.logged_in(Party("", "10.0.0.8"), "the token is unknown"), "110114", "110122"),
    "logout": (lambda told: told.logged_out(PEER), "110114", "110123"),
}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_by_the_schema(event: str, auditor: Auditor, written: FakeTrail) -> None:
    tell, event_id, event_type = EVENTS[event]
    tell(auditor)
    (message,) = written.messages
    xml = message.xml("DICOMNODE@host")
    assert audit_schema.violations(xml) == []
    assert "\n" not in xml
    root = ElementTree.fromstring(xml)
    found = [code.get("csd-code") for code in root.find("EventIdentification")]  # type: ignore[union-attr]
    assert found[0] == event_id
    assert found[1:2] == ([event_type] if event_type else [])
    assert root.find("EventIdentification").get("EventDateTime") == "2023-11-14T22:13:20.250Z"  # type: ignore[union-attr]
    auditor.stop()


def test_the_schema_table_sees_what_is_wrong() -> None:
    good = Message(codes.QUERY, "E", 0.0, (Participant("1", True),)).xml("here")
    assert audit_schema.violations(good) == []
    for wrong, right in (
        ("EventActionCode", "Action"),
        ('"E"', '"X"'),
        ('UserID="1" ', ""),
        ("EventID", "EventTypeCode"),
    ):
        assert audit_schema.violations(good.replace(wrong, right)), wrong


def test_what_a_peer_says_of_itself_stays_text(auditor: Auditor, written: FakeTrail) -> None:
    whose = Whose("1.2.3", NASTY, NASTY, NASTY)
    auditor.refused("association", Party(NASTY, "10.0.0.9"), NASTY.encode("utf-8", "replace").decode())
    auditor.sent(Party(NASTY), [Instance(whose, CT, "1.9")])
    auditor.stop()
    for message in written.messages:
        xml = message.xml(NASTY)
        root = ElementTree.fromstring(xml)
        assert len(xml.splitlines()) == 1
        assert {element.tag for element in root.iter()} <= set(audit_schema.RULES)
    name = next(root for root in map(parsed, written.messages) if root.find(".//ParticipantObjectName") is not None)
    assert "Müller" in ElementTree.tostring(name, encoding="unicode")


def parsed(message: Message) -> ElementTree.Element:
    return ElementTree.fromstring(message.xml("x"))


def test_instances_of_an_association_are_one_message_a_study_when_it_ends(auditor: Auditor, written: FakeTrail) -> None:
    first, second = auditor.channel(), auditor.channel()
    for number in range(5):
        auditor.received(first, PEER, instance(number), "new")
    auditor.received(first, PEER, instance(5, sop_class=DX), "new")
    auditor.received(first, PEER, instance(6, "1.2.4"), "new")
    auditor.received(first, PEER, instance(0), "identical")
    auditor.received(second, PEER, instance(7), "new")
    assert written.messages == []
    auditor.ended(first)
    found = [(told.action, dict(told.subjects[0].instances), told.subjects[0].id) for told in written.messages]
    assert found == [("C", {CT: 5, DX: 1}, "1.2.3"), ("C", {CT: 1}, "1.2.4"), ("R", {CT: 1}, "1.2.3")]
    assert [audit_schema.violations(told.xml("x")) for told in written.messages] == [[], [], []]
    assert (written.messages[0].subjects[1].id, written.messages[0].subjects[1].name) == ("P1", "Grün^Ada")
    auditor.ended(second)
    assert len(written.messages) == 4


def test_what_was_sent_names_who_asked_and_what_failed(auditor: Auditor, written: FakeTrail) -> None:
    auditor.sent(Party("PACS"), [instance(1), instance(2)], asked_by=PEER)
    auditor.sent(Party("PACS"), [instance(3)], asked_by=PEER, failed=True)
    auditor.stop()
    good, bad, _stop = written.messages
    assert [(each.user_id, each.is_requestor) for each in good.participants[1:]] == [("PACS", False), ("CT1", True)]
    assert (good.outcome, bad.outcome, bad.subjects[0].instances) == ("0", "4", {CT: 1})


def test_pictures_of_one_study_and_caller_are_one_event(written: FakeTrail) -> None:
    now = [0.0]
    sums = Gathering(lambda: now[0])
    kind = Kind(0, (Participant("A", True),), Whose("1.2", "P"), "R", "0")
    for _ in range(3):
        sums.add(kind, instance(1))
    now[0] = 29.0
    assert sums.older(30.0, 600.0) == []
    now[0] = 31.0
    (told,) = sums.older(30.0, 600.0)
    assert told.counts == {CT: 1}
    assert sums.older(0.0, 0.0) == []


def test_sums_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST_KINDS", 2)
    monkeypatch.setattr(gathering, "MOST_INSTANCES", 3)
    sums = Gathering()
    kinds = [Kind(1, (), Whose(f"1.{number}", "P"), "C", "0") for number in range(3)]
    assert [sums.add(kinds[0], instance(number)) for number in range(2)] == [[], []]
    assert sums.add(kinds[0], instance(2))[0].counts == {CT: 3}
    early = [each for kind in kinds for each in sums.add(kind, instance(1))]
    assert [each.kind for each in early] == [kinds[0]]


def test_a_long_query_is_cut_and_says_so(auditor: Auditor, written: FakeTrail) -> None:
    auditor.queried(PEER, "1.2", b"q" * (MOST_QUERY + 5), "1.2.840.10008.1.2")
    (message,) = written.messages
    root = parsed(message)
    kept = base64.b64decode(root.findtext(".//ParticipantObjectQuery") or "")
    details = {
        each.get("type"): base64.b64decode(each.get("value", "")) for each in root.iter("ParticipantObjectDetail")
    }
    assert (len(kept), details["QueryLength"]) == (MOST_QUERY, str(MOST_QUERY + 5).encode())
    assert len(message.xml("x")) < 60_000  # a datagram's room


def test_a_caller_over_http_logs_in_again_after_a_while(written: FakeTrail) -> None:
    now = [0.0]
    auditor = Auditor(written, "DICOMNODE", clock=lambda: now[0])
    for at in (0.0, 10.0, AGAIN_S, 3 * AGAIN_S):
        now[0] = at
        auditor.seen(PEER)
    assert len(written.messages) == 2


def test_without_a_trail_nothing_is_looked_up_and_refusals_still_count() -> None:
    counted: list[str] = []

    class Counts:
        def refused(self, door: str) -> None:
            counted.append(door)

        def sent(self, count: int, *, failed: bool) -> None:
            raise AssertionError("nothing was sent")

    auditor = Auditor(None, "DICOMNODE", Counts())

    def never() -> Iterator[Instance]:
        raise AssertionError("nobody writes it down")
        yield

    auditor.sent(PEER, never())
    auditor.refused("tls", PEER, "no certificate")
    assert (auditor.is_on, counted) == (False, ["tls"])


# --- sinks and queues ------------------------------------------------------------------------------------------------


def message(number: int = 0) -> Message:
    return Message(codes.QUERY, "E", 1_700_000_000.0, (Participant(str(number), True),))


def test_a_file_is_private_and_begun_anew_when_it_is_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.xml"
    os.umask(os.umask(0o022))
    sink = FileSink(path)
    sink.write("<a/>", 0.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(tmp_path / "audit.xml.1")
    sink.write("<b/>", 0.0)
    sink.close()
    assert ((tmp_path / "audit.xml.1").read_text(), path.read_text()) == ("<a/>\n", "<b/>\n")


def test_a_torn_line_is_ended_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, write = FileSink(tmp_path / "audit.xml"), os.write
    monkeypatch.setattr(sinks.os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with pytest.raises(OSError, match="3 of 7 bytes"):
        sink.write("<long>", 0.0)
    monkeypatch.setattr(sinks.os, "write", write)
    sink.write("<long>", 0.0)
    sink.close()
    assert (tmp_path / "audit.xml").read_text() == "<lo\n<long>\n"


def test_syslog_over_udp_is_rfc_5424(written: FakeTrail) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sink = DatagramSink("udp", socket.AF_UNSPEC, ("127.0.0.1", receiver.getsockname()[1]), Header("host", 7))
        sink.write(message().xml("src"), 1_700_000_000.0)
        head, _, xml = receiver.recv(65536).partition(b"\xef\xbb\xbf")
        sink.close()
    assert head == b"<85>1 2023-11-14T22:13:20.000Z host dicomnode 7 DICOM+RFC3881 - "
    assert audit_schema.violations(xml.decode()) == []


def test_the_system_s_own_socket_is_written_and_found_again(tmp_path: Path) -> None:
    where = tmp_path / "log"
    made = trail.of_config(config.load(None, {}, {"audit.to": [f"unix:{where}"]}), "host")
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(where))
            receiver.settimeout(10)
            made.record(message())
            assert receiver.recv(65536).startswith(b"<85>1 ")
        where.unlink()
    made.close()


class Slow:
    """A sink that waits until it is let go, or fails for a while."""

    name = "slow"

    def __init__(self) -> None:
        self.go, self.broken = threading.Event(), False
        self.lines: list[str] = []

    def write(self, xml: str, at: float) -> None:
        self.go.wait(20)
        if self.broken:
            raise OSError(28, "No space left on device")
        self.lines.append(xml)

    def close(self) -> None:
        """Nothing is open."""


def test_nobody_waits_for_a_sink_and_what_is_lost_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    made = SinkTrail("here", (slow,), 5)
    began = time.monotonic()
    for number in range(20):
        made.record(message(number))
    assert time.monotonic() - began < 5
    assert made.lost >= 14
    slow.go.set()
    assert wait_until(lambda: made.waiting == 0, 10)
    made.close()
    assert len(slow.lines) == 20 - made.lost
    assert "messages are lost until it does" in caplog.text
    assert "P1" not in caplog.text


def test_a_full_disk_is_waited_for_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    slow.broken = True
    slow.go.set()
    made = SinkTrail("here", (slow,), 5)
    made.record(message())
    assert wait_until(lambda: "cannot be written" in caplog.text, 10)
    slow.broken = False
    assert wait_until(lambda: bool(slow.lines), 10)
    made.close()
    assert (made.lost, caplog.text.count("cannot be written"), caplog.text.count("is written again")) == (0, 1, 1)


def test_a_stop_does_not_wait_for_a_sink_that_is_gone() -> None:
    slow = Slow()
    slow.broken = True
    slow.go.set()
    made = SinkTrail("here", (slow,), 5)
    for number in range(3):
        made.record(message(number))
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 4
    assert made.lost == 3


@pytest.mark.parametrize(
    "where",
    ["tcp://host:1", "udp://", "udp://host:0", "tls://host/path", "unix:relative", "udp://h:99999", " ", "logs/"],
)
def test_a_place_that_is_none_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match=r"audit\.to"):
        config.load(None, {}, {"audit.to": [where]})


@pytest.mark.parametrize(
    "where", ["audit.xml", "/var/log/a.xml", "udp://host:514", "tls://[::1]:6514", "unix:/dev/log"]
)
def test_a_place_is_taken(where: str) -> None:
    assert config.load(None, {}, {"audit.to": [where]}).audit.to == (where,)


def test_changed_settings_are_named_without_their_values(tmp_path: Path) -> None:
    def loaded(**flags: Any) -> Config:
        return config.load(None, {}, {name.replace("__", "."): value for name, value in flags.items()})

    assert changes.since_last_start(loaded(storage__url="postgresql://secret"), tmp_path) == []
    assert changes.since_last_start(loaded(storage__url="postgresql://secret"), tmp_path) == []
    assert changes.since_last_start(loaded(web__port=1), tmp_path) == ["storage.url", "web.port"]
    assert "secret" not in (tmp_path / changes.NAME).read_text()
    (tmp_path / changes.NAME).write_text("torn")
    assert changes.since_last_start(loaded(), tmp_path) == []


def test_what_cannot_be_looked_up_harms_nobody(
    auditor: Auditor, written: FakeTrail, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> Iterator[Instance]:
        yield instance(1)
        raise DatabaseError("server closed the connection")

    auditor.sent(PEER, gone())
    auditor.stop()
    assert [told.event for told in written.messages] == [codes.INSTANCES_TRANSFERRED, codes.APPLICATION_ACTIVITY]
    assert "could not be looked up" in caplog.text
