"""A lesion-size ROI: the answer says where in the other patient it looks alike, over DICOM, by the shipped models."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from dicomnode.query import request
from dicomnode.query.request import Keys
from encoder.boxes import Box
from encoder.train.pasted import Thing, paste
from tests import nodes
from tests.nodes import RunningNode

pytestmark = [pytest.mark.data, pytest.mark.timeout(600)]
DX = "1.2.840.10008.5.1.4.1.1.1.1"
ZONE = "right mid lung zone"
FILMS = 14
THING = Thing("ring", side=0.07, contrast=0.5, seed=1)


@dataclass(frozen=True)
class Marked:
    """A node whose films each hold the same small thing, and where."""

    node: RunningNode
    places: dict[str, Box]  # SOP Instance UID -> pixels


@pytest.fixture(scope="module")
def marked(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marked]:
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(3)
    records = json.loads((data_dir / "cxr" / "regions.json").read_text())[:FILMS]
    places: dict[str, Box] = {}
    for number, record in enumerate(records):
        with Image.open(data_dir / "cxr" / "images" / record["file"]) as picture:
            pixels = np.asarray(picture.convert("L"), dtype=np.float32)
        zone = Box(*record["derived"][ZONE])
        x, y = rng.uniform(zone.x1 + 30, zone.x2 - 30), rng.uniform(zone.y1 + 30, zone.y2 - 30)
        span = float(np.quantile(pixels, 0.95) - np.quantile(pixels, 0.05))
        shown = paste(pixels, THING.again(rng), x, y, span).clip(0, 300)
        facts = FilmFacts(f"SMALL{number:03d}", f"Small^{number}", "F", "19600101", "20240101", seed=f"small {number}")
        dataset = dx_dataset((shown * 13).astype(np.uint16), facts, inverted=False)
        dataset.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
        half = THING.side * 512 / 2
        places[str(dataset.SOPInstanceUID)] = Box(x - half, y - half, x + half, y + half)
    with nodes.running_node(folder / "root") as node:
        nodes.dicomnode("send", node.address, *sorted(folder.glob("*.dcm")))
        nodes.dicomnode("wait", "--root", node.root, "--timeout", "300")
        yield Marked(node, places)


def test_the_matched_roi_is_where_the_other_film_looks_alike(marked):
    right = asked = 0
    for uid, box in list(marked.places.items())[:6]:
        answers = client.find(marked.node.peer, request.by_box(uid, DX, box, Keys(matches=5)))
        hits = [request.read_hit(answer) for answer in answers]
        assert len(hits) == 5
        assert uid not in {hit.sop_instance_uid for hit in hits}
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            asked += 1
            right += Box(*hit.box).iou(marked.places[hit.sop_instance_uid]) > 0.1
    assert right / asked >= 0.9


def test_a_whole_region_is_asked_as_a_region(marked):
    uid = next(iter(marked.places))
    status = nodes.answered("query", marked.node.address, "--image", uid, "--box", "90,60,250,400", "--k", "3")
    assert len(status["hits"]) == 3
    assert all((hit["box"][2] - hit["box"][0]) > 60 for hit in status["hits"])
