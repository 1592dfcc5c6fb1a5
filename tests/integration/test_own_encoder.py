"""A hospital's own encoder on a running node: packed, checked, reindexed, asked, rolled back, as its page says."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomnode import models
from dicomnode.demo import films
from encoder.anatomy import VOCABULARY
from storage.store import Store
from tests import databases, nodes
from tests.unit.encoder import small

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own-encoder.md"
COUNT = 5
DIM = 64  # of the page's encoder


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@dataclass(frozen=True)
class Hospital:
    """A running node with films, indexed with a small model set; and a folder to work in."""

    node: nodes.RunningNode
    folder: Path
    uid: str  # of a film
    anatomy: str  # that the small detector finds in every film

    def types(self, command: str) -> None:
        """What somebody who reads the page types."""
        words = [str(self.node.root) if word == "/srv/archive" else word for word in shlex.split(command)]
        program = [sys.executable, "-m", "dicomnode"] if words[0] == "dicomnode" else [sys.executable]
        told = os.environ | databases.environment_of(words)
        command = [*program, *words[1:]]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, env=told)
        assert done.returncode == 0, done.stderr

    def ask(self) -> list[dict[str, object]]:
        box = "100,100,300,400"
        asked = ("query", self.node.address, "--image", self.uid, "--box", box, "--anatomy", self.anatomy, "--k", "50")
        hits: list[dict[str, object]] = nodes.answered(*asked)["hits"]
        return hits

    def model(self) -> object:
        """Of the answers; there is one only."""
        (model,) = {hit["generation"] for hit in self.ask()}
        return model


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    paths = films.drawn(folder, COUNT, lambda *_: None)
    uid = next(films.sop_instance_uids(paths))[0]
    environment = {"DICOMNODE_MODELS__FOLDER": str(small.write(folder / "small"))}
    with nodes.running_node(folder / "root", "--workers", "1", environment=environment) as node:
        nodes.dicomnode("send", node.address, *paths)
        nodes.dicomnode("wait", "--root", node.root, "--timeout", "120")
        with Store.open(node.root) as store:
            seen = Counter(region.anatomy for region in store.regions.first(1, 1000))
        (anatomy, number), *_ = seen.most_common(1)
        assert number == COUNT
        yield Hospital(node, folder, uid, VOCABULARY.names[anatomy])


@pytest.fixture(scope="module")
def own(hospital: Hospital) -> Path:
    """The page's encoder, packed by the page's commands, beside a small detector."""
    (program,) = blocks("python")
    (hospital.folder / "own.py").write_text(program)
    make, pack, check, _ = blocks("sh")[0].strip().splitlines()
    hospital.types(make)
    hospital.types(pack)
    for name in ("detector.json", "detector.safetensors"):
        (hospital.folder / "own" / name).write_bytes((hospital.folder / "small" / name).read_bytes())
    hospital.types(check)
    return hospital.folder / "own"


def archive(root: Path) -> tuple[object, ...]:
    """What a refused model must leave as it was."""
    with Store.open(root) as store:
        generations = [(each.id, each.state, each.model.id) for each in store.generations.all()]
    return (*generations, *sorted(path.name for path in (root / "models").iterdir()))


def refused(line: str, *command: str | Path) -> None:
    done = nodes.dicomnode(*command, check=False)
    assert (done.returncode, done.stderr) == (1, f"dicomnode: {line}\n")


@pytest.mark.timeout(300)
def test_a_set_that_is_no_good_changes_nothing(hospital: Hospital, own: Path, tmp_path: Path) -> None:
    before = archive(hospital.node.root)
    for name in sorted(path.name for path in own.iterdir()):
        (tmp_path / name).write_bytes((own / name).read_bytes())
    program = bytearray((tmp_path / "encoder.pt").read_bytes())
    program[len(program) // 2] ^= 1
    (tmp_path / "encoder.pt").write_bytes(program)
    manifest = tmp_path / "encoder.json"
    reindex = ("reindex", "--root", hospital.node.root, "--model", tmp_path)
    refused("encoder.pt: damaged, or not the file that encoder.json describes", *reindex)
    manifest.write_text(manifest.read_text().replace('"right lung",', ""))
    for command in (reindex, (*reindex, "--dry-run"), ("model", "check", tmp_path)):
        refused("encoder.json: its region list is not this program's vocabulary: missing right lung", *command)
    assert archive(hospital.node.root) == before


@pytest.mark.timeout(600)
def test_two_generations_answer_one_after_the_other_and_never_mix(hospital: Hospital, own: Path) -> None:
    root = hospital.node.root
    first = hospital.model()
    with Store.open(root) as store:
        old = store.generations.live()
        assert old is not None
        new = store.generations.start(models.install(store, own))  # as a reindexing that was stopped leaves it
        assert (old.model.dim, new.model.dim) == (small.ENCODER.dim, DIM)
    checked = nodes.answered("model", "check", own)
    assert checked == {
        "model": new.model.id,
        "detector": nodes.answered("model", "check", hospital.folder / "small")["detector"],
        "encoder": checked["encoder"],
        "kind": "torchscript",
        "dim": DIM,
        "projections": ["anatomy"],
        "regions": 29,
    }
    assert hospital.model() == first == old.model.id
    plan = nodes.answered("reindex", "--root", root, "--model", own, "--dry-run")
    assert plan["resumes_generation"] == new.id
    hospital.types(blocks("sh")[0].strip().splitlines()[-1])
    assert hospital.model() == new.model.id
    with Store.open(root) as store:
        assert [each.state for each in store.generations.all()] == ["retired", "live"]
        assert store.regions.count(new.id) == store.regions.count(old.id) > 0
        for generation in (old, new):
            for region in store.regions.first(generation.id, 10_000):
                assert store.regions.vector(region.id, "anatomy").shape == (generation.model.dim,)
    nodes.dicomnode("reindex", "--root", root, "--rollback")
    assert hospital.model() == first
