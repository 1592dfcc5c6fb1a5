"""The process tree of a node: who loads what, who replaces whom, and who is left at the end."""

import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.errors import DecodeError, ModelFailure
from dicomnode.settings import IngestSettings, LogSettings
from dicomnode.workers.embedding import RoiRequest
from dicomnode.workers.indexer import IndexerPlan
from dicomnode.workers.pool import Pool
from dicomnode.workers.roi import RoiProcess, RoiSettings
from encoder.pipeline import SHIPPED
from storage.errors import StorageFull
from storage.store import Store
from tests import nodes

BOX = (150.0, 150.0, 350.0, 350.0)


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.timeout(300)
def test_the_receiver_loads_no_torch_and_no_codec_and_its_children_end_with_it(tmp_path):
    with nodes.running_node(tmp_path / "root") as node:
        main = psutil.Process(node.process.pid)
        children = main.children(recursive=True)
        wait_until(lambda: all(nodes.loads(child, "libtorch") for child in children))
        assert client.echo(node.peer) == 0
        assert not nodes.loads(main, "libtorch", *nodes.CODECS)
        assert any(nodes.loads(child, *nodes.CODECS) for child in children)
        node.process.terminate()
        assert node.process.wait(60) == 0
        assert not any(child.is_running() for child in children)


@pytest.mark.timeout(300)
def test_a_killed_worker_is_replaced_and_its_film_is_indexed(tmp_path):
    paths = films.drawn(tmp_path, 2, lambda *_: None)
    with nodes.running_node(tmp_path / "root", "--workers", "1") as node:
        main = psutil.Process(node.process.pid)
        (worker,) = [child for child in main.children() if "dicomnode.workers.indexer" in child.cmdline()]
        worker.kill()
        assert all(sent.ok for sent in client.send(node.peer, paths))
        nodes.dicomnode("wait", "--root", node.root, "--timeout", "120")
        status = nodes.answered("status", "--root", node.root)
    assert (status["indexed"], status["failed"]) == (2, 0)


@pytest.fixture
def query_model():
    process = RoiProcess(RoiSettings(1, IngestSettings(), LogSettings(), None), timeout_s=240.0)
    yield process
    process.stop()


def request(path: Path) -> RoiRequest:
    return RoiRequest(SHIPPED, path, 1, (BOX,))


@pytest.mark.timeout(300)
def test_the_query_model_answers_fails_in_words_and_comes_back_after_a_death(query_model, tmp_path):
    (film,) = films.drawn(tmp_path, 1, lambda *_: None)
    first = query_model.embed(request(film))
    assert first.vectors["anatomy"].shape[0] == 1
    assert first.anatomy_probability.sum() == pytest.approx(1.0, abs=1e-4)
    (tmp_path / "bad.dcm").write_bytes(b"nonsense")
    with pytest.raises(DecodeError):
        query_model.embed(request(tmp_path / "bad.dcm"))
    psutil.Process(query_model._child.pid).kill()
    try:
        again = query_model.embed(request(film))
    except ModelFailure:  # the death was seen in the middle of the question
        again = query_model.embed(request(film))
    assert again.vectors["anatomy"].tobytes() == first.vectors["anatomy"].tobytes()


@pytest.mark.timeout(300)
def test_a_query_model_that_hangs_is_replaced(tmp_path):
    (film,) = films.drawn(tmp_path, 1, lambda *_: None)
    process = RoiProcess(RoiSettings(1, IngestSettings(), LogSettings(), SHIPPED), timeout_s=0.001)
    try:
        with pytest.raises(ModelFailure, match="in time"):
            process.embed(request(film))
        assert process._child.pid is None
    finally:
        process.stop()


@pytest.mark.timeout(300)
def test_stopping_aborts_open_associations_and_nothing_is_acknowledged_after(tmp_path):
    paths = films.drawn(tmp_path, 3, lambda *_: None)
    with nodes.running_node(tmp_path / "root", "--workers", "0") as node:
        sending = client.send(node.peer, paths)
        assert next(sending).ok
        started = time.monotonic()
        node.process.terminate()
        assert node.process.wait(60) == 0
        assert time.monotonic() - started < 30
        assert not any(sent.ok for sent in sending)
    with Store.open(tmp_path / "root") as store:
        assert store.catalog.count() == 1
        assert store.check() == []


HUNG = """
import sys, time
from dicomnode.workers import indexer
from dicomnode.settings import IngestSettings, LogSettings
from pathlib import Path

class Jobs:
    def claim(self, *_):
        return [object()]

class Store:
    jobs = Jobs()

plan = indexer.IndexerPlan(Path("."), "", "test", IngestSettings(lease_s=0.5), LogSettings())
worker = indexer.Indexer(Store(), plan)
worker._found = lambda job: time.sleep(120)
worker.step()
"""


@pytest.mark.timeout(120)
def test_a_film_that_hangs_ends_its_worker_before_the_lease(tmp_path):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HUNG], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert time.monotonic() - started < 60


@pytest.mark.timeout(300)
def test_the_watch_survives_a_store_that_fails(tmp_path):
    """A dead worker is replaced once its lease can be released, however often that failed before."""

    class Failing:
        calls = 0

        def release(self, *_, **__):
            Failing.calls += 1
            if 2 <= Failing.calls <= 3:
                raise StorageFull("no room")

    class Stub:
        jobs = Failing()

    class Fake:
        made: ClassVar[list["Fake"]] = []

        def __init__(self, *_):
            Fake.made.append(self)
            self.pid, self.alive = len(Fake.made), True

        def hang_up(self):
            self.alive = False

        def join(self, _):
            self.alive = False

    plan = IndexerPlan(tmp_path, "", "test", IngestSettings(), LogSettings())
    pool = Pool(Stub(), plan, 1, start=Fake)
    pool.start()
    Fake.made[0].alive = False
    wait_until(lambda: len(Fake.made) == 2)
    pool.stop()
    assert Failing.calls >= 4
