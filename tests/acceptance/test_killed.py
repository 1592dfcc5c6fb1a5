"""kill -9 of the whole process tree while films arrive: nothing acknowledged is lost, each is indexed once."""

import os
import random
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.errors import PeerError
from storage.store import Store
from tests import databases, nodes

COUNT = 36
KILLS = 3


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> list[Path]:
    return films.drawn(tmp_path_factory.mktemp("drawn"), COUNT, lambda *_: None)


def send_until_killed(node: nodes.RunningNode, paths: list[Path], kill_at: int) -> list[Path]:
    """Send one after the other and kill the tree while the next is on its way; the acknowledged files."""
    acknowledged: list[Path] = []
    killer = threading.Timer(random.Random(kill_at).random() * 0.02, node.kill_tree)
    with suppress(PeerError):
        for sent in client.send(node.peer, paths):
            if sent.ok:
                acknowledged.append(sent.path)
                if len(acknowledged) == kill_at:
                    killer.start()
    killer.join()
    return acknowledged


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost(drawn, tmp_path):
    root = tmp_path / "root"
    acknowledged: set[str] = set()
    uids = {path: uid for uid, path in films.sop_instance_uids(drawn)}
    share = COUNT // KILLS
    for number in range(KILLS):
        with nodes.running_node(root) as node:
            batch = drawn[number * share : (number + 1) * share]
            done = send_until_killed(node, batch, kill_at=share // 2)
            assert done, "the kill came before the first acknowledgement"
            acknowledged |= {uids[path] for path in done}
    with nodes.running_node(root):
        nodes.dicomnode("wait", "--root", root, "--timeout", "600")
        status = nodes.answered("status", "--root", root)
    assert status["failed"] == 0
    assert status["indexed"] == status["instances"] >= len(acknowledged)
    with Store.open(root) as store:
        live = store.generations.live()
        for uid in acknowledged:
            instance = store.catalog.instance(uid)
            assert instance is not None
            assert store.regions.of_instance(live.id, instance.id)
        assert store.check() == []


@pytest.mark.timeout(600)
def test_no_child_outlives_a_killed_node(drawn, tmp_path):
    """Only the parent is killed: the workers see the end of their lifeline and go."""
    import psutil

    with nodes.running_node(tmp_path / "root") as node:
        children = psutil.Process(node.process.pid).children(recursive=True)
        assert len(children) >= 2
        node.process.kill()
        node.process.wait()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []


@pytest.mark.timeout(900)
def test_reindexing_resumes_after_a_kill(drawn, tmp_path):
    root = tmp_path / "root"
    with nodes.running_node(root) as node:
        assert all(sent.ok for sent in client.send(node.peer, drawn[:12]))
        nodes.dicomnode("wait", "--root", root, "--timeout", "300")
        before = nodes.answered("status", "--root", root)
        command = [sys.executable, "-m", "dicomnode", "reindex", "--root", str(root), "--json"]
        told = os.environ | databases.environment(root)
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, env=told)
        with Store.open(root) as store:
            wait_for_progress(store, process)
        killed = nodes.RunningNode(root, 0, process)
        killed.kill_tree()
        assert all(sent.ok for sent in client.send(node.peer, drawn[12:14]))
        meanwhile = nodes.answered("status", "--root", root)
        assert meanwhile["generation"] == before["generation"]
        result = nodes.answered("reindex", "--root", root)
        after = nodes.answered("status", "--root", root)
    assert result["indexed"] == 14
    assert after["generation"] != before["generation"]
    assert (after["indexed"], after["queued"]) == (14, 0)


def wait_for_progress(store: Store, process: "subprocess.Popen[bytes]") -> None:
    """Until the generation under construction has its first film."""
    for _ in range(3000):
        building = store.generations.building()
        if building is not None and store.jobs.counts(building.id).indexed:
            return
        assert process.poll() is None, "the reindexing ended before it could be killed"
        threading.Event().wait(0.02)
    raise AssertionError("the reindexing made no progress")
