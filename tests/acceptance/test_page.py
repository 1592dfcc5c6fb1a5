"""The page in a real browser, headless: from the search to hits and back, by mouse, by keys, and without its script.

Nothing is asked of another host, nothing is written to the console. Screenshots are left in build/screenshots.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from dicomnode.demo.dx import FilmFacts, dx_dataset
from tests import films, nodes
from tests.conftest import PROJECT, missing_program
from tests.nodes import RunningNode

COUNT = 28  # films: more than a page of studies
SIZE = {"width": 1440, "height": 900}
EXPLAINED_MS = 60_000  # for some 70 passes of the encoder on a machine that has other things to do
SHOTS = PROJECT / "build" / "screenshots"
TOKEN = "reader-token-0123456789"
OTHER_NAME = "node.test"  # plain HTTP by a name: browsers say less of themselves there than to 127.0.0.1
ARGUMENTS = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {OTHER_NAME} 127.0.0.1"]
CONFIG = """
[web]
ohif_url = "https://ohif.example/viewer?StudyInstanceUIDs={study}"
weasis_url = "weasis://?$dicom:rs --url {dicomweb} -r studyUID={study}"
slicer_url = "slicer://viewer/?studyUID={study}&dicomweb_endpoint={dicomweb}"
"""
# Text whose contrast with what is behind it is below WCAG 2.1 AA (1.4.3).
FAINT = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [0, 0, 0];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const isShown = walker.currentNode.data.trim() && element.checkVisibility();
    if (!isShown || element.closest("svg, button:disabled")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))];
    if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5) found.push(walker.currentNode.data.trim());
  }
  return found;
}"""
NAMELESS = """() => [...document.querySelectorAll("input:not([type=hidden]), select, img, svg[role=img], button, a")]
  .filter((node) => !(node.labels?.length || node.alt || node.getAttribute("aria-label") || node.textContent.trim()
    || node.querySelector("[aria-label]")))
  .map((node) => node.outerHTML)"""


# Whether each map that is laid over a picture is an image that the browser could read, of the size it should have.
DECODED = """async () => Promise.all([...document.querySelectorAll(".heat")].map(async (heat) => {
  const image = new Image();
  image.src = heat.href.baseVal;
  await image.decode();
  return image.naturalWidth > 90 && image.naturalHeight > 90 && heat.getBoundingClientRect().width > 20;
}))"""


@dataclass
class Seen:
    """What a browser told of its pages."""

    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if not path:
        missing_program("Chromium is not installed: chromium not found")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def node(data_dir: Path, dcmtk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with some of the open films, indexed."""
    folder = tmp_path_factory.mktemp("page")
    films.write(films.open_films(data_dir, COUNT), folder / "films", str(dcmtk / "dcmcjpeg"))
    (folder / "node.toml").write_text(CONFIG)
    with nodes.running_node(folder / "root", "--http-port", "0", "--config", str(folder / "node.toml")) as running:
        nodes.dicomnode("send", running.address, folder / "films")
        nodes.dicomnode("wait", "--root", running.root, "--timeout", "300")
        yield running


@contextmanager
def tab(browser: Browser, url: str, *, script: bool = True) -> Iterator[Page]:
    """A page of a fresh browser; at its end it has asked nobody else and complained of nothing."""
    seen = Seen()
    context = browser.new_context(viewport=SIZE, base_url=url, java_script_enabled=script)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).netloc))
    page.on("console", lambda said: said.type in {"error", "warning"} and seen.complaints.append(said.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    yield page
    context.close()
    assert (seen.hosts, seen.complaints) == ({urlsplit(url).netloc}, [])


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def loaded(page: Page) -> None:
    page.wait_for_load_state("networkidle")


def open_film(page: Page) -> None:
    """From the search to a film, by links and the form."""
    page.goto("/")
    page.get_by_label("Patient name").fill("film, number 7")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Film, Number 7").first.click()
    page.get_by_role("link", name="Image").first.click()
    page.wait_for_url("**/image/*")
    loaded(page)


def heats(where: Locator) -> int:
    """How many maps are laid over the pictures there."""
    return where.locator(".heat").count()


def film_of_frames(path: Path) -> str:
    """Three frames, the same shapes moved on by each; the UID."""
    first = np.zeros((300, 300), np.uint16)
    first[60:200, 40:120], first[120:160, 180:260] = 3000, 1800
    frames = np.stack([np.roll(first, 40 * number, axis=1) + np.arange(300, dtype=np.uint16) for number in range(3)])
    facts = FilmFacts("FRAMES", "Frames^Three", "F", "19700101", "20230101", seed="frames")
    dataset = dx_dataset(frames[0], facts)
    dataset.NumberOfFrames, dataset.PixelData = 3, frames.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)


def view(page: Page) -> list[float]:
    """What is seen of the film: x, y, width, height in its pixels."""
    return [float(number) for number in page.locator("#film").get_attribute("viewBox").split()]


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a place of the film is, both as parts of the film's size."""
    return tuple(
        page.evaluate(
            """([x, y]) => {
              const film = document.querySelector("#film");
              const at = new DOMPoint(x * film.dataset.width, y * film.dataset.height);
              const shown = at.matrixTransform(film.getScreenCTM());
              return [shown.x, shown.y];
            }""",
            [x, y],
        )
    )


def drag(page: Page, start: tuple[float, float], end: tuple[float, float], key: str = "") -> None:
    page.mouse.move(*start)
    if key:
        page.keyboard.down(key)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=3)
    page.mouse.move(*end, steps=3)
    page.mouse.up()
    if key:
        page.keyboard.up(key)


def test_search_draw_ask_more_like_this_and_back(browser, node):
    with tab(browser, node.url) as page:
        page.goto("/")
        assert page.locator("tbody tr").count() == 25
        shot(page, "studies")
        open_film(page)
        shot(page, "image")
        drag(page, on_screen(page, 0.55, 0.5), on_screen(page, 0.72, 0.66), "Shift")
        expect(page.get_by_role("link", name="Find similar")).to_be_focused()
        shot(page, "drawn")
        width, height = view(page)[2:]
        page.keyboard.press("Enter")
        page.wait_for_url("**/hits?*")
        asked = {
            name: float(values[0]) for name, values in parse_qs(urlsplit(page.url).query).items() if name[0] in "xy"
        }
        drawn = {"x1": 0.55 * width, "y1": 0.5 * height, "x2": 0.72 * width, "y2": 0.66 * height}
        assert all(abs(asked[name] - drawn[name]) < 0.01 * width for name in drawn), (asked, drawn)
        loaded(page)
        shot(page, "hits")
        expect(page.locator("figure")).to_have_count(10)
        assert page.evaluate("[...document.querySelectorAll('.boxed image')].length") == 11
        first = page.url
        page.get_by_label("More like hit 2", exact=True).click()
        loaded(page)
        shot(page, "more")
        assert parse_qs(urlsplit(page.url).query)["image"] != parse_qs(urlsplit(first).query)["image"]
        expect(page.locator("figure")).to_have_count(10)
        page.go_back()
        assert page.url == first
        page.get_by_role("navigation").get_by_role("link", name="Image").click()
        assert page.locator(".marked").count() == 1


def test_why_a_hit_is_similar_is_laid_over_both_pictures(browser, node):
    with tab(browser, node.url) as page:
        open_film(page)
        page.locator(".list a", has_text="Cardiac silhouette").click()
        loaded(page)
        first, second = (page.locator("figure", has=page.locator(f"#why-{rank}")) for rank in (1, 2))
        page.get_by_label("Why hit 1 is similar").click()
        expect(page.locator("#heat-said")).to_contain_text("Found: Largest drop: ", timeout=EXPLAINED_MS)
        loaded(page)
        shot(page, "why-on-hits")
        assert [heats(page.locator(".question")), heats(first), heats(second)] == [1, 1, 0]
        assert page.evaluate(DECODED) == [True, True]
        first.locator("a").first.focus()
        page.keyboard.press("j")
        page.keyboard.press("y")
        expect(page.locator("#heat-rank")).to_have_text("2")
        expect(page.locator("#heat-said")).to_contain_text("Found: Largest drop: ", timeout=EXPLAINED_MS)
        assert [heats(page.locator(".question")), heats(first), heats(second)] == [1, 0, 1]
        page.locator("#why-2").click()
        assert [heats(page.locator(".question")), heats(second)] == [0, 0]
        expect(page.locator("#heat")).to_be_hidden()


def test_why_a_hit_is_similar_is_a_page_without_the_script(browser, node):
    with tab(browser, node.url, script=False) as page:
        open_film(page)
        page.locator(".list a", has_text="Right lung").first.click()
        score = float(page.locator(".score").first.inner_text().split()[-1])
        page.get_by_label("Why hit 1 is similar").click()
        page.wait_for_url("**/why?*", timeout=EXPLAINED_MS)
        assert page.locator(".sides .heat").count() == 2
        said = page.locator(".numbers").all_inner_texts()
        assert all(text.startswith("Largest drop: 0.") for text in said)
        assert all(abs(float(text.split()[4].rstrip(".")) - score) < 2e-3 for text in said)
        loaded(page)
        shot(page, "why")
        page.get_by_role("navigation").get_by_role("link", name="Similar regions").click()
        expect(page.locator("figure")).to_have_count(10)


def test_a_place_in_a_region_is_explained_by_itself(browser, node):
    with tab(browser, node.url) as page:
        open_film(page)
        lung = page.locator(".regions a", has_text="Right lung").locator("rect").first
        x, y, width, height = (float(lung.get_attribute(name)) for name in ("x", "y", "width", "height"))
        corners = {"x1": x + 0.4 * width, "y1": y + 0.3 * height, "x2": x + 0.65 * width, "y2": y + 0.45 * height}
        image = page.locator("#film").get_attribute("data-image")
        page.goto("/hits?" + urlencode({"image": image, **corners}))
        expect(page.locator("figcaption small").first).to_have_text("a place in it")
        page.goto(page.locator("a.why").first.get_attribute("href"), timeout=EXPLAINED_MS)
        loaded(page)
        shot(page, "why-place")
        assert "place in its region" in page.locator(".lead").inner_text()
        assert page.locator(".sides .heat").count() == 2


def test_frames_are_gone_through_by_link_and_by_key(browser, node, tmp_path):
    uid = film_of_frames(tmp_path / "frames.dcm")
    nodes.dicomnode("send", node.address, tmp_path / "frames.dcm")
    for script in (True, False):
        with tab(browser, node.url, script=script) as page:
            page.goto(f"/image/{uid}")
            page.get_by_label("Next frame").click()
            page.wait_for_url("**?frame=2")
            if script:
                page.keyboard.press(".")
            else:
                page.get_by_label("Frame", exact=True).fill("3")
                page.get_by_role("button", name="Show").click()
            page.wait_for_url("**?frame=3")
            loaded(page)
            assert "/frames/3/rendered" in page.locator("#picture").get_attribute("href")
            expect(page.get_by_label("Next frame")).to_have_count(0)
            if script:
                shot(page, "frame")
                drag(page, on_screen(page, 0.3, 0.3), on_screen(page, 0.7, 0.7), "Shift")
                page.keyboard.press("Enter")
                page.wait_for_url("**/hits?*")
                assert parse_qs(urlsplit(page.url).query)["frame"] == ["3"]
                page.keyboard.press("u")
                page.wait_for_url("**/image/*frame=3*")
                expect(page.locator(".marked")).to_have_count(1)
                page.keyboard.press(",")
                page.wait_for_url("**frame=2*")
                expect(page.locator(".marked")).to_have_count(1)


def test_a_region_is_chosen_on_the_film_and_filters_are_applied(browser, node):
    with tab(browser, node.url) as page:
        open_film(page)
        heart = page.locator(".regions a", has_text="Cardiac silhouette")
        heart.hover(position={"x": 4, "y": 4}, force=True)
        page.locator(".list a", has_text="Cardiac silhouette").hover()
        expect(heart.locator("text")).to_be_visible()
        shot(page, "region")
        page.locator(".list a", has_text="Cardiac silhouette").click()
        page.get_by_label("Number of hits").select_option("20")
        page.get_by_label("Sex").select_option("F")
        page.get_by_role("button", name="Apply").click()
        loaded(page)
        shot(page, "filtered")
        assert "since" not in page.url  # what was left empty is left out
        assert {"sex=F", "k=20"} <= set(urlsplit(page.url).query.split("&"))
        facts = page.locator(".whose").all_text_contents()
        assert facts
        assert all("female" in text for text in facts)
        assert page.locator(".viewers a").first.get_attribute("href").startswith("https://ohif.example/viewer?")


def test_the_film_is_zoomed_moved_and_windowed(browser, node):
    with tab(browser, node.url) as page:
        open_film(page)
        whole = view(page)
        at = on_screen(page, 0.3, 0.4)
        page.mouse.move(*at)
        page.mouse.wheel(0, -300)
        page.wait_for_function("Number(document.querySelector('#film').getAttribute('viewBox').split(' ')[2]) < 900")
        assert view(page)[2] < whole[2]
        assert all(abs(now - then) < 1.5 for now, then in zip(on_screen(page, 0.3, 0.4), at, strict=True))
        drag(page, at, (at[0] + 80, at[1] + 50))  # begins on a region: it is no click on that
        assert all(
            abs(now - then - by) < 1.5 for now, then, by in zip(on_screen(page, 0.3, 0.4), at, (80, 50), strict=True)
        )
        assert "/image/" in page.url
        drag(page, at, (at[0] + 60, at[1] - 60), "Alt")
        assert page.get_by_label("Contrast").input_value() != "0"
        assert page.get_by_label("Brightness").input_value() != "0"
        assert page.locator("#picture").get_attribute("filter") == "url(#window)"
        shot(page, "windowed")
        page.keyboard.press("w")
        assert page.locator("#picture").get_attribute("filter") is None
        page.keyboard.press("0")
        assert view(page) == whole


def test_everything_is_reached_by_keys(browser, node):
    with tab(browser, node.url) as page:
        page.goto("/")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("/")
        expect(page.get_by_label("Patient name")).to_be_focused()
        page.keyboard.type("number 3j?")  # letters typed into a field are no keys
        expect(page.get_by_label("Patient name")).to_have_value("number 3j?")
        page.goto("/?name=film")  # others have no regions to step through
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        expect(page.locator("[data-step]").first).to_be_focused()
        page.keyboard.press("Enter")
        page.wait_for_url("**/study/*")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/image/*")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        shot(page, "keys")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("r")
        expect(page.locator(".regions")).to_be_hidden()
        page.keyboard.press("r")
        page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        assert view(page)[0] > 0
        page.keyboard.press("d")
        expect(page.get_by_role("button", name="Draw a region")).to_have_attribute("aria-pressed", "true")
        drag(page, on_screen(page, 0.4, 0.4), on_screen(page, 0.6, 0.6))
        expect(page.get_by_role("link", name="Find similar")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("link", name="Find similar")).to_be_hidden()
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/hits?*")
        page.keyboard.press("j")
        page.keyboard.press("j")
        image = page.url
        page.keyboard.press("m")
        page.wait_for_url(lambda url: url != image)
        page.keyboard.press("u")
        page.wait_for_url("**/image/*")


def test_without_its_script_everything_but_drawing_works(browser, node):
    with tab(browser, node.url, script=False) as page:
        open_film(page)
        assert page.locator("#tools").is_hidden()
        page.get_by_text("show or hide").click()
        assert page.locator(".regions").is_hidden()
        page.get_by_text("show or hide").click()
        page.locator(".list a", has_text="Left lung").first.click()
        expect(page.locator("figure")).to_have_count(10)
        page.get_by_label("More like hit 1", exact=True).click()
        expect(page.locator("figure")).to_have_count(10)
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("figure")).to_have_count(10)
        page.go_back()
        page.get_by_role("navigation").get_by_role("link", name="Image").click()
        page.get_by_text("A rectangle by numbers").click()
        for label, value in (("Left", "100"), ("Top", "120"), ("Right", "300"), ("Bottom", "380")):
            page.get_by_label(label, exact=True).fill(value)
        page.get_by_role("button", name="Find similar").click()
        expect(page.locator("figure")).to_have_count(10)


def test_text_is_legible_and_everything_has_a_name(browser, node):
    with tab(browser, node.url) as page:
        open_film(page)
        study = page.locator("[data-up]").get_attribute("href")
        image, hits = page.url, page.locator(".list a").first.get_attribute("href")
        page.goto(hits)
        why = page.locator("a.why").first.get_attribute("href")
        for path in ("/", study, image, hits, why, "/admin", "/login"):
            page.goto(path, timeout=EXPLAINED_MS)
            assert page.evaluate(FAINT) == [], path
            assert page.evaluate(NAMELESS) == [], path
            assert page.locator("h1").count() == 1
            assert page.evaluate("document.documentElement.lang") == "en"
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        page.goto("/admin")
        shot(page, "admin")


def test_logging_in_and_out(browser, tmp_path):
    settings = f'[web]\nadministrators = ["READER"]\n[peers.READER]\nae_title = "READER"\ntoken = "{TOKEN}"\n'
    (tmp_path / "node.toml").write_text(settings)
    arguments = ("--workers", "0", "--http-port", "0", "--config", str(tmp_path / "node.toml"))
    with (
        nodes.running_node(tmp_path / "root", *arguments) as guarded,
        tab(browser, f"http://{OTHER_NAME}:{guarded.http_port}") as page,
    ):
        page.goto("/?name=nobody")
        shot(page, "login")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_url("**/?name=nobody")
        assert page.context.cookies()[0]["httpOnly"]
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("link", name="Administration").click()
        expect(page.get_by_role("heading", name="Administration")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
        page.goto("/")
        assert "/login" in page.url
