"""unlike: distances by hand, patients apart, and how often a threshold is passed by what is like all others."""

import numpy as np
import pytest

from encoder import unlike
from encoder.unlike import distances, left_out, threshold

NAN = float("nan")


def at(*degrees: float) -> unlike.Vectors:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def mean_distance(*degrees: float) -> float:
    return 1.0 - float(np.cos(np.radians(degrees)).mean())


def test_a_distance_is_the_mean_to_the_five_nearest_of_other_patients() -> None:
    among, theirs = at(10, 20, 30, 40, 50, 60, 0.5), np.array([1, 2, 3, 4, 5, 6, 9])
    found = distances(at(0, 0), np.array([9, 7]), among, theirs)
    assert found == pytest.approx([mean_distance(10, 20, 30, 40, 50), mean_distance(0.5, 10, 20, 30, 40)], abs=1e-6)


def test_two_films_of_a_patient_do_not_speak_for_each_other() -> None:
    vectors, patients = at(0, 1, 10, 20, 30, 40, 50), np.array([1, 1, 2, 3, 4, 5, 6])
    found = left_out(vectors, patients)
    assert found[0] == pytest.approx(mean_distance(10, 20, 30, 40, 50), abs=1e-6)
    assert found[2] == pytest.approx(mean_distance(9, 10, 10, 20, 30), abs=1e-6)


def test_too_few_of_other_patients_is_no_distance() -> None:
    among, theirs = at(10, 20, 30, 40, 50), np.array([1, 2, 3, 4, 5])
    found = distances(at(0, 0), np.array([1, 9]), among, theirs)
    assert np.isnan(found).tolist() == [True, False]
    assert np.isnan(left_out(among, theirs)).all()
    assert len(left_out(among[:0], theirs[:0])) == 0


def test_blocks_are_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((53, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    patients = rng.integers(0, 9, 53)
    patients[:50] = 1  # some blocks hold only rows with too few others
    whole = left_out(vectors, patients)
    monkeypatch.setattr(unlike, "BLOCK", 7)
    parts = left_out(vectors, patients)
    assert np.isnan(whole).any()
    assert not np.isnan(whole).all()
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_a_threshold_needs_twenty_distances() -> None:
    some = np.arange(unlike.LEAST, dtype=np.float64)
    assert threshold(some[1:]) is None
    assert threshold(np.array([*some[1:], NAN, NAN])) is None
    assert threshold(np.array([])) is None
    # Place 0.95 * 21 of 20: between the last two.
    assert threshold(np.array([*some, NAN])) == pytest.approx(18.95)


@pytest.mark.parametrize("count", [20, 24, 100])
def test_one_newcomer_in_twenty_passes_the_threshold_of_a_small_archive(count: int) -> None:
    rng = np.random.default_rng(count)
    rounds = 4000
    passed = [rng.exponential() > (threshold(rng.exponential(size=count)) or 0.0) for _ in range(rounds)]
    assert 0.038 < np.mean(passed) < 0.058  # the percentile of those seen is passed by 0.08 at 24
    worse = [rng.exponential() > np.percentile(rng.exponential(size=24), 95.0) for _ in range(rounds)]
    assert np.mean(worse) > 0.06


def test_a_newcomer_among_vectors_of_other_patients_is_seldom_unlike_them() -> None:
    rng = np.random.default_rng(1)
    passed, asked = 0, 0
    for _ in range(150):
        vectors = (np.eye(8)[0] + 0.2 * rng.standard_normal((24 + 8, 8))).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        archive, new = vectors[:24], vectors[24:]
        limit = threshold(left_out(archive, np.arange(24)))
        assert limit is not None
        passed += int((distances(new, np.full(8, -1), archive, np.arange(24)) > limit).sum())
        asked += len(new)
    assert 0.02 < passed / asked < 0.07
