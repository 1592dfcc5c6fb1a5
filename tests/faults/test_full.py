"""A file system that fills, turns read-only or goes away under a node: a clear refusal, nothing lost, on it goes."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from dicomnode.dimse import client, status
from storage.store import Store
from tests import nodes
from tests.faults import oracle, senders
from tests.faults.oracle import Place
from tests.faults.senders import Ledger, Made
from tests.faults.storm import PROGRAM
from tests.nodes import RunningNode

Limited = Callable[[str, int], Path]
NO_WATERMARK = {"DICOMNODE_STORAGE__MINIMUM_FREE_MIB": "0"}
INDEXER = "dicomnode.workers.indexer"
LARGE = 600  # pixels: 0.7 MB a film


def sent(node: RunningNode, made: list[Made], ledger: Ledger) -> list[int | None]:
    """The statuses; what was acknowledged goes into the ledger."""
    by_path = {each.path: each for each in made}
    found = list(client.send(node.peer, list(by_path)))
    for each in found:
        if each.ok:
            ledger.acknowledged(by_path[each.path])
    return [each.status for each in found]


def films(folder: Path, first: int, count: int, side: int = LARGE) -> list[Made]:
    """Films, one of a study of its own each."""
    folder.mkdir(exist_ok=True)
    return [senders.make(folder, 6 * (first + n) + 1, first + n, side) for n in range(count)]


def stuffed(folder: Path, leave: int) -> Path:
    """Take the room on a file system but for so many bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        while (free := shutil.disk_usage(folder).free - leave) > 0:
            with suppress(OSError):  # the node wrote meanwhile: there is less
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
    return filler


def sound(root: Path, node: RunningNode, ledger: Ledger) -> list[str]:
    """What is wrong once it is quiet."""
    place = Place(root, "")
    return oracle.settle(place, node) or list(oracle.violations(place, ledger, node, []))


@pytest.mark.timeout(600)
def test_each_place_that_fills_refuses_with_a700_and_goes_on_with_room(limited: Limited, tmp_path):
    """Files, scratch, database and index are on one file system: how little is left decides which write fails."""
    root, ledger = limited("root", 48), Ledger()
    log = tmp_path / "root.log"
    statuses: list[int | None] = []
    with nodes.running_node(root, "--workers", "1", environment=NO_WATERMARK, module=PROGRAM) as node:
        assert sent(node, films(tmp_path / "sent", 1, 2), ledger) == [0, 0]
        assert sound(root, node, ledger) == []
        for number, leave in enumerate((0, 40_000, 750_000, 1_500_000)):
            filler = stuffed(root, leave)
            statuses += sent(node, films(tmp_path / "sent", 10 + 3 * number, 2), ledger)
            time.sleep(2.5)  # rounds of snapshots, of upkeep, and a worker's transaction, without room
            filler.unlink()
            assert sent(node, films(tmp_path / "sent", 12 + 3 * number, 1), ledger) == [0]
        assert status.OUT_OF_RESOURCES in statuses
        assert set(statuses) <= {0, status.OUT_OF_RESOURCES}
        assert sound(root, node, ledger) == []
        assert node.process.poll() is None
    assert "Traceback" not in log.read_text()


@pytest.mark.timeout(600)
def test_a_full_database_on_a_disk_of_its_own(limited: Limited, tmp_path):
    """Files have room, the database has none: what came is refused and its file removed."""
    root, ledger = tmp_path / "root", Ledger()
    small = limited("small", 6)
    url = f"sqlite:///{small / 'own.sqlite'}"
    environment = NO_WATERMARK | {"DICOMNODE_STORAGE__URL": url}
    with nodes.running_node(root, "--workers", "0", environment=environment, module=PROGRAM) as node:
        assert sent(node, films(tmp_path / "sent", 1, 1), ledger) == [0]
        filler = stuffed(small, 0)
        statuses = sent(node, films(tmp_path / "sent", 10, 3), ledger)
        while status.OUT_OF_RESOURCES not in statuses:  # SQLite had pages left
            statuses += sent(node, films(tmp_path / "sent", 20 + 3 * len(statuses), 3), ledger)
        filler.unlink()
        assert sent(node, films(tmp_path / "sent", 90, 1), ledger) == [0]
        with Store.open(root, url) as store:
            assert [each for each in store.check() if each.kind != "job missing"] == []
            assert all(store.catalog.instance(uid) for uid in ledger.kept)
            assert store.catalog.count() == len(ledger.kept)


@pytest.mark.timeout(600)
def test_storage_that_is_read_only_or_gone_is_refused_and_taken_up_again(limited: Limited, tmp_path):
    """The folder of the archive is read-only, then an empty mount point: the node refuses, stays up, comes back."""
    root, away, ledger = tmp_path / "root", tmp_path / "away", Ledger()
    with nodes.running_node(root, "--workers", "1", "--http-port", "0", module=PROGRAM) as node:
        assert sent(node, films(tmp_path / "sent", 1, 1), ledger) == [0]
        assert sound(root, node, ledger) == []
        with read_only(root / "scratch"):
            assert sent(node, films(tmp_path / "sent", 10, 2), ledger) == [status.OUT_OF_RESOURCES] * 2
            assert checks(node)["storage"]
        assert sent(node, films(tmp_path / "sent", 20, 1), ledger) == [0]
        root.rename(away)
        root.mkdir()
        assert sent(node, films(tmp_path / "sent", 30, 2), ledger) == [status.OUT_OF_RESOURCES] * 2
        assert not checks(node)["storage"]
        (worker,) = [each for each in psutil.Process(node.process.pid).children() if INDEXER in each.cmdline()]
        worker.kill()
        time.sleep(5)  # one that is started now must make no archive here
        assert client.echo(node.peer) == 0
        assert {path.name for path in root.iterdir()} <= oracle.DATABASE_NAMES
        shutil.rmtree(root)
        away.rename(root)
        assert sent(node, films(tmp_path / "sent", 40, 1), ledger) == [0]
        assert sound(root, node, ledger) == []
        assert checks(node)["storage"]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be made in the folder meanwhile: a file system that is read-only lies over it."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def checks(node: RunningNode) -> dict[str, bool]:
    """What /health/ready says."""
    try:
        with urllib.request.urlopen(f"{node.url}/health/ready", timeout=30) as answer:
            return json.load(answer)["checks"]
    except urllib.error.HTTPError as error:
        return json.load(error)["checks"]
