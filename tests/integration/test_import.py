"""Files of the machine taken in without the network: by folder, zip and tar, once, beside a node, and again."""

import json
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode import importing, sources, upkeep
from dicomnode.cli import main
from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.importing import Importer
from dicomnode.locks import Lock
from dicomnode.settings import StorageSettings
from dicomnode.sources import Source
from storage.errors import StorageFull
from storage.store import Store
from tests import nodes

COUNT = 5


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return films.drawn(tmp_path_factory.mktemp("films"), COUNT, lambda *_: None)


def imported(root: Path, *paths: Path, code: int = 0) -> dict[str, object]:
    done = nodes.dicomnode("import", "--root", root, *paths, "--json", check=False)
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout))


def test_a_folder_is_taken_in_once_whatever_else_lies_in_it(
    drawn: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cd" / "deep"
    folder.mkdir(parents=True)
    for path in drawn:
        (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "cd" / "DICOMDIR").write_bytes(drawn[0].read_bytes())
    (tmp_path / "cd" / "viewer.exe").write_bytes(b"MZ" * 500)
    (folder / "cut.dcm").write_bytes(drawn[0].read_bytes()[:300])
    command = ["import", "--root", str(tmp_path / "root"), str(tmp_path / "cd"), "--json"]
    assert main.run(command) == 1
    first = json.loads(capsys.readouterr().out)
    assert (first["files"], first["new"], first["skipped"]) == (COUNT + 2, COUNT, 1)
    assert [Path(each["path"]).name for each in first["refused"]] == ["cut.dcm"]
    assert main.run(command) == 1
    again = json.loads(capsys.readouterr().out)
    assert (again["new"], again["identical"]) == (0, COUNT)
    with Store.open(tmp_path / "root") as store:
        assert store.catalog.count() == COUNT
        assert store.check() == []


def test_archives_are_read_without_being_unpacked(
    drawn: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in drawn[:3]:
            archive.write(path, f"../../{path.name}")  # a name that would lead out of a folder
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        for path in drawn[2:]:
            tar.add(path, path.name)
    (tmp_path / "c.zip").write_bytes(b"no archive")
    names = [str(tmp_path / name) for name in ("a.zip", "b.tar.gz", "c.zip")]
    assert main.run(["import", "--root", str(tmp_path / "root"), *names, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["new"] + found["identical"], found["skipped"], found["refused"]) == (COUNT + 1, 1, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.tar.gz", "c.zip", "root"]
    with Store.open(tmp_path / "root") as store:
        assert store.catalog.count() == COUNT


def test_damaged_archives_are_told_and_what_is_whole_in_them_is_taken(
    drawn: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "cut.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        for path in drawn[:3]:
            tar.add(path, path.name)
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size * 5 // 6])
    for name, place in (("cut.zip", slice(0, 60_000)), ("flipped.zip", slice(None))):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(drawn[3], "flipped.dcm")
            archive.write(drawn[4], "whole.dcm")
        content = bytearray((tmp_path / name).read_bytes()[place])
        content[5_000:5_100] = bytes(100)
        (tmp_path / name).write_bytes(content)
    names = [str(path) for path in sorted(tmp_path.glob("*.*"))]
    assert main.run(["import", "--root", str(tmp_path / "root"), *names, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["new"], found["skipped"]) == (3, 0)
    told = {Path(each["path"]).name: each["reason"] for each in found["refused"]}
    cut = f"cut.tar.gz:{drawn[2].name}"
    assert set(told) == {"cut.tar.gz", cut, "cut.zip", "flipped.zip:flipped.dcm"}
    assert all(reason.startswith("cannot be read") for reason in told.values())


def test_members_of_a_packed_tar_are_read_in_one_pass(drawn: list[Path], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for number, path in enumerate(drawn * 4):
            tar.add(path, f"{number % 7}.dcm")  # several of a name: each is itself
    found = sources.sources([tmp_path / "a.tar.gz"])
    assert len(found) == 4 * COUNT
    with sources.Opener() as opener:
        read = []
        for source in found:
            with opener.opened(source) as file:
                read.append(file.read())
        assert read == [path.read_bytes() for path in drawn * 4]
        with opener.opened(found[0]) as file:  # behind: the last of that name
            assert file.read() == read[(len(read) - 1) // 7 * 7]


def test_other_bytes_of_the_same_instance_follow_the_policy(drawn: list[Path], tmp_path: Path) -> None:
    dataset = dcmread(drawn[0])
    dataset.ImageComments = "changed"
    dataset.save_as(tmp_path / "changed.dcm", enforce_file_format=True)
    for policy, outcome in (("keep", "kept"), ("replace", "replaced")):
        with Store.open(tmp_path / policy) as store:
            importer = Importer(store, StorageSettings(duplicates=policy))
            assert importer.take(Source(drawn[0])) == "new"
            assert importer.take(Source(tmp_path / "changed.dcm")) == outcome
            assert store.catalog.count() == 1


def test_a_full_disk_ends_the_import_with_one_line(drawn: list[Path], tmp_path: Path) -> None:
    with Store.open(tmp_path / "root") as store:
        threads = importing.Threads(store, StorageSettings(minimum_free_mib=1 << 40))
        with pytest.raises(StorageFull):
            importing.run([Source(path) for path in drawn], threads, lambda *_: None)
        assert store.catalog.count() == 0


def test_no_such_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["import", "--root", str(tmp_path / "root"), str(tmp_path / "nowhere")]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_a_node_that_starts_while_an_import_runs_sweeps_nothing_of_it(drawn: list[Path], tmp_path: Path) -> None:
    """Between the rename of a file and its row, only the import knows of it."""
    root = tmp_path / "root"
    swept, arrived = threading.Event(), threading.Event()
    with Store.open(root) as store, Lock(root / upkeep.IMPORTING, "an import"):
        importer = Importer(store, StorageSettings())
        add = store.catalog.add

        def slowly(*given: object) -> object:
            arrived.set()
            assert swept.wait(30)
            return add(*given)

        store.catalog.add = slowly
        outcomes: list[str] = []
        thread = threading.Thread(target=lambda: outcomes.append(importer.take(Source(drawn[0]))))
        thread.start()
        assert arrived.wait(30)
        upkeep.sweep(store, 0.0)
        swept.set()
        thread.join()
        assert outcomes == ["new"]
        assert store.check() == []
    (root / "scratch" / "left").write_bytes(b"of a dead process")
    with Store.open(root) as store:
        upkeep.sweep(store, 0.0)
    assert list((root / "scratch").iterdir()) == []


@pytest.mark.timeout(300)
def test_a_running_node_indexes_what_is_imported_and_knows_what_was_sent(drawn: list[Path], tmp_path: Path) -> None:
    with nodes.running_node(tmp_path / "root", "--workers", "1") as running:
        assert all(sent.ok for sent in client.send(running.peer, drawn[:2]))
        found = imported(running.root, *drawn)
        assert (found["identical"], found["new"]) == (2, COUNT - 2)
        nodes.dicomnode("wait", "--root", running.root, "--timeout", "120")
        assert nodes.answered("status", "--root", running.root)["indexed"] == COUNT
        assert all(sent.ok for sent in client.send(running.peer, drawn))
        assert nodes.answered("status", "--root", running.root)["instances"] == COUNT
