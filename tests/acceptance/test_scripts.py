"""Scripts in what a sender wrote, in a real browser: none runs, and one that got into a page would not either."""

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from tests import nodes
from tests.acceptance.test_page import browser  # noqa: F401 - a fixture
from tests.nodes import RunningNode

SCRIPT = "<script>window.ran = 1</script>"
HANDLER = "'><img src=x onerror='window.ran = 2'>"
INJECT = """() => {
  const added = document.createElement("script");
  added.textContent = "window.ran = 3";
  document.body.append(added);
  const picture = document.createElement("div");
  picture.innerHTML = "<img src=/none onerror='window.ran = 4'><a id=link href='javascript:window.ran = 5'>x</a>";
  document.body.append(picture);
  document.getElementById("link").click();
  setTimeout(() => setTimeout("window.ran = 6"));
}"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningNode, str, str]]:
    """A node with one film whose texts are scripts; its study and its own UID."""
    folder = tmp_path_factory.mktemp("scripts")
    facts = FilmFacts("P1", SCRIPT, "F", "19600229", "20240102", seed="scripts")
    film = dx_dataset(np.full((64, 64), 100, np.uint16), facts)
    film.StudyDescription = film.SeriesDescription = HANDLER
    film.save_as(folder / "film.dcm", enforce_file_format=True)
    with nodes.running_node(folder / "root", "--workers", "0", "--http-port", "0") as node:
        assert all(sent.ok for sent in client.send(node.peer, [folder / "film.dcm"]))
        yield node, str(film.StudyInstanceUID), str(film.SOPInstanceUID)


def test_no_script_of_a_sender_or_of_an_address_runs(hostile, browser: Browser):  # noqa: F811
    node, study, image = hostile
    context = browser.new_context(base_url=node.url)
    page = context.new_page()
    for path in (
        "/",
        f"/?name={SCRIPT}&patient={HANDLER}",
        f"/study/{study}",
        f"/image/{image}?x1={SCRIPT}",
        f"/hits?image={image}&x1=1&y1=1&x2=40&y2=40&modality={HANDLER}",
        "/login?next=javascript:window.ran=7",
        f"/study/{SCRIPT}",
        "/admin",
    ):
        page.goto(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("() => window.ran") is None, path
        page.evaluate(INJECT)
        page.wait_for_timeout(50)
        assert page.evaluate("() => window.ran") is None, path
    context.close()
