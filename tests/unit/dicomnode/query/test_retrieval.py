"""Identifiers of C-MOVE and C-GET: the hierarchy, lists, and what is refused."""

import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import IdentifierError
from dicomnode.query import retrieval
from dicomnode.query.keys import Model
from storage.records import AnyOf, Equals

PATIENT, STUDY = Model.PATIENT_ROOT, Model.STUDY_ROOT


def identifier(level: str | None, **keys) -> Dataset:
    dataset = Dataset()
    if level is not None:
        dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("model", "asked", "conditions"),
    [
        (PATIENT, identifier("PATIENT", PatientID="A*"), (Equals("patient_id", "A*"),)),
        (STUDY, identifier("STUDY", StudyInstanceUID="1.2"), (Equals("study_instance_uid", "1.2"),)),
        (STUDY, identifier("STUDY", StudyInstanceUID=["1.2", "1.3"]), (AnyOf("study_instance_uid", ("1.2", "1.3")),)),
        (STUDY, identifier("STUDY", StudyInstanceUID="1.2", Modality="CT"), (Equals("study_instance_uid", "1.2"),)),
        (
            PATIENT,
            identifier("SERIES", PatientID="A", StudyInstanceUID="1.2", SeriesInstanceUID="1.3"),
            (Equals("patient_id", "A"), Equals("study_instance_uid", "1.2"), Equals("series_instance_uid", "1.3")),
        ),
    ],
)
def test_unique_keys_become_conditions(model, asked, conditions):
    assert retrieval.parse(asked, model) == conditions


def test_relational_retrieval_needs_no_key_above():
    asked = identifier("IMAGE", SOPInstanceUID=["1.2", "1.3"])
    assert retrieval.parse(asked, STUDY, relational=True) == (AnyOf("sop_instance_uid", ("1.2", "1.3")),)
    by_study = identifier("IMAGE", StudyInstanceUID="1.2")
    assert retrieval.parse(by_study, STUDY, relational=True) == (Equals("study_instance_uid", "1.2"),)


@pytest.mark.parametrize(
    ("model", "asked", "relational", "words"),
    [
        (STUDY, identifier(None, StudyInstanceUID="1.2"), False, "QueryRetrieveLevel is missing"),
        (STUDY, identifier("FRAME", PatientID="A"), False, "no level"),
        (STUDY, identifier("STUDY"), False, "StudyInstanceUID: a value is required"),
        (STUDY, identifier("STUDY", StudyInstanceUID=""), False, "a value is required"),
        (PATIENT, identifier("STUDY", StudyInstanceUID="1.2"), False, "PatientID: one value"),
        (PATIENT, identifier("PATIENT", PatientID=["A", "B"]), False, "more than one value"),
        (STUDY, identifier("SERIES", StudyInstanceUID=["1", "2"], SeriesInstanceUID="3"), False, "one value"),
        (STUDY, identifier("STUDY", StudyInstanceUID="1.2", SeriesInstanceUID="1.3"), False, "not at level STUDY"),
        (STUDY, identifier("STUDY", StudyInstanceUID="1.2", SeriesInstanceUID="1.3"), True, "not at level STUDY"),
        (STUDY, identifier("IMAGE"), True, "no unique key"),
        (STUDY, identifier("STUDY", StudyInstanceUID=[f"1.{n}" for n in range(10_001)]), False, "over 10000"),
    ],
)
def test_what_breaks_the_model_is_refused(model, asked, relational, words):
    with pytest.raises(IdentifierError, match=words) as refused:
        retrieval.parse(asked, model, relational=relational)
    assert len(str(refused.value)) <= 64


def test_a_whole_patient_may_be_asked_for_in_study_root():
    """No level of that model (PS3.4 C.6.2.1), but Orthanc asks so."""
    asked = identifier("PATIENT", PatientID="A")
    assert retrieval.parse(asked, STUDY) == retrieval.parse(asked, PATIENT)
