"""A node with an HTTP port and no workers, and a few studies in it: plain, compressed, of several frames, and an SR."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from dicomnode.demo.dx import FilmFacts, dx_dataset
from dicomnode.dimse import client
from tests import nodes
from tests.nodes import RunningNode

SIDE = 64
NAMES = ("Grüber^Änne", "<script>alert(1)</script>", "山田^太郎")


def film(number: int) -> Dataset:
    """Patient, name and day by number; a gradient with a bright square."""
    facts = FilmFacts(
        patient_id=f"WEB{number // 2}",
        patient_name=NAMES[number // 2],
        patient_sex="FM"[number // 2 % 2],
        patient_birth_date="19600229",
        study_date=f"2023010{number + 1}",
        study_time=f"1{number}3000",
        accession_number=f"A{number}",
        seed=f"web {number}",
    )
    pixels = np.tile(np.arange(SIDE, dtype=np.uint16) * 40, (SIDE, 1))
    pixels[20:30, 20:30] = 4000 - number
    return dx_dataset(pixels, facts)


def film_of_frames(number: int, frames: int) -> Dataset:
    """A secret of the maker in it, in private elements."""
    dataset = film(number)
    first = np.frombuffer(dataset.PixelData, np.uint16)
    dataset.NumberOfFrames = frames
    dataset.PixelData = np.concatenate([first + frame for frame in range(frames)]).astype(np.uint16).tobytes()
    block = dataset.private_block(0x0011, "MAKER 1", create=True)
    block.add_new(0x01, "LO", "nur hier")
    block.add_new(0x02, "OB", bytes(range(256)) * 300)
    return dataset


@dataclass
class Films:
    """What was stored; by name."""

    plain: Dataset
    j2k: Dataset
    rle: Dataset  # three frames
    several: Dataset  # three frames, plain, private elements
    script: Dataset  # of a patient whose name is a script
    folder: Path

    def all(self) -> list[Dataset]:
        return [self.plain, self.j2k, self.rle, self.several, self.script]


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    j2k, rle, several = film(1), film_of_frames(4, 3), film_of_frames(5, 3)
    j2k.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    rle.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    made = Films(film(0), j2k, rle, several, film(2), tmp_path_factory.mktemp("films"))
    for number, dataset in enumerate(made.all()):
        dataset.save_as(made.folder / f"{number}.dcm", enforce_file_format=True)
    return made


@pytest.fixture(scope="module")
def node(films: Films, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    root = tmp_path_factory.mktemp("node") / "root"
    with nodes.running_node(root, "--workers", "0", "--http-port", "0") as running:
        assert all(sent.ok for sent in client.send(running.peer, sorted(films.folder.glob("*.dcm"))))
        yield running


@pytest.fixture
def http(node: RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.url, timeout=30) as made:
        yield made


@pytest.fixture
def dicomweb(node: RunningNode) -> DICOMwebClient:
    return DICOMwebClient(f"{node.url}/dicom-web")


def path_of(dataset: Dataset) -> str:
    """Of an instance, below the port's URL."""
    return (
        f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}"
    )


def uids_of(dataset: Dataset) -> tuple[str, str, str]:
    return str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)
