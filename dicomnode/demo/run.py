"""The demo: a node of its own on a free port, films sent to it, one region asked for by SR over C-FIND.

Everything goes over the wire or the command line, as it would in a hospital; nothing here reaches into the node.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread

from dicomnode.demo import films, picture
from dicomnode.dimse import client
from dicomnode.errors import DicomNodeError
from dicomnode.pixels import decode
from dicomnode.settings import ENVIRONMENT_PREFIX
from dicomnode.sr import writer
from encoder.anatomy import Anatomy
from encoder.boxes import Box
from storage.store import Store

Report = Callable[[str, int, int, str], None]
READY_S = 120.0
QUERY_S = 120.0


@dataclass(frozen=True)
class DemoOptions:
    """What is shown. `films`: None draws `count` films."""

    films: Path | None
    count: int
    anatomy: Anatomy
    matches: int
    picture: Path


@dataclass(frozen=True)
class DemoResult:
    """What was asked and answered."""

    accepted: int
    indexed: int
    asked_uid: str
    hits: list[dict[str, Any]]
    picture: Path


def run(options: DemoOptions, report: Report, wait: Callable[[Path], None]) -> DemoResult:
    """The whole demo in a temporary folder. `wait` returns when the archive under a root has nothing queued."""
    with tempfile.TemporaryDirectory(prefix="dicomnode-demo-") as scratch:
        folder = Path(scratch)
        paths = _films(options, folder, report)
        with serving(folder / "root") as ready:
            peer = client.Peer(ready["host"], ready["port"])
            accepted = _send(peer, paths, report)
            wait(folder / "root")
            asked_uid, box, indexed = _region(folder / "root", options.anatomy)
            files = dict(films.sop_instance_uids(paths))
            question = folder / "question.dcm"
            header = dcmread(files[asked_uid], stop_before_pixels=True)
            marking = writer.Marking(box, options.anatomy)
            writer.query_sr(header, [marking], datetime.now(UTC)).save_as(question, enforce_file_format=True)
            hits = _query(peer, question, options.matches)
        _draw(options, files, asked_uid, box, hits)
        return DemoResult(accepted, indexed, asked_uid, hits, options.picture)


def _films(options: DemoOptions, folder: Path, report: Report) -> list[Path]:
    into = folder / "films"
    into.mkdir()
    if options.films is None:
        return films.drawn(into, options.count, report)
    return films.own(options.films, into, report)


@contextmanager
def serving(root: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """`dicomnode serve` on a free port of this machine; yields its ready line, stops it with SIGTERM.

    Settings of the environment are left out: they may be those of a real archive.
    """
    command = [sys.executable, "-m", "dicomnode", "serve", "--root", str(root), "--json"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)},
    )
    assert process.stdout is not None
    try:
        waiting, _, _ = select.select([process.stdout], [], [], READY_S)
        line = process.stdout.readline() if waiting else ""
        if not line:
            raise DicomNodeError("the node did not start")
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _send(peer: client.Peer, paths: list[Path], report: Report) -> int:
    accepted = 0
    for number, sent in enumerate(client.send(peer, paths), start=1):
        accepted += sent.ok
        report("sending films (C-STORE)", number, len(paths), "")
    return accepted


def _region(root: Path, anatomy: Anatomy) -> tuple[str, Box, int]:
    """The region to ask about: that anatomy in the first indexed film that has it."""
    store = Store.open(root)
    try:
        live = store.generations.live()
        if live is None:
            raise DicomNodeError("the node has no generation")
        indexed = store.jobs.counts(live.id).indexed
        for row in store.catalog.find("IMAGE", ()):
            instance = store.catalog.instance(row["sop_instance_uid"])
            for region in store.regions.of_instance(live.id, instance.id) if instance else ():
                if region.anatomy == anatomy.index:
                    return row["sop_instance_uid"], Box(*region.box), indexed
    finally:
        store.close()
    raise DicomNodeError(f"no {anatomy.name} was found in any film")


def _query(peer: client.Peer, question: Path, matches: int) -> list[dict[str, Any]]:
    """`dicomnode query` in a process of its own."""
    address = f"{peer.host}:{peer.port}"
    answer = subprocess.run(
        [sys.executable, "-m", "dicomnode", "query", address, "--sr", str(question), "--k", str(matches), "--json"],
        capture_output=True,
        text=True,
        timeout=QUERY_S,
        check=False,
    )
    if answer.returncode:
        raise DicomNodeError(answer.stderr.strip() or "the query failed")
    hits: list[dict[str, Any]] = json.loads(answer.stdout)["hits"]
    return hits


def _draw(options: DemoOptions, files: dict[str, Path], asked_uid: str, box: Box, hits: list[dict[str, Any]]) -> None:
    limits = decode.DecodeLimits()
    query = picture.Panel(
        decode.image(files[asked_uid], 1, limits).pixels, box, f"Asked: {options.anatomy.name}", "marked by SR ROI"
    )
    panels = [
        picture.Panel(
            decode.image(files[hit["sop_instance_uid"]], 1, limits).pixels,
            Box(*hit["box"]),
            f"{hit['rank']}. {hit['anatomy']}  {hit['score']:.3f}",
            f"{hit['patient_id']}  {hit['study_date']}",
        )
        for hit in hits
    ]
    picture.draw(query, panels, options.picture)
