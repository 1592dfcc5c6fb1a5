"""Retention, completion and conflicts as a node applies them: what goes first, what stays, what is told."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from dicomnode import upkeep
from dicomnode.cli import main
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.settings import RetentionSettings, StorageSettings
from dicomnode.upkeep import DAY_S, GIB, Keeper
from storage.store import Store
from tests import nodes
from tests.integration import archives

STABLE = {"DICOMNODE_STORAGE__STABLE_AGE_S": "1"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """Five films of five patients, a day between them, the newest the oldest by its Study Date."""
    with Store.open(tmp_path / "root", clock=clock) as opened:
        for number in range(5):
            film = archives.film(number, number)
            film.StudyDate = f"20240{5 - number}01"
            archives.put(opened, film, tmp_path)
            clock.now += DAY_S
        yield opened


def patients(store: Store) -> list[str]:
    return [str(row["patient_id"]) for row in store.catalog.find("PATIENT")]


def films_of(store: Store, n: float) -> float:
    """A quota that as many films fit."""
    return n * store.studies.size() / 5 / GIB


def keeper(store: Store, **retention: object) -> Keeper:
    return Keeper(store, StorageSettings(), RetentionSettings(**retention))  # type: ignore[arg-type]


# --- what goes -----------------------------------------------------------------------------------------------------


def test_without_settings_nothing_goes(store: Store) -> None:
    keeper(store).round()
    assert len(patients(store)) == 5


@pytest.mark.parametrize(("order", "left"), [("received", ["P3", "P4"]), ("study_date", ["P0", "P1"])])
def test_a_quota_takes_the_first_in_its_order_until_it_fits(
    store: Store, caplog: pytest.LogCaptureFixture, order: str, left: list[str]
) -> None:
    retention = RetentionSettings(maximum_gib=films_of(store, 2.5), order=order)
    would = [each.study.study_instance_uid for each in upkeep.due(store, retention, 60.0)]
    assert len(would) == 3
    with caplog.at_level(logging.INFO, logger="dicomnode.upkeep"):
        Keeper(store, StorageSettings(), retention).round()
    assert patients(store) == left
    assert upkeep.excess(store, retention) == 0
    told = [record.getMessage() for record in caplog.records if "retention" in record.getMessage()]
    assert [uid in line for uid, line in zip(would, told, strict=True)] == [True] * 3
    assert all("quota" in line and "1 instances" in line and "P" not in line.split("study")[0] for line in told)
    assert store.studies.expired() == 3
    assert store.check() == []


def test_age_takes_what_nothing_came_to_for_so_long_whatever_its_study_date(store: Store) -> None:
    keeper(store, maximum_age_days=2.5, order="study_date").round()
    assert patients(store) == ["P3", "P4"]
    assert store.check() == []


def test_age_goes_before_the_quota_and_counts_for_it(store: Store) -> None:
    retention = RetentionSettings(maximum_age_days=3.5, maximum_gib=films_of(store, 2.5), order="study_date")
    due = list(upkeep.due(store, retention, 60.0))
    assert [each.reason for each in due] == ["age", "age", "quota"]
    Keeper(store, StorageSettings(), retention).round()
    assert patients(store) == ["P2", "P3"]


def test_what_is_arriving_or_being_indexed_stays_whatever_the_quota(
    store: Store, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.generations.ensure_live(archives.MODEL)
    (job,) = store.jobs.claim("worker", 10 * DAY_S, 1)
    film = archives.film(1, 1)
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    archives.put(store, film, tmp_path)  # the second study is arriving again
    applied = keeper(store, maximum_gib=1e-9)
    applied.round()
    assert patients(store) == ["P0", "P1"]
    assert len([record for record in caplog.records if "over the quota" in record.getMessage()]) == 1
    clock.now += 60
    applied.round()  # a study that becomes complete is a reason to look
    assert patients(store) == ["P0"]
    assert len([record for record in caplog.records if "over the quota" in record.getMessage()]) == 1
    store.jobs.not_indexable(job, "no film")
    clock.now += 1
    for _ in range(upkeep.RETAIN_EVERY):
        applied.round()
    assert patients(store) == []
    assert store.check() == []


def test_the_administrator_can_see_and_do_it(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "c.toml"
    settings.write_text(f"[retention]\nmaximum_gib = {films_of(store, 3.5):.12f}\n")
    flags = ["delete", "--by-retention", "--json", "--root", str(tmp_path / "root"), "--config", str(settings)]
    assert main.run([*flags, "--dry-run"]) == 0
    would = json.loads(capsys.readouterr().out)
    assert (would["dry_run"], would["studies"], len(patients(store))) == (True, 2, 5)
    assert main.run(flags) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["each"], patients(store)) == (would["each"], ["P2", "P3", "P4"])
    assert main.run(flags) == 0
    assert json.loads(capsys.readouterr().out)["studies"] == 0


# --- a node --------------------------------------------------------------------------------------------------------


def film(seed: str, patient: str = "SECRET1", study: str = "") -> Dataset:
    facts = FilmFacts(patient, "Secret^Name", "F", "19500101", "20240102", seed=seed)
    dataset = dx_dataset(np.random.default_rng(len(seed)).integers(0, 4000, (64, 64)).astype(np.uint16), facts)
    if study:
        dataset.StudyInstanceUID = study
    return dataset


def sent(node: nodes.RunningNode, dataset: Dataset, path: Path) -> client.Sent:
    dataset.save_as(path, enforce_file_format=True)
    (one,) = client.send(node.peer, [path])
    return one


def known(node: nodes.RunningNode) -> set[str]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = ""
    return {str(match.StudyInstanceUID) for match in client.find(node.peer, identifier)}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.timeout(200)
def test_a_node_tells_complete_studies_and_keeps_its_quota(tmp_path: Path) -> None:
    shown = [film("a"), film("bb", "SECRET2"), film("ccc", "SECRET3")]
    quota = {"DICOMNODE_RETENTION__MAXIMUM_GIB": f"{2.5 * 9000 / GIB:.12f}"}  # a film has 64 x 64 x 2 bytes and a head
    log = tmp_path / "root.log"
    with nodes.running_node(tmp_path / "root", "--workers", "0", environment=STABLE | quota) as node:
        for number, dataset in enumerate(shown):
            assert sent(node, dataset, tmp_path / f"{number}.dcm").ok
        uids = [str(dataset.StudyInstanceUID) for dataset in shown]
        wait_until(lambda: known(node) == set(uids[1:]))
        status = nodes.answered("status", "--root", node.root)
        assert (status["instances"], status["studies_expired"]) == (2, 1)
        wait_until(lambda: all(f"study complete: {uid}" in log.read_text() for uid in uids))
        assert f"retention by quota: study {uids[0]} deleted, 1 instances" in log.read_text()
        assert sent(node, shown[0], tmp_path / "again.dcm").ok
    assert "SECRET" not in log.read_text()
    with Store.open(tmp_path / "root") as store:
        assert store.check() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize("policy", ["keep", "refuse"])
def test_a_node_and_a_study_of_another_patient(tmp_path: Path, policy: str) -> None:
    first = film("a")
    second = film("bb", "SECRET2", str(first.StudyInstanceUID))
    again = film("a", "SECRET2")  # another picture of another patient under the first one's UIDs
    again.PixelData = bytes(len(again.PixelData))
    environment = {"DICOMNODE_STORAGE__PATIENT_CONFLICTS": policy}
    with nodes.running_node(tmp_path / "root", "--workers", "0", environment=environment) as node:
        assert sent(node, first, tmp_path / "a.dcm").ok
        for number, dataset in enumerate((second, again)):
            answer = sent(node, dataset, tmp_path / f"{number}.dcm")
            expected = (0xA900, "study belongs to another patient") if policy == "refuse" else (0x0000, "")
            assert (answer.status, answer.reason) == expected
        other_name = film("dddd")
        other_name.PatientName = "Secret^Other"
        assert sent(node, other_name, tmp_path / "d.dcm").ok
        status = nodes.answered("status", "--root", node.root)
        assert (status["instances"], status["conflicts"]) == (2 if policy == "refuse" else 3, 2)
        listed = nodes.answered("status", "--conflicts", "--root", node.root)
    assert [(one["kind"], one["times"], one["patient_id"]) for one in listed] == [
        ("demographics", 1, "SECRET1"),
        ("patient", 2, "SECRET2"),
    ]
    assert listed[1]["outcome"] == ("refused" if policy == "refuse" else "kept")
    assert listed[1]["sop_instance_uid"] == str(again.SOPInstanceUID)
    log = (tmp_path / "root.log").read_text()
    assert "SECRET" not in log
    assert "Secret" not in log
    assert f"study {first.StudyInstanceUID}" in log


@pytest.mark.timeout(200)
def test_the_same_picture_in_another_transfer_syntax_is_other_bytes(tmp_path: Path) -> None:
    dataset = film("a")
    uid = str(dataset.SOPInstanceUID)
    with nodes.running_node(tmp_path / "root", "--workers", "0") as node:
        assert sent(node, dataset, tmp_path / "a.dcm").ok
        dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        assert sent(node, dataset, tmp_path / "b.dcm").ok
        with Store.open(node.root) as store:
            row = store.catalog.instance(uid)
            assert row is not None
            assert row.transfer_syntax_uid == "1.2.840.10008.1.2.1"
            assert store.catalog.count() == 1
    assert "duplicate SOP Instance UID with other bytes: kept" in (tmp_path / "root.log").read_text()
