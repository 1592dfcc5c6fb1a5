"""C-FIND with many answers: all of them, cut by a C-CANCEL, cut by the node's own limit."""

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicomnode import config
from dicomnode.dimse import client
from dicomnode.node import open_store
from storage.records import KeptFile, NewInstance, NewPatient, NewSeries, NewStudy
from tests import nodes

STUDY = StudyRootQueryRetrieveInformationModelFind
COUNT = 2_000
LIMIT = 7


def catalogued(root, count):
    """Rows without files: a plain query reads the catalogue only."""
    arrivals = [
        (
            NewInstance(
                NewPatient(f"MANY{number % 50}"),
                NewStudy(f"1.2.3.{number}", study_date="20240101"),
                NewSeries(f"1.2.3.{number}.1", modality="CT"),
                sop_instance_uid=f"1.2.3.{number}.1.1",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
            ),
            KeptFile(f"files/{number}", "0" * 64, 1),
        )
        for number in range(count)
    ]
    with open_store(config.load(None, {}, {"storage.root": str(root)})) as store:
        store.catalog.add_all(arrivals)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "root"
    catalogued(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def node(root):
    with nodes.running_node(root, "--workers", "0") as running:
        yield running


def asked(patient_id=""):
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.PatientID = patient_id
    identifier.StudyInstanceUID = ""
    return identifier


def association_with(node):
    entity = AE()
    entity.add_requested_context(STUDY)
    association = entity.associate(
        "127.0.0.1",
        node.port,
        ae_title="DICOMNODE",
        evt_handlers=client.WITHOUT_DELAY,
    )
    assert association.is_established
    return association


def test_a_thousand_answers_come_in_order_and_once_each(node):
    uids = [match.StudyInstanceUID for match in client.find(node.peer, asked("MANY?"))]
    assert len(uids) == COUNT // 5
    assert len(set(uids)) == len(uids)
    assert uids == sorted(uids)


def test_a_cancel_ends_a_long_answer(node):
    association = association_with(node)
    answers = association.send_c_find(asked(), STUDY, msg_id=7)
    next(answers)
    association.send_c_cancel(7, query_model=STUDY)
    statuses = [status.Status for status, _ in answers]
    assert statuses[-1] == 0xFE00
    assert len(statuses) < COUNT

    # The next question of the same association is answered whole, whatever its Message ID.
    again = [status.Status for status, _ in association.send_c_find(asked("MANY1"), STUDY, msg_id=7)]
    association.release()
    assert again == [0xFF00] * (COUNT // 50) + [0x0000]


def test_a_cancel_for_another_request_changes_nothing(node):
    association = association_with(node)
    answers = association.send_c_find(asked("MANY2"), STUDY, msg_id=3)
    association.send_c_cancel(4, query_model=STUDY)
    statuses = [status.Status for status, _ in answers]
    association.release()
    assert statuses == [0xFF00] * (COUNT // 50) + [0x0000]


def test_past_the_nodes_limit_the_final_status_says_that_matches_are_missing(root, node, tmp_path):
    few = tmp_path / "few"
    catalogued(few, LIMIT + 1)
    with nodes.running_node(few, "--workers", "0", environment={"DICOMNODE_QUERY__MAXIMUM_ANSWERS": str(LIMIT)}) as one:
        association = association_with(one)
        answers = [
            (status.Status, status.get("ErrorComment", "")) for status, _ in association.send_c_find(asked(), STUDY)
        ]
        exact = [status.Status for status, _ in association.send_c_find(asked("MANY[0-6]"), STUDY)]
        association.release()
    assert [status for status, _ in answers] == [0xFF00] * LIMIT + [0xA700]
    assert answers[-1][1] == f"more than {LIMIT} matches: narrow the query"
    assert exact == [0x0000]  # brackets are no wild cards
