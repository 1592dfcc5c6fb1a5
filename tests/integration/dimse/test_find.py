"""C-FIND over real associations: plain queries by other people's clients, region queries badly put, cancel."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)

from dicomnode import private
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.query import request
from dicomnode.query.request import Keys
from encoder.boxes import Box

COUNT = 6
DX = "1.2.840.10008.5.1.4.1.1.1.1"
BOX = Box(10, 10, 40, 40)


def film(number: int):
    facts = FilmFacts(
        patient_id=f"FIND{number // 2}",
        patient_name=["Grüber^Änne", "Σωκράτης", "山田^太郎"][number // 2],
        patient_sex="FM"[number // 2 % 2],
        patient_birth_date="19600229",
        study_date=f"2023010{number + 1}",
        study_time=f"1{number}3000",
        seed=f"find {number}",
    )
    return dx_dataset(np.full((64, 64), 100 + number, np.uint16), facts)


@pytest.fixture(scope="module")
def films(node, tmp_path_factory) -> list[Dataset]:
    folder = tmp_path_factory.mktemp("films")
    made = [film(number) for number in range(COUNT)]
    paths = []
    for number, dataset in enumerate(made):
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    assert all(sent.ok for sent in client.send(node.peer, paths))
    return made


def find(node, model, relational=True, **keys) -> tuple[list[Dataset], list[int], str]:
    """Matches, statuses, and the Error Comment of the last."""
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return asked(node, identifier, model, relational)


def asked(node, identifier, model=StudyRootQueryRetrieveInformationModelFind, relational=True):
    entity = AE()
    entity.add_requested_context(model)
    negotiated = list(client._relational()) if relational else []
    for item in negotiated:
        item.sop_class_uid = model
    association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE", ext_neg=negotiated)
    assert association.is_established
    matches, statuses, comment = [], [], ""
    for status, match in association.send_c_find(identifier, model):
        statuses.append(status.Status)
        comment = status.get("ErrorComment", "")
        if match is not None:
            matches.append(match)
    association.release()
    return matches, statuses, comment


STUDY, PATIENT = StudyRootQueryRetrieveInformationModelFind, PatientRootQueryRetrieveInformationModelFind


@pytest.mark.parametrize(
    ("model", "keys", "count"),
    [
        (PATIENT, {"QueryRetrieveLevel": "PATIENT", "PatientID": "FIND*", "PatientName": ""}, 3),
        (PATIENT, {"QueryRetrieveLevel": "PATIENT", "PatientID": "", "PatientName": "grüber*"}, 1),
        (PATIENT, {"QueryRetrieveLevel": "PATIENT", "PatientID": "", "PatientName": "山田*"}, 1),
        (STUDY, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientID": "FIND1"}, 2),
        (STUDY, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "StudyDate": "20230102-20230104"}, 3),
        (STUDY, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "ModalitiesInStudy": "DX"}, COUNT),
        (STUDY, {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": "", "PatientSex": "M"}, 2),
        (STUDY, {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "", "PatientID": "FIND2"}, 2),
        (PATIENT, {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "", "PatientID": "FIND0"}, 2),
        (STUDY, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientID": "NOBODY"}, 0),
    ],
)
def test_every_level_matches(node, films, model, keys, count):
    matches, statuses, _ = find(node, model, **keys)
    assert statuses[-1] == 0x0000
    assert len(matches) == count
    assert {match.QueryRetrieveLevel for match in matches} <= {keys["QueryRetrieveLevel"]}


def test_names_come_back_as_they_were_sent(node, films):
    matches, _, _ = find(node, PATIENT, QueryRetrieveLevel="PATIENT", PatientID="FIND*", PatientName="")
    assert {str(match.PatientName) for match in matches} == {"Grüber^Änne", "Σωκράτης", "山田^太郎"}


@pytest.mark.dcmtk
def test_findscu_at_study_level(node, films, dcmtk, tmp_path):
    command = [dcmtk / "findscu", "-S", "-X", "-od", tmp_path, "-aec", "DICOMNODE", "127.0.0.1", node.port]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "PatientID=FIND1", "-k", "StudyDate"]
    subprocess.run([str(part) for part in [*command, *keys]], check=True, capture_output=True)
    dates = sorted(dcmread(path, force=True).StudyDate for path in tmp_path.glob("rsp*"))
    assert dates == ["20230103", "20230104"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "QueryRetrieveLevel"),
        ({"QueryRetrieveLevel": "FRAME"}, "QueryRetrieveLevel"),
        ({"QueryRetrieveLevel": "PATIENT", "PatientID": ""}, ""),
        ({"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": ""}, "StudyInstanceUID"),
    ],
)
def test_identifiers_that_break_the_model_are_refused_with_a_comment(node, films, keys, words):
    matches, statuses, comment = find(node, STUDY, relational=False, **keys)
    assert (matches, statuses) == ([], [0xA900])
    assert words in comment
    assert comment


def test_cancel_ends_the_answer(node, films):
    entity = AE()
    entity.add_requested_context(STUDY)
    association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE", ext_neg=list(client._relational()))
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.SOPInstanceUID = ""
    answers = association.send_c_find(identifier, STUDY, msg_id=7)
    association.send_c_cancel(7, query_model=STUDY)
    statuses = [status.Status for status, _ in answers]
    association.release()
    assert statuses[-1] in {0xFE00, 0x0000}  # all may have been sent before the cancel arrived
    assert client.echo(node.peer) == 0


def query(films, **changes) -> Dataset:
    return request.by_box(str(films[0].SOPInstanceUID), DX, BOX, Keys(**changes))


def test_no_index_yet_is_said(node, films):
    matches, statuses, comment = asked(node, query(films))
    assert (matches, statuses) == ([], [0xA700])
    assert comment.startswith("no index yet")


def empty_roi(films):
    identifier = query(films)
    block = identifier.private_block(0x0099, private.CREATOR)
    block[private.Element.QUERY_ROI].value = Sequence([])
    return identifier


def roi_without_points(films):
    identifier = query(films)
    (item,) = identifier.private_block(0x0099, private.CREATOR)[private.Element.QUERY_ROI].value
    for content in item.ContentSequence:
        if content.ValueType == "SCOORD":
            content.GraphicData = [1.0]
    return identifier


def both_ways(films):
    identifier = query(films)
    identifier.private_block(0x0099, private.CREATOR).add_new(private.Element.QUERY_SR, "UI", "1.2.3")
    return identifier


def wrong_level(films):
    identifier = query(films)
    identifier.QueryRetrieveLevel = "STUDY"
    return identifier


def unknown_anatomy(films):
    identifier = query(films)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "Knee"
    identifier.private_block(0x0099, private.CREATOR).add_new(private.Element.ANATOMIC_REGION, "SQ", [item])
    return identifier


def unknown_sr(films):
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    private.write_request(identifier, private.QueryKeys("1.2.3.4.5", ()))
    return identifier


def nested(films):
    identifier = query(films)
    (item,) = identifier.private_block(0x0099, private.CREATOR)[private.Element.QUERY_ROI].value
    for _ in range(60):
        outer = Dataset()
        outer.ValueType = "CONTAINER"
        outer.ContentSequence = [item]
        item = outer
    identifier.private_block(0x0099, private.CREATOR)[private.Element.QUERY_ROI].value = Sequence([item])
    return identifier


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (empty_roi, "Query ROI is empty"),
        (roi_without_points, ""),
        (both_ways, "not both"),
        (wrong_level, "IMAGE"),
        (unknown_anatomy, "vocabulary"),
        (unknown_sr, "not stored"),
        (nested, "deep"),
    ],
)
def test_questions_badly_put_are_refused_with_a_comment(node, films, put, words):
    matches, statuses, comment = asked(node, put(films))
    assert (matches, statuses) == ([], [0xA900])
    assert words.lower() in comment.lower()
    assert 0 < len(comment) <= 64
    assert client.echo(node.peer) == 0


def test_private_keys_come_only_to_who_asks_with_them(node, films):
    matches, _, _ = find(node, STUDY, QueryRetrieveLevel="IMAGE", SOPInstanceUID="", PatientID="FIND0")
    assert all(element.tag.group != 0x0099 for match in matches for element in match)


def test_garbage_identifier_is_refused(node):
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_FIND

    entity = AE()
    entity.add_requested_context(STUDY)
    association = entity.associate("127.0.0.1", node.port, ae_title="DICOMNODE")
    primitive = C_FIND()
    primitive.MessageID, primitive.Priority = 1, 0
    primitive.AffectedSOPClassUID = STUDY
    primitive.Identifier = BytesIO(b"\xff\xfe\x00\xe0garbage" * 9)
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.01)
    association.dimse.send_msg(primitive, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    assert answer.Status in {0xA900, 0xC001}
    association.release()
    assert client.echo(node.peer) == 0


def test_an_sr_without_a_region_is_refused_by_the_command(node, data_dir):
    from tests import nodes

    done = nodes.dicomnode("query", node.address, "--sr", data_dir / "sr" / "ohif_rect_nostats.dcm", check=False)
    assert done.returncode == 1
    assert "SR has no region" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unreadable_sr_is_one_line(node, tmp_path: Path):
    from tests import nodes

    (tmp_path / "x.dcm").write_bytes(b"nonsense")
    done = nodes.dicomnode("query", node.address, "--sr", tmp_path / "x.dcm", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
