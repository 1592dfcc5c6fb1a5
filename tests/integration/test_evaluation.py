"""`evaluate archive` on a small store: its own labels, the index, and what stored SRs and SEGs say."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicomnode import evaluation, truth
from dicomnode.cli import main
from dicomnode.errors import DicomNodeError
from dicomnode.sr import writer
from dicomnode.sr.writer import Marking
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.evaluate.evaluation import Evaluation
from storage.store import Store
from tests.integration import archives
from tests.integration.archives import BOXES, SIDE

RIGHT_LUNG, HEART = VOCABULARY[0], VOCABULARY[24]


def silent(stage: str, done: int, total: int, text: str) -> None:
    assert 0 <= done <= total, (stage, text)


def report_on(film: Dataset, *markings: Marking, by: str = "Another maker") -> Dataset:
    document = writer.query_sr(film, markings, datetime(2024, 1, 2))
    document.Manufacturer = by
    return document


def segmentation_of(film: Dataset, box: Box, site: Code, side: Code | None = None) -> Dataset:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    described = hd.seg.SegmentDescription(1, "one", codes.SCT.AnatomicalStructure, site, "MANUAL")
    if side is not None:
        item = described.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept.from_code(side)]
    uids = (hd.UID(), 1, hd.UID(), 1)
    made: Dataset = hd.seg.Segmentation([film], mask, "BINARY", [described], *uids, "maker", "model", "1", "serial")
    return made


def evaluated(root: Path, most: int = evaluation.MOST_REGIONS) -> Evaluation:
    with Store.open(root) as store:
        return evaluation.evaluate(store, most, silent)


def add(root: Path, folder: Path, *documents: Dataset) -> None:
    with Store.open(root) as store:
        for document in documents:
            archives.put(store, document, folder)
        archives.index(store)


@pytest.fixture
def films(tmp_path: Path) -> list[Dataset]:
    return archives.built(tmp_path / "root", tmp_path)


def test_an_archive_without_truth(films: list[Dataset], tmp_path: Path) -> None:
    result: Any = evaluated(tmp_path / "root").summary
    assert (result["images"], result["patients"], result["regions"]) == (12, 11, 36)
    assert result["model"] == "made-up"
    assert "own" in result["labels"]
    assert result["retrieval"]["anatomy"]["map"] > 0.9  # vectors of one anatomy were made alike
    assert result["retrieval"]["anatomy"]["random_map"] < 0.7
    assert "raw_pixels_map" not in result["retrieval"]["anatomy"]  # nothing is decoded
    assert result["ann_fidelity"] == {"recall@5": 1.0, "recall@10": 1.0, "queries": 36, "plan_exact": 36}
    assert result["unlike_archive"]["n"] == 36
    assert 0.0 <= result["unlike_archive"]["false_alarms"] <= 1.0
    assert result["detector"] == {"note": evaluation.NO_TRUTH}
    assert result["truth"]["documents"] == 0


def test_stored_srs_and_segs_are_truth(films: list[Dataset], tmp_path: Path) -> None:
    shifted = Box(BOXES[0].x1 + 10, *BOXES[0][1:3], BOXES[0].y2)
    lung, right = Code("39607008", "SCT", "Lung"), Code("24028007", "SCT", "Right")
    add(
        tmp_path / "root",
        tmp_path,
        report_on(films[0], Marking(BOXES[24], HEART), Marking(shifted, RIGHT_LUNG)),
        segmentation_of(films[1], BOXES[24], Code("80891009", "SCT", "Heart")),
        segmentation_of(films[2], BOXES[0], lung, right),
        segmentation_of(films[3], BOXES[0], lung),  # which lung?
        report_on(films[4], Marking(BOXES[24], HEART), by="dicomnode"),
        report_on(films[5], Marking(BOXES[24], None)),
    )
    result: Any = evaluated(tmp_path / "root").summary
    assert result["truth"] == {
        "documents": 6,
        "regions": 4,
        "on_indexed_images": 4,
        "skipped": {
            "site means several regions": 1,
            "site not in the vocabulary, or none": 1,
            "written by this program": 1,
        },
    }
    assert result["detector"]["per_region"]["cardiac silhouette"]["iou"] == pytest.approx(1.0)
    expected = (1.0 + BOXES[0].iou(shifted)) / 2
    assert result["detector"]["per_region"]["right lung"]["iou"] == pytest.approx(expected, abs=1e-3)
    assert "presence_f1" not in result["detector"]
    assert result["retrieval"]["truth"]["queries"] == 4


def test_an_sr_about_another_patients_image_or_none_is_no_truth(films: list[Dataset], tmp_path: Path) -> None:
    foreign, lost = (report_on(films[0], Marking(BOXES[24], HEART)) for _ in range(2))
    foreign.PatientID, foreign.StudyInstanceUID, foreign.SeriesInstanceUID = "P999", "1.2.999", "1.2.999.1"
    unknown = archives.film(99, 0)
    lost = report_on(unknown, Marking(BOXES[24], HEART))
    add(tmp_path / "root", tmp_path, foreign, lost)
    with Store.open(tmp_path / "root") as store:
        told = truth.collect(store, silent)
    assert told.regions == []
    assert dict(told.skipped) == {"image of another patient": 1, "image not stored": 1}


def test_a_large_archive_is_sampled_by_whole_patients(films: list[Dataset], tmp_path: Path) -> None:
    result: Any = evaluated(tmp_path / "root", most=14).summary
    assert result["regions"] == 36
    assert 9 <= result["sample"]["regions"] <= 14
    assert result["sample"]["patients"] in (3, 4)
    assert result == evaluated(tmp_path / "root", most=14).summary


def test_by_the_command_with_a_report_that_names_nobody(
    films: list[Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path / "root", tmp_path, report_on(films[0], Marking(BOXES[24], HEART)))
    root, page = str(tmp_path / "root"), tmp_path / "report.html"
    capsys.readouterr()
    assert main.run(["evaluate", "archive", "--root", root, "--json", "--html", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["truth"]["regions"] == 1
    written = page.read_text()
    assert "stored SRs and SEGs" in written.replace("Stored", "stored")
    for film in films:
        assert str(film.SOPInstanceUID) not in written
        assert str(film.PatientName) not in written
    assert main.run(["evaluate", "archive", "--root", root]) == 0
    assert "mAP" in capsys.readouterr().out


def test_a_mistyped_root_is_an_error_and_a_report_that_cannot_be_written_costs_nothing(
    films: list[Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["evaluate", "archive", "--root", str(tmp_path / "nowhere")]) == 1
    assert not (tmp_path / "nowhere").exists()
    capsys.readouterr()
    assert main.run(["evaluate", "archive", "--root", str(tmp_path / "root"), "--json", "--html", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == 12
    assert "cannot write" in captured.err


def test_an_empty_archive_is_said(tmp_path: Path) -> None:
    with Store.open(tmp_path / "root") as store, pytest.raises(DicomNodeError, match="no indexed region"):
        evaluation.evaluate(store, 10, silent)
