"""An archive of films with the shipped models: Save to result, and the page of hits, from its start on."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from urllib.parse import urlencode

from pydicom import dcmread

from benchmarks import timing
from benchmarks.web import saving
from benchmarks.web.archives import QUIET
from benchmarks.web.asker import asking, open_page
from benchmarks.web.rows import OURS, Row
from dicomnode.config import load
from dicomnode.demo.run import serving
from dicomnode.dimse import client
from dicomnode.node import open_store
from dicomnode.settings import Config

SAVED = 12  # questions by each way to save, for each round
LOADED = 6  # pages for each round
STARTS = 3  # at most
INDEX_S = 0.2  # between looks at the queue


def rows(films: Sequence[Path], folder: Path, repeat: int) -> Iterator[Row]:
    """The films stored and indexed; the node started anew for its first question; then one question after the other."""
    folder.mkdir()
    settings = folder / "dicomnode.toml"
    settings.write_text(QUIET)
    start = partial(serving, folder / "root", "--http-port", "0", "--config", str(settings))
    with start() as ready:
        sent = list(client.send(client.Peer(ready["host"], ready["port"]), list(films)))
        assert all(each.ok for each in sent)
        _indexed(folder / "root")
    asked = cycle(films)
    yield from _first(start, asked, repeat)
    with start() as ready:
        yield from _saved(ready, asked, folder, repeat)
        yield from _pages(ready["http_port"], asked, repeat)


def _indexed(root: Path) -> None:
    config: Config = load(None, {}, {"storage.root": str(root)})
    with open_store(config) as store:
        live = store.generations.live()
        assert live is not None
        while store.jobs.counts(live.id).queued:
            time.sleep(INDEX_S)


def _first(start: Callable[..., object], asked: Iterator[Path], repeat: int) -> Iterator[Row]:
    """From the ready line on."""
    times: dict[str, list[float]] = {"saved": [], "page": []}
    for _ in range(min(repeat, STARTS)):
        with start() as ready, asking(ready["http_port"]) as asker:
            times["page"].append(timing.seconds(partial(asker.get, hits(next(asked)), "text/html")))
        with start() as ready, asking(ready["http_port"]) as asker:
            times["saved"].append(saving.answered(next(asked), asker, saving.by_stow(asker)))
    yield Row("first page of hits after the start, ms", {OURS: times["page"]})
    yield Row("first question saved after the start, until its result is found, ms", {OURS: times["saved"]})


def _saved(ready: dict[str, int], asked: Iterator[Path], folder: Path, repeat: int) -> Iterator[Row]:
    with asking(ready["http_port"]) as asker:
        ways = {"STOW-RS": saving.by_stow(asker), "C-STORE": saving.by_store(ready["port"], folder)}
        for save in ways.values():
            saving.answered(next(asked), asker, save)
        times = {
            way: [saving.answered(next(asked), asker, save) for _ in range(SAVED * repeat)]
            for way, save in ways.items()
        }
    for way, taken in times.items():
        yield Row(f"Save ({way} of an SR) until its result SR is found, ms", {OURS: taken}, 2.0, 3.0)


def _pages(port: int, asked: Iterator[Path], repeat: int) -> Iterator[Row]:
    with asking(port) as asker:
        alone = lambda: asker.get(hits(next(asked)), "text/html")  # noqa: E731
        whole = lambda: open_page(port, hits(next(asked)))  # noqa: E731
        shown = whole()
        taken = timing.in_turn({"alone": alone, "whole": whole}, LOADED * repeat)
    yield Row("page of ten hits, HTML alone, ms", {OURS: taken["alone"]})
    yield Row(f"page of ten hits with the {shown} things it shows, 6 connections, ms", {OURS: taken["whole"]}, 1.0)


def hits(film: Path) -> str:
    """The page of the regions that look like a box drawn on a film."""
    image = dcmread(film, stop_before_pixels=True)
    corners = {name: round(value) for name, value in saving.heart(image)._asdict().items()}
    return "/hits?" + urlencode({"image": str(image.SOPInstanceUID), **corners})
