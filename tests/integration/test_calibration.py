"""What is unlike an archive, measured on its stored vectors: when, with what result, and that queries go by it."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomnode import calibration, canaries, config, index_keeper, reindex
from dicomnode.cli import main
from dicomnode.errors import DicomNodeError
from dicomnode.index_keeper import IndexKeeper
from dicomnode.models import SLACK
from dicomnode.private import PatientScope
from dicomnode.query.matching import Narrowing
from dicomnode.query.region import RegionQuery
from dicomnode.query.search import UNLIKE_ARCHIVE, RegionSearch
from dicomnode.settings import Config
from dicomnode.sr.regions import GraphicType, SrRoi
from dicomnode.workers.embedding import FakeEncoder
from dicomnode.workers.roi import RoiProcess, RoiSettings
from encoder import unlike
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.records import Generation, Model, NewInstance, NewPatient, NewRegion, NewSeries, NewStudy
from storage.store import Store

DIM = 16
LUNG, HEART, SPINE = 0, 24, 16  # the spine is in the first few films only
BOXES = {LUNG: (10.0, 10.0, 40.0, 80.0), HEART: (35.0, 40.0, 65.0, 78.0), SPINE: (40.0, 5.0, 55.0, 95.0)}
GIVEN = {str(LUNG): 0.9, str(HEART): 0.8, str(SPINE): 0.7}  # by the model
FILMS, SPINES = 25, 8


def model(slack: float = 1.0, name: str = "made-up") -> Model:
    return Model(name, f"models/{name}", DIM, ("anatomy",), VOCABULARY.names, {**GIVEN, SLACK: slack})


def add(store: Store, number: int, patient: int) -> None:
    """A film whose file nobody will read."""
    new = NewInstance(
        NewPatient(f"P{patient}"),
        NewStudy(f"1.2.{number}"),
        NewSeries(f"1.3.{number}", modality="DX"),
        f"1.4.{number}",
        "1.2.840.10008.5.1.4.1.1.1.1",
        "1.2.840.10008.1.2.1",
        rows=100,
        columns=100,
    )
    with store.files.scratch() as scratch:
        scratch.write(new.sop_instance_uid.encode())
        store.catalog.add(new, store.files.keep(scratch, new.sop_instance_uid))


def vector(number: int, anatomy: int) -> np.ndarray:
    """Of one anatomy alike; that of film 0 is like no other."""
    rng = np.random.default_rng([number, anatomy])
    mean = np.random.default_rng(100 * anatomy + (7 if number == 0 else 0)).standard_normal(DIM)
    raw = mean + 0.2 * rng.standard_normal(DIM)
    return np.asarray(raw / np.linalg.norm(raw), dtype=np.float32)


def work_off(store: Store) -> None:
    while jobs := store.jobs.claim("test", 60, 20):
        for job in jobs:
            number = int(job.sop_instance_uid.rpartition(".")[2])
            shown = (LUNG, HEART, SPINE) if number <= SPINES else (LUNG, HEART)
            regions = [NewRegion(each, BOXES[each], 0.9, {"anatomy": vector(number, each)}) for each in shown]
            store.jobs.finish(job, regions)


def fill(store: Store, films: int, first: int = 0) -> None:
    """Films of a patient each, but for the last, who is the one before."""
    for number in range(first, films):
        add(store, number, min(number, films - 2))
    work_off(store)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "root") as opened:
        opened.generations.ensure_live(model())
        yield opened


def live(store: Store) -> Generation:
    found = store.generations.live()
    assert found is not None
    return found


def expected(anatomy: int, films: int = FILMS) -> float:
    """By `encoder.unlike` on the vectors as they are stored, in half precision."""
    rows = np.stack([vector(number, anatomy).astype(np.float16).astype(np.float32) for number in range(films)])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    limit = unlike.threshold(unlike.left_out(rows, np.array([min(number, films - 2) for number in range(films)])))
    assert limit is not None
    return limit


def test_what_was_measured_is_stored_and_an_anatomy_with_too_few_keeps_the_models(store: Store) -> None:
    fill(store, FILMS)
    told = calibration.calibrate(store, live(store))
    assert told == {"generation": 1, "images": FILMS, "anatomies_measured": 2}
    found = live(store).model.thresholds
    assert found[str(LUNG)] == pytest.approx(expected(LUNG), abs=1e-5)
    assert found[str(HEART)] == pytest.approx(expected(HEART), abs=1e-5)
    assert found[str(SPINE)] == GIVEN[str(SPINE)]
    assert (found[SLACK], found[calibration.IMAGES]) == (1.0, FILMS)


def test_slack_is_multiplied_once_however_often_it_is_measured(tmp_path: Path) -> None:
    with Store.open(tmp_path / "slack") as store:
        store.generations.ensure_live(model(slack=1.5))
        fill(store, FILMS)
        for _ in range(3):
            calibration.calibrate(store, live(store))
        found = live(store).model.thresholds
        assert found[str(HEART)] == pytest.approx(1.5 * expected(HEART), abs=1e-5)
        assert found[str(SPINE)] == GIVEN[str(SPINE)]  # the model's has its slack already
        assert found[SLACK] == 1.5


def test_it_is_due_from_twenty_images_and_then_each_time_there_are_half_more(store: Store) -> None:
    assert not calibration.due(store, live(store))
    fill(store, unlike.LEAST - 1)
    assert not calibration.due(store, live(store))
    fill(store, unlike.LEAST, unlike.LEAST - 1)
    assert calibration.due(store, live(store))
    calibration.calibrate(store, live(store))
    assert not calibration.due(store, live(store))
    fill(store, 29, unlike.LEAST)
    assert not calibration.due(store, live(store))
    fill(store, 30, 29)
    assert calibration.due(store, live(store))
    calibration.calibrate(store, live(store))
    assert live(store).model.thresholds[calibration.IMAGES] == 30
    assert not calibration.due(store, live(store))


def test_a_large_archive_is_measured_on_a_sample_of_whole_patients_and_counted_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 40)
    monkeypatch.setattr(calibration, "SAMPLE", 30)
    images = store.regions.instances(1)
    order = calibration.by_patient(images)
    assert sorted(order) == images[:, 0].tolist()
    assert order == calibration.by_patient(images)
    told = calibration.calibrate(store, live(store))
    assert (told["images"], told["anatomies_measured"]) == (40, 2)
    first = dict(live(store).model.thresholds)
    calibration.calibrate(store, live(store))
    assert live(store).model.thresholds == first


def test_an_archive_without_regions_keeps_what_it_has(store: Store) -> None:
    assert calibration.calibrate(store, live(store)) == {"generation": 1, "images": 0, "anatomies_measured": 0}
    assert live(store).model.thresholds == {**GIVEN, SLACK: 1.0, calibration.IMAGES: 0}


def warned(store: Store, number: int) -> bool:
    """Whether the stored heart of a film is said to be unlike the archive."""
    box = Box(*BOXES[HEART])
    roi = SrRoi(image_uid=f"1.4.{number}", graphic_type=GraphicType.POLYLINE, points=(), box=box, sites=())
    asked = RegionQuery((roi,), (), PatientScope.OTHER, 5, -1.0, "anatomy", Narrowing((), None))
    search = RegionSearch(store, FakeEncoder(DIM, len(VOCABULARY)))
    return UNLIKE_ARCHIVE in search.ask(asked).warnings


def test_the_next_query_goes_by_what_was_measured(store: Store) -> None:
    fill(store, FILMS)
    loose = replace(live(store).model, thresholds={str(HEART): 1.9}).thresholds
    store.generations.set_thresholds(1, loose)
    assert not warned(store, 0)
    calibration.calibrate(store, live(store))
    assert warned(store, 0)
    assert not any(warned(store, number) for number in (5, 6, 7))
    store.generations.set_thresholds(1, {str(HEART): 1e-6})
    assert warned(store, 5)
    calibration.calibrate(store, live(store))
    assert not warned(store, 5)


def test_by_the_command(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, FILMS)
    command = ["reindex", "--root", str(tmp_path / "root"), "--only", "thresholds"]
    assert main.run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"generation": 1, "images": FILMS, "anatomies_measured": 2}
    assert live(store).model.thresholds[str(HEART)] == pytest.approx(expected(HEART), abs=1e-5)
    assert main.run(command) == 0
    assert capsys.readouterr().out == f"generation 1, images {FILMS}, anatomies_measured 2\n"


def test_a_trial_run_of_the_command_changes_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, FILMS)
    command = ["reindex", "--root", str(tmp_path / "root"), "--only", "thresholds", "--dry-run", "--json"]
    assert main.run(command) == 0
    assert json.loads(capsys.readouterr().out) == {"generation": 1, "images": FILMS, "measured_on": 0}
    assert live(store).model.thresholds == {**GIVEN, SLACK: 1.0}


def test_an_archive_that_was_never_served_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(tmp_path / "new").close()
    assert main.run(["reindex", "--root", str(tmp_path / "new"), "--only", "thresholds", "--json"]) == 1
    assert "no live generation" in capsys.readouterr().err


# --- a running node -------------------------------------------------------------------------------------------------


@pytest.fixture
def running(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexKeeper]:
    """The part of a node that keeps its index, without a model."""
    monkeypatch.setattr(index_keeper, "REFRESH_S", 0.01)
    monkeypatch.setattr(index_keeper, "CALIBRATE_EVERY", 2)
    settings = Config()
    roi = RoiProcess(RoiSettings(1, settings.ingest, settings.log, None), 1.0)
    made = IndexKeeper(store, roi, shared=False, chores={})
    yield made
    made.stop()


def test_a_running_node_measures_when_its_archive_has_grown(store: Store, running: IndexKeeper) -> None:
    running.start()
    fill(store, FILMS)
    deadline = time.monotonic() + 20
    while calibration.due(store, live(store)) and time.monotonic() < deadline:
        time.sleep(0.01)
    found = live(store).model.thresholds
    assert found[calibration.IMAGES] >= unlike.LEAST
    assert found[str(HEART)] != GIVEN[str(HEART)]


def test_a_node_measures_only_when_it_is_due(
    store: Store, running: IndexKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, FILMS)
    measured = []
    calibrate = calibration.calibrate
    monkeypatch.setattr(calibration, "calibrate", lambda *given: measured.append(calibrate(*given)))
    for _ in range(3):
        running._calibrate()
    assert [told["images"] for told in measured] == [FILMS]


def test_a_node_that_cannot_measure_goes_on(
    store: Store, running: IndexKeeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, FILMS)

    def failing(*_: object) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(calibration, "calibrate", failing)
    with caplog.at_level(logging.WARNING):
        running._calibrate()
    assert "unlike the archive" in caplog.text
    assert live(store).model.thresholds == {**GIVEN, SLACK: 1.0}


# --- reindexing -----------------------------------------------------------------------------------------------------


class Working:
    """A pool of workers that encodes on the spot."""

    def __init__(self, store: Store, *_: object) -> None:
        self._store = store

    def start(self) -> None:
        work_off(self._store)

    def check(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def reindexing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """An archive, and a reindexing with another model whose files nobody will read."""
    fill(store, FILMS)
    monkeypatch.setattr(reindex, "Pool", Working)
    monkeypatch.setattr(reindex.models, "prove", lambda _: None)
    monkeypatch.setattr(reindex.models, "install", lambda *_: model(slack=2.0, name="other"))
    return config.load(None, {}, {"storage.root": str(tmp_path / "root")})


def test_a_new_generation_is_measured_before_it_goes_live(
    store: Store, reindexing: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_it_went_live = []
    make_live = store.generations.make_live

    def watched(generation_id: int) -> Generation:
        when_it_went_live.append(dict(store.generations.get(generation_id).model.thresholds))
        return make_live(generation_id)

    monkeypatch.setattr(store.generations, "make_live", watched)
    done = reindex.run(store, reindexing, tmp_path / "other", lambda *_: None)
    assert (done["generation"], done["model"]) == (2, "other")
    (thresholds,) = when_it_went_live
    assert thresholds == live(store).model.thresholds
    assert thresholds[str(HEART)] == pytest.approx(2.0 * expected(HEART), abs=1e-5)
    assert thresholds[calibration.IMAGES] == FILMS
    assert store.generations.get(1).model.thresholds == {**GIVEN, SLACK: 1.0}  # the one kept for rollback


def test_a_generation_that_is_refused_leaves_the_live_one_as_it_was(
    store: Store, reindexing: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canaries, "LEAST_SHARE", 2.0)
    with pytest.raises(DicomNodeError, match="not swapped"):
        reindex.run(store, reindexing, tmp_path / "other", lambda *_: None)
    assert live(store).model.thresholds == {**GIVEN, SLACK: 1.0}


def test_a_node_lets_go_of_a_generation_that_was_given_up(store: Store, running: IndexKeeper, tmp_path: Path) -> None:
    """Its index was loaded, to be ready for a swap, and written down."""
    fill(store, 3)
    building = store.generations.start(replace(live(store).model, id="another"))
    running.take_up()
    running._prepare()
    running.snapshot()
    folder = tmp_path / "root" / "index" / str(building.id)
    assert list(folder.iterdir())
    store.generations.abandon(building.id)
    store.generations.delete(building.id)
    running.snapshot()
    running.take_up()
    assert not folder.exists()
    assert (tmp_path / "root" / "index" / str(live(store).id)).is_dir()


def test_a_node_lets_go_of_the_one_before_when_that_is_dropped(
    store: Store, running: IndexKeeper, tmp_path: Path
) -> None:
    """Long after the swap, when nothing else changes."""
    fill(store, 3)
    before = live(store)
    running.take_up()
    running.snapshot()
    store.generations.start(replace(before.model, id="another"))
    work_off(store)
    store.generations.make_live(before.id + 1)
    running.take_up()
    folder = tmp_path / "root" / "index" / str(before.id)
    assert list(folder.iterdir())  # it may be gone back to
    store.generations.delete(before.id)
    running.take_up()
    assert not folder.exists()
