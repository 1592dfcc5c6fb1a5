"""The same work on a real Ray cluster of this machine: the same result, also when a worker is killed in the middle."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from dicomnode import cluster
from dicomnode.cli import main
from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.errors import DicomNodeError
from dicomnode.settings import StorageSettings
from storage.store import Store
from tests import nodes
from tests.conftest import missing_program

FILMS, OBJECTS = 6, 320


@pytest.fixture(scope="module")
def ray() -> None:
    if importlib.util.find_spec("ray") is None:
        missing_program("Ray is not installed")


def workers(process: "subprocess.Popen[str]", name: str) -> list[psutil.Process]:
    """The cluster's processes that are actors of that class."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [each for each in below if f"ray::{name}" in _words(each)]


def _words(process: psutil.Process) -> str:
    """Its command; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(process: "subprocess.Popen[str]", condition) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def regions(store: Store, generation: int) -> dict[tuple[int, int], tuple[object, bytes]]:
    """Boxes, presences and stored vectors by instance and anatomy."""
    every = store.regions.first(generation, 100_000)
    return {
        (each.instance_id, each.anatomy): (
            (each.box, each.presence),
            store.regions.vector(each.id, "anatomy").tobytes(),
        )
        for each in every
    }


@pytest.mark.timeout(600)
def test_reindexing_on_a_cluster_gives_the_same_vectors_though_a_worker_is_killed(ray: None, tmp_path: Path) -> None:
    root = tmp_path / "root"
    drawn = films.drawn(tmp_path, FILMS, lambda *_: None)
    with nodes.running_node(root, "--workers", "1") as node, Store.open(root) as store:
        assert all(sent.ok for sent in client.send(node.peer, drawn))
        nodes.dicomnode("wait", "--root", root, "--timeout", "200")
        again = ("reindex", "--root", root, "--ray", "local", "--workers", "2", "--throttle", "1")
        with nodes.running_command(*again) as process:
            wait_for(process, lambda: (new := store.generations.building()) and store.jobs.counts(new.id).indexed)
            before = workers(process, "Encoder")
            assert len(before) == 2
            before[0].kill()
            known = {each.pid for each in before}
            wait_for(process, lambda: any(each.pid not in known for each in workers(process, "Encoder")))
            out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        done = json.loads(out)
        assert (done["indexed"], done["failed"], done["recall_at_10"]) == (FILMS, 0, 1.0)
        live = store.generations.live()
        assert live is not None
        assert (live.id, done["generation"]) == (2, 2)
        assert regions(store, 2) == regions(store, 1)
        assert len(regions(store, 2)) > 20 * FILMS
        assert store.check() == []
        assert client.echo(node.peer) == 0


@pytest.mark.timeout(600)
def test_importing_on_a_cluster_is_complete_though_a_worker_is_killed(ray: None, tmp_path: Path) -> None:
    (drawn,) = films.drawn(tmp_path, 1, lambda *_: None)
    dataset = dcmread(drawn)
    dataset.Rows = dataset.Columns = 8
    dataset.PixelData = bytes(2 * 8 * 8)
    folder = tmp_path / "objects"
    folder.mkdir()
    for number in range(OBJECTS):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    root = tmp_path / "root"
    with Store.open(root) as store:
        with nodes.running_command("import", "--root", root, folder, "--ray", "local", "--workers", "2") as process:
            wait_for(process, lambda: store.catalog.count() > 5)
            assert store.catalog.count() < OBJECTS, "it ended before it could be killed"
            workers(process, "Taker")[0].kill()
            out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        done = json.loads(out)
        assert (done["files"], done["refused"]) == (OBJECTS, [])
        assert done["new"] + done["identical"] == OBJECTS  # what the dead one had taken in is known
        assert store.catalog.count() == OBJECTS
        store.sweep(age_s=0.0)
        assert store.check() == []


def test_without_ray_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main.run(["import", "--root", str(tmp_path / "root"), str(tmp_path / "file"), "--ray", "local"]) == 2
    assert "Ray is not installed: pip install 'regionmir-dicomnode[ray]'" in capsys.readouterr().err


def test_a_worker_elsewhere_needs_the_root_and_a_database_server(tmp_path: Path) -> None:
    with pytest.raises(DicomNodeError, match="every Ray worker needs the same root"):
        cluster.Taker(tmp_path / "elsewhere", StorageSettings(), os.uname().nodename, 0)
    with pytest.raises(DicomNodeError, match="SQLite's file cannot be shared"):
        cluster.Taker(tmp_path, StorageSettings(), "another machine", 0)
