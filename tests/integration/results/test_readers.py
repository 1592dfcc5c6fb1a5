"""The result SR of a question over the wire, as others read it: dcmqi, and cornerstone's adapters as OHIF asks."""

import datetime
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode import private
from dicomnode.dimse import client
from dicomnode.private import PatientScope
from dicomnode.query import request
from dicomnode.query.request import ReadHit
from dicomnode.sr import reader, result, writer
from dicomnode.sr.writer import Marking
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from tests import nodes
from tests.conftest import missing_program
from tests.integration import asking
from tests.integration.asking import BOXES, HEART
from tests.integration.interop import javascript, programs
from tests.nodes import RunningNode
from tests.raw import wait_until

LUNG = VOCABULARY.named("right lung")
ASKED = {
    "ROI heart": Marking(BOXES[HEART.index], HEART, "ROI heart"),
    "ROI lung": Marking(BOXES[LUNG.index], LUNG, "ROI lung"),
}
SPACING = 0.7  # mm between pixels, in the planes that the films are given
CODES = {HEART.name: ("80891009", None), LUNG.name: ("39607008", "24028007")}  # site, laterality
WHOLE = {"Accept": "application/dicom; transfer-syntax=*"}


@dataclass(frozen=True)
class Answer:
    """A result SR and the hits that the node tells over C-FIND to who names it."""

    report: Path
    metadata: Path  # as DICOM JSON
    hits: dict[str, ReadHit]  # by Tracking Unique Identifier
    asked: Dataset  # the image

    def place(self, hit: ReadHit) -> tuple[str, Box]:
        """Where its box is drawn: on the asker's image, unless it is of the asking patient."""
        if hit.patient_id == self.asked.PatientID:
            return hit.sop_instance_uid, Box(*hit.box)
        return str(self.asked.SOPInstanceUID), ASKED[hit.roi].box


@pytest.fixture(scope="module")
def films() -> list[Dataset]:
    """The first two are of the asking patient."""
    return [asking.film(number, "ASKER-1" if number < 2 else "") for number in range(8)]


@pytest.fixture(scope="module")
def node(films, tmp_path_factory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("readers")
    asking.indexed(folder / "root", folder, films)
    scope = {"DICOMNODE_QUERY__SCOPE": "ANY"}
    with nodes.running_node(folder / "root", "--workers", "0", "--http-port", "0", environment=scope) as running:
        yield running


@pytest.fixture(scope="module")
def answer(node, films, tmp_path_factory) -> Answer:
    """Of the heart and the right lung of one film."""
    return answered(node, films[0], list(ASKED.values()), tmp_path_factory.mktemp("answer"))


def answered(node: RunningNode, film: Dataset, markings: list[Marking], folder: Path) -> Answer:
    """Ask by storing an SR; the result as a viewer gets it."""
    document = writer.query_sr(film, markings, at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    path = asking.saved(document, folder)
    with httpx.Client(base_url=f"{node.url}/dicom-web", timeout=30) as http:
        before = results(http, film)
        stored = http.post("/studies", content=path.read_bytes(), headers={"Content-Type": "application/dicom"})
        assert stored.status_code == 200
        assert wait_until(lambda: len(results(http, film) - before) == 1, 40.0)
        ((series, instance),) = results(http, film) - before
        where = f"/studies/{film.StudyInstanceUID}/series/{series}/instances/{instance}"
        report, metadata = folder / "report.dcm", folder / "report.json"
        report.write_bytes(http.get(where, headers=WHOLE).content)
        metadata.write_bytes(http.get(f"{where}/metadata").content)
    return Answer(report, metadata, hits_of(node, instance), film)


def results(http: httpx.Client, film: Dataset) -> set[tuple[str, str]]:
    """Series and instance of every result SR in the film's study."""
    keys = {"Modality": "SR", "SeriesDescription": result.SERIES_DESCRIPTION}
    found = http.get(f"/studies/{film.StudyInstanceUID}/instances", params=keys)
    return {(each["0020000E"]["Value"][0], each["00080018"]["Value"][0]) for each in found.json() or []}


def hits_of(node: RunningNode, report_uid: str) -> dict[str, ReadHit]:
    """The kept answer: a query that names the result (xx13), of the same scope and without conditions."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    for keyword in request.RETURNED:
        setattr(identifier, keyword, "")
    private.write_request(identifier, private.QueryKeys(sr_instance_uid=report_uid, rois=(), scope=PatientScope.ANY))
    hits = {}
    for match in client.find(node.peer, identifier):
        block = private.read_response(match)
        assert block is not None
        hits[reader.rois(block.matched_roi)[0].tracking_uid] = request.read_hit(match)
    return hits


def by_dcmqi(report: Path, folder: Path) -> list[dict[str, Any]]:
    """The measurement groups that tid1500reader finds."""
    program = Path(sysconfig.get_path("scripts")) / "tid1500reader"
    if not program.is_file():
        missing_program("dcmqi is not installed")
    told = folder / "told.json"
    programs.run(program, "--inputDICOM", report, "--outputMetadata", told)
    return list(json.loads(told.read_text())["Measurements"])


def test_dcmqi_reads_every_hit_with_its_site_and_similarity(answer, tmp_path):
    groups = {group["TrackingUniqueIdentifier"]: group for group in by_dcmqi(answer.report, tmp_path)}
    assert groups.keys() == answer.hits.keys()
    assert {hit.anatomy for hit in answer.hits.values()} == CODES.keys()
    for uid, hit in answer.hits.items():
        group = groups[uid]
        assert group["TrackingIdentifier"].startswith(f"#{hit.rank} {hit.anatomy} ")
        laterality = group.get("Laterality")
        assert (group["FindingSite"]["CodeValue"], laterality and laterality["CodeValue"]) == CODES[hit.anatomy]
        (score,) = group["measurementItems"]
        assert (score["quantity"]["CodeValue"], score["units"]["CodeValue"]) == ("SIMILARITY", "1")
        assert float(score["value"]) == pytest.approx(hit.score, abs=1e-6)
        assert group["measurementAlgorithmIdentification"]["AlgorithmName"] == result.ALGORITHM


def plane(number: int) -> dict[str, Any]:
    """A plane of its own for each film, none of them along the axes of the room."""
    return {
        "frameOfReferenceUID": f"1.2.{number}",
        "rowCosines": [0.0, 0.8, -0.6],
        "columnCosines": [0.0, 0.6, 0.8],
        "imagePositionPatient": [10.0 * number, -20.0, 35.0],
        "rowPixelSpacing": SPACING,
        "columnPixelSpacing": SPACING,
    }


def pixels(points: list[list[float]], of: dict[str, Any]) -> list[tuple[float, float]]:
    """World to pixels, origin at the corner of the first: a plane's position is the centre of that pixel."""
    away = np.array(points) - of["imagePositionPatient"]
    axes = np.stack([of["rowCosines"], of["columnCosines"]], axis=1)
    return [(float(x), float(y)) for x, y in away @ axes / SPACING + 0.5]


def by_ohif(answer: Answer, films: list[Dataset]) -> tuple[list[list[str]], dict[str, dict[str, Any]]]:
    """The tools that may draw each group, and the annotations by Tracking Unique Identifier, in pixels."""
    planes = {str(film.SOPInstanceUID): plane(number) for number, film in enumerate(films)}
    told = javascript.asked("report.mjs", report=answer.metadata, planes=planes)
    for made in told["annotations"]:
        made["points"] = pixels(made["points"], planes[made["image"]])
    return told["tools"], {made["tracking"]: made for made in told["annotations"]}


def test_ohif_makes_a_rectangle_of_every_hit_where_its_box_is(answer, films):
    tools, made = by_ohif(answer, films)
    assert len(tools) == len(answer.hits)
    assert all("RectangleROI" in each for each in tools)
    assert made.keys() == answer.hits.keys()
    assert {answer.place(hit)[0] for hit in answer.hits.values()} == {film.SOPInstanceUID for film in films[:2]}
    for uid, hit in answer.hits.items():
        drawn = made[uid]
        image, box = answer.place(hit)
        corners = [(box.x1, box.y1), (box.x2, box.y1), (box.x1, box.y2), (box.x2, box.y2)]
        assert (drawn["tool"], drawn["image"]) == ("RectangleROI", image)
        assert np.allclose(drawn["points"], corners, atol=1e-3)
        assert drawn["label"] == f"#{hit.rank} {hit.anatomy} {hit.score:.3f}"
        assert drawn["sites"] == [CODES[hit.anatomy][0]]


def test_an_answer_without_hits_is_read_too(node, films, tmp_path):
    """Both see where it was asked; neither finds a score."""
    trachea = Marking(ASKED["ROI heart"].box, VOCABULARY.named("trachea"))
    none = answered(node, films[2], [trachea], tmp_path)
    assert none.hits == {}
    (group,) = by_dcmqi(none.report, tmp_path)
    assert (group["TrackingIdentifier"], group["measurementItems"]) == (result.NOTHING, [])
    _, made = by_ohif(none, films)
    (drawn,) = made.values()
    assert (drawn["label"], drawn["image"]) == (result.NOTHING, films[2].SOPInstanceUID)
    assert np.allclose(drawn["points"][0], trachea.box[:2], atol=1e-3)


def test_our_own_reader_takes_a_region_that_stands_twice_for_one(answer):
    """Else a result that is asked again would ask everything twice."""
    report = dcmread(answer.report)
    scoords = [item for item in report.iterall() if item.keyword == "ValueType" and item.value == "SCOORD"]
    assert len(scoords) == 2 * len(answer.hits)
    assert [roi.tracking_uid for roi in reader.rois(report)] == list(answer.hits)
