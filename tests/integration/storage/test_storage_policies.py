"""Complete studies, what goes first, who contradicts whom, what comes twice; on every database."""

import pytest
from sqlalchemy import event, text

from storage.database import Database
from storage.migrations.run import configuration
from storage.records import NewPatient, NewSeries, NewStudy, Outcome, StudyCounts
from storage.store import DATABASE, Store
from tests.integration.storage.building import Bench, filled, put, work_off

AGE = 60.0


def oldest(store: Store, order: str = "received", quiet_s: float = AGE) -> list[str]:
    return [share.study_instance_uid for share in store.studies.oldest(order, quiet_s)]  # type: ignore[arg-type]


# --- completion ----------------------------------------------------------------------------------------------------


def test_a_study_is_complete_when_nothing_came_for_the_stable_age_and_told_once(bench: Bench, store: Store) -> None:
    put(store, 0)
    bench.clock.now += AGE - 1
    put(store, 1)  # of the same study: the age begins again
    put(store, 2)
    bench.clock.now += AGE - 1
    assert store.studies.settle(AGE) == []
    assert store.studies.counts(AGE) == StudyCounts(complete=0, arriving=2)
    bench.clock.now += 1
    assert store.studies.counts(AGE) == StudyCounts(complete=2, arriving=0)  # whether anybody was told or not
    assert store.studies.settle(AGE) == ["2.0000", "2.0001"]
    assert store.studies.settle(AGE) == []
    put(store, 9, study=NewStudy("2.0001"), series=NewSeries("3.0001"))
    assert store.studies.counts(AGE) == StudyCounts(complete=1, arriving=1)
    bench.clock.now += AGE
    assert store.studies.settle(AGE) == ["2.0001"]


def test_completion_costs_no_commit_of_its_own(store: Store) -> None:
    put(store, 0)
    commits: list[object] = []
    event.listen(store._database._writer, "commit", commits.append)
    put(store, 1)
    assert len(commits) == 1
    assert store.studies.settle(AGE) == []
    assert len(commits) == 1


def test_what_was_there_before_studies_had_an_age_is_complete_by_its_latest_arrival(bench: Bench) -> None:
    bench.root.mkdir(parents=True)
    database = Database(bench.url or f"sqlite:///{bench.root / DATABASE}")
    config = configuration()

    def second(connection) -> None:  # type: ignore[no-untyped-def]
        from alembic import command

        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in (
            "INSERT INTO patient (id, patient_id, issuer, anonymous_key) VALUES (1, 'P', '', '')",
            "INSERT INTO study (id, patient_row_id, study_instance_uid) VALUES (1, 1, '2.1'), (2, 1, '2.2')",
            "INSERT INTO series (id, study_row_id, series_instance_uid) VALUES (1, 1, '3.1'), (2, 2, '3.2')",
            *(
                "INSERT INTO instance (id, series_row_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, path,"
                f" sha256, size, received_at, header) VALUES ({n}, {series}, '4.{n}', 'c', 't', 'p{n}', 's', 10,"
                f" {at}, '')"
                for n, series, at in ((1, 1, 500.0), (2, 1, 900.0), (3, 2, 700.0))
            ),
        ):
            connection.execute(text(statement))

    database.write(second)
    database.close()
    store = bench.open()
    assert [share.last_received_at for share in store.studies.oldest("received", AGE)] == [700.0, 900.0]
    assert store.studies.settle(AGE) == []  # no news
    assert store.studies.size() == 30
    assert (store.studies.expired(), store.conflicts.count()) == (0, 0)


# --- what goes first -----------------------------------------------------------------------------------------------


def test_the_order_of_going(bench: Bench, store: Store) -> None:
    dates = ["20200301", "20190101", None, "20250101"]
    for study, date in enumerate(dates):
        bench.clock.now += 10
        put(store, 2 * study, study=NewStudy(f"2.000{study}", study_date=date), content=bytes(100))
    bench.clock.now += AGE
    put(store, 1, study=NewStudy("2.0000"))  # the oldest is arriving again
    assert oldest(store) == ["2.0001", "2.0002", "2.0003"]
    assert oldest(store, quiet_s=0) == ["2.0001", "2.0002", "2.0003", "2.0000"]
    assert oldest(store, "study_date", 0) == ["2.0001", "2.0000", "2.0003", "2.0002"]  # without a date: last
    assert store.studies.size() == 400 + len(b"content of 1")


def test_a_study_in_a_workers_hands_stays_until_its_lease_is_over(bench: Bench, store: Store) -> None:
    filled(store, 2)
    put(store, 2)
    bench.clock.now += AGE
    planned = {share.study_instance_uid: share for share in store.studies.oldest("received", AGE)}
    store.jobs.claim("worker", 100, 1)
    assert oldest(store) == ["2.0000"]
    assert store.deletion.expire(planned["2.0001"], AGE) is None
    bench.clock.now += 101
    assert oldest(store) == ["2.0000", "2.0001"]
    gone = store.deletion.expire(planned["2.0001"], AGE)
    assert gone is not None
    assert (gone.instances, gone.size, store.studies.expired()) == (1, len(b"content of 2"), 1)
    assert oldest(store) == ["2.0000"]


def test_a_study_that_something_came_to_since_it_was_looked_at_stays(bench: Bench, store: Store) -> None:
    put(store, 0)
    bench.clock.now += AGE
    (planned,) = store.studies.oldest("received", AGE)
    put(store, 1)
    assert store.deletion.expire(planned, AGE) is None
    bench.clock.now += AGE
    assert store.deletion.expire(planned, AGE) is None  # it is another one than was planned with
    (again,) = store.studies.oldest("received", AGE)
    assert store.deletion.expire(again, AGE) is not None
    assert store.deletion.expire(again, AGE) is None
    assert (store.catalog.count(), store.studies.expired()) == (0, 1)


# --- conflicts -----------------------------------------------------------------------------------------------------

KNOWN = NewPatient("P000", "HOSPITAL", patient_name_key="=a^b^=", patient_birth_date="19500101")


STATED: tuple[tuple[NewPatient, tuple[str, ...]], ...] = (
    (KNOWN, ()),
    (NewPatient("P000", "HOSPITAL"), ()),
    (NewPatient("P000"), ()),  # no issuer: nothing to contradict
    (NewPatient("", anonymous_key="any"), ()),
    (NewPatient("P001", "HOSPITAL"), ("patient",)),
    (NewPatient("P000", "OTHER"), ("patient",)),
    (NewPatient("P000", "HOSPITAL", patient_name_key="=a^c^="), ("demographics",)),
    (NewPatient("P000", "HOSPITAL", patient_name_key="=a^b^=", patient_birth_date="19500102"), ("demographics",)),
    (NewPatient("P001", patient_name_key="=a^c^="), ("patient",)),
)


@pytest.mark.parametrize("policy", ["keep", "refuse"])
def test_what_names_another_patient_than_its_study(store: Store, policy: str) -> None:
    """In a known series (even cases) and in a new one."""
    stored = 0
    for case, (stated, kinds) in enumerate(STATED * 2):
        study = f"2.{case:04}"
        put(store, 2 * case, patient=KNOWN, study=NewStudy(study), series=NewSeries(f"3.{case}"))
        added = put(
            store,
            2 * case + 1,
            conflicts=policy,  # type: ignore[arg-type]
            patient=stated,
            study=NewStudy(study),
            series=NewSeries(f"3.{case}" if case % 2 else f"3.{case}.new"),
        )
        refused = policy == "refuse" and "patient" in kinds
        assert (added.outcome, added.conflicts) == ("refused" if refused else "new", kinds)
        assert added.study_instance_uid == study
        noted = [one for one in store.conflicts.all() if one.study_instance_uid == study]
        assert [(one.kind, one.outcome, one.patient_id) for one in noted] == [
            (kind, added.outcome, stated.patient_id) for kind in kinds
        ]
        stored += 1 if refused else 2
    assert store.catalog.count() == len(list((store.root / "files").rglob("*.dcm"))) == stored
    (patient,) = store.catalog.find("PATIENT")
    assert [patient[name] for name in ("patient_id", "issuer", "patient_name_key", "patient_birth_date")] == [
        *("P000", "HOSPITAL", "=a^b^=", "19500101")
    ]


def test_a_conflict_is_one_row_however_often_it_comes(bench: Bench, store: Store) -> None:
    put(store, 0)
    for number in (10, 11, 12):
        bench.clock.now += 1
        put(
            store, number, patient=NewPatient("P777"), study=NewStudy("2.0000"), series=NewSeries("3.x"), source_ae="CT"
        )
    put(store, 13, patient=NewPatient("P778"), study=NewStudy("2.0000"), series=NewSeries("3.x"))
    latest, first = store.conflicts.all()
    assert (first.patient_id, first.times, first.sop_instance_uid, first.source_ae) == ("P777", 3, "4.0012", "CT")
    assert first.last_at - first.first_at == 2.0
    assert (latest.patient_id, latest.study_instance_uid, latest.times) == ("P778", "2.0000", 1)
    assert store.conflicts.count() == 2


def test_a_series_of_another_study_stays_and_is_told(store: Store) -> None:
    put(store, 0)
    added = put(store, 1, conflicts="refuse", study=NewStudy("2.other"))
    assert (added.outcome, added.conflicts, added.study_instance_uid) == ("new", ("study",), "2.0000")
    assert [row["study_instance_uid"] for row in store.catalog.find("STUDY")] == ["2.0000"]


@pytest.mark.parametrize(
    ("policy", "conflicts", "outcome"),
    [
        ("keep", "keep", "kept"),
        ("replace", "keep", "replaced"),
        ("keep", "refuse", "refused"),
        ("replace", "refuse", "refused"),
    ],
)
def test_a_second_instance_of_the_same_uid_that_is_another_patients(
    store: Store, policy: str, conflicts: str, outcome: Outcome
) -> None:
    put(store, 0)
    other = {"patient": NewPatient("P777"), "study": NewStudy("2.x"), "series": NewSeries("3.x")}
    added = put(store, 0, b"other", policy, conflicts, **other)  # type: ignore[arg-type]
    assert (added.outcome, "patient" in added.conflicts) == (outcome, True)
    row = store.catalog.instance("4.0000")
    assert row is not None
    assert row.patient_id == ("P777" if outcome == "replaced" else "P000")
    assert store.files.path(row.path).read_bytes() == (b"other" if outcome == "replaced" else b"content of 0")
    assert {one.study_instance_uid for one in store.conflicts.all()} == {row.study_instance_uid}
    assert store.check() == []


# --- duplicates ----------------------------------------------------------------------------------------------------


def test_the_same_bytes_again_change_nothing_at_all(bench: Bench, store: Store) -> None:
    generation = filled(store, 2)
    bench.clock.now += AGE
    store.studies.settle(AGE)
    before = (store.catalog.instance("4.0001"), store.jobs.counts(generation.id), oldest(store, quiet_s=0))
    for policy in ("keep", "replace"):
        assert put(store, 1, policy=policy).outcome == "identical"  # type: ignore[arg-type]
    assert before == (store.catalog.instance("4.0001"), store.jobs.counts(generation.id), oldest(store, quiet_s=0))
    assert store.jobs.claim("worker", 60, 1) == []
    assert store.studies.counts(AGE) == StudyCounts(1, 0)
    assert store.studies.settle(AGE) == []
    assert len(list((store.root / "files").rglob("*.dcm"))) == 2


def test_other_bytes_that_are_kept_out_leave_the_study_complete_and_those_that_replace_do_not(
    bench: Bench, store: Store
) -> None:
    filled(store, 2)
    bench.clock.now += AGE
    assert put(store, 1, b"other").outcome == "kept"
    assert store.studies.counts(AGE) == StudyCounts(1, 0)
    assert put(store, 1, b"other", "replace").outcome == "replaced"
    assert store.studies.counts(AGE) == StudyCounts(0, 1)
    assert [job.sop_instance_uid for job in work_off(store)] == ["4.0001"]
    assert store.check() == []
