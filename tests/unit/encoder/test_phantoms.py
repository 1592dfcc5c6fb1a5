"""The film drawer: the same seed the same film, true boxes, films that look like films, and of nobody."""

import json

import numpy as np
import pytest
from PIL import Image

from encoder.anatomy import VOCABULARY
from encoder.errors import CheckpointError, TrainingDataError
from encoder.phantoms import build, draw, model, warp
from encoder.phantoms.draw import _scores
from tests.unit.encoder import chests

SEEDS = range(8)


@pytest.fixture(scope="module")
def drawer():
    return draw.load()


@pytest.fixture(scope="module")
def films(drawer):
    return [draw.draw(drawer, seed) for seed in SEEDS]


def box_of(film, name):
    return film.boxes[VOCABULARY.named(name).index]


def test_the_shipped_file_is_small_and_holds_no_pickle():
    assert draw.SHIPPED.stat().st_size <= 4_000_000
    with np.load(draw.SHIPPED, allow_pickle=False) as kept:
        assert all(kept[name].dtype != object for name in kept.files)


def test_the_same_seed_draws_the_same_bytes(drawer, films):
    again = draw.draw(drawer, 3)
    assert again.pixels.tobytes() == films[3].pixels.tobytes()
    assert again.boxes == films[3].boxes
    assert films[2].pixels.tobytes() != films[3].pixels.tobytes()


def test_pixels_are_twelve_bits_and_use_them(films):
    for film in films:
        assert film.pixels.dtype == np.uint16
        assert film.pixels.shape == (512, 512)
        assert film.pixels.max() <= 4095
        low, high = np.percentile(film.pixels, (5, 95))
        assert high - low > 1000


def test_every_region_lies_inside_the_film_where_it_belongs(films):
    for film in films:
        assert len(film.boxes) >= len(VOCABULARY) - 4  # the lowest corners may lie off the film
        for box in film.boxes.values():
            assert 0 <= box.x1 < box.x2 <= 512
            assert 0 <= box.y1 < box.y2 <= 512
        right, left, heart = (box_of(film, name) for name in ("right lung", "left lung", "cardiac silhouette"))
        assert right.x2 < left.x2
        assert right.x1 < left.x1  # the patient's right is on the image's left
        assert heart.y1 > right.y1
        assert heart.intersection(left).area > 0


def test_lungs_are_darker_than_the_heart_and_the_abdomen(films):
    for film in films:
        mean = {
            name: np.median(film.pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)])
            for name, box in ((name, box_of(film, name)) for name in ("right mid lung zone", "cardiac silhouette"))
        }
        assert mean["right mid lung zone"] < mean["cardiac silhouette"]


def test_films_differ_as_persons_do(films):
    """Size and place of the lungs, and what the pixels show, are another for each seed."""
    boxes = np.array([box_of(film, "right lung") for film in films])
    assert boxes.std(axis=0).min() > 2
    small = [np.asarray(Image.fromarray(film.pixels.astype(np.int32)).resize((64, 64))).ravel() for film in films]
    likeness = np.corrcoef(np.array(small, dtype=np.float64))
    assert likeness[np.triu_indices(len(films), 1)].max() < 0.995


def test_a_film_is_as_far_from_every_training_film_as_patients_are_from_each_other(drawer):
    scores = drawer.base_scores
    between = np.linalg.norm(scores[:, None] - scores[None], axis=-1)
    np.fill_diagonal(between, np.inf)
    nearest_patient = np.median(between.min(axis=1))
    for seed in range(40):
        drawn = _scores(drawer, np.random.default_rng([seed, 1]))
        assert np.linalg.norm(scores - drawn, axis=1).min() > 0.5 * nearest_patient


def test_another_size_is_the_same_film(drawer):
    small, large = draw.draw(drawer, 1, 256), draw.draw(drawer, 1, 512)
    assert small.pixels.shape == (256, 256)
    assert set(small.boxes) == set(large.boxes)
    for anatomy, box in large.boxes.items():
        assert np.allclose(np.array(small.boxes[anatomy]) * 2, box, atol=3)


def test_a_map_and_its_inverse_meet():
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 400, size=(60, 2))
    moved = points + np.stack([np.sin(points[:, 1] / 60), np.cos(points[:, 0] / 60)], axis=1) * 8
    there = warp.displacement(points, moved, 512)
    back = warp.inverse(there, 512)
    image = np.add.outer(np.arange(512.0), 2 * np.arange(512.0))
    inside = (slice(120, 380), slice(120, 380))
    assert np.abs(warp.sample(warp.sample(image, there), back)[inside] - image[inside]).max() < 4.0


def test_build_makes_a_drawer_from_a_folder_and_the_same_one_each_time(tmp_path):
    data = chests.write(tmp_path / "data", 14, 0)
    calls = []
    first = build.build(data, tmp_path / "a", lambda *call: calls.append(call))
    second = build.build(data, tmp_path / "b", lambda *_: None)
    assert first.read_bytes() == second.read_bytes()
    assert calls[-1][0] == "components"
    film = draw.draw(model.load(first), 0)
    assert len(film.boxes) > 20


def test_build_says_what_a_folder_lacks(tmp_path):
    with pytest.raises(TrainingDataError, match="cannot read the data folder"):
        build.build(tmp_path, tmp_path / "out", lambda *_: None)
    data = chests.write(tmp_path / "data", 3, 0)
    records = json.loads((data / "regions.json").read_text())[:2]
    (data / "regions.json").write_text(json.dumps(records))
    with pytest.raises(TrainingDataError, match="at least 4"):
        build.build(data, tmp_path / "out", lambda *_: None)


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "phantoms.npz"
    if damage == "cut":
        path.write_bytes(draw.SHIPPED.read_bytes()[:10_000])
    if damage == "other":
        np.savez(path, format=np.array(99))
    with pytest.raises(CheckpointError):
        draw.load(path)
