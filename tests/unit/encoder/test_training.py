"""Training on made-up chests: an epoch runs, stops and resumes to the same weights; what it leaves can be loaded."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.checkpoint import describe, read_manifest
from encoder.data import read
from encoder.errors import TrainingDataError
from encoder.evaluate.films import evaluate_films
from encoder.pipeline import Pipeline
from encoder.train.detector import train_detector
from encoder.train.encoder import train_encoder
from encoder.train.loop import TrainOptions
from encoder.train.losses import box_loss, generalised_iou, presence_loss, region_contrastive, same_region
from tests.unit.encoder import chests, small

Train = Callable[[TrainOptions], None]


def silent(stage: str, done: int, total: int, text: str) -> None:
    assert 0 <= done <= total, (stage, text)


def detector(options: TrainOptions) -> None:
    train_detector(options, silent, small.DETECTOR)


def encoder(options: TrainOptions) -> None:
    train_encoder(options, silent, small.ENCODER)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chests.write(tmp_path_factory.mktemp("made") / "cxr", 12, 1)


@pytest.fixture
def options(data: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(data=data, out=tmp_path / "out", epochs=1, batch=4, commit="abc")


def test_both_steps_leave_a_model_set_and_its_numbers(options: TrainOptions) -> None:
    detector(options)
    encoder(options)
    card = describe(options.out)
    assert "iou" in card.metrics["detector"]
    assert "map" in card.metrics["encoder"]
    assert read_manifest(options.out, "encoder").commit == "abc"
    assert "12 films" in read_manifest(options.out, "detector").data
    assert card.mean_boxes[0][0] < card.mean_boxes[8][0]
    for step in ("detector", "encoder"):
        run = options.out / "runs" / step
        assert json.loads((run / "config.json").read_text())["seed"] == 0
        assert len(json.loads((run / "metrics.json").read_text())["epochs"]) == 1
        assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    result = evaluate_films(read(options.data), Pipeline.load(options.out), report=silent).summary
    assert result["films"] == result["patients"] == 4
    assert result["model"] == card.model_id
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("step", [detector, encoder])
def test_stopped_and_resumed_is_the_same_run(options: TrainOptions, tmp_path: Path, step: Train) -> None:
    whole = replace(options, out=tmp_path / "whole", epochs=2, patience=9)
    step(whole)
    part = replace(whole, out=tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(part, step)
    assert not (part.out / f"{step.__name__}.json").exists()
    step(replace(part, resume=True))
    assert read_manifest(part.out, step.__name__).weights == read_manifest(whole.out, step.__name__).weights  # type: ignore[arg-type]


def _interrupted(options: TrainOptions, step: Train) -> None:
    def report(stage: str, done: int, total: int, text: str) -> None:
        if stage.startswith("train") and done == 1:
            raise KeyboardInterrupt(stage, total, text)

    trained, shape = (train_detector, small.DETECTOR) if step is detector else (train_encoder, small.ENCODER)
    trained(options, report, shape)  # type: ignore[operator]


def test_training_stops_early_when_nothing_gets_better(options: TrainOptions) -> None:
    train_detector(replace(options, epochs=50, patience=1, rate=0.0), silent, small.DETECTOR)
    metrics = json.loads((options.out / "runs/detector/metrics.json").read_text())
    assert len(metrics["epochs"]) < 50


def test_too_few_films_are_said(tmp_path: Path) -> None:
    data = chests.write(tmp_path / "few", 4, 1)  # all of them held
    with pytest.raises(TrainingDataError, match="at least two"):
        detector(TrainOptions(data=data, out=tmp_path / "out", epochs=1))


def test_generalised_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]])
    assert generalised_iou(a, b).tolist() == pytest.approx([1.0, -1 / 3])


def test_unlabelled_slots_pull_at_nothing() -> None:
    boxes = torch.rand(2, 29, 4, requires_grad=True)
    logits = torch.randn(2, 29, requires_grad=True)
    none = torch.zeros(2, 29, dtype=torch.bool)
    (box_loss(boxes, torch.rand(2, 29, 4), none) + presence_loss(logits, torch.zeros(2, 29), none)).backward()
    assert not boxes.grad.any()  # type: ignore[union-attr]
    assert not logits.grad.any()  # type: ignore[union-attr]


def test_two_views_of_a_film_are_to_be_nearer_than_two_films() -> None:
    anatomy, film = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1])
    apart = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), dim=-1)
    collapsed = torch.ones(4, 2) / 2**0.5
    assert same_region(apart, anatomy, film, 0.1) < same_region(collapsed, anatomy, film, 0.1)
    assert same_region(apart[:2], anatomy[:2], film[:2], 0.1) == 0  # one film: nothing to be nearer than


def test_contrastive_loss_prefers_grouped_anatomies() -> None:
    anatomy = torch.tensor([0, 0, 1, 1])
    grouped = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), dim=-1)
    mixed = grouped[[0, 2, 1, 3]]
    assert region_contrastive(grouped, anatomy, 0.1) < region_contrastive(mixed, anatomy, 0.1)
    alone = region_contrastive(grouped[:1], anatomy[:1], 0.1)
    assert np.isfinite(alone.item())
