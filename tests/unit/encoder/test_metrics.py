"""Retrieval numbers against cases worked by hand."""

import numpy as np
import pytest

from encoder.metrics import (
    Gallery,
    auroc,
    average_precision,
    average_precision_at,
    average_precisions,
    bootstrap_interval,
    by_label,
    chances,
    commonest_labels,
    hit_at,
    macro,
    ndcg_at,
    precision_at,
    rank_all,
    recall_at,
)


@pytest.fixture
def hand_case() -> np.ndarray:
    """One relevant at rank 1, the next 29 at ranks 21 to 49; R = 30."""
    ranked = np.zeros(60, bool)
    ranked[0] = True
    ranked[20:49] = True
    return ranked


def test_the_hand_case_of_the_specification(hand_case: np.ndarray) -> None:
    assert precision_at(hand_case, 10) == pytest.approx(0.10)
    assert recall_at(hand_case, 10, 30) == pytest.approx(0.0333, abs=1e-4)
    assert hit_at(hand_case, 10) == 1.0
    assert average_precision(hand_case, 30) == pytest.approx(0.442, abs=5e-4)
    assert average_precision_at(hand_case, 10, 30) == pytest.approx(0.10)
    assert ndcg_at(hand_case, 10, 30) == pytest.approx(1 / sum(1 / np.log2(i + 1) for i in range(1, 11)))


def test_a_relevant_item_that_is_never_returned_costs(hand_case: np.ndarray) -> None:
    assert average_precision(hand_case, 60) == pytest.approx(average_precision(hand_case, 30) / 2)


def test_nothing_found() -> None:
    nothing = np.zeros(5, bool)
    assert (precision_at(nothing, 5), hit_at(nothing, 5), average_precision(nothing, 3), ndcg_at(nothing, 5, 3)) == (
        0,
    ) * 4


def small_gallery() -> Gallery:
    """Two anatomies in three patients, on a circle."""
    angle = np.array([0.0, 1.5, 0.1, 1.2, 0.2, 0.25])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    return Gallery.of(["a", "a", "b", "b", "c", "c"], vectors, [0, 1, 0, 1, 0, 1], ["a", "a", "b", "b", "c", "c"])


def test_own_patient_is_neither_found_nor_relevant() -> None:
    ranking = rank_all(small_gallery())
    assert (ranking.label[:, -2:] == -1).all()
    assert (ranking.label[:, :-2] >= 0).all()
    assert ranking.relevant.sum(axis=1).tolist() == [2] * 6


def test_vectorised_numbers_equal_the_plain_ones() -> None:
    ranking = rank_all(small_gallery())
    for row, value in zip(ranking.relevant, average_precisions(ranking), strict=True):
        assert value == pytest.approx(average_precision(row, 2))


def test_some_may_ask_where_all_would_not_fit() -> None:
    whole, part = rank_all(small_gallery()), rank_all(small_gallery(), slice(2, 4))
    assert (part.label == whole.label[2:4]).all()
    assert (part.item == whole.item[2:4]).all()
    assert (part.query == whole.query[2:4]).all()
    assert (whole.label[:, 0] == small_gallery().label[whole.item[:, 0]]).all()


def test_c_looks_like_the_wrong_anatomy() -> None:
    ranking = rank_all(small_gallery())
    assert (
        by_label(average_precisions(ranking), ranking.query)[0]
        > by_label(average_precisions(ranking), ranking.query)[1]
    )
    assert (commonest_labels(ranking, 1) == ranking.query).mean() < 1.0
    assert chances(ranking) == pytest.approx([0.5] * 6)


def test_ties_go_by_id_whatever_the_order_given() -> None:
    ids = ["q", "z", "m", "b"]
    vectors = np.ones((4, 1), np.float32)
    labels = [0, 1, 0, 1]
    there = rank_all(Gallery.of(ids, vectors, labels, ids))
    back = rank_all(Gallery.of(ids[::-1], vectors, labels[::-1], ids[::-1]))
    assert (there.label == back.label).all()
    asked_by_b = there.label[0]
    assert asked_by_b[:3].tolist() == [0, 0, 1]  # m, q, z


def test_a_query_without_positives_is_left_out_not_zero() -> None:
    gallery = Gallery.of(["a", "b"], np.ones((2, 1), np.float32), [0, 1], ["a", "b"])
    assert np.isnan(average_precisions(rank_all(gallery))).all()
    assert macro(by_label(average_precisions(rank_all(gallery)), gallery.label)) == 0.0


def test_interval_holds_the_mean_and_is_the_same_twice() -> None:
    rng = np.random.default_rng(0)
    values, labels, patients = rng.uniform(size=60), np.arange(60) % 3, np.arange(60) // 3
    low, high = bootstrap_interval(values, labels, patients, 1)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values, labels, patients, 1)


def test_an_interval_never_draws_patients_without_a_value() -> None:
    values = np.array([0.5, np.nan, np.nan, np.nan])
    low, high = bootstrap_interval(values, np.zeros(4, np.int64), np.arange(4), 1)
    assert (low, high) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(values[1:], np.zeros(3, np.int64), np.arange(3), 1)


def test_auroc_by_hand() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1.0
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 0.0])) == pytest.approx((1.5 + 0) / 4)
    with pytest.raises(ValueError, match="two sets"):
        auroc(np.array([]), np.array([1.0]))
