"""The page in a real browser, headless: from the search to hits and back, by mouse, by keys, and without its script.

Nothing is asked of another host, nothing is written to the console. Screenshots are left in build/screenshots.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import films, nodes
from tests.conftest import PROJECT, missing_program
from tests.nodes import RunningNode

COUNT = 28  # films: more than a page of studies
SIZE = {"width": 1440, "height": 900}
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
    context.set_default_timeout(20_000)
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
        page.goto("/")
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
        hits = page.locator(".list a").first.get_attribute("href")
        for path in ("/", study, page.url, hits, "/admin", "/login"):
            page.goto(path)
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
