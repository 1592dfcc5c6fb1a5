"""`dicomnode verify`: every kind of damage is found and named, what is safe is mended, a serving node is no damage."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode import verification
from dicomnode.cli import main
from dicomnode.cli.verify import DAMAGED, SOUND, UNTIDY
from dicomnode.dimse import client
from storage.records import Equals
from storage.store import Store
from tests import nodes
from tests.integration import archives


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An indexed archive with snapshots."""
    archives.built(tmp_path / "root", tmp_path, films=4)
    with Store.open(tmp_path / "root") as store:
        store.vectors.warm(1)
        store.vectors.snapshot()
    return tmp_path / "root"


def verified(capsys: pytest.CaptureFixture[str], root: Path, *flags: str) -> tuple[int, dict[str, str]]:
    """The exit code, and what was done by what was found."""
    capsys.readouterr()
    code = main.run(["verify", "--root", str(root), "--json", *flags])
    document = json.loads(capsys.readouterr().out)
    assert document["sound"] == (not document["found"])
    return code, {row["kind"]: row["done"] for row in document["found"]}


def kept(root: Path) -> list[Path]:
    return sorted((root / "files").rglob("*.dcm"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_sound_archive_is_sound(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(capsys, root) == (SOUND, {})
    assert main.run(["verify", "--root", str(root)]) == SOUND
    assert "4 instances, " in capsys.readouterr().out


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda root: flip(kept(root)[0]), "file differs"),
    "a torn file": (lambda root: os.truncate(kept(root)[0], 100), "file differs"),
    "a lost file": (lambda root: kept(root)[0].unlink(), "file missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_not_mended_away(damage: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm, kind = DAMAGE[damage]
    harm(root)
    assert verified(capsys, root) == (DAMAGED, {kind: ""})
    assert verified(capsys, root, "--repair") == (DAMAGED, {kind: ""})
    assert main.run(["verify", "--root", str(root)]) == DAMAGED
    assert "send" in capsys.readouterr().out


def test_sizes_alone_are_quicker_and_see_less(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(kept(root)[0])
    os.truncate(kept(root)[1], 100)
    code, found = verified(capsys, root, "--quick")
    assert (code, list(found)) == (DAMAGED, ["file differs"])
    os.truncate(kept(root)[1], 100)
    capsys.readouterr()
    main.run(["verify", "--root", str(root), "--quick", "--json"])
    assert len(json.loads(capsys.readouterr().out)["found"]) == 1


def test_a_file_that_nothing_names_goes_to_quarantine(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = kept(root)[0].with_name("0123.4567.89ab.dcm")
    orphan.write_bytes(b"of nobody")
    assert verified(capsys, root) == (SOUND, {})  # it may be arriving
    monkeypatch.setattr(verification, "SWEEP_AGE_S", -60.0)  # time passes
    assert verified(capsys, root) == (UNTIDY, {"file unknown": ""})
    code, done = verified(capsys, root, "--repair")
    moved = root / "quarantine" / orphan.name
    assert (code, done) == (SOUND, {"file unknown": f"moved to {moved}"})
    assert moved.read_bytes() == b"of nobody"
    assert verified(capsys, root) == (SOUND, {})


@pytest.mark.parametrize("which", ["*.exact", "*.json"])
def test_a_damaged_snapshot_is_taken_away_and_made_anew(
    which: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(sorted((root / "index").rglob(which))[0])
    assert verified(capsys, root) == (UNTIDY, {"index differs": ""})
    assert verified(capsys, root, "--repair")[0] == SOUND
    assert verified(capsys, root) == (SOUND, {})
    with Store.open(root) as store:
        store.vectors.warm(1)
        assert store.vectors.check() == []
        store.vectors.snapshot()
    assert verified(capsys, root) == (SOUND, {})


def test_a_snapshot_with_other_vectors_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sqlalchemy import update

    from storage.schema import VECTOR

    with Store.open(root) as store:
        change = update(VECTOR).values(data=b"\x00\x3c" + bytes(2 * archives.DIM - 2))
        store._database.write(lambda connection: connection.execute(change))
    code, found = verified(capsys, root)
    assert (code, list(found)) == (UNTIDY, ["index differs"])


def test_missing_work_is_queued(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sqlalchemy import delete

    from storage.schema import JOB, LOCAL_MAP, REGION, VECTOR

    with Store.open(root) as store:
        for table in (VECTOR, LOCAL_MAP, REGION, JOB):
            store._database.write(lambda connection, table=table: connection.execute(delete(table)))
        store.vectors.rebuild(1)
    assert verified(capsys, root) == (UNTIDY, {"job missing": ""})
    assert verified(capsys, root, "--repair") == (SOUND, {"job missing": "queued"})
    with Store.open(root) as store:
        assert store.jobs.counts(1).queued == 4


@pytest.mark.timeout(120)
def test_a_node_that_is_being_sent_to_and_deleted_from_is_sound(tmp_path: Path) -> None:
    root, paths = tmp_path / "root", []
    for number in range(40):
        paths.append(tmp_path / f"{number}.dcm")
        archives.film(number, number).save_as(paths[-1], enforce_file_format=True)
    looked = 0
    with nodes.running_node(root, "--workers", "0") as node, Store.open(root) as store:
        assert all(sent.ok for sent in client.send(node.peer, paths[:10]))
        uids = [str(row["study_instance_uid"]) for row in store.catalog.find("STUDY")]
        sending = threading.Thread(target=lambda: list(client.send(node.peer, paths[10:])))
        sending.start()
        while sending.is_alive() or uids:
            assert verification.verify(store, lambda *_: None, time.time()) == []
            for uid in uids[:1]:
                list(store.deletion.delete([Equals("study_instance_uid", uid)]))
            uids, looked = uids[1:], looked + 1
        assert verification.verify(store, lambda *_: None, time.time()) == []
        assert (store.catalog.count(), looked >= 10) == (30, True)
