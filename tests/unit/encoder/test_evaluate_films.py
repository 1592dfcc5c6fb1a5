"""A folder of films measured from end to end by a small model, and the report on it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.checkpoint import read_manifest, save_manifest
from encoder.data import read
from encoder.errors import ImageError
from encoder.evaluate import films, local, report
from encoder.evaluate.evaluation import Evaluation, Material
from encoder.evaluate.tables import tables
from encoder.pipeline import Pipeline
from tests.unit.encoder import chests, small

NAMED = {  # MODELS.md section 4
    "detector": {"miou", "mean_box_miou", "per_region", "presence_f1"},
    "retrieval": {"anatomy", "finding"},
    "unlike_archive": {"auroc"},
}
SECTIONS = (
    *("Measured", "Detector", "Retrieval, anatomy", "Retrieval, finding", "Unlike-archive warning", "Small ROIs"),
    *("Each region", "Regions, with", "Confusion", "True and found boxes", "Receiver", "Projection map", "Left out"),
)
ANATOMY = {"map", "p@5", "worst_region", "worst_p@5", "knn_accuracy", "raw_pixels_map", "gallery", "chance_p@5", "ci95"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.load(small.write(tmp_path_factory.mktemp("model") / "set"), threads=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chests.write(tmp_path_factory.mktemp("made") / "cxr", 8, 1)


@pytest.fixture(scope="module")
def measured(data: Path, pipeline: Pipeline) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(films, "CLOSER", 2)
        other = np.random.default_rng(0).uniform(size=(60, 50)).astype(np.float32)
        return films.evaluate_films(read(data), pipeline, "all", [other, np.zeros((60, 50), np.float32)])


def test_every_name_of_the_specification_is_there(measured: Evaluation) -> None:
    summary: Any = measured.summary
    for part, names in NAMED.items():
        assert names <= set(summary[part]), part
    assert set(summary["retrieval"]["anatomy"]) >= ANATOMY
    assert (summary["films"], summary["patients"]) == (8, 8)
    assert summary["detector"]["moved"]["films"] == 2
    assert json.loads(json.dumps(summary)) == summary


def test_small_rois_are_measured_where_the_set_has_a_local_head(
    measured: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured.summary["local"] == {"note": local.NO_MAP}
    folder = small.write(tmp_path / "set")
    save_manifest(folder, replace(read_manifest(folder, "encoder"), local=True))
    monkeypatch.setattr(films, "CLOSER", 0)
    monkeypatch.setattr(local, "ASKED", 3)
    monkeypatch.setattr(local, "_holds", lambda *_: True)  # an untrained detector puts zones anywhere
    collection = read(chests.diagnose(chests.write(tmp_path / "cxr", 12, 1)))
    pipeline = Pipeline.load(folder, threads=1, runtime="torch")
    summary: Any = films.evaluate_films(collection, pipeline, "all").summary
    assert set(summary["local"]["control"]) == {"hit", "chance", "n", "ci95"}
    assert summary["local"]["control"]["n"] == 3 * local.ANSWERING
    assert summary["local"]["nodules"]["films_with_nodule"] == 6
    assert json.loads(json.dumps(summary)) == summary
    (table,) = (each for each in tables(summary) if each.title == "small ROIs")
    assert len(table.rows) == 2


def test_it_takes_the_held_films_or_those_asked_for(data: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    def count(folder: Path, split: str | None) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(films, "CLOSER", 0)
            return films.evaluate_films(read(folder), pipeline, split).summary["films"]

    assert [count(data, split) for split in (None, "dev_train")] == [4, 4]
    unmarked = chests.write(tmp_path / "unmarked", 3, 1)
    records = json.loads((unmarked / "regions.json").read_text())
    (unmarked / "regions.json").write_text(json.dumps([{**record, "split": None} for record in records]))
    assert count(unmarked, None) == 3


def test_a_film_that_cannot_be_measured_is_named(data: Path, pipeline: Pipeline) -> None:
    class Refusing:
        card = pipeline.card
        embed = pipeline.embed

        def analyse(self, image: np.ndarray) -> Any:
            if image.shape == (chests.SIDE, chests.SIDE) and image.sum() == first.sum():
                raise ImageError("no picture")
            return pipeline.analyse(image)

    collection = read(data)
    first = collection.films[4].image
    summary: Any = films.evaluate_films(collection, Refusing()).summary  # type: ignore[arg-type]
    assert summary["films"] == 3
    assert summary["skipped"] == {"ImageError": 1}
    assert summary["left_out"] == [f"{collection.films[4].id}: ImageError: no picture"]


class _References(HTMLParser):
    """What a document would fetch, and what its pictures say to who cannot see them."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "img":
            self.texts.append(given.get("alt") or "")
        assert tag not in ("script", "link", "iframe")


def test_the_report_has_every_section_and_asks_nobody(measured: Evaluation) -> None:
    ratios = {"film": np.linspace(0.5, 1.2, 9), "noise": np.linspace(0.9, 3, 9)}
    material = Material(measured.material.overlays, ratios, measured.material.vectors, measured.material.anatomy)
    document = report.render(Evaluation("films", measured.summary, material))
    headings = re.findall(r"<h2>(.*?)</h2>", document)
    for wanted in SECTIONS:
        assert any(heading.startswith(wanted) for heading in headings), wanted
    found = _References(document)
    assert len(found.references) == 6
    assert all(reference.startswith("data:image/png;base64,") for reference in found.references)
    assert all(found.texts)
    assert "http://" not in document
    assert "https://" not in document
    assert "url(" not in document
    assert "@import" not in document


def test_text_is_escaped(measured: Evaluation) -> None:
    summary = {**measured.summary, "model": "<script>x</script>", "left_out": ["<b>film</b> & $x^2$: why"]}
    document = report.render(Evaluation("<i>films</i>", summary))
    assert "<script>" not in document
    assert "<b>film" not in document
    assert "<i>" not in document
    assert "&lt;b&gt;film&lt;/b&gt; &amp; $x^2$: why" in document


def test_tables_hold_what_was_measured_and_no_more(measured: Evaluation) -> None:
    titles = [table.title for table in tables(measured.summary)]
    assert titles[:2] == ["measured", "detector"]
    for table in tables(measured.summary):
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    assert tables({}) == []
    alone = tables({"retrieval": {"anatomy": {"gallery": 1, "queries": 0, "note": "nothing"}}})
    assert [(table.title, table.rows) for table in alone] == [("retrieval, anatomy", ())]


def test_a_sample_is_of_whole_patients(data: Path) -> None:
    collection = read(data)
    some = films._of_patients(collection.films, 3)
    assert len(some) == 3
    assert some == films._of_patients(collection.films, 3)
    assert films._of_patients(collection.films, None) == list(collection.films)
    assert len(films._of_patients(collection.films, 1)) == films.LEAST_PATIENTS
