"""The table of keys agrees with the standard's tables, with pydicom's dictionary and with the catalogue."""

from dicomnode.query.keys import BY_TAG, KEYS, NOT_KEYS, UNIQUE_KEYS, Level, Matching, Model, Need
from storage.catalog import COUNTS
from storage.matching import COLUMNS, LEVEL_OF

# PS3.4 Tables C.6-1 to C.6-5.
UNIQUE = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
REQUIRED = {
    "PATIENT": {"PatientName"},
    "STUDY": {"StudyDate", "StudyTime", "AccessionNumber", "StudyID"},
    "SERIES": {"Modality", "SeriesNumber"},
    "IMAGE": {"InstanceNumber"},
}


def test_unique_and_required_keys_are_the_standards() -> None:
    assert {level.value: key.keyword for level, key in UNIQUE_KEYS.items()} == UNIQUE
    for level in Level:
        required = {key.keyword for key in KEYS if key.level is level and key.need is Need.REQUIRED}
        assert required == REQUIRED[level.value]


def test_unique_and_required_keys_are_matched_in_sql() -> None:
    assert all(key.column for key in KEYS if key.need is not Need.OPTIONAL)


def test_every_keyword_is_in_the_dictionary_once() -> None:
    assert len(BY_TAG) == len(KEYS)
    assert all(int(key.tag) > 0 and key.vr != "UN" for key in KEYS)
    assert not NOT_KEYS.intersection(BY_TAG)
    assert all(int(tag) > 0 for tag in NOT_KEYS)


def test_every_column_is_one_of_the_catalogue_at_its_level() -> None:
    for key in KEYS:
        if key.column is None:
            continue
        counted = COUNTS[key.level.value]
        assert key.column in COLUMNS or key.column in counted
        assert LEVEL_OF.get(key.column, key.level.value) == key.level.value
        if key.search_column:
            assert LEVEL_OF[key.search_column] == key.level.value


def test_everything_the_catalogue_counts_can_be_asked_for() -> None:
    counted = {column for counts in COUNTS.values() for column in counts}
    assert counted <= {key.column for key in KEYS}


def test_numbers_are_returned_only_and_names_have_a_key_to_search() -> None:
    for key in KEYS:
        if key.keyword.startswith("NumberOf") and key.keyword != "NumberOfFrames":
            assert key.matching is Matching.NONE
        if key.column and key.vr == "PN":
            assert key.search_column


def test_levels_of_the_models() -> None:
    assert [level.value for level in Model.STUDY_ROOT.levels] == ["STUDY", "SERIES", "IMAGE"]
    assert [level.value for level in Level.SERIES.above] == ["PATIENT", "STUDY"]
