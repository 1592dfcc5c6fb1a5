"""An archive encoded again while its node answers: both generations fed, paced, verified, swapped, taken back."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomnode import canaries, config, progress, reindex
from dicomnode.cli import main
from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.errors import DicomNodeError
from dicomnode.locks import Lock
from dicomnode.query import request
from dicomnode.query.request import Keys
from dicomnode.settings import Config
from encoder.boxes import Box
from storage.store import Store
from storage.vectors.hnsw import HnswIndex
from tests import nodes
from tests.integration.test_calibration import FILMS, add, fill, model, work_off

FIRST, MEANWHILE = 8, 2
ONE = ("--workers", "1")
BOX = Box(220.0, 230.0, 380.0, 370.0)


def until(condition: Callable[[], Any], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- the running node -----------------------------------------------------------------------------------------------


@dataclass
class Archive:
    node: nodes.RunningNode
    drawn: list[Path]
    store: Store

    @property
    def root(self) -> Path:
        return self.node.root

    def live(self) -> int:
        found = self.store.generations.live()
        assert found is not None
        return found.id

    def building(self) -> progress.Progress | None:
        found = self.store.generations.building()
        return None if found is None else progress.of(self.store, found)

    def is_indexed(self, films: int) -> bool:
        """Whether the live generation has so many films, and nothing is queued in it."""
        counts = self.store.jobs.counts(self.live())
        return (counts.indexed, counts.queued) == (films, 0)

    def ask(self) -> list[request.ReadHit]:
        """The hits for a box on the first film."""
        ((uid, _),) = films.sop_instance_uids(self.drawn[:1])
        identifier = request.by_box(uid, "1.2.840.10008.5.1.4.1.1.1.1", BOX, Keys(matches=5))
        return [request.read_hit(match) for match in client.find(self.node.peer, identifier)]

    def reindexing(self, *flags: str) -> AbstractContextManager["subprocess.Popen[str]"]:
        """The command, running."""
        return nodes.running_command("reindex", "--root", self.root, *ONE, *flags)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("reindex")
    drawn = films.drawn(folder, FIRST + MEANWHILE, lambda *_: None)
    with nodes.running_node(folder / "root", "--http-port", "0", "--workers", "1") as node:
        assert all(sent.ok for sent in client.send(node.peer, drawn[:FIRST]))
        with Store.open(node.root) as store:
            archive = Archive(node, drawn, store)
            until(lambda: archive.is_indexed(FIRST))
            yield archive


def admin_page(archive: Archive) -> str:
    with urllib.request.urlopen(f"{archive.node.url}/admin", timeout=30) as page:
        return str(page.read().decode())


def hours(first: float, last: float) -> str:
    """A schedule from and until so many hours from now."""
    now = datetime.now()
    return "-".join(f"{now + timedelta(hours=hour):%H:%M}" for hour in (first, last))


@pytest.mark.timeout(600)
def test_outside_of_its_hours_it_waits_and_when_killed_the_next_run_goes_on(archive: Archive) -> None:
    before = archive.ask()
    with archive.reindexing("--schedule", hours(2, 3)) as process:
        until(lambda: (state := archive.building()) and state.doing == "waiting")
        assert "waits for its hours" in admin_page(archive)
        (building,) = nodes.answered("status", "--root", archive.root)["building"]
        assert (building["done"], building["instances"]) == (0, FIRST)
        assert process.poll() is None
    until(lambda: (state := archive.building()) and state.doing == "stopped")
    plan = nodes.answered("reindex", "--root", archive.root, "--dry-run", "--throttle", "50%")
    assert (plan["to_encode"], plan["throttle"]) == (FIRST, "50%")
    assert plan["resumes_generation"] == building["generation"]
    done = nodes.answered("reindex", "--root", archive.root, *ONE, "--schedule", hours(-1, 2))
    assert (done["generation"], done["indexed"]) == (building["generation"], FIRST)
    assert (done["recall_at_10"], done["forced"]) == (1.0, "")
    assert done["canaries"] > 100
    assert (archive.building(), archive.live()) == (None, building["generation"])
    assert [(hit.sop_instance_uid, hit.score) for hit in archive.ask()] == [
        (hit.sop_instance_uid, hit.score) for hit in before
    ]


@pytest.mark.timeout(600)
def test_new_films_go_into_both_generations_and_a_throttle_holds(archive: Archive) -> None:
    rate = 0.8
    live = archive.live()
    with archive.reindexing("--throttle", f"{rate:g}") as process:
        until(lambda: (state := archive.building()) and state.done)
        started = time.monotonic()
        first = archive.building()
        assert first is not None
        assert all(sent.ok for sent in client.send(archive.node.peer, archive.drawn[FIRST:]))
        until(lambda: archive.is_indexed(FIRST + MEANWHILE))
        building = archive.building()
        assert building is not None, "the new films were found before the swap"
        assert (building.doing, building.instances, archive.live()) == ("encoding", FIRST + MEANWHILE, live)
        assert 0 < building.films_per_s < 2 * rate  # over the seconds since the start, the first two at once
        assert "films/s" in admin_page(archive)
        assert archive.ask()
        out, _ = process.communicate(timeout=120)
        took = time.monotonic() - started
    done = json.loads(out)
    assert done["indexed"] == FIRST + MEANWHILE
    assert took > (FIRST + MEANWHILE - first.done) / rate - 2.5
    counts = {each.id: archive.store.regions.count(each.id) for each in archive.store.generations.all()}
    assert counts[live] == counts[done["generation"]] > 0
    assert set(counts) == {live, done["generation"]}  # what is older was dropped
    assert archive.store.check() == []


@pytest.mark.timeout(600)
def test_a_running_node_makes_its_index_anew_when_asked_and_answers_meanwhile(archive: Archive) -> None:
    before = archive.ask()
    folder = archive.root / "index" / str(archive.live())
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    with archive.reindexing("--only", "index") as process:
        while process.poll() is None:
            assert archive.ask() == before
        done = json.loads(process.communicate()[0])
    assert done == {"generation": archive.live(), "vectors": archive.store.regions.count(archive.live())}
    manifests = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert sum(manifest["rows"] for manifest in manifests) == done["vectors"]
    assert archive.ask() == before


@pytest.mark.timeout(600)
def test_the_generation_before_comes_back_with_what_arrived_since(archive: Archive) -> None:
    now = archive.live()
    result = nodes.answered("reindex", "--root", archive.root, "--rollback")
    assert result["generation"] == archive.live() < now
    until(lambda: archive.is_indexed(FIRST + MEANWHILE))
    assert archive.ask()


# --- the verification, on vectors made up ---------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "root", exact_limit=20) as opened:
        opened.generations.ensure_live(model())
        fill(opened, FILMS)
        yield opened


def verified(store: Store, least_recall: float = 0.95) -> canaries.Verification:
    live = store.generations.live()
    building = store.generations.start(model(name="other"))
    work_off(store)
    assert live is not None
    return canaries.verify(store, live, building, least_recall, lambda *_: None)


def test_a_good_generation_is_compared_by_count_recall_and_canaries_and_its_index_kept(store: Store) -> None:
    found = verified(store)
    assert (found.indexed, found.indexed_before, found.canaries_lost, found.refusals) == (FILMS, FILMS, 0, ())
    assert found.queries > 40
    assert found.recall == 1.0
    assert list((store.root / "index" / "2").glob("*.hnsw"))  # the graph, too: 25 hearts are above the limit


def test_an_index_that_finds_other_regions_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rows = HnswIndex.add
    monkeypatch.setattr(HnswIndex, "add", lambda self, ids, vectors: add_rows(self, ids, np.roll(vectors, 1, axis=0)))
    found = verified(store)
    assert found.recall < 1.0 or found.canaries_lost


def test_a_refusal_is_said_kept_and_can_be_forced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        """Workers that fail most films."""

        def __init__(self, store: Store, *_: object) -> None:
            self._store = store

        def start(self) -> None:
            for number, job in enumerate(self._store.jobs.claim("bad", 60, 100)):
                if number % 2:
                    self._store.jobs.fail(job, "no", retry=False)
            self._store.jobs.release("bad")
            work_off(self._store)

        def check(self) -> None:
            pass

        def stop(self) -> None:
            pass

    monkeypatch.setattr(reindex, "Pool", Failing)
    monkeypatch.setattr(reindex.models, "prove", lambda _: None)
    monkeypatch.setattr(reindex.models, "install", lambda *_: model(name="other"))
    command = ["reindex", "--root", str(tmp_path / "root"), "--model", str(tmp_path)]
    assert main.run(command) == 1
    said = capsys.readouterr().err
    assert f"the new generation indexed 13 instances, the live one {FILMS}: not swapped" in said
    assert "--force" in said
    live, building = store.generations.live(), store.generations.building()
    assert live is not None
    assert building is not None
    assert (live.id, building.id) == (1, 2)
    assert progress.read(tmp_path / "root") is None
    assert main.run([*command, "--force", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["generation"], done["kept_for_rollback"]) == (2, 1)
    assert "the new generation indexed" in done["forced"]


def test_without_a_node_nobody_is_asked_to_rebuild(store: Store, tmp_path: Path) -> None:
    done = reindex.rebuild_index(store, config.load(None, {}, {"storage.root": str(tmp_path / "root")}))
    assert done == {"generation": 1, "vectors": store.regions.count(1)}
    assert store.errands.asked("rebuild") == 0


def test_an_index_that_the_database_holds_is_made_anew_by_the_command(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(store.vectors), "IS_SHARED", True)
    with Lock(tmp_path / "root" / "serve.lock", "a node"):
        done = reindex.rebuild_index(store, config.load(None, {}, {"storage.root": str(tmp_path / "root")}))
    assert done == {"generation": 1, "vectors": store.regions.count(1)}
    assert store.errands.asked("rebuild") == 0


def test_what_killed_runs_have_left_goes_before_the_next_begins(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the swap, killed while giving up, again and again: what is kept does not grow."""
    kept = [store.root / "models" / f"m{number}" for number in range(3)]
    for number, folder in enumerate(kept):
        folder.mkdir(parents=True)
        other = replace(model(name=f"m{number}"), path=f"models/{folder.name}")
        store.generations.start(other)
        work_off(store)
        if number < 2:
            store.generations.make_live(number + 2)
        else:
            store.generations.abandon(number + 2)
    assert [each.state for each in store.generations.all()] == ["retired", "retired", "live", "abandoned"]
    monkeypatch.setattr(reindex.models, "prove", lambda _: None)
    monkeypatch.setattr(reindex.models, "install", lambda *_: model(name="new"))
    monkeypatch.setattr(reindex, "Pool", Killed)
    settings = config.load(None, {}, {"storage.root": str(tmp_path / "root")})
    with pytest.raises(Killed.Now):
        reindex.run(store, settings, kept[2], lambda *_: None)
    assert [(each.id, each.state) for each in store.generations.all()] == [(2, "retired"), (3, "live"), (5, "building")]
    assert [folder.is_dir() for folder in kept] == [True, True, True]  # the last is what it was asked to take
    assert reindex.abandon(store) == {"abandoned": 5}
    assert [each.id for each in store.generations.all()] == [2, 3]


class Killed:
    """Workers of a run that ends as they start."""

    class Now(Exception):
        """Nothing that the run expects."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        raise self.Now

    def stop(self) -> None:
        pass


def test_a_node_that_does_nothing_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "REBUILD_S", 0.3)
    monkeypatch.setattr(reindex, "_is_served", lambda _: True)
    with pytest.raises(DicomNodeError, match=r"did not rebuild its index within 0\.3 s"):
        reindex.rebuild_index(store, Config())


def test_an_errand_is_done_when_a_later_one_is(store: Store) -> None:
    first, second = store.errands.ask("prepare"), store.errands.ask("prepare")
    assert (first, second, store.errands.asked("rebuild")) == (1, 2, 0)
    store.errands.finish("prepare", second)
    store.errands.finish("prepare", first)
    assert store.errands.done("prepare") == second


def test_what_was_killed_leaves_a_note_that_grows_old(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    building = store.generations.start(model(name="other"))
    now = time.time()
    progress.Note(building.id, "encoding", now - 10, now).leave(store.root)
    assert progress.of(store, building).doing == "encoding"
    progress.Note(building.id, "encoding", now - 100, now - progress.OLD_S).leave(store.root)
    assert progress.of(store, building).text == "stopped: `dicomnode reindex` goes on"
    (store.root / "reindex.json").write_text("{")
    assert progress.of(store, building).doing == "stopped"


def test_rate_and_time_left_are_of_the_last_minute(store: Store) -> None:
    building = store.generations.start(model(name="other"))
    now = time.time()
    progress.Note(building.id, "encoding", now - 10, now).leave(store.root)
    for job in store.jobs.claim("test", 60, 5, (building.id,)):
        store.jobs.not_indexable(job, "no")
    far = progress.of(store, building)
    assert (far.done, far.instances) == (5, FILMS)
    assert far.films_per_s == pytest.approx(0.5, rel=0.2)
    assert far.seconds_left == pytest.approx(20 / far.films_per_s, rel=0.01)
    add(store, 99, 1)
    assert progress.of(store, building).instances == FILMS + 1
