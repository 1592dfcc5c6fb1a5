"""The local head and the finding projection, trained on a set that is there: what they change, and what they say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.boxes import Box
from encoder.checkpoint import describe, read_manifest, read_weights, save_manifest
from encoder.data import read
from encoder.errors import CheckpointError, NoFindings
from encoder.local import SCALE, LocalMap
from encoder.pipeline import Analysis, Pipeline
from encoder.train import local as heads
from encoder.train.augment import cached
from encoder.train.finding import _Findings, train_finding
from encoder.train.local import Pair, batch_of, train_local
from encoder.train.loop import Report, TrainOptions
from encoder.train.pasted import Thing, paste
from tests.unit.encoder import chests, small

Train = Callable[[TrainOptions, Report], None]
SIZE = small.ENCODER.size
CELLS = SIZE // 8
FILMS, HELD = 8, 4


def silent(stage: str, done: int, total: int, text: str) -> None:
    assert 0 <= done <= total, (stage, text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chests.diagnose(chests.write(tmp_path_factory.mktemp("made") / "cxr", FILMS, 1))


@pytest.fixture
def options(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    """A small model set in the run folder, and one epoch."""
    monkeypatch.setattr(heads, "THINGS", 4)
    return TrainOptions(data=data, out=small.write(tmp_path / "out"), epochs=1, batch=4, threads=1, commit="abc")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder, read_manifest(folder, "encoder"))


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, each in before.items() if each.numpy().tobytes() != after[name].numpy().tobytes()}


def analysed(folder: Path) -> Analysis:
    """A film twice as wide as high."""
    rng = np.random.default_rng(3)
    return Pipeline.load(folder, runtime="torch").analyse(chests.picture(chests.contours(rng), rng)[:48])


@pytest.mark.parametrize(("train", "part"), [(train_local, "local."), (train_finding, "projections.finding.")])
def test_only_the_head_changes(options: TrainOptions, train: Train, part: str) -> None:
    before, seen = weights(options.out), analysed(options.out)
    detector = (options.out / "detector.safetensors").read_bytes()
    old = describe(options.out)
    train(options, silent)
    names = changed(before, weights(options.out))
    assert names
    assert all(name.startswith(part) for name in names)
    now = analysed(options.out)
    assert now.regions == seen.regions
    assert now.vectors["anatomy"].tobytes() == seen.vectors["anatomy"].tobytes()
    card = describe(options.out)
    assert (card.detector_id, card.unlike_thresholds) == (old.detector_id, old.unlike_thresholds)
    assert card.encoder_id != old.encoder_id  # vectors are the same, the map or the finding is not
    assert (options.out / "detector.safetensors").read_bytes() == detector


# --- local ----------------------------------------------------------------------------------------------------------


def test_a_trained_local_head_gives_every_film_its_map(options: TrainOptions) -> None:
    assert analysed(options.out).local is None
    train_local(options, silent)
    manifest = read_manifest(options.out, "encoder")
    assert manifest.local
    assert 0.0 <= manifest.metrics["local_placed"] <= 1.0
    assert manifest.metrics["iou"] == 0.5  # what was known before
    found = analysed(options.out).local
    assert found is not None
    assert found.features.shape == (CELLS, CELLS, small.ENCODER.local)
    assert found.features.dtype == np.int8
    assert found.area == Box(0, -24, 96, 72)  # the frame's padding above and below is covered too
    assert np.linalg.norm(found.features / SCALE, axis=-1) == pytest.approx(1.0, abs=0.02)
    embedded = Pipeline.load(options.out, runtime="torch").embed(np.eye(96, dtype=np.float32), [Box(0, 0, 20, 20)])
    assert embedded.local is not None
    assert embedded.local.area == Box(0, 0, 96, 96)


def test_stopped_and_resumed_is_the_same_local_head(options: TrainOptions, tmp_path: Path) -> None:
    whole = replace(options, epochs=2, patience=9)
    train_local(whole, silent)
    part = replace(whole, out=small.write(tmp_path / "part"))
    before = read_manifest(part.out, "encoder")

    def stopping(stage: str, done: int, total: int, text: str) -> None:
        if stage == "train local" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_local(part, stopping)
    assert read_manifest(part.out, "encoder") == before
    train_local(replace(part, resume=True), silent)
    assert changed(weights(whole.out), weights(part.out)) == set()
    assert len(json.loads((part.out / "runs/local/metrics.json").read_text())["epochs"]) == 2


@pytest.mark.parametrize("train", [train_local, train_finding])
def test_without_an_encoder_there_is_nothing_to_build_on(options: TrainOptions, train: Train, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"encoder\.json"):
        train(replace(options, out=tmp_path / "nothing"), silent)


def test_the_points_of_a_pair_are_the_same_place_of_the_thing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films = [cached(film, SIZE) for film in read(data).films[:3]]
    monkeypatch.setattr(heads, "THINGS", 40)
    places: list[tuple[float, float]] = []

    def noted(film: np.ndarray, what: Thing, x: float, y: float, span: float) -> np.ndarray:
        places.append((x / chests.SIDE, y / chests.SIDE))
        return paste(film, what, x, y, span)

    monkeypatch.setattr(heads, "paste", noted)
    frames, pairs = batch_of(films, SIZE, np.random.default_rng(0))
    assert frames.shape == (3, 2, SIZE, SIZE)
    assert len(pairs) == 40
    centres = [centre for pair in pairs for centre in pair.points[0]]
    assert np.array(centres) == pytest.approx(np.array(places), abs=1e-6)  # the film fills the frame
    again, same = batch_of(films, SIZE, np.random.default_rng(0))
    assert torch.equal(frames, again)
    assert [pair.points for pair in pairs] == [pair.points for pair in same]
    for pair in pairs:
        first, second = pair.films
        assert first != second
        assert len(pair.points) == heads.POINTS
        offsets = np.array(pair.points[1:]) - np.array(pair.points[0])  # (points, film, x y)
        assert np.abs(offsets).max() <= 0.04
        sides = np.linalg.norm(offsets, axis=-1)
        assert sides[:, 0] / sides[:, 1] == pytest.approx(sides[0, 0] / sides[0, 1], rel=1e-6)


@pytest.mark.parametrize(("shift", "found"), [(0, True), (1, True), (3, False)])
def test_a_thing_counts_as_placed_within_a_cell_and_a_half(shift: int, found: bool) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(-90, 90, (12, 12, 8)).astype(np.int8) for _ in range(2)]
    maps[1][8 : 8 + 2, 3 + shift : 5 + shift] = maps[0][2:4, 6:8]
    shown = [LocalMap(features, Box(0, 0, 1, 1)) for features in maps]
    pair = Pair((0, 1), (((7 / 12, 3 / 12), (4 / 12, 9 / 12)),))
    assert heads._found(shown, pair) == found


# --- finding --------------------------------------------------------------------------------------------------------


def measuring(monkeypatch: pytest.MonkeyPatch, over: list[float]) -> None:
    """Held regions that beat chance by so much, each of a patient of its own."""
    share = np.array(over) + 0.2
    measured = share, np.full(len(over), 0.2), np.arange(len(over))
    monkeypatch.setattr(_Findings, "measured", lambda _: measured)


def test_findings_are_offered_when_they_beat_chance(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, [0.5, 0.4, 0.3, 0.6])
    said: list[str] = []
    train_finding(options, lambda stage, done, total, text: said.append(text))
    manifest = read_manifest(options.out, "encoder")
    assert manifest.projections == {"anatomy": True, "finding": True}
    told = {name: value for name, value in manifest.metrics.items() if name.startswith("finding")}
    assert told["finding_p@5"] == pytest.approx(0.65)
    assert told["finding_chance_p@5"] == pytest.approx(0.2)
    assert 0.3 <= told["finding_over_chance_low"] <= 0.45 <= told["finding_over_chance_high"] <= 0.6
    assert told["finding_queries"] == 4
    assert "offered" in said[-1]
    assert "not offered" not in said[-1]
    vectors = analysed(options.out).vectors
    assert list(vectors) == ["anatomy", "finding"]
    assert vectors["finding"].shape == vectors["anatomy"].shape


@pytest.mark.parametrize("over", [[0.5, -0.4, 0.3, -0.2], [0.0, 0.0, 0.0], []])
def test_findings_no_better_than_chance_are_told_and_not_offered(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, over: list[float]
) -> None:
    manifest = read_manifest(options.out, "encoder")
    save_manifest(options.out, replace(manifest, projections={"anatomy": True, "finding": True}))  # by an earlier run
    measuring(monkeypatch, over)
    said: list[str] = []
    train_finding(options, lambda stage, done, total, text: said.append(text))
    found = read_manifest(options.out, "encoder")
    assert found.projections == {"anatomy": True, "finding": False}
    assert found.metrics["finding_over_chance_low"] <= 0.0
    assert found.metrics["finding_queries"] == len(over)
    assert "not offered" in said[-1]
    assert list(analysed(options.out).vectors) == ["anatomy"]


def test_what_is_measured_is_precision_among_other_patients_and_its_chance(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With vectors that say whether there is a nodule."""
    monkeypatch.setattr("encoder.train.finding.FIRST", 2)
    films = [cached(film, SIZE) for film in read(data).films]
    task = _Findings(_Loaded(), films, ["nodule"])  # type: ignore[arg-type]
    regions = task._regions

    def knowing(*given: object) -> tuple[torch.Tensor, ...]:
        _, anatomy, shown, film = regions(*given)  # type: ignore[arg-type]
        return torch.cat([shown, 1 - shown], dim=1), anatomy, shown, film

    monkeypatch.setattr(task, "_regions", knowing)
    share, chance, patient = task.measured()
    assert share.tolist() == [1.0] * len(share)
    assert set(chance.tolist()) == {3 / 7, 3 / 5}  # of the right lung; of its middle zone, which two films lack
    assert set(patient.tolist()) == {0, 2, 4, 6}
    assert task.validate()["score"] == pytest.approx(float((share - chance).mean()))


class _Loaded:
    """What `EncoderRuntime` says of a small model."""

    def __init__(self) -> None:
        from encoder.roi_encoder import RoiEncoder

        torch.manual_seed(0)
        self.model, self.device, self.size = RoiEncoder(small.ENCODER).eval(), "cpu", SIZE


def test_films_without_findings_are_said(options: TrainOptions, tmp_path: Path) -> None:
    plain = chests.write(tmp_path / "plain", FILMS, 1)
    before = read_manifest(options.out, "encoder")
    with pytest.raises(NoFindings, match="no finding to train on"):
        train_finding(replace(options, data=plain), silent)
    assert read_manifest(options.out, "encoder") == before


def test_held_films_without_findings_offer_nothing(options: TrainOptions, tmp_path: Path) -> None:
    """Only films to train on say what they show: nobody can tell whether it was learnt."""
    folder = chests.diagnose(chests.write(tmp_path / "half", FILMS, 1))
    records = json.loads((folder / "regions.json").read_text())
    kept = [record if record["split"] == "dev_train" else record | {"finding": ""} for record in records]
    (folder / "regions.json").write_text(json.dumps(kept))
    train_finding(replace(options, data=folder), silent)
    manifest = read_manifest(options.out, "encoder")
    assert manifest.projections["finding"] is False
    assert manifest.metrics["finding_queries"] == 0
