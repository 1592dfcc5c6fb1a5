"""A region query from the ROI to its first answer: encode, search, respond; and the whole over the wire."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import films, timing
from dicomnode.demo.run import serving
from dicomnode.dimse import client
from dicomnode.node import open_store
from dicomnode.query import request
from dicomnode.query.occlusion import Explainer, Pair, Side
from dicomnode.query.request import Keys
from dicomnode.settings import Config
from dicomnode.workers.embedding import RoiRequest
from dicomnode.workers.roi import RoiProcess, RoiSettings
from encoder.boxes import Box
from storage.records import SearchRequest

BOX = Box(220.0, 230.0, 380.0, 370.0)  # over the heart, no stored region: it has to be encoded
QUERIES = 15


def run(repeat: int) -> dict[str, Any]:
    """All films indexed, then the same question about each in turn."""
    paths = films.drawn()
    with tempfile.TemporaryDirectory(prefix="bench-query-") as scratch:
        root = Path(scratch) / "root"
        with serving(root) as ready:
            peer = client.Peer(ready["host"], ready["port"])
            assert all(sent.ok for sent in client.send(peer, list(paths)))
            _indexed(root)
            first, last = _over_the_wire(peer, list(paths), repeat)
        parts = _parts(root, repeat)
    whole = statistics.median(parts["encode"]) + statistics.median(parts["search"])
    return {
        "archive": f"{len(paths)} films",
        "encode the ROI, ms": timing.spread(parts["encode"], 1000),
        "search, ms": timing.spread(parts["search"], 1000, 2),
        "ROI to first answer over C-FIND, ms": timing.spread(first, 1000),
        "ROI to last of ten answers, ms": timing.spread(last, 1000),
        "explain a hit, one picture, ms": timing.spread(parts["explain"], 1000),
        "respond (first answer less encode and search), ms": f"{(statistics.median(first) - whole) * 1000:.1f}",
        "first answer against encode + search": f"{statistics.median(first) / whole:.2f} x",
    }


def _indexed(root: Path) -> None:
    with open_store(_config(root)) as store:
        live = store.generations.live()
        assert live is not None
        while store.jobs.counts(live.id).queued:
            time.sleep(0.2)


def _config(root: Path) -> Config:
    from dicomnode import config

    return config.load(None, {}, {"storage.root": str(root)})


def _over_the_wire(peer: client.Peer, paths: list[Path], repeat: int) -> tuple[list[float], list[float]]:
    first, last = [], []
    uids = [uid for uid, _ in _uids(paths)]
    for number in range(repeat * QUERIES):
        identifier = request.by_box(uids[number % len(uids)], "1.2.840.10008.5.1.4.1.1.1.1", BOX, Keys(matches=10))
        start = time.perf_counter()
        answers = client.find(peer, identifier)
        next(answers)
        first.append(time.perf_counter() - start)
        assert len(list(answers)) == 9
        last.append(time.perf_counter() - start)
    return first[3:], last[3:]


def _uids(paths: list[Path]) -> list[tuple[str, Path]]:
    from dicomnode.demo.films import sop_instance_uids

    return list(sop_instance_uids(paths))


def _parts(root: Path, repeat: int) -> dict[str, list[float]]:
    """The same steps, alone: the query model's process, and the search."""
    config = _config(root)
    with open_store(config) as store:
        live = store.generations.live()
        assert live is not None
        rows = [store.catalog.instance(row["sop_instance_uid"]) for row in store.catalog.find("IMAGE")]
        process = RoiProcess(RoiSettings(1, config.ingest, config.log, store.root / live.model.path), 60.0)
        process.start()
        taken: dict[str, list[float]] = {"encode": [], "search": [], "explain": []}
        for number in range(repeat * QUERIES):
            row = rows[number % len(rows)]
            assert row is not None
            asked = RoiRequest(store.root / live.model.path, store.files.path(row.path), 1, (tuple(BOX),))
            start = time.perf_counter()
            vector = process.embed(asked).vectors["anatomy"][0]
            between = time.perf_counter()
            found = store.vectors.search(SearchRequest(live.id, "anatomy", (24,), np.asarray(vector), 10))
            taken["search"].append(time.perf_counter() - between)
            taken["encode"].append(between - start)
            assert len(found.hits) == 10
            (hit,) = store.regions.details([found.hits[0].region_id])
            pair = Pair(row.sop_instance_uid, 1, BOX, hit.instance.sop_instance_uid, 24, is_place=False)
            start = time.perf_counter()
            Explainer(store, process, config.query).explain(pair, Side.ASKED)  # a new one keeps nothing of before
            taken["explain"].append(time.perf_counter() - start)
        process.stop()
    return {name: values[3:] for name, values in taken.items()}
