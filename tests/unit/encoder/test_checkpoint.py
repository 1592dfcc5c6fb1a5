"""A model set is what its manifests say, or it is refused with one line."""

import json
from pathlib import Path

import pytest

from encoder.checkpoint import copy_model, describe, read_manifest, read_weights, save_manifest
from encoder.errors import CheckpointError
from encoder.pipeline import Pipeline
from tests.unit.encoder import small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small.write(tmp_path / "set")


def change(folder: Path, part: str, /, **values: object) -> None:
    path = folder / f"{part}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_card_says_what_the_set_is(folder: Path) -> None:
    card = describe(folder)
    assert card.dim == small.ENCODER.dim
    assert card.projections == ("anatomy",)  # finding has its place and is not trained
    assert len(card.regions) == 29
    assert card.unlike_thresholds == {0: 0.25}
    assert len({card.model_id, card.detector_id, card.encoder_id}) == 3


def test_the_id_follows_from_the_weights_and_not_from_the_place(folder: Path, tmp_path: Path) -> None:
    assert describe(small.write(tmp_path / "again")).model_id == describe(folder).model_id
    assert describe(small.write(tmp_path / "other", seed=1)).model_id != describe(folder).model_id


def test_metrics_and_thresholds_do_not_change_the_id(folder: Path) -> None:
    before = describe(folder)
    change(folder, "encoder", metrics={"map": 1.0}, unlike_thresholds={"left lung": 0.5})
    assert describe(folder).model_id == before.model_id


@pytest.mark.parametrize("part", ["detector", "encoder"])
@pytest.mark.parametrize("where", [0.02, 0.5, 0.99])
def test_one_flipped_bit_in_the_weights_is_found(folder: Path, part: str, where: float) -> None:
    path = folder / f"{part}.safetensors"
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{part}\.safetensors: damaged"):
        Pipeline.load(folder)


def test_a_truncated_file_is_found(folder: Path) -> None:
    path = folder / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        Pipeline.load(folder)


@pytest.mark.parametrize(
    ("part", "values", "reason"),
    [
        ("detector", {"format": 2}, "format 2"),
        ("encoder", {"part": "detector"}, "describes the detector"),
        ("encoder", {"regions": ["right lung"]}, "region list"),
        ("detector", {"presence": 0.7}, "model id"),
        ("encoder", {"architecture": {}}, "model id"),
        ("encoder", {"surprise": 1}, "no readable manifest"),
        ("detector", {"preprocessing": {"version": 0}}, "model id"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, part: str, values: dict[str, object], reason: str
) -> None:
    change(folder, part, **values)
    with pytest.raises(CheckpointError, match=reason) as error:
        Pipeline.load(folder)
    assert "\n" not in str(error.value)


def test_other_preprocessing_is_refused_even_when_the_manifest_is_whole(folder: Path) -> None:
    from dataclasses import replace

    manifest = read_manifest(folder, "encoder")
    save_manifest(folder, replace(manifest, preprocessing={"version": 0}).identified(manifest.weights))
    with pytest.raises(CheckpointError, match="preprocessing"):
        Pipeline.load(folder)


@pytest.mark.parametrize("name", ["detector.json", "encoder.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Pipeline.load(folder)


def test_kernels_are_half_precision_on_disk_and_full_in_memory(folder: Path) -> None:
    weights = read_weights(folder, read_manifest(folder, "encoder"))
    assert all(str(tensor.dtype) in {"torch.float32", "torch.int64"} for tensor in weights.values())
    held = sum(tensor.numel() for tensor in weights.values())
    assert (folder / "encoder.safetensors").stat().st_size < 4 * held


def test_a_copy_is_the_same_set(folder: Path, tmp_path: Path) -> None:
    copied = copy_model(folder, tmp_path / "root" / "models" / "one")
    assert copied == describe(folder) == describe(tmp_path / "root" / "models" / "one")
    assert copy_model(folder, tmp_path / "root" / "models" / "one") == copied
    assert sorted(path.name for path in (tmp_path / "root" / "models").iterdir()) == ["one"]


def test_a_copy_never_replaces_another_model(folder: Path, tmp_path: Path) -> None:
    other = small.write(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="already holds another model"):
        copy_model(folder, other)


def test_a_damaged_set_is_not_copied(folder: Path, tmp_path: Path) -> None:
    (folder / "encoder.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        copy_model(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
