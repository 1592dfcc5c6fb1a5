"""What is no good film, or a damaged archive: one clear reason in the right place, and the node stays up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from dicomnode.demo import films
from dicomnode.dimse import client
from dicomnode.query import request
from dicomnode.query.request import Keys
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from storage.store import Store
from tests import databases, nodes

HEART = VOCABULARY.named("cardiac silhouette")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> list[Path]:
    return films.drawn(tmp_path_factory.mktemp("drawn"), 8, lambda *_: None)


def changed(path: Path, folder: Path, name: str, change) -> Path:
    """A copy of a film with something wrong, under a UID of its own."""
    dataset = dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{len(list(folder.iterdir())) + 1}"
    change(dataset)
    target = folder / f"{name}.dcm"
    dataset.save_as(target, enforce_file_format=True)
    return target


def set_elements(**values):
    def change(dataset):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def colour(dataset):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = bytes((200, 60, 30)) * (dataset.Rows * dataset.Columns)


def frames(dataset):
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData * 2


def no_pixels(dataset):
    del dataset.PixelData


def cut_pixels(dataset):
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


def cut_codestream(dataset):
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 3]


WRONG = {
    "colour": (colour, "not_indexable", "colour"),
    "multi-frame": (frames, "not_indexable", "multi-frame"),
    "no pixel data": (no_pixels, "not_indexable", "no pixel data"),
    "lateral": (set_elements(ViewPosition="LL"), "not_indexable", "view is not frontal"),
    "hand": (set_elements(BodyPartExamined="HAND"), "not_indexable", "body part is not the chest"),
    "odd photometric": (set_elements(PhotometricInterpretation="STRANGE"), "not_indexable", "photometric"),
    "too large": (set_elements(Rows=60_000, Columns=60_000), "not_indexable", "too large"),
    "half the pixels": (cut_pixels, "failed", ""),
    "cut codestream": (cut_codestream, "failed", ""),
}


@pytest.mark.timeout(600)
def test_every_kind_of_bad_film_is_kept_with_its_reason(drawn, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    paths = {name: changed(drawn[0], folder, name, change) for name, (change, _, _) in WRONG.items()}
    with nodes.running_node(tmp_path / "root") as node:
        results = list(client.send(node.peer, [*paths.values(), drawn[1]]))
        assert [sent for sent in results if not sent.ok] == []
        nodes.dicomnode("wait", "--root", node.root, "--timeout", "200")
        status = nodes.answered("status", "--root", node.root)
        assert client.echo(node.peer) == 0
    assert (status["instances"], status["indexed"], status["queued"]) == (len(WRONG) + 1, 1, 0)
    found = {row["sop_instance_uid"]: row for row in status["failures"]}
    for name, (_, state, words) in WRONG.items():
        row = found[str(dcmread(paths[name], stop_before_pixels=True).SOPInstanceUID)]
        assert (row["state"], words in row["reason"]) == (state, True), (name, row)
        assert row["reason"]
    retried = nodes.answered("retry", "--root", tmp_path / "root")
    assert retried["queued"] == sum(state == "failed" for _, state, _ in WRONG.values())


def answers(node, uid: str) -> list[tuple[int, float, str]]:
    box = Box(200.0, 200.0, 380.0, 370.0)
    identifier = request.by_box(uid, "1.2.840.10008.5.1.4.1.1.1.1", box, Keys(anatomy=HEART))
    hits = [request.read_hit(match) for match in client.find(node.peer, identifier)]
    return [(hit.rank, hit.score, hit.sop_instance_uid) for hit in hits]


@pytest.mark.timeout(900)
def test_damaged_index_files_change_no_answer_and_a_damaged_model_is_one_line(drawn, tmp_path):
    root = tmp_path / "root"
    uid = next(uid for uid, _ in films.sop_instance_uids(drawn))
    with nodes.running_node(root) as node:
        assert all(sent.ok for sent in client.send(node.peer, drawn))
        nodes.dicomnode("wait", "--root", root, "--timeout", "300")
        before = answers(node, uid)
        assert len(before) == len(drawn) - 1
    snapshots = [path for path in (root / "index").rglob("*") if path.is_file()]
    assert snapshots
    rng = np.random.default_rng(0)
    for path in snapshots:
        content = bytearray(path.read_bytes())
        content[int(rng.integers(len(content)))] ^= 0x40
        path.write_bytes(content)
    with nodes.running_node(root) as node:
        assert answers(node, uid) == before
    rebuilt = nodes.answered("reindex", "--root", root, "--only", "index")
    assert rebuilt["vectors"] > 20 * len(drawn)
    with Store.open(root) as store:
        weights = root / store.generations.live().model.path / "encoder.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    done = nodes.dicomnode("serve", "--root", root, "--port", "0", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("damaged, or not the file that encoder.json describes")


@pytest.mark.timeout(300)
def test_a_folder_that_is_no_model_set_is_one_line(drawn, tmp_path):
    root = tmp_path / "root"
    with nodes.running_node(root, "--workers", "0"):
        done = nodes.dicomnode("reindex", "--root", root, "--model", tmp_path, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no usable model" in done.stderr
        second = nodes.dicomnode("serve", "--root", root, "--port", "0", check=False)
        assert second.returncode == 1
        assert "running already" in second.stderr


@pytest.mark.timeout(300)
def test_a_port_that_is_taken_is_one_line(tmp_path):
    with nodes.running_node(tmp_path / "a", "--workers", "0") as node:
        done = nodes.dicomnode(
            "serve", "--root", tmp_path / "b", "--host", "127.0.0.1", "--port", str(node.port), check=False
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"dicomnode: cannot listen on 127.0.0.1:{node.port}: Address already in use"
    )


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
from dicomnode.cli.main import run
sys.exit(run(["serve", "--root", sys.argv[1], "--host", "127.0.0.1", "--port", "0", "--workers", "0", "--json"]))
"""


@pytest.mark.timeout(300)
def test_a_disk_that_fills_in_the_middle_of_an_object_is_0xa700_and_the_rest_goes_on(drawn, tmp_path):
    """A file may not grow beyond 3 MB: what a full disk does to a large object, and only to that."""
    large = tmp_path / "large.dcm"
    dataset = dcmread(drawn[0])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    dataset.Rows = dataset.Columns = 1600
    dataset.PixelData = bytes(1600 * 1600 * 2)
    dataset.save_as(large, enforce_file_format=True)
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    with nodes.running_node(root, "--workers", "0"):
        pass  # the model set is copied before the limit holds
    told = os.environ | databases.environment(root)
    command = [sys.executable, "-c", LIMITED, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=told)
    try:
        import json

        ready = json.loads(process.stdout.readline())
        peer = client.Peer("127.0.0.1", ready["port"])
        results = {sent.path: sent for sent in client.send(peer, [large, drawn[1]])}
        assert (results[large].status, results[large].ok) == (0xA700, False)
        assert results[large].reason
        assert results[drawn[1]].ok
        assert client.echo(peer) == 0
        assert list((root / "scratch").iterdir()) == []
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
    with Store.open(root) as store:
        assert store.catalog.instance("1.2.3.4.5") is None
        assert store.check() == []
