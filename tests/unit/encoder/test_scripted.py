"""An encoder of anyone's keeps the protocol, or is refused with one line that says what differs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from encoder import checkpoint
from encoder.anatomy import VOCABULARY
from encoder.boxes import Box
from encoder.checkpoint import copy_model, describe, read_manifest, save_manifest
from encoder.errors import CheckpointError
from encoder.pipeline import SHIPPED, Pipeline
from encoder.plugin import check, pack
from encoder.protocol import prove
from encoder.runtime import EncoderRuntime
from encoder.scripted import ScriptShape
from tests.unit.encoder import scripts, small

CROPS = ScriptShape(input="crops", size=32, dim=scripts.DIM, film=128)
FRAME = ScriptShape(input="frame", size=64, dim=scripts.DIM)


def packed(folder: Path, module: nn.Module, shape: ScriptShape) -> Path:
    script = folder.with_suffix(".script")
    script.write_bytes(scripts.saved(module))
    pack(script, shape, folder, "nothing")
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An encoder of somebody's beside a small detector."""
    folder = packed(tmp_path / "own", scripts.Crops(), CROPS)
    for name in ("detector.json", "detector.safetensors"):
        (folder / name).write_bytes((small.write(tmp_path / "small") / name).read_bytes())
    return folder


def film() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.random((20, 15)), np.ones((16, 16)))


def test_our_own_encoder_keeps_the_protocol(tmp_path: Path) -> None:
    encoder = EncoderRuntime.load(small.write(tmp_path), "cpu")
    prove(encoder)
    assert (encoder.dim, encoder.model_id) == (small.ENCODER.dim, describe(tmp_path).encoder_id)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (scripts.Crops(), CROPS),
        (scripts.Crops(3), replace(CROPS, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), context=0.0)),
        (scripts.Frame(), FRAME),
    ],
    ids=["crops", "colour", "frame"],
)
def test_a_packed_program_is_a_model_set_with_the_shipped_detector(
    tmp_path: Path, module: nn.Module, shape: ScriptShape
) -> None:
    folder = packed(tmp_path / "own", module, shape)
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "encoder.pt"]
    card, shipped = describe(folder), describe(SHIPPED)
    assert (card.kind, card.dim, card.projections) == ("torchscript", scripts.DIM, ("anatomy",))
    assert card.detector_id == shipped.detector_id
    assert card.model_id != shipped.model_id
    copied = copy_model(folder, tmp_path / "copy")
    assert copied == card == describe(tmp_path / "copy")
    names = ["detector.json", "detector.safetensors", "encoder.json", "encoder.pt"]
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == names


def test_the_id_follows_from_the_program_and_from_how_it_is_called(tmp_path: Path) -> None:
    first = describe(packed(tmp_path / "a", scripts.Crops(), CROPS)).encoder_id
    other_call = describe(packed(tmp_path / "b", scripts.Crops(), replace(CROPS, context=0.3))).encoder_id
    other_program = describe(packed(tmp_path / "c", scripts.Pixels(), replace(CROPS, dim=32 * 32))).encoder_id
    assert len({first, other_call, other_program}) == 3


def test_regions_are_found_and_encoded(own: Path) -> None:
    assert check(own) == describe(own)
    pipeline = Pipeline.load(own)
    analysis = pipeline.analyse(film())
    vectors = analysis.vectors["anatomy"]
    assert vectors.shape == (len(analysis.regions), scripts.DIM)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-6)
    again = pipeline.embed(film(), [region.box for region in analysis.regions])
    assert (again.vectors["anatomy"] * vectors).sum(axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-5)
    assert np.ptp(again.anatomy_probability) == 0.0
    assert again.anatomy_probability.sum(axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-5)


def test_no_box_no_vector(own: Path) -> None:
    assert Pipeline.load(own).embed(film(), []).vectors["anatomy"].shape == (0, scripts.DIM)


def test_depth_of_grey_changes_nothing(own: Path) -> None:
    pipeline, grey = Pipeline.load(own), film()
    eight, sixteen = (np.round(grey * (2**bits - 1)).astype(np.uint16) for bits in (8, 16))
    boxes = [Box(10, 10, 120, 200), Box(100, 30, 220, 220)]
    pair = [pipeline.embed(image, boxes).vectors["anatomy"] for image in (eight, sixteen)]
    assert (pair[0] * pair[1]).sum(axis=1).min() > 0.999


def test_a_crop_shows_the_box_in_the_middle_at_true_proportions_and_black_around_the_film(tmp_path: Path) -> None:
    folder = packed(tmp_path / "own", scripts.Pixels(), replace(CROPS, dim=32 * 32, context=1.0, film=256))
    for name in ("detector.json", "detector.safetensors"):
        (folder / name).write_bytes((small.write(tmp_path / "small") / name).read_bytes())
    image = np.full((256, 128), 50.0)  # rows lie half as far apart as columns: a square film
    image[96:160, 48:80] = 100.0
    image[:8] = 0.0
    pipeline = Pipeline.load(folder)
    inner, corner = pipeline.embed(image, [Box(48, 96, 80, 160), Box(96, 192, 128, 256)], (0.5, 1.0)).vectors["anatomy"]
    middle, corner = inner.reshape(32, 32), corner.reshape(32, 32)
    assert middle[9:23, 9:23].min() > 1.5 * middle[:6].max()  # the box fills the middle half
    assert middle[:6].min() == pytest.approx(middle[:6].max(), rel=0.01)
    assert np.abs(corner[25:]).max() < 0.01 < corner[:22, :22].min()  # beyond the film


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (scripts.Crops(dim=12), CROPS, "vectors of 12 numbers, its manifest says 16"),
        (scripts.Long(), CROPS, "norm"),
        (scripts.NotNumbers(), CROPS, "not finite"),
        (scripts.Dice(), CROPS, "same bytes twice"),
        (scripts.Crowd(), CROPS, "alone and among others"),
        (scripts.Blind(), CROPS, "one and the same vector"),
        (scripts.OneForAll(), CROPS, "shape"),
        (scripts.PlaceOnly(), FRAME, "for another film"),
        (scripts.WholeFilm(), FRAME, "one and the same vector"),
        (scripts.Fails(), CROPS, "fails on a drawn film"),
        (scripts.Crops(3), CROPS, "fails on a drawn film"),
        (scripts.Two(), CROPS, "no tensor"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_program_that_breaks_the_protocol_is_not_packed(
    tmp_path: Path, module: nn.Module, shape: ScriptShape, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason) as error:
        packed(tmp_path / "own", module, shape)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": "words"}, {"size": 4}, {"film": 100_000}, {"dim": 1}, {"mean": (0.0, 0.0)}, {"std": (0.0,)},
        {"mean": (float("nan"),)}, {"context": -1.0},
    ],
)  # fmt: skip
def test_a_call_that_cannot_be_made_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        replace(CROPS, **wrong)


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="no TorchScript program"):
        pack(tmp_path / "x", CROPS, tmp_path / "own", "")
    with pytest.raises(CheckpointError, match="cannot be read"):
        pack(tmp_path / "y", CROPS, tmp_path / "own", "")


def test_an_encoder_is_never_written_over(own: Path, tmp_path: Path) -> None:
    before = (own / "encoder.pt").read_bytes()
    with pytest.raises(CheckpointError, match="already holds an encoder"):
        packed(own, scripts.Frame(), FRAME)
    assert (own / "encoder.pt").read_bytes() == before


def forged(folder: Path, **values: Any) -> None:
    """A manifest changed by somebody who knows how its id is made."""
    path = folder / "encoder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    content = json.loads(path.read_text())
    manifest = checkpoint.Manifest(**{**content, "regions": tuple(content["regions"])})
    save_manifest(folder, manifest.identified(manifest.weights))


NAMES = list(VOCABULARY.names)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"regions": NAMES[1:]}, "missing right lung$"),
        ({"regions": [*NAMES, "left knee"]}, "unknown left knee$"),
        ({"regions": ["left knee", *NAMES[1:]]}, "missing right lung; unknown left knee$"),
        ({"regions": [NAMES[1], NAMES[0], *NAMES[2:]]}, "right upper lung zone stands where right lung belongs$"),
        ({"regions": [*NAMES, NAMES[0]]}, "30 names for 29 regions$"),
        ({"architecture": {**CROPS.plain(), "dim": 24}}, "vectors of 16 numbers, its manifest says 24"),
        ({"architecture": {**CROPS.plain(), "channels": 1}}, "how its program is called"),
        ({"architecture": {"dim": 16}}, "how its program is called"),
        ({"architecture": {}}, "dim"),
        ({"preprocessing": {"version": 0}}, "preprocessing"),
        ({"kind": "pickle"}, "kind 'pickle'"),
        ({"weights": "0" * 64}, "encoder.pt: damaged"),
    ],
)
def test_a_set_that_differs_says_how(own: Path, values: dict[str, Any], reason: str) -> None:
    forged(own, **values)
    with pytest.raises(CheckpointError, match=reason) as error:
        check(own)
    assert "\n" not in str(error.value)


def test_a_changed_call_without_a_new_id_is_damage(own: Path) -> None:
    path = own / "encoder.json"
    path.write_text(path.read_text().replace('"size": 32', '"size": 48'))
    with pytest.raises(CheckpointError, match="model id"):
        check(own)


def test_one_flipped_bit_is_found_before_the_program_is_loaded(own: Path) -> None:
    data = bytearray((own / "encoder.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (own / "encoder.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"encoder\.pt: damaged"):
        Pipeline.load(own)


def test_a_detector_is_never_a_program_of_somebody_elses(own: Path) -> None:
    manifest = replace(read_manifest(own, "detector"), kind="torchscript")
    save_manifest(own, manifest.identified(manifest.weights))
    with pytest.raises(CheckpointError, match="a detector of kind 'torchscript'"):
        check(own)
