"""Identifiers become queries, or are refused with words that fit an Error Comment."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicomnode.errors import IdentifierError
from dicomnode.query.keys import Model
from dicomnode.query.matching import MAXIMUM_DEPTH, MAXIMUM_KEYS, narrowing, parse
from storage.records import AnyModality, Equals, InDateTimeRange, InRange
from tests.unit.dicomnode.query.archive import JAPANESE, asked, instance, opened


@pytest.mark.parametrize(
    ("model", "identifier", "complaint"),
    [
        (Model.STUDY_ROOT, Dataset(), "QueryRetrieveLevel is missing"),
        (Model.STUDY_ROOT, asked(""), "QueryRetrieveLevel is missing"),
        (Model.STUDY_ROOT, asked("FRAME"), "QueryRetrieveLevel is no level of Study Root"),
        (Model.STUDY_ROOT, asked("PATIENT"), "QueryRetrieveLevel is no level of Study Root"),
        (Model.STUDY_ROOT, asked("SERIES"), "StudyInstanceUID: one value is required at level SERIES"),
        (Model.STUDY_ROOT, asked("SERIES", StudyInstanceUID=["1.2", "1.3"]), "StudyInstanceUID: one value"),
        (Model.STUDY_ROOT, asked("IMAGE", StudyInstanceUID="1.2"), "SeriesInstanceUID: one value"),
        (Model.PATIENT_ROOT, asked("STUDY"), "PatientID: one value is required at level STUDY"),
        (Model.PATIENT_ROOT, asked("STUDY", PatientID="P*"), "PatientID: one value is required at level STUDY"),
    ],
)
def test_hierarchy_is_enforced_unless_relational(model: Model, identifier: Dataset, complaint: str) -> None:
    with pytest.raises(IdentifierError, match=complaint) as refused:
        parse(identifier, model)
    assert len(str(refused.value)) <= 64


def test_relational_queries_need_no_upper_keys() -> None:
    query = parse(asked("IMAGE", PatientName="Smith*", Modality="DX"), Model.PATIENT_ROOT, relational=True)
    assert Equals("modality", "DX") in query.conditions
    assert query.unsupported == ()


def test_keys_below_the_level_are_unsupported_unless_relational() -> None:
    identifier = asked("STUDY", Modality="DX", Rows=512)
    query = parse(identifier, Model.STUDY_ROOT)
    assert (query.conditions, query.wanted) == ((), ())
    assert query.unsupported == (Tag("Modality"), Tag("Rows"))
    relational = parse(identifier, Model.STUDY_ROOT, relational=True)
    assert len(relational.conditions) == 2
    assert relational.unsupported == ()


def test_private_elements_and_what_is_no_key_are_passed_over() -> None:
    identifier = asked("STUDY", StudyDate="", RetrieveAETitle="X", InstanceAvailability="ONLINE")
    identifier.private_block(0x0099, "REGIONMIR 1.0", create=True).add_new(0x12, "IS", "10")
    query = parse(identifier, Model.STUDY_ROOT)
    assert [one.tag for one in query.wanted] == [Tag("StudyDate")]
    assert query.unsupported == ()


def test_combined_date_time_matching_is_for_who_negotiated_it() -> None:
    identifier = asked("STUDY", StudyDate="20060705-20060707", StudyTime="1000-1800")
    apart = parse(identifier, Model.STUDY_ROOT)
    assert set(apart.conditions) == {
        InRange("study_date", "20060705", "20060707"),
        InRange("study_time", "100000", "180059.999999"),
    }
    together = parse(identifier, Model.STUDY_ROOT, combined_date_time=True)
    assert together.conditions == (
        InDateTimeRange("study_date", "study_time", "20060705100000", "20060707180059.999999"),
    )


def test_ranges_of_another_form_are_not_combined() -> None:
    identifier = asked("STUDY", StudyDate="20060705-", StudyTime="1000-1800")
    query = parse(identifier, Model.STUDY_ROOT, combined_date_time=True)
    assert InRange("study_date", "20060705", None) in query.conditions


def test_modalities_in_study_is_any_series_of_the_study() -> None:
    query = parse(asked("STUDY", ModalitiesInStudy=["CT", "DX"]), Model.STUDY_ROOT)
    assert query.conditions == (AnyModality(("CT", "DX")),)


def test_an_identifier_with_too_many_keys_is_refused() -> None:
    identifier = asked("STUDY")
    for element in range(MAXIMUM_KEYS + 1):
        identifier.add_new(0x00182000 + element, "LO", "")
    with pytest.raises(IdentifierError, match="too many keys"):
        parse(identifier, Model.STUDY_ROOT)


def test_an_identifier_nested_too_deep_is_refused() -> None:
    inner = Dataset()
    for _ in range(MAXIMUM_DEPTH + 2):
        outer = Dataset()
        outer.ConceptNameCodeSequence = [inner]
        inner = outer
    identifier = asked("STUDY", ConceptNameCodeSequence=[inner])
    with pytest.raises(IdentifierError, match="nested too deep"):
        parse(identifier, Model.STUDY_ROOT, relational=True)


def test_a_key_sequence_has_one_item() -> None:
    identifier = asked("STUDY", ProcedureCodeSequence=[Dataset(), Dataset()])
    with pytest.raises(IdentifierError, match="ProcedureCodeSequence: more than one item"):
        parse(identifier, Model.STUDY_ROOT)


def test_narrowing_says_which_instances_are_left(tmp_path: Path) -> None:
    with opened(
        tmp_path,
        [
            instance(1, PatientName="Smith^A", PatientSex="F", ViewPosition="PA"),
            instance(2, PatientName="Smith^B", PatientSex="M", ViewPosition="PA"),
            instance(3, PatientName=JAPANESE, SpecificCharacterSet="ISO_IR 192", PatientSex="M", ViewPosition="AP"),
        ],
    ) as store:
        ids = {n: store.catalog.instance(f"1.2.3.{n}.1.1").id for n in (1, 2, 3)}  # type: ignore[union-attr]

        def left(**keys: object) -> list[int]:
            found = narrowing(asked("IMAGE", **keys)).instance_ids(store.catalog)
            return [n for n, row_id in ids.items() if row_id in found]

        assert left() == [1, 2, 3]
        assert left(PatientSex="M") == [2, 3]
        assert left(PatientName="smith*", PatientSex="M") == [2]
        assert left(PatientName="山田*") == [3]
        assert left(ViewPosition="PA") == [1, 2]
        assert left(ViewPosition="LL") == []
        assert narrowing(asked("IMAGE", PatientSex="M")).residual is None
