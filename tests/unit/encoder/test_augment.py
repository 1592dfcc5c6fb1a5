"""Augmentation moves films and their labels together, and never turns left into right."""

from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.anatomy import VOCABULARY
from encoder.data import Film, read
from encoder.train.augment import Cached, augmented, cached, plain
from tests.unit.encoder import chests

SIZE = 96
RIGHT, LEFT, HEART = (VOCABULARY.named(name).index for name in ("right lung", "left lung", "cardiac silhouette"))
CLAVICLE = VOCABULARY.named("right clavicle").index


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    return list(read(chests.write(tmp_path_factory.mktemp("made") / "cxr", 8, 1)).films)


@pytest.fixture(scope="module")
def film(films: list[Film]) -> Cached:
    return cached(films[0], SIZE)


def test_the_right_lung_stays_at_the_left_of_the_picture(films: list[Film]) -> None:
    compared = 0
    for seed in range(60):
        sample = augmented(cached(films[seed % 8], SIZE), SIZE, np.random.default_rng(seed))
        if sample.placed[RIGHT] and sample.placed[LEFT]:
            centres = (sample.boxes[:, 0] + sample.boxes[:, 2]) / 2
            assert centres[RIGHT] < centres[LEFT]
            compared += 1
    assert compared > 20


def test_pixels_move_with_their_labels(film: Cached) -> None:
    """The heart is bright and the lungs are dark wherever they went: a picture turned without its boxes would fail."""
    brighter = []
    for seed in range(40):
        sample = augmented(film, SIZE, np.random.default_rng(seed))
        if sample.placed[[RIGHT, LEFT, HEART]].all():
            heart, right, left = (_middle(sample.frame[0], sample.boxes[i]) for i in (HEART, RIGHT, LEFT))
            brighter.append(heart > max(right, left))
    assert len(brighter) > 10
    assert np.mean(brighter) > 0.9


def _middle(channel: torch.Tensor, box: torch.Tensor) -> float:
    x, y = (box[:2] + (box[2:] - box[:2]) / 2) * SIZE
    return float(channel[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].median())


def test_the_same_generator_gives_the_same_sample(film: Cached) -> None:
    a, b = (augmented(film, SIZE, np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(a.frame, b.frame)
    assert torch.equal(a.boxes, b.boxes)


def test_regions_leave_the_film_and_are_then_absent(film: Cached) -> None:
    samples = [augmented(film, SIZE, np.random.default_rng(seed)) for seed in range(60)]
    gone = sum(int((sample.judged & (sample.present == 0)).sum()) for sample in samples)
    there = sum(int((sample.judged & (sample.present == 1)).sum()) for sample in samples)
    assert gone > 20
    assert there > gone
    for sample in samples:
        assert not (sample.placed & (sample.present == 0)).any()
        assert not (sample.placed & ~sample.judged).any()


def test_boxes_lie_in_the_frame(film: Cached) -> None:
    for seed in range(20):
        sample = augmented(film, SIZE, np.random.default_rng(seed))
        boxes = sample.boxes[sample.placed]
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_an_unlabelled_region_is_no_negative(films: list[Film]) -> None:
    listed = next(film for film in films if CLAVICLE not in film.regions)
    sample = plain(cached(listed, SIZE), SIZE)
    assert not sample.placed[CLAVICLE]
    assert sample.present[CLAVICLE] == 1  # whole lungs: the clavicle is there, its place is not known
    assert not (sample.judged & (sample.present == 0)).any()


def test_the_plain_view_keeps_the_labels(films: list[Film]) -> None:
    sample = plain(cached(films[0], SIZE), SIZE)
    true = films[0].regions[HEART]
    assert sample.boxes[HEART].tolist() == pytest.approx([v / chests.SIDE for v in true], abs=0.02)


def test_no_flip_in_the_code() -> None:
    source = (Path(__file__).parents[3] / "encoder/train/augment.py").read_text()
    assert "fliplr" not in source
    assert ".flip(" not in source
