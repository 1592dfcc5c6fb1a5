"""Local features on their way in: from an indexer or a query model with a pretended pipeline, and added afterwards."""

from types import SimpleNamespace

import numpy as np
import pytest

from dicomnode import config, reindex
from dicomnode.cli import main
from dicomnode.errors import DicomNodeError
from dicomnode.workers import indexer, roi
from dicomnode.workers.embedding import RoiRequest
from dicomnode.workers.indexer import Indexer, IndexerPlan
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.local import LocalMap
from encoder.pipeline import Analysis, Embedding, Region
from storage.records import Model, NewInstance, NewPatient, NewSeries, NewStudy
from storage.store import Store
from tests.unit.dicomnode import films

DIM = 4
AREA = Box(-20.0, 0.0, 180.0, 120.0)
CELLS = np.arange(-60, 60, dtype=np.int8).reshape(5, 8, 3)


class Pretended:
    """A pipeline that finds one region in every film."""

    def __init__(self, local=None, model_id="m1"):
        self.card = SimpleNamespace(model_id=model_id)
        self.local = local
        self.films = 0

    def analyse(self, image, spacing_mm=None):
        self.films += 1
        region = Region(0, Box(1.0, 2.0, 30.0, 40.0), 0.9, 0.8)
        return Analysis((region,), {"anatomy": np.eye(1, DIM, dtype=np.float32)}, self.local)

    def embed(self, image, boxes, spacing_mm=None):
        return Embedding({"anatomy": np.eye(1, DIM, dtype=np.float32)}, np.ones((1, 29), np.float32), self.local)


def loading(monkeypatch, module, pipeline):
    monkeypatch.setattr(module, "Pipeline", SimpleNamespace(load=lambda *_, **__: pipeline))
    return pipeline


@pytest.fixture
def settings(tmp_path):
    return config.load(None, {}, {"storage.root": str(tmp_path / "root")})


@pytest.fixture
def store(settings):
    """Three films, none indexed."""
    with Store.open(settings.root) as opened:
        opened.generations.ensure_live(Model("m1", "models/m1", DIM, ("anatomy",), VOCABULARY.names))
        for number in range(3):
            new = NewInstance(
                NewPatient(f"P{number}"), NewStudy(f"1.{number}"), NewSeries(f"2.{number}"), f"3.{number}", "c", "s"
            )
            path = films.save(films.film(SOPInstanceUID=f"3.{number}"), settings.root.parent, f"{number}.dcm")
            with opened.files.scratch() as scratch:
                scratch.write(path.read_bytes())
                opened.catalog.add(new, opened.files.keep(scratch, new.sop_instance_uid))
        yield opened


def index(store, settings, monkeypatch, local):
    loading(monkeypatch, indexer, Pretended(local))
    worker = Indexer(store, IndexerPlan(settings.root, "", "test", settings.ingest, settings.log))
    while worker.step():
        pass
    assert store.jobs.counts(1).indexed == 3


def kept(store):
    return {number: (found.cells.tolist(), found.area) for number, found in store.local_maps.many(1, [1, 2, 3])}


def test_an_indexer_keeps_them_with_the_regions(store, settings, monkeypatch):
    index(store, settings, monkeypatch, LocalMap(CELLS, AREA))
    assert kept(store) == dict.fromkeys((1, 2, 3), (CELLS.tolist(), tuple(AREA)))
    assert store.check() == []


def test_a_model_without_them_indexes_all_the_same(store, settings, monkeypatch):
    index(store, settings, monkeypatch, None)
    assert kept(store) == {}
    assert store.regions.count(1) == 3


def test_the_query_model_hands_them_over(tmp_path, settings, monkeypatch):
    loading(monkeypatch, roi, Pretended(LocalMap(CELLS, AREA)))
    encoder = roi.RoiEncoder(roi.RoiSettings(1, settings.ingest, settings.log, None))
    path = films.save(films.film(), tmp_path)
    embedding = roi.answer(encoder, RoiRequest(tmp_path, path, 1, ((1.0, 1.0, 20.0, 20.0),)))
    assert np.array_equal(embedding.local.features, CELLS)


def test_what_is_missing_is_added_where_it_was_stopped(store, settings, monkeypatch):
    index(store, settings, monkeypatch, None)
    before = [region.id for number in (1, 2, 3) for region in store.regions.of_instance(1, number)]
    assert reindex.missing_features(store) == {"generation": 1, "missing": 3}
    pipeline = loading(monkeypatch, reindex, Pretended(LocalMap(CELLS, AREA)))

    def stop(_, done, *__):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reindex.add_features(store, settings, stop)
    reports = []
    done = reindex.add_features(store, settings, lambda *report: reports.append(report))
    assert done == {"generation": 1, "added": 1, "failed": 0}
    assert reports == [("local features", 1, 1, "")]
    assert pipeline.films == 3
    assert sorted(kept(store)) == [1, 2, 3]
    assert [region.id for number in (1, 2, 3) for region in store.regions.of_instance(1, number)] == before
    assert reindex.add_features(store, settings, stop) == {"generation": 1, "added": 0, "failed": 0}


def test_a_film_that_cannot_be_read_any_more_is_counted(store, settings, monkeypatch):
    index(store, settings, monkeypatch, None)
    store.files.path(store.local_maps.missing(1)[1].path).write_bytes(b"nonsense")
    loading(monkeypatch, reindex, Pretended(LocalMap(CELLS, AREA)))
    done = reindex.add_features(store, settings, lambda *_: None)
    assert done == {"generation": 1, "added": 2, "failed": 1}


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [(Pretended(None), "no local features"), (Pretended(LocalMap(CELLS, AREA), "m2"), "holds model m2, not m1")],
)
def test_a_model_that_cannot_is_one_clear_error(store, settings, monkeypatch, pipeline, words):
    index(store, settings, monkeypatch, None)
    loading(monkeypatch, reindex, pipeline)
    with pytest.raises(DicomNodeError, match=words):
        reindex.add_features(store, settings, lambda *_: None)
    assert kept(store) == {}


def test_the_command(store, settings, monkeypatch, capfd):
    index(store, settings, monkeypatch, None)
    loading(monkeypatch, reindex, Pretended(LocalMap(CELLS, AREA)))
    command = ("reindex", "--root", str(settings.root), "--only", "features")
    assert main.run((*command, "--dry-run")) == 0
    assert main.run(command) == 0
    assert capfd.readouterr().out.split("\n")[:2] == ["generation 1, missing 3", "generation 1, added 3, failed 0"]
