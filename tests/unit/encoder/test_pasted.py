"""pasted: the same thing is the same pixels, and nothing but its place changes."""

from dataclasses import replace

import numpy as np
import pytest

from encoder.train import pasted
from encoder.train.pasted import KINDS, LARGEST, SMALLEST, Thing, paste, thing

ROWS, COLUMNS = 120, 160
FILM = np.random.default_rng(0).uniform(0.2, 0.8, (ROWS, COLUMNS)).astype(np.float32)
SIDE = 16  # pixels of the thing below
DISC = Thing("disc", SIDE / COLUMNS, 0.5, 3)


def added(what: Thing, x: float = 80.0, y: float = 60.0, span: float = 1.0) -> pasted.Pixels:
    return np.asarray(paste(np.zeros((ROWS, COLUMNS), np.float32), what, x, y, span), dtype=np.float32)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_thing_is_the_same_wherever_and_whenever_it_is_drawn(kind: str) -> None:
    what = replace(DISC, kind=kind)
    first, again, elsewhere = added(what), added(what), added(what, 30.0, 100.0)
    assert first.tobytes() == again.tobytes()
    assert first[52:68, 72:88].tobytes() == elsewhere[92:108, 22:38].tobytes()
    assert first[52:68, 72:88].std() > 0.02
    assert not np.array_equal(first, added(replace(what, seed=4)))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("side", [4, 5, 40])
def test_a_thing_of_any_size_is_finite_and_not_constant(kind: str, side: int) -> None:
    for seed in range(20):
        drawn = KINDS[kind](side, np.random.default_rng(seed))
        assert drawn.shape == (side, side)
        assert drawn.dtype == np.float32
        assert np.isfinite(drawn).all()
        assert np.ptp(drawn) > 0.05
        assert np.abs(drawn).max() <= 1.0 + 1e-6


def test_the_rest_of_the_film_stays_and_the_film_given_too() -> None:
    before = FILM.copy()
    shown = paste(FILM, DISC, 80.0, 60.0, 0.5)
    assert np.array_equal(FILM, before)
    changed = np.argwhere(shown != FILM)
    assert changed.min(axis=0) == pytest.approx([52, 72], abs=2)
    assert changed.max(axis=0) == pytest.approx([67, 87], abs=2)
    assert changed.mean(axis=0) == pytest.approx([59.5, 79.5], abs=0.5)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (159.9, 119.9), (-5.0, 60.0), (80.0, 124.0), (1.0, 119.0)])
def test_at_the_border_what_lies_outside_is_cut_off(x: float, y: float) -> None:
    large = np.zeros((ROWS + 60, COLUMNS + 60), np.float32)
    whole = paste(large, replace(DISC, side=SIDE / large.shape[1]), x + 30, y + 30, 1.0)
    cut = added(DISC, x, y)
    assert cut.shape == (ROWS, COLUMNS)
    assert np.array_equal(cut, whole[30:-30, 30:-30])
    assert cut.any()


def test_far_outside_nothing_is_drawn() -> None:
    assert not added(DISC, -200.0, 60.0).any()
    assert not added(DISC, 80.0, 400.0).any()


def test_a_bright_thing_is_bright_and_a_dark_one_dark() -> None:
    bright, dark = added(DISC), added(replace(DISC, contrast=-0.5))
    assert bright.min() == 0.0
    assert 0.3 < bright.max() <= 0.5
    assert np.array_equal(dark, -bright)
    assert np.allclose(added(DISC, span=0.2), bright * 0.2)


def test_random_things_are_of_every_kind_and_of_lesion_size() -> None:
    rng = np.random.default_rng(0)
    things = [thing(rng) for _ in range(300)]
    assert {each.kind for each in things} == set(KINDS)
    assert {np.sign(each.contrast) for each in things} == {-1.0, 1.0}
    assert all(SMALLEST <= each.side <= LARGEST for each in things)
    assert thing(np.random.default_rng(5)) == thing(np.random.default_rng(5))
    assert {thing(rng, "ring").kind for _ in range(20)} == {"ring"}


def test_another_film_shows_it_a_little_different_and_of_the_same_kind_and_sign() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        again = DISC.again(rng)
        assert (again.kind, again.seed) == (DISC.kind, DISC.seed)
        assert again.side / DISC.side == pytest.approx(1.0, abs=0.11)
        assert again.contrast / DISC.contrast == pytest.approx(1.0, abs=0.21)
