"""One node with every open film, sent by DCMTK, for the whole tier."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import films, nodes
from tests.films import Film
from tests.nodes import RunningNode


@dataclass(frozen=True)
class Archive:
    """A running node and what was sent to it."""

    node: RunningNode
    films: list[Film]
    by_uid: dict[str, Film]


@pytest.fixture(scope="session")
def archive(data_dir: Path, dcmtk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """All of data/cxr as DX (12 bit, MONOCHROME1 and 2, raw, JPEG Lossless, JPEG 2000), stored and indexed."""
    folder = tmp_path_factory.mktemp("acceptance")
    sent = films.open_films(data_dir)
    films.write(sent, folder / "films", str(dcmtk / "dcmcjpeg"))
    with nodes.running_node(folder / "root") as node:
        storescu(dcmtk, node, folder / "films")
        nodes.dicomnode("wait", "--root", node.root, "--timeout", "900", timeout=1000)
        yield Archive(node, sent, {film.uid: film for film in sent})


def storescu(dcmtk: Path, node: RunningNode, folder: Path) -> None:
    """Every file of a folder by DCMTK, each syntax as it is: raw, then compressed with the contexts that needs."""
    calls = {"raw": ["-xe"], "jpeg": ["-xs"], "j2k": ["-xv"]}
    paths = {kind: [str(path) for path in sorted(folder.iterdir()) if _kind(path) == kind] for kind in calls}
    for kind, flags in calls.items():
        if paths[kind]:
            command = [str(dcmtk / "storescu"), *flags, "-aec", "DICOMNODE", "127.0.0.1", str(node.port)]
            done = subprocess.run([*command, *paths[kind]], capture_output=True, text=True, check=False, timeout=600)
            assert done.returncode == 0, done.stderr[-2000:]


def _kind(path: Path) -> str:
    from pydicom import dcmread

    syntax = dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).file_meta.TransferSyntaxUID
    return {"1.2.840.10008.1.2.4.70": "jpeg", "1.2.840.10008.1.2.4.90": "j2k"}.get(str(syntax), "raw")
