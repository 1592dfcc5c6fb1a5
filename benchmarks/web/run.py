"""The whole: archives filled, every measure taken, one table out."""

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import films, objects, peers
from benchmarks.tables import Table
from benchmarks.web import pictures, questions, search, series
from benchmarks.web.archives import ARCHIVES, WebArchive
from benchmarks.web.asker import Refused, stow
from benchmarks.web.rows import COLUMNS, OURS, Row


@dataclass(frozen=True)
class Scale:
    """How much there is of everything."""

    films: int
    studies: int
    slices: int


FULL, QUICK = Scale(300, 10_000, 100), Scale(32, 1_000, 20)


def run(repeat: int, *, quick: bool = False, given: Path | None = None) -> Table:
    """`given`: a folder of films to ask about instead of drawn ones."""
    scale, load = QUICK if quick else FULL, os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-web-") as scratch:
        folder = Path(scratch)
        asked = films.given(given, folder / "films") if given else films.many(folder / "films", scale.films)
        rows = list(questions.rows(asked, folder / "questions", repeat))
        with ExitStack() as stack:
            archives, failed = _started(stack, folder)
            rows += _beside_orthanc(folder, archives, failed, scale, repeat)
            versions = [archive.version for name, archive in archives.items() if name != OURS]
    return Table(
        COLUMNS,
        tuple(row.cells() for row in rows),
        (
            *_notes(len(asked), scale, versions, drawn=given is None),
            f"{'A quick run' if quick else 'A full run'}; the system's load when it began was {load:.1f}.",
        ),
        {row.name: {"seconds": dict(row.taken), "why_not": dict(row.why_not)} for row in rows},
    )


def _started(stack: ExitStack, folder: Path) -> tuple[dict[str, WebArchive], dict[str, str]]:
    archives, failed = {}, {}
    for name, start in ARCHIVES.items():
        try:
            archives[name] = stack.enter_context(start(folder / name))
        except peers.NotInstalled as error:
            failed[name] = str(error)
    return archives, failed


def _beside_orthanc(
    folder: Path, archives: dict[str, WebArchive], failed: dict[str, str], scale: Scale, repeat: int
) -> Iterator[Row]:
    frames = pictures.written(folder / "frames")
    slices = objects.slices(folder / "slices", scale.slices)
    studies = objects.studies(folder / "studies", scale.studies)
    failed |= _filled(archives, [*frames.all, *slices, *studies])
    running = {name: archive for name, archive in archives.items() if name not in failed}
    yield from pictures.rows(frames, running, failed, repeat)
    yield from search.rows(scale.studies, running, failed, repeat)
    yield from series.rows(scale.slices, running, failed, repeat)


def _filled(archives: dict[str, WebArchive], files: list[Path]) -> dict[str, str]:
    """STOW-RS into all at once; why an archive could not be filled."""
    return peers.fill_all(archives, lambda archive: stow(archive.http_port, files), Refused, OSError)


def _notes(asked: int, scale: Scale, versions: list[str], *, drawn: bool) -> Iterator[str]:
    yield "Medians (least - most); x: how many times as fast this node is, in the same run."
    yield (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        f"{''.join(f', {version}' for version in versions)}; everything on 127.0.0.1, the client on the same cores."
    )
    yield (
        f"Questions: {asked} {'drawn' if drawn else 'given'} films, the shipped models, a box drawn over the heart, "
        "one question at a time; the result is looked for every 20 ms."
    )
    yield (
        f"The rest, in one archive of each: {scale.studies:,} studies of one image, a series of {scale.slices} slices, "
        f"{len(pictures.SYNTAXES) * pictures.COPIES} large frames."
    )
