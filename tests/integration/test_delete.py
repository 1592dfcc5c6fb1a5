"""`dicomnode delete`, beside a node that serves and without one; what no query says any more."""

import builtins
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.cli import main
from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.dimse.client import PeerError
from dicomnode.errors import DecodeError, ImageNotStored
from dicomnode.private import PatientScope
from dicomnode.query import request
from dicomnode.query.matching import Narrowing
from dicomnode.query.region import RegionQuery
from dicomnode.query.request import Keys
from dicomnode.query.search import RegionSearch
from dicomnode.sr.regions import GraphicType, SrRoi
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.records import Equals
from storage.store import Store
from tests import nodes
from tests.integration import archives

DX = "1.2.840.10008.5.1.4.1.1.1.1"
HEART = VOCABULARY.named("cardiac silhouette")


def studies(node: nodes.RunningNode) -> set[str]:
    """What C-FIND knows: Study Instance UIDs."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = ""
    return {str(match.StudyInstanceUID) for match in client.find(node.peer, identifier)}


def alike(node: nodes.RunningNode, uid: str) -> set[str]:
    """The instances that a region query by a box on an image answers with."""
    identifier = request.by_box(uid, DX, Box(150, 150, 350, 350), Keys(anatomy=HEART, matches=10))
    return {request.read_hit(match).sop_instance_uid for match in client.find(node.peer, identifier)}


def delete(*arguments: object) -> dict[str, object]:
    return nodes.answered("delete", *map(str, arguments))


@pytest.mark.timeout(300)
def test_a_serving_node_knows_nothing_of_it_from_then_on(tmp_path: Path) -> None:
    paths = films.drawn(tmp_path, 3, lambda *_: None)
    uids = [uid for uid, _ in films.sop_instance_uids(paths)]
    root = tmp_path / "root"
    unhurried = {"DICOMNODE_STORAGE__STABLE_AGE_S": "3600"}  # no study is complete before the end, on any machine
    with nodes.running_node(root, "--workers", "1", environment=unhurried) as node:
        assert all(sent.ok for sent in client.send(node.peer, paths))
        nodes.dicomnode("wait", "--root", root, "--timeout", "120")
        before = studies(node)
        assert alike(node, uids[0]) == {uids[1], uids[2]}
        with Store.open(root) as store:
            row = store.catalog.instance(uids[1])
            assert row is not None
        gone = delete("--study", row.study_instance_uid, "--root", root)
        assert (gone["dry_run"], gone["studies"], gone["instances"], gone["bytes"]) == (False, 1, 1, row.size)
        assert studies(node) == before - {row.study_instance_uid}
        assert alike(node, uids[0]) == {uids[2]}
        with pytest.raises(PeerError, match="0xA900: image not stored"):
            alike(node, uids[1])
        assert all(sent.ok for sent in client.send(node.peer, [paths[1]]))
        nodes.dicomnode("wait", "--root", root, "--timeout", "120")
        assert studies(node) == before
        assert alike(node, uids[0]) == {uids[1], uids[2]}
        status = nodes.answered("status", "--root", root)
        assert (status["instances"], status["indexed"], status["studies_arriving"]) == (3, 3, 3)
    with Store.open(root) as store:
        store.vectors.warm(1)
        assert store.check() == []
    assert "NOBODY" not in (tmp_path / "root.log").read_text()


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four films of three patients; the last two are of one."""
    archives.built(tmp_path / "root", tmp_path, films=4)
    return tmp_path / "root"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main.run([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = int(str(ended.code))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def left(root: Path) -> int:
    with Store.open(root) as store:
        store.vectors.warm(1)
        assert store.check() == []
        return store.catalog.count()


def uid_of(root: Path, column: str, number: int = 0) -> str:
    with Store.open(root) as store:
        return str(list(store.catalog.find("IMAGE"))[number][column])


def test_a_dry_run_says_what_would_go_and_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "delete", "--patient", "P2", "--dry-run", "--json", "--root", root)
    document = json.loads(out)
    assert code == 0
    assert (document["dry_run"], document["studies"], document["instances"]) == (True, 2, 2)
    assert sum(each["bytes"] for each in document["each"]) == document["bytes"] > 0
    code, out, _ = run(capsys, "delete", "--patient", "P2", "--dry-run", "--root", root)
    assert (code, out.splitlines()[-1].endswith("would be deleted")) == (0, True)
    assert left(root) == 4


@pytest.mark.parametrize(
    ("flag", "column", "remain"),
    [("--instance", "sop_instance_uid", 3), ("--series", "series_instance_uid", 3), ("--patient", "patient_id", 3)],
)
def test_each_flag_names_its_level(
    root: Path, capsys: pytest.CaptureFixture[str], flag: str, column: str, remain: int
) -> None:
    with Store.open(root) as store:
        value = next(row[column] for row in store.catalog.find("IMAGE") if row["patient_id"] == "P0")
    code, out, err = run(capsys, "delete", flag, value, "--yes", "--root", root)
    assert (code, "dicomnode:" in err) == (0, False)
    assert out.startswith("1 instances of 1 study, ")
    assert out.endswith(" deleted\n")
    assert left(root) == remain


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--study", "1.2.3"), 1, "nothing in the archive matches"),
        (("--patient", "P"), 1, "nothing in the archive matches"),
        (("--patient", "P0", "--issuer", "NOWHERE"), 1, "nothing in the archive matches"),
        (("--study", "1.2.3", "--issuer", "X"), 2, "--issuer needs --patient"),
        (("--by-retention",), 1, "retention.maximum_gib and retention.maximum_age_days are 0: nothing is ever due"),
        (("--patient", ""), 2, None),
        (("--study", "1.2", "--series", "1.2"), 2, None),
        ((), 2, None),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_deleted(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, complaint: str | None
) -> None:
    ended, out, err = run(capsys, "delete", *arguments, "--yes", "--root", root)
    assert (ended, out) == (code, "")
    assert err == f"dicomnode: {complaint}\n" if complaint else err
    assert left(root) == 4


def test_one_patient_id_of_two_issuers_must_be_told_apart(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = archives.film(20, 0)
    other.IssuerOfPatientID = "ELSEWHERE"
    with Store.open(root) as store:
        archives.put(store, other, tmp_path)
        archives.index(store)
    code, _, err = run(capsys, "delete", "--patient", "P0", "--root", root)
    assert (code, "--issuer" in err) == (1, True)
    assert run(capsys, "delete", "--patient", "P0", "--issuer", "ELSEWHERE", "--root", root)[0] == 0
    assert left(root) == 4
    assert uid_of(root, "issuer") == ""


@pytest.mark.parametrize(("answer", "code", "remain"), [("n", 1, 4), ("", 1, 4), ("y", 0, 3)])
def test_on_a_terminal_it_asks(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    remain: int,
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda prompt: (asked.append(prompt), answer)[1])
    study = uid_of(root, "study_instance_uid")
    assert run(capsys, "delete", "--study", study, "--root", root)[0] == code
    assert asked == ["Delete? [y/N] "]
    assert left(root) == remain


# --- a question in the middle of it --------------------------------------------------------------------------------


class Deleting:
    """An encoder before which the image goes away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def embed(self, asked: object) -> object:
        delete_all(self._store)
        raise DecodeError("file is not there")


def delete_all(store: Store) -> None:
    list(store.deletion.delete([Equals("patient_id", "P0")]))


@pytest.mark.parametrize("box", [archives.BOXES[24], Box(1, 1, 30, 20)])
def test_a_question_about_an_image_that_goes_meanwhile_is_told_so(
    root: Path, monkeypatch: pytest.MonkeyPatch, box: Box
) -> None:
    """By its stored vector, which is gone, and by its pixels, which are."""
    with Store.open(root) as store:
        uid = next(row["sop_instance_uid"] for row in store.catalog.find("IMAGE") if row["patient_id"] == "P0")
        vector = store.regions.vector

        def late(region_id: int, projection: str) -> np.ndarray:
            delete_all(store)
            return vector(region_id, projection)

        monkeypatch.setattr(store.regions, "vector", late)
        roi = SrRoi(image_uid=uid, graphic_type=GraphicType.POLYLINE, points=(), box=box, sites=())
        asked = RegionQuery((roi,), (), PatientScope.OTHER, 10, -1.0, "anatomy", Narrowing((), None))
        with pytest.raises(ImageNotStored):
            RegionSearch(store, Deleting(store), local=False).ask(asked)  # type: ignore[arg-type]
