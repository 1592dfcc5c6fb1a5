"""A database that is in other hands for too long, or gone for a while: C-STORE is refused, and comes back by itself."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomnode.dimse import client, status
from storage.store import DATABASE
from tests import nodes, postgresql
from tests.faults import oracle
from tests.faults.oracle import Place
from tests.faults.senders import Ledger
from tests.faults.storm import PROGRAM
from tests.faults.test_full import films, sent
from tests.nodes import RunningNode

BUSY_S = "1"  # instead of half a minute


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another program writes, and does not come to an end."""
    other = sqlite3.connect(database, isolation_level=None, timeout=60)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def refused_together(node: RunningNode, folder: Path, ledger: Ledger) -> list[int | None]:
    """The statuses of films that come on several associations at once."""
    found: list[int | None] = []
    batches = [films(folder, 100 + 10 * n, 2, side=64) for n in range(4)]
    threads = [threading.Thread(target=lambda b=batch: found.extend(sent(node, b, ledger))) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.timeout(600)
def test_sqlite_locked_for_longer_than_it_waits(tmp_path):
    root, ledger, sending = tmp_path / "root", Ledger(), tmp_path / "sent"
    with nodes.running_node(root, "--workers", "1", environment={"BUSY_S": BUSY_S}, module=PROGRAM) as node:
        assert sent(node, films(sending, 1, 2), ledger) == [0, 0]
        with locked(root / DATABASE):
            assert set(refused_together(node, sending, ledger)) == {status.OUT_OF_RESOURCES}
            time.sleep(3)  # the worker, the keepers
            assert client.echo(node.peer) == 0
        assert sent(node, films(sending, 20, 2), ledger) == [0, 0]
        place = Place(root, "")
        assert oracle.settle(place, node) or list(oracle.violations(place, ledger, node, [])) == []
    assert "ended unexpectedly" not in (tmp_path / "root.log").read_text()


@pytest.mark.timeout(600)
@pytest.mark.postgresql
def test_postgresql_that_is_killed_and_gone_for_a_while(cluster: postgresql.Cluster, tmp_path):
    root, ledger, sending = tmp_path / "root", Ledger(), tmp_path / "sent"
    with postgresql.cluster(cluster.programs) as mortal:
        place = Place(root, mortal.create("away"))
        environment = {"DICOMNODE_STORAGE__URL": place.url}
        with nodes.running_node(root, "--workers", "1", environment=environment, module=PROGRAM) as node:
            assert sent(node, films(sending, 1, 2), ledger) == [0, 0]
            assert oracle.settle(place, node) == []  # the worker has started
            mortal.stop()
            assert set(refused_together(node, sending, ledger)) == {status.OUT_OF_RESOURCES}
            time.sleep(6)
            assert client.echo(node.peer) == 0
            mortal.start()
            assert sent(node, films(sending, 20, 2), ledger) == [0, 0]
            assert oracle.settle(place, node) == []
            # A file whose row could not be asked for is left to the next start.
            left = [each for each in oracle.violations(place, ledger, node, []) if "file" not in each]
            assert left == []
        with nodes.running_node(root, "--workers", "1", environment=environment, module=PROGRAM) as node:
            assert oracle.settle(place, node) or list(oracle.violations(place, ledger, node, [])) == []
    assert "ended unexpectedly" not in (tmp_path / "root.log").read_text()
