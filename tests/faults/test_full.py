"""A file system that fills, turns read-only or goes away under a node: a clear refusal, nothing lost, on it goes."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.dimse import client, status
from storage.store import Store
from tests import nodes
from tests.faults import oracle, senders
from tests.faults.oracle import Place
from tests.faults.senders import Ledger, Made
from tests.faults.storm import PROGRAM
from tests.nodes import RunningNode
from tests.raw import wait_until

Limited = Callable[[str, int], Path]
NO_WATERMARK = {"DICOMNODE_STORAGE__MINIMUM_FREE_MIB": "0"}
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
    free = shutil.disk_usage(folder).free - leave
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free, 1))
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
        for number, leave in enumerate((0, 4096, 40_000, 300_000, 750_000, 1_500_000)):
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
def test_a_full_database_on_a_disk_of_its_own(cluster, limited: Limited, tmp_path):
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
def test_read_only_storage_is_refused_and_taken_up_again(limited: Limited, tmp_path):
    root, ledger = limited("root", 48), Ledger()
    with nodes.running_node(root, "--workers", "1", module=PROGRAM, environment=NO_WATERMARK) as node:
        assert sent(node, films(tmp_path / "sent", 1, 1), ledger) == [0]
        assert sound(root, node, ledger) == []
        remount(root, "ro")
        statuses = sent(node, films(tmp_path / "sent", 10, 2), ledger)
        assert all(code not in (0, None) for code in statuses), statuses
        assert client.echo(node.peer) == 0
        remount(root, "rw")
        assert sent(node, films(tmp_path / "sent", 20, 1), ledger) == [0]
        assert sound(root, node, ledger) == []


def remount(folder: Path, how: str) -> None:
    """A file system turns read-only only when nobody writes to it: the node's open files are waited for."""

    def tried() -> bool:
        done = subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], capture_output=True, check=False)
        return done.returncode == 0

    if not wait_until(tried, 10.0):
        pytest.skip("the file system cannot be made read-only while a node holds its files open")


@pytest.mark.timeout(600)
def test_storage_that_goes_away_is_refused_and_found_again(tmp_path):
    """The folder of the archive is renamed under a node, as a lost mount is: it refuses, stays up, and comes back."""
    root, away, ledger = tmp_path / "root", tmp_path / "away", Ledger()
    with nodes.running_node(root, "--workers", "1", module=PROGRAM) as node:
        assert sent(node, films(tmp_path / "sent", 1, 1), ledger) == [0]
        assert sound(root, node, ledger) == []
        root.rename(away)
        statuses = sent(node, films(tmp_path / "sent", 10, 2), ledger)
        assert all(code not in (0, None) for code in statuses), statuses
        time.sleep(3)
        assert client.echo(node.peer) == 0
        assert not (root / "files").exists()  # nothing is made where the mount was
        if root.exists():
            shutil.rmtree(root)
        away.rename(root)
        assert sent(node, films(tmp_path / "sent", 20, 1), ledger) == [0]
        assert sound(root, node, ledger) == []
