"""OHIF itself asks: a rectangle drawn and saved in it is answered, and it shows the boxes and picture of the answer.

A stock build on a port of its own, configured by `etc/ohif` alone, in headless Chromium; WebGL is computed. Nothing is
asked of another host. Screenshots are left in build/screenshots; `make pictures` makes those of docs/viewers.md.
"""

import io
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, FloatRect, Page, expect, sync_playwright
from pydicom import dcmread

from dicomnode.demo import films
from dicomnode.sr import reader
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.store import Store
from tests import nodes
from tests.conftest import PROJECT, missing_program
from tests.integration import asking
from tests.nodes import RunningNode
from tests.ohif import fetch
from tests.raw import wait_until

COUNT = 6  # films, each of another patient
ASKED = 3  # the film that is asked about
HEART = VOCABULARY.named("cardiac silhouette")
SIZE = {"width": 1440, "height": 900}
PATIENCE_MS = 60_000  # OHIF has 15 MB of script, and its WebGL is computed
SHOTS = PROJECT / "build" / "screenshots"
SETTINGS = PROJECT / "etc" / "ohif"
ORIGIN, NODE = "http://127.0.0.1:3000", "http://127.0.0.1:8042"  # as etc/ohif has them
ARGUMENTS = [
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# OHIF in a browser may search, retrieve, store and ask; who sends films may only store.
PEERS = """
[peers.OHIF]
ae_title = "OHIF"
addresses = ["127.0.0.1"]
services = ["find", "get", "store", "query"]
[peers.SENDER]
ae_title = "DICOMNODE_SCU"
services = ["echo", "store"]
"""
# Rectangles that are drawn over the film, in pixels of what they are drawn on.
RECTANGLES = """() => [...document.querySelectorAll("svg.svg-layer rect[data-id]")].map((node) => {
  const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(node.getAttribute(name)));
  return [x, y, x + width, y + height];
})"""


@dataclass(frozen=True)
class Desk:
    """A node with drawn films, and the OHIF that is made for it."""

    node: RunningNode
    ohif: str
    heart: Box  # of the asked film, as the node has found it
    size: int  # pixels of a side of every film


@dataclass
class Seen:
    """What a browser told of its pages."""

    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def served(config: Path) -> Iterator[str]:
    """OHIF on a free port; its URL. `config` is read when a browser asks for it."""
    command = [sys.executable, "-m", "tests.ohif.serve", "--port", "0", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], nodes.READY_S)
        yield process.stdout.readline().strip() if ready else pytest.fail("OHIF is not served")
    finally:
        process.terminate()
        process.wait(nodes.STOP_S)
        process.stdout.close()


def replaced(path: Path, old: str, new: str) -> str:
    """The text of a file of etc/ohif, with the port of this test."""
    text = path.read_text()
    assert old in text
    return text.replace(old, new)


def heart_of(root: Path, uid: str) -> Box:
    with Store.open(root) as store:
        live, film = store.generations.live(), store.catalog.instance(uid)
        found = store.regions.of_instance(live.id, film.id)
        return next(Box(*region.box) for region in found if region.anatomy == HEART.index)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if not fetch.is_there():
        missing_program("OHIF is not there: make peers")
    folder = tmp_path_factory.mktemp("ohif")
    (folder / "films").mkdir()
    films.drawn(folder / "films", COUNT, lambda *_: None)
    with served(folder / "app-config.js") as ohif:
        settings = replaced(SETTINGS / "dicomnode.toml", ORIGIN, ohif) + PEERS
        (folder / "node.toml").write_text(settings)
        arguments = ("--http-port", "0", "--config", str(folder / "node.toml"))
        with nodes.running_node(folder / "root", *arguments) as node:
            (folder / "app-config.js").write_text(replaced(SETTINGS / "app-config.js", NODE, node.url))
            nodes.dicomnode("send", node.address, folder / "films")
            nodes.dicomnode("wait", "--root", node.root, "--timeout", "300")
            film = dcmread(folder / "films" / f"film-{ASKED:03d}.dcm", stop_before_pixels=True)
            yield Desk(node, ohif, heart_of(node.root, str(film.SOPInstanceUID)), int(film.Rows))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if not path:
        missing_program("Chromium is not installed: chromium not found")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()
    expect.set_options(timeout=None)


def _complains(said: ConsoleMessage) -> bool:
    """An error, but for OHIF's tour of itself, which says so when it begins before there is a viewport."""
    return said.type == "error" and "supplied to advanceOn" not in said.text


@contextmanager
def tab(browser: Browser, desk: Desk) -> Iterator[Page]:
    """A fresh browser. At its end it has asked nobody but OHIF's server and the node, without an error anywhere."""
    seen = Seen()
    context = browser.new_context(viewport=SIZE)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.on("request", lambda request: request.url.startswith("http") and seen.hosts.add(origin(request.url)))
    page.on("response", lambda reply: reply.status >= 400 and seen.complaints.append(f"{reply.status} {reply.url}"))
    page.on("console", lambda said: _complains(said) and seen.complaints.append(said.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    yield page
    context.close()
    assert (seen.hosts, seen.complaints) == ({desk.ohif, desk.node.url}, [])


def origin(url: str) -> str:
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"ohif-{name}.png")


def by_name(page: Page, name: str):
    """A part of OHIF by the name that it gives its own tests."""
    return page.locator(f"[data-cy='{name}']").first


def opened(page: Page, *, for_the_first_time: bool = True) -> None:
    """The first film of the study is drawn, and the tour for new users is over."""
    if for_the_first_time:
        page.get_by_text("Skip all").click()
    expect(page.locator("svg.svg-layer")).to_be_attached()
    expect(by_name(page, "viewport-overlay-bottom-right")).to_contain_text("1/1")


@dataclass(frozen=True)
class Shown:
    """Where the film is seen: as large as its viewport lets it be, in the middle of that."""

    viewport: FloatRect
    size: int  # pixels of a side of the stored image

    @property
    def scale(self) -> float:
        return min(self.viewport["width"], self.viewport["height"]) / self.size

    @property
    def corner(self) -> np.ndarray:
        """Its top-left corner, in pixels of the viewport."""
        whole = np.array([self.viewport["width"], self.viewport["height"]])
        return (whole - self.size * self.scale) / 2

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the stored image is on the page."""
        left, top = self.corner + np.array([x, y]) * self.scale
        return self.viewport["x"] + left, self.viewport["y"] + top


def shown(page: Page, desk: Desk) -> Shown:
    viewport = page.locator("svg.svg-layer").bounding_box()
    assert viewport is not None
    return Shown(viewport, desk.size)


def rectangles(page: Page, desk: Desk) -> np.ndarray:
    """What is drawn over the film: x1, y1, x2, y2 in pixels of the stored image."""
    film = shown(page, desk)
    drawn = np.array(page.evaluate(RECTANGLES), float).reshape(-1, 2, 2)  # (rectangles, corners, x and y)
    return ((drawn - film.corner) / film.scale).reshape(-1, 4)


def are_drawn(page: Page, desk: Desk, box: Box, count: int) -> bool:
    """Whether so many rectangles, and no other, are drawn there: at once, or when the viewport has got its size."""

    def is_so() -> bool:
        found = rectangles(page, desk)
        return len(found) == count and np.allclose(found, box, atol=2)

    return wait_until(is_so, 10.0)


def draw_rectangle(page: Page, desk: Desk, box: Box) -> None:
    by_name(page, "MeasurementTools-split-button-secondary").click()
    by_name(page, "RectangleROI").click()
    film = shown(page, desk)
    start, end = film.point(box.x1, box.y1), film.point(box.x2, box.y2)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=4)
    page.mouse.move(*end, steps=4)
    page.mouse.up()
    by_name(page, "prompt-begin-tracking-yes-btn").click()
    assert are_drawn(page, desk, box, 1), rectangles(page, desk)


def parts_seen(page: Page, is_meant: Callable[[np.ndarray], np.ndarray]) -> float:
    """How much of what the viewport shows is such: of pixels, (H, W, 3) RGB."""
    with Image.open(io.BytesIO(by_name(page, "viewport-pane").locator("canvas").first.screenshot())) as seen:
        return float(is_meant(np.asarray(seen.convert("RGB")).astype(int)).mean())


def is_bright(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=2) > 100


def is_coloured(pixels: np.ndarray) -> np.ndarray:
    """As the frames around regions are; films are grey."""
    return pixels.max(axis=2) - pixels.min(axis=2) > 100


def saved(page: Page, desk: Desk) -> str:
    """Create SR, Save; the UID under which the node has stored it."""
    by_name(page, "trackedMeasurements-btn").click()
    expect(page.get_by_text("Measurements (1)")).to_be_visible()
    assert are_drawn(page, desk, desk.heart, 1), rectangles(page, desk)
    assert wait_until(lambda: parts_seen(page, is_bright) > 0.2)
    shot(page, "rectangle")
    page.get_by_role("button", name="Create SR").click()
    page.get_by_placeholder("Report name").fill("Like this heart?")
    shot(page, "report")
    with page.expect_response(lambda reply: reply.request.method == "POST") as reply:
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
    stored = reply.value.json()["00081199"]["Value"]
    return str(stored[0]["00081155"]["Value"][0])


def labels(desk: Desk, sr_uid: str) -> list[str]:
    """What is to be read in OHIF: the answer to the same SR over HTTP."""
    answer = httpx.post(f"{desk.node.url}/similar", json={"sr": sr_uid}, timeout=60).raise_for_status().json()
    return [f"#{hit['rank']} {hit['anatomy']} {hit['score']:.3f}" for hit in answer["hits"]]


def test_a_rectangle_saved_in_ohif_is_answered_there(browser, desk):
    with tab(browser, desk) as page:
        page.goto(desk.ohif)
        expect(page.get_by_text(re.compile(r"^Nobody, Number \d+$"))).to_have_count(COUNT)
        page.get_by_role("button", name="Confirm and hide").click()
        page.get_by_text(f"Nobody, Number {ASKED}").first.click()
        expect(page.get_by_text("Basic Viewer").first).to_be_visible()
        shot(page, "worklist")
        page.get_by_text("Basic Viewer").first.click()
        opened(page)
        draw_rectangle(page, desk, desk.heart)
        asked = saved(page, desk)
        done = asking.ended(desk.node.root, asked)
        assert (done.state, done.reason) == ("stored", "")
        (roi,) = reader.rois(dcmread(asking.stored_file(desk.node.root, asked)))
        np.testing.assert_allclose(roi.box, desk.heart, atol=2)

        page.reload()
        opened(page, for_the_first_time=False)
        series = by_name(page, "studyBrowser-panel")
        expect(series.get_by_text("Like this heart?")).to_be_visible()
        series.get_by_text("Similar regions, picture").dblclick()
        expect(by_name(page, "viewport-overlay-top-left")).to_contain_text("Similar regions, picture")
        assert wait_until(lambda: parts_seen(page, is_coloured) > 0.001)
        shot(page, "picture")

        series.get_by_text("Similar regions", exact=True).dblclick()
        by_name(page, "yes-hydrate-btn").click()
        expected = labels(desk, asked)
        assert len(expected) == COUNT - 1
        assert all(HEART.name in label for label in expected)
        by_name(page, "trackedMeasurements-btn").click()
        expect(page.get_by_text(f"Measurements ({len(expected)})")).to_be_visible()
        for label in expected:
            expect(page.get_by_text(label, exact=True)).to_be_visible()
        assert are_drawn(page, desk, desk.heart, len(expected)), rectangles(page, desk)
        assert wait_until(lambda: parts_seen(page, is_bright) > 0.2)
        shot(page, "answer")


def test_the_page_of_the_node_opens_a_study_in_ohif(browser, desk):
    with tab(browser, desk) as page:
        page.goto(desk.node.url)
        page.get_by_role("link", name=f"Nobody, Number {ASKED + 1}").first.click()
        page.get_by_role("link", name="Image").first.click()
        page.wait_for_load_state("networkidle")
        shot(page, "link")
        page.get_by_role("link", name="OHIF").click()
        page.wait_for_url(f"{desk.ohif}/viewer?*")
        opened(page)
        expect(by_name(page, "viewport-overlay-top-left")).to_contain_text("PA")
