"""Storage commitment: asked by pynetdicom, answered on the same association, on a new one, and after a restart."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicomnode.dimse import client, commitment
from storage.records import Reference
from storage.store import Store
from tests import nodes
from tests.integration.dimse import retrieving
from tests.integration.dimse.retrieving import CLASSES, EXPLICIT, IMPLICIT, instance_uid
from tests.integration.interop import programs
from tests.nodes import RunningNode
from tests.raw import wait_until

STUDY = "2.25.4711"
COUNT = 3
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
NO_SUCH_INSTANCE, CONFLICT, PROCESSING_FAILURE = 0x0112, 0x0119, 0x0110


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: programs.free_port() for name in ("MODALITY", "PLAIN")}


@pytest.fixture(scope="module")
def arguments(ports, tmp_path_factory) -> list[str]:
    settings = tmp_path_factory.mktemp("settings") / "dicomnode.toml"
    tables = [
        f'[peers.{name}]\nae_title = "{name}"\nhost = "127.0.0.1"\nport = {port}\n' for name, port in ports.items()
    ]
    settings.write_text('[dimse]\nunknown_peers = "accept"\nnetwork_timeout_s = 4.0\n' + "\n".join(tables))
    return ["--workers", "0", "--config", str(settings)]


@pytest.fixture(scope="module")
def node(arguments, tmp_path_factory) -> Iterator[RunningNode]:
    with nodes.running_node(tmp_path_factory.mktemp("commitment") / "root", *arguments) as running:
        yield running


@pytest.fixture(scope="module")
def kept(node, tmp_path_factory) -> list[tuple[str, str]]:
    """SOP class and instance of what the node holds."""
    paths = retrieving.written(tmp_path_factory.mktemp("kept"), STUDY, COUNT)
    assert all(sent.ok for sent in client.send(node.peer, paths))
    return [(CLASSES[number], instance_uid(STUDY, number)) for number in range(COUNT)]


def request(references: list[tuple[str, str]], transaction: str = "2.25.1") -> Dataset:
    dataset = Dataset()
    dataset.TransactionUID = transaction
    dataset.ReferencedSOPSequence = Sequence([])
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        dataset.ReferencedSOPSequence.append(item)
    return dataset


@dataclass
class Reports:
    """What a modality was told."""

    events: list[tuple[int, Dataset]] = field(default_factory=list)
    answer: int = 0x0000

    def take(self, event):
        self.events.append((event.event_type, event.event_information))
        return self.answer, None

    def of(self, transaction: str) -> list[tuple[int, Dataset]]:
        return [each for each in self.events if each[1].TransactionUID == transaction]


def references_in(dataset: Dataset, keyword: str) -> list[tuple[str, ...]]:
    found = []
    for item in dataset.get(keyword, []):
        reason = (item.FailureReason,) if "FailureReason" in item else ()
        found.append((str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID), *reason))
    return found


@contextmanager
def asking(node, reports: Reports, ae_title: str = "MODALITY", syntax: str = EXPLICIT):
    entity = AE(ae_title)
    entity.requested_contexts = [build_context(StorageCommitmentPushModel, syntax)]
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.take)]
    association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE", evt_handlers=handlers)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def ask(association, information: Dataset | None, action: int = 1, instance: str = WELL_KNOWN) -> int:
    status, _ = association.send_n_action(information, action, StorageCommitmentPushModel, instance)
    return status.get("Status", -1)


@contextmanager
def listening(port: int, reports: Reports, ae_title: str = "MODALITY", roles=(True, True)) -> Iterator[Reports]:
    """The modality as it listens for reports; `roles`: which it grants a caller."""
    entity = AE(ae_title)
    entity.add_supported_context(StorageCommitmentPushModel, IMPLICIT, scu_role=roles[0], scp_role=roles[1])
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.take)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield reports
    finally:
        server.shutdown()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_is_kept_is_reported_on_the_same_association(node, kept, syntax):
    reports = Reports()
    with asking(node, reports, syntax=syntax) as association:
        assert ask(association, request(kept)) == 0x0000
        assert wait_until(lambda: reports.events)
    ((kind, information),) = reports.events
    assert kind == 1
    assert references_in(information, "ReferencedSOPSequence") == kept
    assert "FailedSOPSequence" not in information
    assert information.RetrieveAETitle == "DICOMNODE"
    assert owed(node) == 0


def owed(node) -> int:
    from sqlalchemy import text

    with Store.open(node.root) as store, store._database.reading() as connection:
        return connection.execute(text("SELECT count(*) FROM commitment")).scalar_one()


def test_what_is_not_kept_is_reported_with_why(node, kept, tmp_path):
    study = "2.25.815"
    assert all(sent.ok for sent in client.send(node.peer, retrieving.written(tmp_path, study, 2)))
    with Store.open(node.root) as store:
        gone, short = (store.files.path(store.catalog.instance(instance_uid(study, n)).path) for n in (0, 1))
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-2])
    wrong_class = (CLASSES[1], kept[0][1])
    asked = [
        kept[0],
        wrong_class,
        ("1.2.840.10008.5.1.4.1.1.2", "1.2.3"),
        *((CLASSES[n], instance_uid(study, n)) for n in (0, 1)),
    ]
    reports = Reports()
    with asking(node, reports) as association:
        assert ask(association, request(asked)) == 0x0000
        assert wait_until(lambda: reports.events)
    ((kind, information),) = reports.events
    assert kind == 2
    assert references_in(information, "ReferencedSOPSequence") == [kept[0]]
    assert references_in(information, "FailedSOPSequence") == [
        (*wrong_class, CONFLICT),
        (*asked[2], NO_SUCH_INSTANCE),
        (*asked[3], NO_SUCH_INSTANCE),
        (*asked[4], PROCESSING_FAILURE),
    ]


def test_several_requests_on_one_association_are_all_reported(node, kept, ports):
    """The peer goes on asking while reports are due: what cannot be told here is told on another association."""
    here, there = Reports(), Reports()
    with listening(ports["MODALITY"], there):
        with asking(node, here) as association:
            for number in range(3):
                assert ask(association, request(kept, f"2.25.10{number}")) == 0x0000
            assert wait_until(lambda: len(here.events) + len(there.events) == 3)
        assert client.echo(node.peer) == 0
    told = sorted(str(information.TransactionUID) for _, information in here.events + there.events)
    assert told == ["2.25.100", "2.25.101", "2.25.102"]


@pytest.mark.parametrize("roles", [(True, True), (None, None)])
def test_a_peer_that_has_left_is_told_on_a_new_association(node, kept, ports, roles):
    here, there = Reports(), Reports()
    with listening(ports["MODALITY"], there, roles=roles):
        with asking(node, here) as association:
            assert ask(association, request(kept, "2.25.20")) == 0x0000
        assert wait_until(lambda: there.of("2.25.20"))
        assert wait_until(lambda: owed(node) == 0)
    assert here.events == []
    ((kind, information),) = there.events
    assert (kind, references_in(information, "ReferencedSOPSequence")) == (1, kept)


def test_a_report_that_cannot_be_told_is_told_after_a_restart(arguments, ports, tmp_path):
    there = Reports()
    with nodes.running_node(tmp_path / "root", *arguments) as node:
        paths = retrieving.written(tmp_path / "files", STUDY, 1)
        assert all(sent.ok for sent in client.send(node.peer, paths))
        with asking(node, there) as association:
            assert ask(association, request([(CLASSES[0], instance_uid(STUDY, 0))], "2.25.30")) == 0x0000
        assert wait_until(lambda: "again in" in (tmp_path / "root.log").read_text())
        assert owed(node) == 1
        node.kill_tree()
    with listening(ports["MODALITY"], there), nodes.running_node(tmp_path / "root", *arguments) as node:
        assert wait_until(lambda: there.of("2.25.30"))
        assert wait_until(lambda: owed(node) == 0)


def test_a_peer_that_nobody_configured_is_told_only_where_it_asks(node, kept):
    reports = Reports()
    with asking(node, reports, "STRANGER") as association:
        assert ask(association, request(kept, "2.25.40")) == 0x0000
        assert wait_until(lambda: reports.events)
    with asking(node, reports, "STRANGER") as association:
        assert ask(association, request(kept, "2.25.41")) == 0x0000
    log = node.root.parent / f"{node.root.name}.log"
    assert wait_until(lambda: "not reported to STRANGER: it is no configured peer" in log.read_text())
    assert wait_until(lambda: owed(node) == 0)
    assert reports.of("2.25.41") == []


def test_a_peer_that_asks_for_patience_is_told_again(node, kept, ports):
    reports = Reports(answer=0x0213)
    with listening(ports["MODALITY"], reports):
        with asking(node, reports) as association:
            assert ask(association, request(kept, "2.25.50")) == 0x0000
            assert wait_until(lambda: reports.of("2.25.50"))
            reports.answer = 0x0000
        assert wait_until(lambda: len(reports.of("2.25.50")) == 2, 30)
        assert wait_until(lambda: owed(node) == 0)


def without(keyword: str) -> Dataset:
    dataset = request([("1.2.840.10008.5.1.4.1.1.2", "1.2.3")])
    delattr(dataset, keyword)
    return dataset


def no_uid() -> Dataset:
    dataset = request([("1.2.840.10008.5.1.4.1.1.2", "1.2.3")])
    del dataset.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    return dataset


@pytest.mark.parametrize(
    ("information", "action", "instance", "status"),
    [
        (request([]), 1, WELL_KNOWN, 0x0115),
        (without("TransactionUID"), 1, WELL_KNOWN, 0x0115),
        (without("ReferencedSOPSequence"), 1, WELL_KNOWN, 0x0115),
        (no_uid(), 1, WELL_KNOWN, 0x0115),
        (None, 1, WELL_KNOWN, 0x0115),
        (request([("1.2.840.10008.5.1.4.1.1.2", "1.2.3")]), 2, WELL_KNOWN, 0x0123),
        (request([("1.2.840.10008.5.1.4.1.1.2", "1.2.3")]), 1, "1.2.3.4", 0x0112),
    ],
)
def test_requests_that_mean_nothing_are_refused(node, kept, information, action, instance, status):
    reports = Reports()
    with asking(node, reports) as association:
        assert ask(association, information, action, instance) == status
        assert client.echo(node.peer) == 0
    assert reports.events == []


@pytest.mark.parametrize(("count", "status"), [(21_000, 0x0213), (60_000, 0x0115)])
def test_too_many_references_are_refused(node, kept, count, status):
    """As bytes: pydicom would take half a minute to make them."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset
    from pynetdicom.dimse_primitives import N_ACTION

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    write_dataset(buffer, item)
    body = b"\xfe\xff\x00\xe0" + len(buffer.getvalue()).to_bytes(4, "little") + buffer.getvalue()
    data = b"\x08\x00\x95\x11\x06\x00\x00\x002.25.1" + b"\x08\x00\x99\x11" + (len(body) * count).to_bytes(4, "little")
    primitive = N_ACTION()
    primitive.MessageID, primitive.ActionTypeID = 1, 1
    primitive.RequestedSOPClassUID, primitive.RequestedSOPInstanceUID = StorageCommitmentPushModel, WELL_KNOWN
    primitive.ActionInformation = BytesIO(data + body * count)
    with asking(node, Reports(), syntax=IMPLICIT) as association:
        association._reactor_checkpoint.clear()
        assert wait_until(lambda: association._is_paused)
        association.dimse.send_msg(primitive, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer.Status == status
    assert client.echo(node.peer) == 0


def test_a_peer_that_takes_no_answers_is_refused_more(node, kept):
    """Half a million references are owed to one AE title; others are served."""
    many = [Reference("1.2.840.10008.5.1.4.1.1.2", f"2.25.{'9' * 40}{number}") for number in range(20_000)]
    with Store.open(node.root) as store:
        while store.commitments.size("HOARDER") <= commitment.MOST_OWED:
            hoarded = store.commitments.owe("2.25.60", "HOARDER", many, 3600.0)
        with asking(node, Reports(), "HOARDER") as association:
            assert ask(association, request(kept, "2.25.61")) == 0x0213
        reports = Reports()
        with asking(node, reports, "STRANGER") as association:
            assert ask(association, request(kept, "2.25.62")) == 0x0000
            assert wait_until(lambda: reports.of("2.25.62"))
        for number in range(hoarded + 1):
            store.commitments.end(number)
