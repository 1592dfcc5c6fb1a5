"""`dicomnode backup` and `restore`: of a node that is being sent to, into an empty place, and never half."""

import json
import shutil
import stat
import threading
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode import backups
from dicomnode.cli import main
from dicomnode.dimse import client
from dicomnode.query import request
from dicomnode.query.request import Keys
from storage.store import Store
from tests import nodes
from tests.integration import archives, asking

pytestmark = pytest.mark.own_database  # SQLite's; PostgreSQL's copies: tests/integration/storage
Run = tuple[int, str, str]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    capsys.readouterr()
    code = main.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    complaints = [line for line in captured.err.splitlines(keepends=True) if line.startswith("dicomnode: ")]
    return code, captured.out, "".join(complaints)  # without the bars


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An indexed archive with a model's folder."""
    archives.built(tmp_path / "root", tmp_path, films=4)
    model = tmp_path / "root" / "models" / "made-up"
    model.mkdir(parents=True)
    (model / "weights.safetensors").write_bytes(b"weights" * 100)
    return tmp_path / "root"


def back_up(capsys: pytest.CaptureFixture[str], root: Path, folder: Path, *flags: str) -> dict[str, object]:
    code, out, err = run(capsys, "backup", folder, "--root", root, "--json", *flags)
    assert code == 0, err
    return dict(json.loads(out))


def uids(root: Path) -> set[str]:
    with Store.open(root) as store:
        assert store.check() == []
        return {str(row["sop_instance_uid"]) for row in store.catalog.find("IMAGE")}


def answers(node: nodes.RunningNode, film: Dataset) -> tuple[list[str], list[object]]:
    """What a plain query and a region query say."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID, identifier.PatientName = "STUDY", "", ""
    plain = [str(match) for match in client.find(node.peer, identifier)]
    asked = request.by_box(
        str(film.SOPInstanceUID), str(film.SOPClassUID), asking.HEART_BOX, Keys(anatomy=asking.HEART, matches=10)
    )
    return plain, [request.read_hit(match).as_dict() for match in client.find(node.peer, asked)]


@pytest.mark.timeout(200)
def test_a_node_that_is_sent_to_is_backed_up_and_its_twin_answers_the_same(tmp_path: Path) -> None:
    root, folder, twin = tmp_path / "root", tmp_path / "backup", tmp_path / "twin"
    films = [asking.film(number) for number in range(5)]
    asking.indexed(root, tmp_path, films)
    before = uids(root)
    paths = []
    for number in range(30):
        paths.append(tmp_path / f"{number}.dcm")
        archives.film(number, number).save_as(paths[-1], enforce_file_format=True)
    with nodes.running_node(root, "--workers", "0") as node:
        said = answers(node, films[0])
        acknowledged: list[Path] = []
        sending = threading.Thread(
            target=lambda: acknowledged.extend(sent.path for sent in client.send(node.peer, paths) if sent.ok)
        )
        sending.start()
        while len(acknowledged) < 3:
            threading.Event().wait(0.005)
        before |= {str(archives.film(int(path.stem), int(path.stem)).SOPInstanceUID) for path in acknowledged[:3]}
        assert nodes.answered("backup", folder, "--root", root)["lost"] == []
        sending.join()
    done = nodes.answered("restore", folder, "--root", twin)
    assert before <= uids(twin)
    assert done["files"] == len(uids(twin))
    with nodes.running_node(twin, "--workers", "0") as node:
        plain, hits = answers(node, films[0])
        assert (set(said[0]) <= set(plain), hits) == (True, said[1])
        assert said[1]


def test_the_next_one_takes_what_is_new_and_leaves_what_has_gone(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root.parent / "backup"
    first = back_up(capsys, root, folder)
    assert (first["files"], first["copied"], first["removed"]) == (4, 5, 0)
    again = back_up(capsys, root, folder)
    assert (again["files"], again["copied"], again["removed"]) == (4, 0, 0)
    with Store.open(root) as store:
        archives.put(store, archives.film(9, 9), root.parent)
        patient = str(next(store.catalog.find("PATIENT"))["patient_id"])
    assert run(capsys, "delete", "--patient", patient, "--yes", "--root", root)[0] == 0
    third = back_up(capsys, root, folder)
    assert (third["files"], third["copied"], third["removed"]) == (4, 1, 1)
    assert len(list(folder.glob("database-*"))) == len(list(folder.glob("contents-*"))) == 1
    assert run(capsys, "restore", folder, "--root", root.parent / "twin")[0] == 0
    assert uids(root.parent / "twin") == uids(root)
    assert (root.parent / "twin" / "models" / "made-up" / "weights.safetensors").read_bytes() == b"weights" * 100


def test_files_are_linked_or_copied_as_asked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, links in (((), 2), (("--copy",), 1)):
        folder = root.parent / f"backup{links}"
        back_up(capsys, root, folder, *flags)
        counts = {path.stat().st_nlink for path in (folder / "files").rglob("*.dcm")}
        assert min(counts) >= links
        assert links == 2 or counts == {1}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_settings_go_along_and_stay_private(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = root.parent / "node.toml"
    config.write_text(f'[storage]\nroot = "{root}"\n[peers.A]\nae_title = "A"\ntoken = "0123456789abcdef"\n')
    folder, twin = root.parent / "backup", root.parent / "twin"
    assert run(capsys, "backup", folder, "--config", config)[0] == 0
    assert stat.S_IMODE((folder / "config.toml").stat().st_mode) == 0o600
    assert run(capsys, "restore", folder, "--root", twin)[0] == 0
    assert (twin / "config.toml").read_text() == config.read_text()


def test_one_that_is_broken_off_leaves_the_one_before(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root.parent / "backup"
    back_up(capsys, root, folder)
    before = uids(root)
    with Store.open(root) as store:
        archives.put(store, archives.film(9, 9), root.parent)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backups, "_write_manifest", killed)
    assert run(capsys, "backup", folder, "--root", root)[0] == 130
    monkeypatch.undo()
    assert run(capsys, "restore", folder, "--root", root.parent / "twin")[0] == 0
    assert uids(root.parent / "twin") == before
    assert back_up(capsys, root, folder)["files"] == 5


def test_what_is_deleted_while_it_is_copied_is_not_in_it(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, deleted = backups._put, []

    def deleting(source: Path, target: Path, size: int, *, copy: bool) -> int:
        if not deleted:
            with Store.open(root) as store:
                row = next(row for row in store.catalog.find("IMAGE") if store.root / str(row["path"]) == source)
                deleted.append(str(row["patient_id"]))
                main.run(["delete", "--patient", deleted[0], "--yes", "--root", str(root)])
        return put(source, target, size, copy=copy)

    monkeypatch.setattr(backups, "_put", deleting)
    made = back_up_text(capsys, root, root.parent / "backup")
    left = uids(root)
    assert made["lost"] == []
    assert run(capsys, "restore", root.parent / "backup", "--root", root.parent / "twin")[0] == 0
    assert uids(root.parent / "twin") == left


def back_up_text(capsys: pytest.CaptureFixture[str], root: Path, folder: Path) -> dict[str, object]:
    """Its JSON, behind what else was printed."""
    code, out, err = run(capsys, "backup", folder, "--root", root, "--json")
    assert code == 0, err
    return dict(json.loads(out[out.index("{") :]))


def test_a_file_that_the_archive_itself_has_lost_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((root / "files").rglob("*.dcm")).unlink()
    code, _, err = run(capsys, "backup", root.parent / "backup", "--root", root)
    assert (code, err) == (1, "dicomnode: 1 instances have no file: see `dicomnode verify`\n")
    code, out, _ = run(capsys, "restore", root.parent / "backup", "--root", root.parent / "twin", "--json")
    assert (code, json.loads(out)["files"], len(json.loads(out)["lost"])) == (0, 3, 1)


# --- what is refused -------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # it may be a link to the archive's
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-7])


@pytest.mark.parametrize("which", ["files/*/*.dcm", "database-*", "contents-*", "manifest.json", "models/*/*"])
@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_a_damaged_backup_is_refused_and_nothing_is_left(
    harm, which: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, twin = root.parent / "backup", root.parent / "twin"
    back_up(capsys, root, folder, "--copy")
    harm(next(folder.glob(which)))
    for flags in ((), ("--dry-run",)):
        code, out, err = run(capsys, "restore", folder, "--root", twin, *flags)
        assert (code, out) == (1, "")
        assert "the backup is damaged: " in err or "holds no backup" in err
        assert len(err.strip().splitlines()) == 1
        assert not twin.exists() or not any(twin.iterdir())


def test_a_dry_run_reads_all_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back_up(capsys, root, root.parent / "backup")
    code, out, _ = run(capsys, "restore", root.parent / "backup", "--root", root.parent / "twin", "--dry-run")
    assert (code, "a whole backup of" in out, (root.parent / "twin").exists()) == (0, True, False)


def test_a_place_that_is_not_empty_stays_as_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back_up(capsys, root, root.parent / "backup")
    before = uids(root)
    code, _, err = run(capsys, "restore", root.parent / "backup", "--root", root)
    assert (code, err) == (1, f"dicomnode: {root} is not empty: restore into a new folder\n")
    assert uids(root) == before


@pytest.mark.parametrize("where", ["root/inside", ".", "root"])
def test_archive_and_backup_are_apart(where: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "backup", root.parent / where, "--root", root)
    assert code == 1
    assert "outside" in err


def test_a_folder_of_something_else_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root.parent / "photos"
    folder.mkdir()
    (folder / "cat.jpg").touch()
    code, _, err = run(capsys, "backup", folder, "--root", root)
    assert (code, "something else" in err, [path.name for path in folder.glob("*.jpg")]) == (1, True, ["cat.jpg"])


def test_a_list_that_leads_outside_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root.parent / "backup"
    back_up(capsys, root, folder)
    listed = next(folder.glob("contents-*"))
    listed.write_text(listed.read_text().replace("files/", "../../", 1))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum")
    manifest["contents"] = vars(backups._digest(listed))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"checksum": backups._sum(manifest)}))
    code, _, err = run(capsys, "restore", folder, "--root", root.parent / "twin")
    assert (code, "outside of the archive" in err) == (1, True)


def test_one_of_a_newer_program_or_another_database_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root.parent / "backup"
    back_up(capsys, root, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum")
    for name, value, words in (("schema", "9999", "newer program"), ("kind", "postgresql", "of postgresql")):
        changed = manifest | {name: value}
        (folder / "manifest.json").write_text(json.dumps(changed | {"checksum": backups._sum(changed)}))
        code, _, err = run(capsys, "restore", folder, "--root", root.parent / "twin")
        assert (code, words in err) == (1, True)


def test_a_full_disk_is_told_and_nothing_is_left(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(capsys, root, root.parent / "backup")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    code, _, err = run(capsys, "restore", root.parent / "backup", "--root", root.parent / "twin")
    assert (code, err) == (1, "dicomnode: backup: No space left on device\n")
    assert not any((root.parent / "twin").iterdir())
