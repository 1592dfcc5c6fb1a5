"""Files: durable, named by hashes, swept without touching what is in use."""

import errno
import hashlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage import durable
from storage.errors import FileError, StorageFull
from storage.files import Files
from storage.records import like_pattern

UID = "1.2.840.1"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    counter = itertools.count()
    return Files(tmp_path, lambda: f"{next(counter):04}")


def keep(files: Files, uid: str, *pieces: bytes) -> str:
    with files.scratch() as scratch:
        for piece in pieces:
            scratch.write(piece)
        return files.keep(scratch, uid).path


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_kept_under_a_name_of_hashes(files: Files, tmp_path: Path) -> None:
    with files.scratch() as scratch:
        for piece in (b"ab", bytearray(b"cd"), memoryview(b"ef")):
            scratch.write(piece)
        assert scratch.size == 6
        kept = files.keep(scratch, UID)
    name, content = hashlib.sha256(UID.encode()).hexdigest(), hashlib.sha256(b"abcdef").hexdigest()
    assert kept.path == f"files/{name[:2]}/{name}.{content[:16]}.0001.dcm"
    assert (kept.sha256, kept.size) == (content, 6)
    assert files.path(kept.path).read_bytes() == b"abcdef"
    assert files.digest(kept.path) == kept
    assert everything(tmp_path) == [kept.path]


@pytest.mark.parametrize("uid", ["../../escaped", "/etc/passwd", "a\0b", "", "é" * 200])
def test_no_uid_becomes_a_path(files: Files, tmp_path: Path, uid: str) -> None:
    path = files.path(keep(files, uid, b"x")).resolve()
    assert path.is_relative_to(tmp_path / "files")
    assert set(path.name) <= set("0123456789abcdef.dcm")


def test_a_second_file_never_takes_the_firsts_name(files: Files) -> None:
    first, second = keep(files, UID, b"x"), keep(files, UID, b"x")
    assert first != second
    assert files.path(first).read_bytes() == files.path(second).read_bytes()


def test_discarded_is_gone(files: Files, tmp_path: Path) -> None:
    with files.scratch() as scratch:
        scratch.write(b"x")
        assert len(everything(tmp_path)) == 1
    scratch.discard()
    assert everything(tmp_path) == []


def test_synced_in_order(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before its name, the name before its folder, new folders before all is said to be kept."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def seen(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(Path, "rename", lambda path, to: steps.append("rename") or rename(path, to))
    keep(files, UID, b"x")
    name = hashlib.sha256(UID.encode()).hexdigest()
    assert steps == ["0000", "rename", name[:2], "files"]
    steps.clear()
    keep(files, UID, b"y")
    assert steps == ["0002", "rename", name[:2]]


def test_files_of_earlier_versions_a_level_deeper_are_found_and_swept(files: Files) -> None:
    old = files.path("files/ab/cd/old.dcm")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    assert files.under("files/ab/") == {"files/ab/cd/old.dcm"}
    assert files.sweep(lambda prefix: {"files/ab/cd/old.dcm"}, time.time() + 10) == 0
    assert files.sweep(lambda prefix: set(), time.time() + 10) == 1
    assert not old.exists()


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, FileError)]
)
def test_a_failing_disk_is_one_clear_error(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with files.scratch() as scratch:
        scratch.write(b"x")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(kind):
            files.keep(scratch, UID)
    assert everything(tmp_path) == []


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    """A real limit, in a process of its own."""
    program = f"""
import resource, signal
from pathlib import Path
from storage.errors import StorageFull
from storage.files import Files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
files = Files(Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
with files.scratch() as scratch:
    scratch.write(bytes(9_000))
    try:
        scratch.write(bytes(9_000))
    except StorageFull as error:
        print("full:", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("full: scratch file")
    assert everything(tmp_path) == []


def test_sweep_takes_what_nobody_has(files: Files, tmp_path: Path) -> None:
    kept, lost = keep(files, "a", b"x"), keep(files, "b", b"y")
    (tmp_path / "scratch" / "left").write_bytes(b"of a dead process")
    later = time.time() + 10
    with files.scratch() as arriving:
        arriving.write(b"x")
        assert files.sweep(lambda prefix: {kept}, later) == 2
        assert everything(tmp_path) == sorted([kept, f"scratch/{arriving.path.name}"])
    assert lost not in everything(tmp_path)


def test_sweep_spares_what_is_young(files: Files, tmp_path: Path) -> None:
    kept = keep(files, "a", b"x")
    assert files.sweep(lambda prefix: set(), time.time() - 60) == 0
    assert everything(tmp_path) == [kept]


def test_sweep_asks_for_each_folder_alone(files: Files) -> None:
    paths = {keep(files, str(number), b"x") for number in range(20)}
    asked: list[str] = []

    def referenced(prefix: str) -> set[str]:
        asked.append(prefix)
        return {path for path in paths if path.startswith(prefix)}

    assert files.sweep(referenced, time.time() + 10) == 0
    assert sorted(asked) == sorted({path[:9] for path in paths})


def test_removing_twice_is_no_error(files: Files) -> None:
    path = keep(files, UID, b"x")
    files.remove(path)
    files.remove(path)
    with pytest.raises(FileError):
        files.digest(path)


def test_free_room(files: Files, tmp_path: Path) -> None:
    assert files.free_bytes() > 0
    for folder in ("files", "scratch", ""):
        (tmp_path / folder).rmdir()
    with pytest.raises(FileError):
        files.free_bytes()


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with durable.replacing(path) as scratch:
        scratch.write_bytes(b"first")
    with pytest.raises(ZeroDivisionError), durable.replacing(path) as scratch:
        scratch.write_bytes(b"second")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first"
    assert everything(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("wildcard", "pattern"),
    [("A*", "A%"), ("A?B", "A_B"), ("100%", "100\\%"), ("a_b", "a\\_b"), ("a\\b", "a\\\\b"), ("", "")],
)
def test_like_patterns(wildcard: str, pattern: str) -> None:
    assert like_pattern(wildcard) == pattern
