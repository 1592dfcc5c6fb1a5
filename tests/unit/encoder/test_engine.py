"""OpenVINO gives what torch gives, keeps its threads and its silence; without it torch runs."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from encoder import engine
from encoder.choice import chosen
from encoder.detector import Detector
from encoder.errors import CheckpointError
from encoder.pipeline import SHIPPED, Analysis, Pipeline
from encoder.roi_encoder import RoiEncoder
from tests.unit.encoder import chests, small

PROJECT = Path(__file__).parents[3]
FILMS, K = 40, 10
installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
shipped = pytest.mark.skipif(not (SHIPPED / "encoder.json").exists(), reason="no shipped weights in this checkout")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write(tmp_path_factory.mktemp("model") / "set")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)


def film(seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.kron(chests.picture(chests.contours(rng), rng), np.ones((3, 3))).astype(np.float32)


def boxes(count: int) -> torch.Tensor:
    """(1, count, 4) within the frame and a little beyond."""
    generator = torch.Generator().manual_seed(count)
    corner, side = (torch.rand(1, count, 2, generator=generator) for _ in range(2))
    return torch.cat([corner * 0.8 - 0.05, corner * 0.8 + 0.02 + side * 0.3], dim=-1)


@installed
@pytest.mark.parametrize("count", [1, 29, 64])
def test_an_encoder_gives_the_same_for_any_number_of_boxes(count: int) -> None:
    torch.manual_seed(3)
    model = RoiEncoder(small.ENCODER).eval().requires_grad_(False)
    frame, places = torch.randn(1, 2, small.ENCODER.size, small.ENCODER.size), boxes(count)
    want, have = model(frame, places), engine.encoder(model, 1)(frame, places)
    for name, vectors in want.vectors.items():
        assert vectors.shape == have.vectors[name].shape == (1, count, small.ENCODER.dim)
        assert float((vectors * have.vectors[name]).sum(-1).min()) > 0.9999
    for one, other in ((want.anatomy, have.anatomy), (want.hidden, have.hidden), (want.local, have.local)):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-4)


@installed
def test_a_detector_gives_the_same_boxes() -> None:
    torch.manual_seed(4)
    model = Detector(small.DETECTOR).eval().requires_grad_(False)
    frame = torch.randn(1, 2, small.DETECTOR.size, small.DETECTOR.size)
    want, have = model(frame), engine.detector(model, 1)(frame)
    assert float((want.boxes - have.boxes).abs().max()) * small.DETECTOR.size < 0.01  # pixels of the frame
    assert torch.allclose(want.presence, have.presence, atol=1e-4)
    assert torch.allclose(want.certainty, have.certainty, atol=1e-4)


@installed
@pytest.mark.parametrize("count", [1, 2])
def test_the_same_film_gives_the_same_bytes_on_any_number_of_threads(folder: Path, count: int) -> None:
    pipeline = Pipeline.load(folder, threads=count, runtime="openvino")
    assert torch.get_num_threads() == count
    first = pipeline.analyse(film(1))
    pipeline.analyse(film(2))
    again = Pipeline.load(folder, threads=count, runtime="openvino").analyse(film(1))
    for second in (pipeline.analyse(film(1)), again):
        assert second.regions == first.regions
        assert second.vectors["anatomy"].tobytes() == first.vectors["anatomy"].tobytes()
    assert torch.get_num_threads() == count


@installed
def test_auto_is_openvino_on_a_cpu_and_torch_elsewhere() -> None:
    assert (chosen("auto", "cpu"), chosen("auto", "cuda"), chosen("torch", "cpu")) == ("openvino", "torch", "torch")
    with pytest.raises(CheckpointError, match="on the device cpu, not on cuda:1"):
        chosen("openvino", "cuda:1")


def test_an_unknown_runtime_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"no runtime 'tvm'; there are auto, torch, openvino"):
        chosen("tvm", "cpu")


@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_torch_runs(folder: Path) -> None:
    fallen = Pipeline.load(folder, threads=1, runtime="auto").analyse(film(1))
    torch_s = Pipeline.load(folder, threads=1, runtime="torch").analyse(film(1))
    assert fallen.regions == torch_s.regions
    assert fallen.vectors["anatomy"].tobytes() == torch_s.vectors["anatomy"].tobytes()


@pytest.mark.usefixtures("without_openvino")
def test_openvino_asked_for_and_missing_is_one_line(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        Pipeline.load(folder, runtime="openvino")
    assert str(caught.value) == "the runtime openvino is not installed"


LISTENS = """
import socket, sys
from pathlib import Path

def refused(*asked, **_):
    with Path(sys.argv[1]).open("a") as log:  # a file: what reports may do so from a process of its own
        log.write(f"{asked}\\n")
    raise OSError("no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
import numpy as np
from encoder.pipeline import Pipeline
pipeline = Pipeline.load(Path(sys.argv[2]), threads=1, runtime="openvino")
pipeline.analyse(np.random.default_rng(0).normal(size=(80, 90)))
print("openvino" in sys.modules, sys.modules.get("openvino_telemetry"))
"""


@installed
def test_nothing_is_sent_and_nothing_is_left_at_home(folder: Path, tmp_path: Path) -> None:
    """OpenVINO's import tells its maker, everywhere but in continuous integration, unless it is kept from it."""
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    ran = subprocess.run(
        [sys.executable, "-c", LISTENS, str(log), str(folder)],
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
    )
    assert ran.stdout.split() == ["True", "None"]
    assert not log.exists()
    assert not (home / "intel").exists()  # where its maker numbers the installation and counts its uses


def vectors_of(analyses: list[Analysis]) -> dict[int, dict[int, NDArray[np.float32]]]:
    """anatomy -> film -> vector."""
    found: dict[int, dict[int, NDArray[np.float32]]] = {}
    for number, analysis in enumerate(analyses):
        for region, vector in zip(analysis.regions, analysis.vectors["anatomy"], strict=True):
            found.setdefault(region.anatomy, {})[number] = vector
    return found


def nearest(vectors: dict[int, NDArray[np.float32]], asking: int) -> set[int]:
    others = [number for number in vectors if number != asking]
    scores = np.stack([vectors[number] for number in others]) @ vectors[asking]
    return {others[at] for at in np.argsort(-scores, kind="stable")[:K]}


@installed
@shipped
def test_the_ranking_is_that_of_torch() -> None:
    """Recall@10 of the films that torch ranks first, for each region of each film."""
    pictures = [film(seed) for seed in range(FILMS)]
    want, have = (
        vectors_of([pipeline.analyse(picture) for picture in pictures])
        for pipeline in (Pipeline.load(threads=1, runtime=runtime) for runtime in ("torch", "openvino"))
    )
    recalls = [
        len(nearest(want[anatomy], asking) & nearest(have[anatomy], asking)) / K
        for anatomy in want
        for asking in want[anatomy]
        if asking in have[anatomy] and len(want[anatomy]) > K
    ]
    assert len(recalls) >= FILMS
    assert np.mean(recalls) >= 0.98
