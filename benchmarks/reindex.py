"""Region queries while the archive is encoded again, against the same queries on an idle node, and how fast it goes.

Idle and busy stretches take turns (the reindexing's process group is stopped and continued), because machines drift.
Each query is another film's: its ROI is decoded, encoded and searched for, over C-FIND, until its last answer.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import films
from dicomnode import reindex
from dicomnode.demo.films import sop_instance_uids
from dicomnode.demo.run import serving
from dicomnode.dimse import client
from dicomnode.query import request
from dicomnode.query.request import Keys
from encoder.boxes import Box
from storage.store import Store

BOX = Box(220.0, 230.0, 380.0, 370.0)  # over the heart, no stored region: it has to be encoded
CLASS = "1.2.840.10008.5.1.4.1.1.1.1"
FILMS = 600  # more than are encoded in all the busy stretches of one throttle
STRETCH_S = 4.0
SETTLE_S = 0.5  # after each change: films in hand end
GENTLE = "25%"


def run(repeat: int, *, quick: bool = False) -> dict[str, Any]:
    """An archive, its queries idle and busy in turn, at full pace and throttled."""
    with tempfile.TemporaryDirectory(prefix="bench-reindex-") as scratch:
        root = Path(scratch) / "root"
        paths = films.many(Path(scratch) / "films", FILMS // 6 if quick else FILMS)
        with serving(root) as ready, Store.open(root) as store:
            peer = client.Peer(ready["host"], ready["port"])
            assert all(sent.ok for sent in client.send(peer, paths))
            _indexed(store)
            uids = [uid for uid, _ in sop_instance_uids(paths)]
            rows = _compared(root, store, peer, uids, repeat, "")
            rows |= _compared(root, store, peer, uids, repeat, GENTLE)
            rows |= _swapped(root, peer, uids)
        return {"archive": f"{len(paths)} films", **rows}


def _indexed(store: Store) -> None:
    live = store.generations.live()
    assert live is not None
    while store.jobs.counts(live.id).queued:
        time.sleep(0.2)


def _compared(
    root: Path, store: Store, peer: client.Peer, uids: list[str], repeat: int, throttle: str
) -> dict[str, str]:
    """Stretches in turn, until there are `repeat` of each or everything is encoded."""
    idle: list[float] = []
    busy: list[float] = []
    ended, worked_s = 0, 0.0
    with _reindexing(root, throttle) as process:
        while not _ended(store):
            time.sleep(0.1)
        for _ in range(repeat):
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep(SETTLE_S)
            idle += _asked(peer, uids)
            os.killpg(process.pid, signal.SIGCONT)
            time.sleep(SETTLE_S)
            before, started = _ended(store), time.perf_counter()
            if store.generations.building() is None:
                break  # the archive was too small for so many stretches
            busy += _asked(peer, uids)
            ended, worked_s = ended + _ended(store) - before, worked_s + time.perf_counter() - started
    if store.generations.building() is not None:
        reindex.abandon(store)
    name = f"throttle {throttle}" if throttle else "no throttle"
    (p50, p99), (idle50, idle99) = _percentiles(busy), _percentiles(idle)
    return {
        f"queries, idle / while reindexing, {name}": f"{len(idle)} / {len(busy)}",
        f"p50, idle / while reindexing, ms, {name}": f"{idle50 * 1000:.0f} / {p50 * 1000:.0f} = {p50 / idle50:.2f} x",
        f"p99, idle / while reindexing, ms, {name}": f"{idle99 * 1000:.0f} / {p99 * 1000:.0f} = {p99 / idle99:.2f} x",
        f"films/s encoded beside the queries, {name}": f"{ended / worked_s:.1f}",
    }


def _swapped(root: Path, peer: client.Peer, uids: list[str]) -> dict[str, str]:
    """The whole of it, to the swap and beyond, asked all the time."""
    with _reindexing(root, "") as process:
        started = time.perf_counter()
        taken: list[float] = []
        while process.poll() is None:
            taken += _asked(peer, uids, 1.0)
        seconds = time.perf_counter() - started
        done = json.loads(process.communicate()[0])
    taken += _asked(peer, uids)
    p50, p99 = _percentiles(taken)
    return {
        "whole reindexing, s": f"{seconds:.1f} for {done['indexed']} films",
        "recall@10 at its verification": f"{done['recall_at_10']:.4f} of {done['canaries']} queries",
        "queries before, in and after the swap, p50 / p99 / longest, ms": (
            f"{p50 * 1000:.0f} / {p99 * 1000:.0f} / {max(taken) * 1000:.0f}, none failed"
        ),
    }


@contextmanager
def _reindexing(root: Path, throttle: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "dicomnode", "reindex", "--root", str(root), "--json", "--throttle", throttle]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _ended(store: Store) -> int:
    building = store.generations.building()
    return 0 if building is None else store.jobs.ended_since(building.id, 0.0)


def _asked(peer: client.Peer, uids: list[str], seconds: float = STRETCH_S) -> list[float]:
    """Seconds of each query, one after the other, each about another film."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        uids.append(uids.pop(0))
        start = time.perf_counter()
        answers = list(client.find(peer, request.by_box(uids[0], CLASS, BOX, Keys(matches=10))))
        taken.append(time.perf_counter() - start)
        assert len(answers) == 10
    return taken


def _percentiles(values: list[float]) -> tuple[float, float]:
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    return hundredths[49], hundredths[98]
