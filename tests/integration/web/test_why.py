"""Why a hit is one, over HTTP: a node with an encoder whose attention is known, and what is said when it cannot tell.

Frames too: which frame of an image is shown, asked about, and explained.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from dicomnode import models
from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.pixels import decode
from dicomnode.pixels.eligibility import DecodeLimits
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.pipeline import Pipeline
from encoder.plugin import pack
from encoder.scripted import ScriptShape
from storage.records import NewRegion
from storage.store import Store
from tests import nodes
from tests.integration import archives, asking
from tests.integration.web.test_pages import TOKENS, login
from tests.nodes import RunningNode
from tests.unit.encoder import scripts, small

SHAPE = ScriptShape(input="crops", size=64, dim=4, film=256, context=0.0)
BOX = Box(40.0, 30.0, 200.0, 190.0)  # drawn
HEART, HEART_BOX = VOCABULARY.named("cardiac silhouette"), Box(60.0, 50.0, 180.0, 200.0)
COUNT = 4
CONFIG = f"""
[query]
why_cells = 5
[peers.READER]
ae_title = "READER"
token = "{TOKENS["READER"]}"
[peers.SEEKER]
ae_title = "SEEKER"
token = "{TOKENS["SEEKER"]}"
services = ["find", "get"]
[peers.SENDER]
ae_title = "DICOMNODE_SCU"
services = ["echo", "store"]
"""


def film(number: int, frames: int = 1) -> Dataset:
    """Noise of its own, as grainy everywhere; a frame more is noise of another film."""
    patient = f"WHY{number}-{frames}"
    facts = FilmFacts(patient, "Why^Not", "F", "19600101", "20240102", seed=patient)
    dataset = dx_dataset(noise(number), facts)
    if frames > 1:
        dataset.NumberOfFrames = frames
        dataset.PixelData = b"".join(noise(number + frame).tobytes() for frame in range(frames))
    return dataset


def noise(number: int) -> np.ndarray:
    """The more grain in the lower right, the higher the number."""
    rng = np.random.default_rng(number)
    grain = rng.normal(0, 1, (256, 256)) * np.where(np.add.outer(np.arange(256), np.arange(256)) > 256, number + 1, 2)
    return (2000 + 150 * grain).clip(0, 4095).astype(np.uint16)


@dataclass
class Archive:
    """A running node and what was sent to it."""

    node: RunningNode
    films: list[Dataset]
    several: Dataset  # of two frames: like the first film, then like the second
    spare: Dataset  # not indexed, and nobody has asked about it: no process has it decoded

    def why(self, path: str = "/why", **changes: str | None) -> str:
        given = {"image": self.films[0].SOPInstanceUID, "hit": self.films[1].SOPInstanceUID, "anatomy": HEART.name}
        given |= {name: f"{edge:g}" for name, edge in BOX._asdict().items()} | changes
        return str(httpx.URL(path, params={name: str(value) for name, value in given.items() if value is not None}))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Of an encoder that sees the lower right quarter of a region."""
    folder = tmp_path_factory.mktemp("why")
    (folder / "program").write_bytes(scripts.saved(scripts.Corner()))
    pack(folder / "program", SHAPE, folder / "own", "nothing")
    for name in ("detector.json", "detector.safetensors"):
        (folder / "own" / name).write_bytes((small.write(folder / "small") / name).read_bytes())
    films, several, spare = [film(number) for number in range(COUNT)], film(0, frames=2), film(9)
    index(folder, films, [several, spare])
    (folder / "node.toml").write_text(CONFIG)
    arguments = ("--workers", "0", "--http-port", "0", "--config", str(folder / "node.toml"))
    with nodes.running_node(folder / "root", *arguments) as node:
        yield Archive(node, films, several, spare)


def index(folder: Path, films: list[Dataset], others: list[Dataset]) -> None:
    """What a worker would do, were there a detector that finds a heart in noise."""
    pipeline = Pipeline.load(folder / "own", threads=1)
    with Store.open(folder / "root") as store:
        models.ensure_live(store, str(folder / "own"))
        for dataset in [*films, *others]:
            archives.put(store, dataset, folder)
        for job in store.jobs.claim("worker", 60, 10):
            if job.sop_instance_uid in {str(other.SOPInstanceUID) for other in others}:
                store.jobs.not_indexable(job, "not in this test")
                continue
            film = decode.image(store.files.path(job.path), 1, DecodeLimits())
            vectors = pipeline.embed(film.pixels, [HEART_BOX], film.spacing_mm).vectors
            rows = {name: found[0] for name, found in vectors.items()}
            store.jobs.finish(job, [NewRegion(HEART.index, tuple(HEART_BOX), 0.9, rows)])


@pytest.fixture
def reader(archive: Archive) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=archive.node.url, timeout=60) as made:
        assert login(made, TOKENS["READER"]).status_code == 303
        yield made


def hits(archive: Archive, image: Dataset, **more: str) -> str:
    corners = {name: f"{edge:g}" for name, edge in BOX._asdict().items()}
    given = {"image": str(image.SOPInstanceUID), "anatomy": HEART.name, **corners, **more}
    return str(httpx.URL("/hits", params=given))


def urls(answer: httpx.Response, start: str) -> list[str]:
    return [unescape(url) for url in re.findall(r'href="([^"]+)"', answer.text) if unescape(url).startswith(start)]


@pytest.mark.parametrize("side", ["asked", "found"])
def test_each_hit_says_which_part_made_it_similar(archive, reader, side):
    page = reader.get(hits(archive, archive.films[0]))
    whys = urls(page, "/why?")
    scores = re.findall(r"score </span>(-?[0-9.]+)", page.text)
    assert len(whys) == len(scores) == COUNT - 1
    for why, score in zip(whys, scores, strict=True):
        told = reader.get(why.replace("/why?", "/why/map?") + f"&side={side}").json()
        costs = np.array(told["costs"])
        rows, columns = costs.shape
        assert max(rows, columns) == 5
        assert told["score"] == pytest.approx(float(score), abs=2e-3)
        row, column = np.unravel_index(np.abs(costs).argmax(), costs.shape)
        assert (row >= rows // 2, column >= columns // 2) == (True, True)
        assert np.abs(costs[: rows // 2 - 1, : columns // 2 - 1]).sum() < 0.05 * np.abs(costs).max()
        if side == "asked":
            assert told["box"] == list(BOX)


def test_the_picture_is_the_map_and_a_browser_keeps_it(archive, reader):
    told = reader.get(archive.why("/why/map", side="asked")).json()
    answer = reader.get(told["picture"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["cache-control"] == "private, no-cache"
    with Image.open(BytesIO(answer.content)) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (5 * 24, 5 * 24, 4)
    assert pixels[60:, 60:, 3].max() > 150
    assert pixels[:30, :30, 3].max() < 20
    again = reader.get(told["picture"], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = reader.get(archive.why("/why/picture", side="found"))
    assert other.headers["etag"] != answer.headers["etag"]


def test_the_page_shows_both_sides_with_a_legend_and_numbers(archive, reader):
    answer = reader.get(archive.why())
    assert answer.status_code == 200
    assert answer.text.count('class="heat"') == 2
    assert answer.text.count("Largest drop: ") == 2
    assert "covering this part made the region less similar" in answer.text
    assert "less similar without it" in answer.text
    for url in [*urls(answer, "/pictures/"), *urls(answer, "/why/picture?"), *urls(answer, "/image/")]:
        assert reader.get(url).status_code == 200, url
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"image": "1.2.3"}, 404),
        ({"hit": "1.2.3"}, 404),
        ({"image": "../../etc"}, 400),
        ({"hit": None}, 400),
        ({"anatomy": "tail"}, 400),
        ({"anatomy": None}, 400),
        ({"x1": "nan"}, 400),
        ({"x2": "0"}, 400),
        ({"x1": "900", "x2": "1000"}, 400),
        ({"frame": "0"}, 400),
        ({"frame": "2"}, 400),
        ({"place": "1"}, 400),  # this encoder has no local features
    ],
)
def test_what_cannot_be_explained_is_said_in_words(archive, reader, change, status):
    fetched = reader.get(archive.why("/why/map", side="asked", **change))
    assert (fetched.status_code, fetched.headers["content-type"]) == (status, "application/problem+json")
    assert fetched.json()["detail"]
    shown = reader.get(archive.why(**change))
    assert shown.status_code == (404 if change == {"frame": "2"} else status)
    assert 'role="alert"' in shown.text


def test_a_side_is_one_of_two(archive, reader):
    assert reader.get(archive.why("/why/map", side="both")).status_code == 400
    assert reader.get(archive.why("/why/picture")).status_code == 400


def test_who_may_not_ask_may_not_ask_why(archive):
    with httpx.Client(base_url=archive.node.url, timeout=60) as made:
        seeker = {"Authorization": f"Bearer {TOKENS['SEEKER']}"}
        for path in ("/why", "/why/map", "/why/picture"):
            assert made.get(archive.why(path, side="asked"), headers=seeker).status_code == 403
        reader = {"Authorization": f"Bearer {TOKENS['READER']}"}
        assert made.get(archive.why("/why/map", side="asked"), headers=reader).status_code == 200
        unknown = {"Authorization": "Bearer nobody"}
        assert made.get(archive.why("/why/map", side="asked"), headers=unknown).status_code == 401
        assert made.get(archive.why(), headers=unknown).status_code == 303


def test_a_film_that_is_gone_is_said_and_the_next_is_explained(archive, reader):
    """The file is moved away behind the node's back, then back: nothing is kept of the failure."""
    image = archive.spare
    path, away = asking.stored_file(archive.node.root, image.SOPInstanceUID), archive.node.root / "away"
    path.rename(away)
    try:
        answer = reader.get(archive.why("/why/map", side="asked", image=image.SOPInstanceUID))
        assert answer.status_code == 422
    finally:
        away.rename(path)
    assert reader.get(archive.why("/why/map", side="asked", image=image.SOPInstanceUID)).status_code == 200


# --- frames ----------------------------------------------------------------------------------------------------


def test_a_frame_is_shown_with_the_way_to_the_next(archive, reader):
    uid = archive.several.SOPInstanceUID
    first, second = reader.get(f"/image/{uid}"), reader.get(f"/image/{uid}?frame=2&x1=1&y1=2&x2=30&y2=40")
    assert urls(first, f"/image/{uid}") == [f"/image/{uid}?frame=2"]
    assert urls(second, f"/image/{uid}") == [f"/image/{uid}?x1=1&y1=2&x2=30&y2=40"]
    assert "of 2</span>" in first.text
    assert "several frames is not indexed" in first.text
    assert '<input type="hidden" name="frame" value="2">' in second.text
    pictures = [reader.get(urls(page, "/pictures/")[0]).content for page in (first, second)]
    assert pictures[0] != pictures[1]
    assert 'class="frames"' not in reader.get(f"/image/{archive.films[0].SOPInstanceUID}").text


@pytest.mark.parametrize(("frame", "status"), [("3", 404), ("0", 400), ("x", 400), ("1e9", 400), ("", 200)])
def test_a_frame_that_is_none_is_refused_in_words(archive, reader, frame, status):
    answer = reader.get(f"/image/{archive.several.SOPInstanceUID}?frame={frame}")
    assert answer.status_code == status
    assert ('role="alert"' in answer.text) == (status != 200)


@pytest.mark.parametrize(("frame", "nearest"), [(1, 0), (2, 1)])
def test_the_frame_that_is_asked_about_is_the_one_that_answers(archive, reader, frame, nearest):
    """Each frame is the picture of a film of its own: that one is found, and explained on that frame."""
    page = reader.get(hits(archive, archive.several, frame=str(frame)))
    best = urls(page, "/why?")[0]
    question = {"image": str(archive.several.SOPInstanceUID), "box": list(BOX), "frame": frame}
    token = {"Authorization": f"Bearer {TOKENS['READER']}"}
    told = httpx.post(archive.node.url + "/similar", json=question | {"anatomy": HEART.name}, headers=token)
    scores = {hit["sop_instance_uid"]: hit["score"] for hit in told.json()["hits"]}
    assert re.findall(r"score </span>(-?[0-9.]+)", page.text) == [f"{score:.3f}" for score in scores.values()]
    same = {"image": str(archive.films[nearest].SOPInstanceUID), "box": list(BOX), "anatomy": HEART.name}
    twin = httpx.post(archive.node.url + "/similar", json=same | {"scope": "ANY"}, headers=token).json()["hits"]
    assert scores == {hit["sop_instance_uid"]: pytest.approx(hit["score"], abs=1e-6) for hit in twin}
    explained = reader.get(best.replace("/why?", "/why/map?") + "&side=asked").json()
    assert (explained["image"], explained["frame"]) == (question["image"], frame)
    assert ("frame=2" in best) == (frame == 2)


@pytest.mark.parametrize("frame", [0, -1, 1.5, "1", True, 10**9])
def test_a_question_of_no_frame_is_refused(archive, frame):
    question = {"image": str(archive.several.SOPInstanceUID), "box": list(BOX), "frame": frame}
    token = {"Authorization": f"Bearer {TOKENS['READER']}"}
    assert httpx.post(archive.node.url + "/similar", json=question, headers=token).status_code == 400
    assert httpx.post(archive.node.url + "/similar", json=question | {"frame": 3}, headers=token).status_code == 400
    sr = {"sr": "1.2.3", "frame": 1}
    assert httpx.post(archive.node.url + "/similar", json=sr, headers=token).status_code == 400


# --- switched off, and without a model ---------------------------------------------------------------------------


def test_switched_off_there_is_no_control_and_without_its_model_a_node_says_so(tmp_path):
    films = [asking.film(number) for number in range(3)]
    asking.indexed(tmp_path / "root", tmp_path, films)
    heart = {name: f"{edge:g}" for name, edge in asking.HEART_BOX._asdict().items()}
    given = {"image": str(films[0].SOPInstanceUID), **heart}
    arguments = ("--workers", "0", "--http-port", "0")
    with (
        nodes.running_node(tmp_path / "root", *arguments, environment={"DICOMNODE_QUERY__WHY_CELLS": "0"}) as off,
        httpx.Client(base_url=off.url, timeout=60) as page,
    ):
        answer = page.get("/hits", params=given)
        assert answer.text.count("<figure>") == 2
        assert "/why" not in answer.text
        pair = given | {"hit": str(films[1].SOPInstanceUID), "anatomy": asking.HEART.name, "side": "asked"}
        refused = page.get("/why/map", params=pair)
        assert (refused.status_code, "why_cells" in refused.json()["detail"]) == (503, True)
    with nodes.running_node(tmp_path / "root", *arguments) as node, httpx.Client(base_url=node.url, timeout=60) as page:
        assert len(urls(page.get("/hits", params=given), "/why?")) == 2
        assert page.get("/why/map", params=pair).status_code == 200
        shutil.rmtree(tmp_path / "root" / "models")
        children = psutil.Process(node.process.pid).children()
        next(child for child in children if "dicomnode.workers.roi" in child.cmdline()).kill()
        refused = page.get("/why/map", params=pair | {"side": "found"})
        assert (refused.status_code, "query model" in refused.json()["detail"]) == (503, True)
        assert page.get("/why/map", params=pair).status_code == 200  # it was explained before
        assert page.get("/hits", params=given).status_code == 200
