"""Instances in, rows out: duplicates, matching, order, counts; on every database."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import event

from storage.errors import StorageError
from storage.matching import COLUMNS
from storage.records import (
    AnyModality,
    AnyOf,
    Condition,
    Equals,
    InDateTimeRange,
    InRange,
    KeptFile,
    Level,
    Like,
    NewPatient,
    NewSeries,
    NewStudy,
    Policy,
    like_pattern,
)
from storage.store import Store
from tests.integration.storage.building import MODEL, Bench, filled, new_instance, put, regions_of, work_off

InThreads = Callable[..., None]


def uids(store: Store, level: Level, *conditions: Condition, limit: int | None = None) -> list[str]:
    name = {"STUDY": "study_instance_uid", "SERIES": "series_instance_uid", "IMAGE": "sop_instance_uid"}.get(level)
    return [str(row[name or "patient_id"]) for row in store.catalog.find(level, conditions, limit)]


# --- add ----------------------------------------------------------------------------------------------------------


def test_what_was_stored_is_there(store: Store) -> None:
    added = put(store, 7)
    row = store.catalog.instance("4.0007")
    assert row is not None
    assert added.outcome == "new"
    assert row == store.catalog.by_id(added.instance_id)
    assert (row.study_instance_uid, row.series_instance_uid, row.patient_id) == ("2.0003", "3.0003", "P001")
    assert (row.rows, row.columns, row.frames, row.header) == (2500, 2000, None, b"head")
    assert store.files.path(row.path).read_bytes() == b"content of 7"
    assert store.catalog.instance("4.0008") is None
    assert store.catalog.by_id(12345) is None


def test_the_same_bytes_again_change_nothing(store: Store) -> None:
    first = put(store, 1)
    before = store.catalog.instance("4.0001")
    assert put(store, 1) == type(first)("identical", first.instance_id)
    assert put(store, 1, policy="replace").outcome == "identical"
    assert store.catalog.instance("4.0001") == before
    assert store.check() == []  # the second file is gone, the first is whole


def test_other_bytes_are_kept_out(store: Store) -> None:
    put(store, 1)
    assert put(store, 1, b"other").outcome == "kept"
    row = store.catalog.instance("4.0001")
    assert row is not None
    assert store.files.path(row.path).read_bytes() == b"content of 1"
    assert store.check() == []


def test_other_bytes_replace_by_policy(store: Store) -> None:
    generation = filled(store, 2)
    old = store.catalog.instance("4.0001")
    assert old is not None
    added = put(store, 1, b"other", "replace", series=NewSeries("3.9999"))
    row = store.catalog.instance("4.0001")
    assert row is not None
    assert (added.outcome, row.id, row.series_instance_uid) == ("replaced", old.id, "3.9999")
    assert store.files.path(row.path).read_bytes() == b"other"
    assert not store.files.path(old.path).exists()
    assert store.regions.of_instance(generation.id, row.id) == []
    assert store.jobs.counts(generation.id).queued == 1
    work_off(store)
    assert len(store.regions.of_instance(generation.id, row.id)) == 3
    assert store.check() == []


def test_replacing_the_last_instance_of_a_patient_leaves_no_empty_rows(store: Store) -> None:
    put(store, 0)
    elsewhere = {"patient": NewPatient("other"), "study": NewStudy("2.x"), "series": NewSeries("3.x")}
    put(store, 0, b"other", "replace", **elsewhere)
    assert uids(store, "PATIENT") == ["other"]
    assert uids(store, "STUDY") == ["2.x"]
    assert uids(store, "SERIES") == ["3.x"]


def test_replacing_takes_a_running_job_from_its_worker(store: Store) -> None:
    generation = store.generations.ensure_live(MODEL)
    put(store, 1)
    (job,) = store.jobs.claim("worker", 60, 1)
    put(store, 1, b"other", "replace")
    with pytest.raises(StorageError, match="not held"):
        store.jobs.finish(job, regions_of("4.0001"))
    assert store.jobs.counts(generation.id).queued == 1


@pytest.mark.parametrize("policy", ["keep", "replace"])
def test_stored_twice_at_once_is_one_row(bench: Bench, policy: Policy, in_threads: InThreads) -> None:
    stores = [bench.open(), bench.open()]
    generation = stores[0].generations.ensure_live(MODEL)

    def sender(store: Store, who: int) -> None:
        for number in range(8):
            put(store, number, f"{number} by {who}".encode(), policy)

    in_threads(*[lambda store=store, who=who: sender(store, who) for who, store in enumerate(stores * 2)])
    assert stores[0].catalog.count() == 8
    counts = stores[0].jobs.counts(generation.id)
    assert (counts.instances, counts.queued) == (8, 8)
    assert stores[0].check() == []


def test_first_writer_wins_and_gaps_are_filled(store: Store) -> None:
    put(store, 0, patient=NewPatient("P000"), study=NewStudy("2.0000", study_description="first"))
    put(store, 1, patient=NewPatient("P000", patient_name="Late"), study=NewStudy("2.0000", "20200202", None, "A1"))
    put(store, 2, study=NewStudy("2.0000", study_description="second"), series=NewSeries("3.new"))
    rows = list(store.catalog.find("STUDY"))
    assert [(row["study_description"], row["study_date"], row["accession_number"]) for row in rows] == [
        ("first", "20200202", "A1")
    ]
    assert rows[0]["patient_name"] == "Late"


def test_a_series_stays_with_its_first_study(store: Store) -> None:
    put(store, 0)
    put(store, 1, patient=NewPatient("other", patient_name="Other"), study=NewStudy("2.other", accession_number="A"))
    (row,) = store.catalog.find("STUDY")
    assert (row["study_instance_uid"], row["accession_number"], row["patient_name"]) == ("2.0000", None, None)


def test_patients_without_an_id_are_told_apart(store: Store) -> None:
    put(store, 0, patient=NewPatient("", anonymous_key="2.0000"))
    put(store, 2, patient=NewPatient("", anonymous_key="2.0001"), study=NewStudy("2.1"), series=NewSeries("3.1"))
    put(store, 4, patient=NewPatient("", anonymous_key="2.0001"), study=NewStudy("2.2"), series=NewSeries("3.2"))
    assert [row["number_of_patient_related_studies"] for row in store.catalog.find("PATIENT")] == [1, 2]


def test_many_share_one_commit(store: Store) -> None:
    kept = [KeptFile(f"files/{number}", "", 0) for number in range(3)]
    arrivals = [(new_instance(number), file) for number, file in enumerate(kept)]
    assert [added.outcome for added in store.catalog.add_all(arrivals)] == ["new"] * 3
    again = store.catalog.add_all([arrivals[0], (new_instance(9), KeptFile("files/9", "", 0))])
    assert [added.outcome for added in again] == ["identical", "new"]


def test_one_commit_may_hold_an_instance_and_its_second_version(store: Store) -> None:
    """What was read for all of them at once is not believed of the second."""
    live = store.generations.ensure_live(MODEL)
    names = [store.root / "files" / f"{number}" for number in range(3)]
    for name in names:
        name.write_bytes(b"")
    first, second, third = (KeptFile(f"files/{number}", f"{number}", 0) for number in range(3))
    done = store.catalog.add_all(
        [(new_instance(0), first), (new_instance(0), second), (new_instance(1), third)], "replace"
    )
    assert [added.outcome for added in done] == ["new", "replaced", "new"]
    row = store.catalog.instance(new_instance(0).sop_instance_uid)
    assert (row.id, row.path) == (done[0].instance_id, second.path)
    assert [name.exists() for name in names] == [False, True, True]
    counts = store.jobs.counts(live.id)
    assert (counts.instances, counts.queued) == (2, 2)


def test_what_one_instance_fills_in_the_next_of_its_commit_sees(store: Store) -> None:
    sparse = replace(new_instance(0), study=replace(new_instance(0).study, study_date=None, study_time=None))
    fuller = replace(new_instance(1), study=replace(new_instance(1).study, study_time=None))
    files = [KeptFile(f"files/{number}", "", 0) for number in range(3)]
    full = replace(new_instance(2), series=fuller.series, study=new_instance(1).study, patient=fuller.patient)
    store.catalog.add_all(list(zip((sparse, fuller, full), files, strict=True)))
    (study,) = store.catalog.find("STUDY", wanted=("study_date", "study_time", "number_of_study_related_instances"))
    assert (study["study_date"], study["study_time"]) == (fuller.study.study_date, full.study.study_time)
    assert study["number_of_study_related_instances"] == 3


def test_nothing_is_there_when_the_database_refuses(store: Store) -> None:
    with pytest.raises(StorageError):
        put(store, 0, sop_class_uid=None)
    assert store.catalog.count() == 0
    assert list(store.catalog.find("PATIENT")) == []


# --- find ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(store: Store) -> Store:
    """Twelve instances, six series and studies, three patients."""
    for number in (5, 3, 11, 0, 1, 2, 10, 4, 9, 8, 7, 6):
        put(store, number)
    return store


def test_rows_come_in_the_order_of_uids(archive: Store) -> None:
    assert uids(archive, "IMAGE") == [f"4.{number:04}" for number in range(12)]
    assert uids(archive, "STUDY", limit=4) == ["2.0000", "2.0001", "2.0002", "2.0003"]
    assert uids(archive, "PATIENT") == ["P000", "P001", "P002"]


@pytest.mark.parametrize(
    ("level", "condition", "expected"),
    [
        ("STUDY", Equals("study_instance_uid", "2.0003"), ["2.0003"]),
        ("STUDY", Equals("patient_id", "P001"), ["2.0002", "2.0003"]),
        ("STUDY", AnyOf("study_instance_uid", ("2.0001", "2.0005", "9")), ["2.0001", "2.0005"]),
        ("STUDY", AnyOf("study_instance_uid", ()), []),
        ("PATIENT", Like("patient_name_key", like_pattern("NAME^00?")), ["P000", "P001", "P002"]),
        ("PATIENT", Like("patient_name_key", like_pattern("*2")), ["P002"]),
        ("PATIENT", Like("patient_name_key", like_pattern("name*")), []),
        ("STUDY", InRange("study_date", "20200201", "20200315"), ["2.0001", "2.0002"]),
        ("STUDY", InRange("study_date", None, "20200115"), ["2.0000"]),
        ("STUDY", InRange("study_date", "20200601", None), ["2.0005"]),
        ("STUDY", AnyModality(("CR", "MR")), ["2.0000", "2.0002", "2.0004"]),
        ("PATIENT", AnyModality(("MR",)), []),
        ("PATIENT", Equals("study_date", "20200315"), ["P001"]),
        ("STUDY", Equals("sop_instance_uid", "4.0009"), ["2.0004"]),
        ("IMAGE", Equals("modality", "DX"), [f"4.{number:04}" for number in (2, 3, 6, 7, 10, 11)]),
        ("SERIES", Equals("rows", 2500), [f"3.{number:04}" for number in range(6)]),
    ],
)
def test_matching(archive: Store, level: Level, condition: Condition, expected: list[str]) -> None:
    assert uids(archive, level, condition) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ("20200115103000", "20200115103000", ["a", "d"]),
        ("20200115103001", "20200115235959.999999", ["b", "d"]),
        ("20200115000000", "20200115120000", ["a", "b", "d"]),
        ("20200114000000", "20200115090000", ["d"]),
        (None, "20200115110000", ["a", "d"]),
        ("20200115110000", None, ["b", "c", "d"]),
        (None, None, ["a", "b", "c", "d"]),
    ],
)
def test_dates_and_times_match_as_one(store: Store, low: str | None, high: str | None, expected: list[str]) -> None:
    moments = {"a": ("20200115", "1030"), "b": ("20200115", "12"), "c": ("20200116", "000000"), "d": ("20200115", None)}
    for number, (uid, (date, time)) in enumerate(moments.items()):
        put(store, number, study=NewStudy(uid, date, time), series=NewSeries(f"3.{uid}"))
    assert uids(store, "STUDY", InDateTimeRange("study_date", "study_time", low, high)) == expected


def test_conditions_below_must_meet_in_one_place(store: Store) -> None:
    put(store, 0, study=NewStudy("2.0"), series=NewSeries("3.0", "CR", body_part_examined="CHEST"))
    put(store, 1, study=NewStudy("2.0"), series=NewSeries("3.1", "DX", body_part_examined="HAND"))
    dx, cr = Equals("modality", "DX"), Equals("modality", "CR")
    assert uids(store, "STUDY", cr, Equals("body_part_examined", "CHEST")) == ["2.0"]
    assert uids(store, "STUDY", dx, Equals("body_part_examined", "CHEST")) == []
    assert uids(store, "STUDY", dx, AnyModality(("CR",)), Equals("sop_instance_uid", "4.0001")) == ["2.0"]


@pytest.mark.parametrize("nasty", ["%", "_", "\\", "a%b_c\\d*", "'; DROP TABLE patient; --", "x' OR '1'='1"])
def test_a_peers_string_is_only_a_value(store: Store, nasty: str) -> None:
    put(store, 0, patient=NewPatient("plain"), study=NewStudy("2.0"), series=NewSeries("3.0"))
    put(store, 1, patient=NewPatient(nasty), study=NewStudy("2.1"), series=NewSeries("3.1"))
    assert uids(store, "PATIENT", Equals("patient_id", nasty)) == [nasty]
    literal = like_pattern(nasty.replace("*", "?"))
    assert uids(store, "PATIENT", Like("patient_id", literal)) == [nasty]
    assert store.catalog.count() == 2


def test_values_travel_as_parameters(archive: Store) -> None:
    seen: list[str] = []
    engine = archive._database._reader
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: seen.append(statement))
    conditions = (
        Equals("patient_id", "SECRET"),
        AnyOf("study_id", ("SECRET",)),
        Like("patient_name_key", "SECRET%"),
        InRange("study_date", "SECRET", "SECRET"),
        InDateTimeRange("study_date", "study_time", "SECRET", "SECRET"),
        AnyModality(("SECRET",)),
    )
    assert uids(archive, "STUDY", *conditions) == []
    assert len(seen) >= 1
    assert not any("SECRET" in statement for statement in seen)


def test_counts_and_lists_of_what_is_below(archive: Store) -> None:
    put(archive, 50, study=NewStudy("2.0000"), series=NewSeries("3.sr", "SR"), sop_class_uid="another")
    (study,) = archive.catalog.find("STUDY", [Equals("study_instance_uid", "2.0000")])
    assert study["modalities_in_study"] == ("CR", "SR")
    assert study["sop_classes_in_study"] == ("another", "class")
    assert (study["number_of_study_related_series"], study["number_of_study_related_instances"]) == (2, 3)
    (patient,) = archive.catalog.find("PATIENT", [Equals("patient_id", "P000")])
    counted = [patient[f"number_of_patient_related_{what}"] for what in ("studies", "series", "instances")]
    assert counted == [2, 3, 5]
    (series,) = archive.catalog.find("SERIES", [Equals("series_instance_uid", "3.sr")])
    assert series["number_of_series_related_instances"] == 1


def test_only_what_is_wanted_comes(archive: Store) -> None:
    (row,) = archive.catalog.find("STUDY", [], 1, ["study_date", "modalities_in_study"])
    assert row == {"study_instance_uid": "2.0000", "study_date": "20200115", "modalities_in_study": ("CR",)}
    (row,) = archive.catalog.find("IMAGE", [], 1)
    assert set(row) == set(COLUMNS)


def test_a_row_holds_what_is_around_it_where_that_is_wanted(store: Store) -> None:
    for number in reversed(range(6)):
        put(store, number, header=f"header {number}".encode())
    extra = ["header", "number_of_patient_related_studies", "number_of_patient_related_instances"]
    rows = list(store.catalog.find("STUDY", wanted=extra))
    assert [row["header"] for row in rows] == [b"header 0", b"header 2", b"header 4"]  # of the first instance below
    assert [row["number_of_patient_related_studies"] for row in rows] == [2, 2, 1]
    assert [row["number_of_patient_related_instances"] for row in rows] == [4, 4, 2]
    assert [row["header"] for row in store.catalog.find("PATIENT", wanted=extra[:1])] == [b"header 0", b"header 4"]
    assert next(store.catalog.find("SERIES", wanted=extra[:1], offset=1))["header"] == b"header 2"
    assert not {*extra} & {*next(store.catalog.find("STUDY"))}


@pytest.mark.parametrize(
    "ask",
    [
        lambda catalog: catalog.find("STUDY", [Equals("study_row_id", 1)]),
        lambda catalog: catalog.find("STUDY", [Equals("no_such", "x")]),
        lambda catalog: catalog.find("STUDY", [], None, ["sop_instance_uid"]),
    ],
)
def test_an_unknown_column_is_a_fault_of_the_program(store: Store, ask: Callable[..., object]) -> None:
    with pytest.raises(KeyError):
        ask(store.catalog)


def test_a_reader_that_stops_early_holds_nothing(archive: Store) -> None:
    for _ in range(30):
        rows = archive.catalog.find("IMAGE")
        next(rows)  # type: ignore[call-overload]
        rows.close()  # type: ignore[attr-defined]
    put(archive, 20)
    assert archive._database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_slow_reader_sees_one_state_and_stops_nobody(archive: Store) -> None:
    rows = archive.catalog.find("IMAGE")
    next(rows)
    put(archive, 30)
    assert len(list(rows)) == 11


def test_candidates_are_instance_ids(archive: Store) -> None:
    ids = archive.catalog.candidates([Equals("modality", "DX"), InRange("study_date", "20200301", None)])
    expected = [archive.catalog.instance(f"4.{number:04}") for number in (6, 7, 10, 11)]
    assert sorted(ids.tolist()) == sorted(row.id for row in expected if row)
    assert ids.dtype == "int64"
    assert list(ids) == sorted(ids)
    assert len(archive.catalog.candidates([])) == 12
