"""C-FIND from identifier to response identifiers, on a real catalogue of made-up instances."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicomnode.errors import IdentifierError, ImageNotStored
from dicomnode.query import identifiers, matching
from dicomnode.query.keys import Model
from storage.store import Store
from tests.unit.dicomnode.query.archive import DX, GERMAN, GREEK, JAPANESE, KOREAN, asked, instance, opened

CT = "1.2.840.10008.5.1.4.1.1.2"


def _request(code: str, meaning: str) -> Dataset:
    item, procedure = Dataset(), Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = code, "99TEST", meaning
    item.RequestedProcedureID = f"R{code}"
    item.RequestedProcedureCodeSequence = [procedure]
    return item


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Five patients: study 1 has two series (DX, CT) and three images, the others one image each."""
    japan = {"PatientName": JAPANESE, "SpecificCharacterSet": ["", "ISO 2022 IR 87"]}
    korea = {"PatientName": KOREAN, "SpecificCharacterSet": ["", "ISO 2022 IR 149"]}
    first: dict[str, Any] = {
        "PatientName": "Smith^John",
        "StudyDate": "20200131",
        "StudyTime": "101500",
        "StudyID": "7",
    }
    with opened(
        tmp_path_factory.mktemp("archive"),
        [
            instance(1, 1, 1, InstanceNumber=1, Rows=10, ImageType=["ORIGINAL", "PRIMARY"], **first),
            instance(1, 1, 2, InstanceNumber=2, Rows=20, ImageType=["DERIVED", "PRIMARY"], **first),
            instance(1, 2, 1, Modality="CT", SOPClassUID=CT, PatientAge="040Y", **first),
            instance(2, **japan, StudyDate="20200201", StudyTime="0900", StudyDescription="胸部"),
            instance(3, **korea, StudyDate="20210101", RequestAttributesSequence=[_request("A", "Chest")]),
            instance(4, PatientName=GREEK, SpecificCharacterSet="ISO_IR 126", PatientSex="F", AccessionNumber="A_1%"),
            instance(5, PatientName=GERMAN, SpecificCharacterSet="ISO_IR 100", PatientID=None, AccessionNumber="AX1Y"),
        ],
    ) as opened_store:
        yield opened_store


def find(store: Store, identifier: Dataset, **negotiated: bool) -> list[Dataset]:
    options = {"patient_root": False, "relational": False, **negotiated}
    return list(identifiers.find(store.catalog, identifier, retrieve_ae="NODE", **options))


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"StudyDate": "20200131"}, [1]),
        ({"StudyDate": "20200101-20201231"}, [1, 2]),
        ({"StudyDate": "20200201-"}, [2, 3]),
        ({"StudyDate": "-20200131"}, [1]),
        ({"StudyTime": "0800-0930"}, [2]),
        ({"StudyTime": "1015"}, [1]),
        ({"PatientName": "smith*"}, [1]),
        ({"PatientName": "YAMADA^TAROU"}, [2]),
        ({"PatientName": "山田*", "SpecificCharacterSet": "ISO_IR 192"}, [2]),
        ({"PatientName": "=山田^太郎", "SpecificCharacterSet": ["", "ISO 2022 IR 87"]}, [2]),
        ({"PatientName": "Hong*=洪*", "SpecificCharacterSet": "ISO_IR 192"}, [3]),
        ({"PatientName": "ΔΙΟΝΥΣΙΟΣ", "SpecificCharacterSet": "ISO_IR 192"}, [4]),
        ({"PatientName": "äneas^*", "SpecificCharacterSet": "ISO_IR 100"}, [5]),
        ({"PatientName": "*"}, [1, 2, 3, 4, 5]),
        ({"PatientID": "P1"}, [1]),
        ({"PatientID": "P?"}, [1, 2, 3, 4]),
        ({"PatientID": "p1"}, []),
        ({"PatientSex": "F"}, [4]),
        ({"AccessionNumber": "A_1%"}, [4]),
        ({"AccessionNumber": "A_1*"}, [4]),
        ({"AccessionNumber": "A?1*"}, [4, 5]),
        ({"StudyInstanceUID": ["1.2.3.2", "1.2.3.4", "9.9"]}, [2, 4]),
        ({"ModalitiesInStudy": "CT"}, [1]),
        ({"ModalitiesInStudy": ["CT", "DX"]}, [1, 2, 3, 4, 5]),
        ({"ModalitiesInStudy": "C*"}, [1]),
        ({"SOPClassesInStudy": CT}, [1]),
        ({"StudyID": "7"}, [1]),
        ({"PatientAge": "040Y"}, []),  # a study level key without a column: the first instance says
        ({"PatientName": "smith*", "ModalitiesInStudy": "MR"}, []),
        ({"PatientName": ["Smith*", "hong*"]}, [1, 3]),
    ],
)
def test_studies(store: Store, keys: dict[str, Any], numbers: list[int]) -> None:
    found = find(store, asked("STUDY", **{"StudyInstanceUID": "", **keys}))
    assert [int(one.StudyInstanceUID.rpartition(".")[2]) for one in found] == numbers


def test_a_response_holds_what_was_asked_and_where_to_get_it(store: Store) -> None:
    keys = ("PatientName", "PatientID", "AccessionNumber", "ModalitiesInStudy", "SOPClassesInStudy", "PatientBirthDate")
    counts = ("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfPatientRelatedStudies")
    [found] = find(store, asked("STUDY", StudyID="7", **dict.fromkeys((*keys, *counts), "")))
    assert {element.keyword: element.value for element in found} == {
        "SOPClassesInStudy": [DX, CT] if DX < CT else [CT, DX],
        "AccessionNumber": "",
        "QueryRetrieveLevel": "STUDY",
        "RetrieveAETitle": "NODE",
        "InstanceAvailability": "ONLINE",
        "ModalitiesInStudy": ["CT", "DX"],
        "PatientName": "Smith^John",
        "PatientID": "P1",
        "PatientBirthDate": "",
        "StudyID": "7",
        "StudyInstanceUID": "1.2.3.1",
        "NumberOfStudyRelatedSeries": 2,
        "NumberOfStudyRelatedInstances": 3,
        "NumberOfPatientRelatedStudies": 1,
    }


def test_patients(store: Store) -> None:
    counts = ("NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances")
    identifier = asked("PATIENT", PatientID="P1", PatientName="", **dict.fromkeys(counts, ""))
    [found] = find(store, identifier, patient_root=True)
    assert str(found.PatientName) == "Smith^John"
    assert [int(found[keyword].value) for keyword in counts] == [1, 2, 3]
    assert len(find(store, asked("PATIENT", PatientName=""), patient_root=True)) == 5


def test_series_and_images_of_the_hierarchy(store: Store) -> None:
    study = {"StudyInstanceUID": "1.2.3.1"}
    series = find(store, asked("SERIES", Modality="", NumberOfSeriesRelatedInstances="", **study))
    assert [(one.SeriesInstanceUID, one.Modality, one.NumberOfSeriesRelatedInstances) for one in series] == [
        ("1.2.3.1.1", "DX", 2),
        ("1.2.3.1.2", "CT", 1),
    ]
    images = find(store, asked("IMAGE", InstanceNumber="", Rows=None, SeriesInstanceUID="1.2.3.1.1", **study))
    assert [(one.SOPInstanceUID, one.InstanceNumber, one.Rows) for one in images] == [
        ("1.2.3.1.1.1", 1, 10),
        ("1.2.3.1.1.2", 2, 20),
    ]
    assert [one.StudyInstanceUID for one in images] == ["1.2.3.1"] * 2
    patient = find(store, asked("STUDY", PatientID="P1", NumberOfStudyRelatedSeries=""), patient_root=True)
    assert [one.NumberOfStudyRelatedSeries for one in patient] == [2]


def test_keys_without_a_column_are_matched_and_returned_from_the_header(store: Store) -> None:
    found = find(store, asked("IMAGE", ImageType="DERIVED", KVP="", BitsStored=None), relational=True)
    assert [one.SOPInstanceUID for one in found] == ["1.2.3.1.1.2"]
    assert found[0].ImageType == ["DERIVED", "PRIMARY"]
    assert found[0].KVP is None or found[0].KVP == ""
    assert "BitsStored" in found[0]


def test_counts_of_levels_above_are_returned_below(store: Store) -> None:
    found = find(store, asked("IMAGE", NumberOfStudyRelatedInstances="", ModalitiesInStudy=""), relational=True)
    counted = {one.SOPInstanceUID: (int(one.NumberOfStudyRelatedInstances), one.ModalitiesInStudy) for one in found}
    assert counted["1.2.3.1.2.1"] == (3, ["CT", "DX"])
    assert counted["1.2.3.2.1.1"] == (1, "DX")


def test_relational_queries_match_keys_of_levels_below(store: Store) -> None:
    found = find(store, asked("STUDY", StudyInstanceUID="", Modality="CT"), relational=True)
    assert [one.StudyInstanceUID for one in found] == ["1.2.3.1"]
    assert find(store, asked("STUDY", Modality="CT", Rows=10), relational=True) == []
    assert len(find(store, asked("STUDY", Modality="DX", Rows=10), relational=True)) == 1
    assert len(find(store, asked("PATIENT", SOPInstanceUID="1.2.3.2.1.1"), patient_root=True, relational=True)) == 1


def _code(value: str) -> Dataset:
    inner, code = Dataset(), Dataset()
    code.CodeValue = value
    code.CodeMeaning = ""
    inner.RequestedProcedureCodeSequence = [code]
    return inner


def test_sequences_are_matched_item_by_item_and_returned_with_the_keys_asked_for(store: Store) -> None:
    identifier = asked("SERIES", StudyInstanceUID="1.2.3.3", RequestAttributesSequence=[_code("A")])
    [found] = find(store, identifier)
    [item] = found.RequestAttributesSequence
    assert [element.keyword for element in item] == ["RequestedProcedureCodeSequence"]
    [code] = item.RequestedProcedureCodeSequence
    assert [(element.keyword, element.value) for element in code] == [("CodeValue", "A"), ("CodeMeaning", "Chest")]
    assert find(store, asked("SERIES", StudyInstanceUID="1.2.3.3", RequestAttributesSequence=[_code("B")])) == []


@pytest.mark.parametrize("item", [[], [Dataset()]])
def test_an_empty_sequence_key_returns_the_whole_sequence(store: Store, item: list[Dataset]) -> None:
    [found] = find(store, asked("SERIES", StudyInstanceUID="1.2.3.3", RequestAttributesSequence=item))
    assert found.RequestAttributesSequence[0].RequestedProcedureID == "RA"
    [absent] = find(store, asked("SERIES", StudyInstanceUID="1.2.3.2", RequestAttributesSequence=item))
    assert len(absent.RequestAttributesSequence) == 0


@pytest.mark.parametrize(
    ("number", "declared", "name", "terms"),
    [
        (1, None, "Smith^John", None),
        (2, None, JAPANESE, "ISO_IR 192"),
        (2, ["", "ISO 2022 IR 87"], JAPANESE, ["", "ISO 2022 IR 87"]),
        (2, "ISO_IR 100", JAPANESE, "ISO_IR 192"),
        (3, ["", "ISO 2022 IR 149"], KOREAN, ["", "ISO 2022 IR 149"]),
        (4, "ISO_IR 126", GREEK, "ISO_IR 126"),
        (5, "ISO_IR 100", GERMAN, "ISO_IR 100"),
    ],
)
def test_values_are_written_in_a_character_set_that_carries_them(
    store: Store, number: int, declared: Any, name: str, terms: Any
) -> None:
    identifier = asked("STUDY", SpecificCharacterSet=declared, StudyInstanceUID=f"1.2.3.{number}", PatientName="")
    [found] = find(store, identifier)
    assert found.get("SpecificCharacterSet") == terms
    assert str(_reread(_written(found)).PatientName) == name


def test_the_stored_character_set_is_kept_where_the_header_is_read(store: Store) -> None:
    [found] = find(store, asked("IMAGE", PatientName="Yamada*", KVP=""), relational=True)
    assert found.SpecificCharacterSet == ["", "ISO 2022 IR 87"]


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("charset", [None, "ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_encoding_a_match_directly_gives_what_its_dataset_gives(store: Store, implicit: bool, charset: Any) -> None:
    identifier = asked(
        "IMAGE",
        SpecificCharacterSet=charset,
        **dict.fromkeys(("PatientName", "ImageType", "KVP", "StudyTime", "InstanceNumber", "StudyDescription"), ""),
        Rows=None,
        RequestAttributesSequence=[],
    )
    query = matching.parse(identifier, Model.STUDY_ROOT, relational=True)
    found = list(identifiers.matches(store.catalog, query, "NODE"))
    assert len(found) == 7
    for match in found:
        assert match.encoded(implicit_vr=implicit) == _written(match.dataset(), implicit)


def _written(dataset: Dataset, implicit: bool = False) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def _reread(encoded: bytes) -> Dataset:
    return read_dataset(BytesIO(encoded), is_implicit_VR=False, is_little_endian=True)


def test_an_identifier_off_the_wire_is_read_with_its_character_set(store: Store) -> None:
    identifier = asked("STUDY", SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="山田^*", StudyInstanceUID="")
    found = find(store, _reread(_written(identifier)))
    assert [one.StudyInstanceUID for one in found] == ["1.2.3.2"]


def test_one_instance_is_answered_with_the_keys_asked_for(store: Store) -> None:
    row = store.catalog.instance("1.2.3.1.1.2")
    assert row is not None
    identifier = asked("IMAGE", PatientID="", StudyDate="", PatientSex="M")  # what it matches is not asked again
    (match,) = identifiers.of_instances(store.catalog, identifier, "NODE")([row.sop_instance_uid])
    found = match.dataset()
    assert (found.SOPInstanceUID, found.PatientID, found.StudyDate) == ("1.2.3.1.1.2", "P1", "20200131")
    with pytest.raises(ImageNotStored):
        identifiers.of_instances(store.catalog, identifier, "NODE")(["1.2.3.4.5"])


def test_a_refusal_comes_before_the_first_response(store: Store) -> None:
    with pytest.raises(IdentifierError):
        identifiers.find(store.catalog, asked("SERIES"), patient_root=False, relational=False, retrieve_ae="NODE")


def test_two_patients_without_an_id_are_two(tmp_path: Path) -> None:
    with opened(tmp_path, [instance(1, PatientID=None), instance(2, PatientID="")]) as store:
        found = find(store, asked("PATIENT", PatientID="", NumberOfPatientRelatedStudies=""), patient_root=True)
        assert [(one.PatientID, int(one.NumberOfPatientRelatedStudies)) for one in found] == [("", 1), ("", 1)]
