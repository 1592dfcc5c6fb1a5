"""Backup and restore on PostgreSQL: by pg_dump of the very state whose files are listed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.cli import main
from storage import copies
from storage.store import Store
from tests.integration import archives
from tests.postgresql import Cluster

pytestmark = pytest.mark.postgresql


@pytest.fixture
def second(cluster: Cluster) -> Iterator[str]:
    """The URL of another empty database, its password one that the cluster does not ask for."""
    with cluster.database("twin") as url:
        yield url.replace("postgres@", "postgres:hunter2@")


@pytest.fixture
def root(tmp_path: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DICOMNODE_STORAGE__URL", postgresql)
    with Store.open(tmp_path / "root", postgresql) as store:
        store.generations.ensure_live(archives.MODEL)
        for number in range(3):
            archives.put(store, archives.film(number, number), tmp_path)
        archives.index(store)
    return tmp_path / "root"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    complaints = [line for line in captured.err.splitlines(keepends=True) if line.startswith("dicomnode: ")]
    return code, captured.out, "".join(complaints)  # without the bars


def test_an_archive_comes_back_whole(
    root: Path, second: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, twin = root.parent / "backup", root.parent / "twin"
    code, out, err = run(capsys, "backup", folder, "--root", root, "--json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["database"], json.loads(out)["files"]) == ("postgresql", 3)
    code, _, err = run(capsys, "restore", folder, "--root", twin)
    assert (code, err, any(twin.iterdir())) == (1, "dicomnode: the database is not empty\n", False)
    monkeypatch.setenv("DICOMNODE_STORAGE__URL", second)
    assert run(capsys, "restore", folder, "--root", twin)[0] == 0
    with Store.open(twin, second) as store:
        store.vectors.warm(1)
        assert (store.check(), store.catalog.count(), store.regions.count(1)) == ([], 3, 9)


def test_without_pg_dump_it_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(root))
    monkeypatch.setattr(copies, "DEBIAN", root)
    code, _, err = run(capsys, "backup", root.parent / "backup", "--root", root)
    assert (code, "pg_dump is not installed" in err) == (1, True)


def test_a_password_is_no_argument(root: Path, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []
    run_it = copies.subprocess.run

    def watched(command: list[str], **given: object):
        seen.append((command, dict(given["env"])))  # type: ignore[call-overload]
        return run_it(command, **given)  # type: ignore[call-overload]

    monkeypatch.setattr(copies.subprocess, "run", watched)
    with Store.open(root.parent / "other", second) as store, store.copies.copied(root.parent, "copy") as made:
        assert list(made.named()) == []
    ((command, environment),) = seen
    assert not [word for word in command if "hunter2" in word]
    assert environment["PGPASSWORD"] == "hunter2"
