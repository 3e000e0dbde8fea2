import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ldpol.archive import Grid
from ldpol.evaluation.intervals import Estimate, Ratio, difference, estimate
from ldpol.evaluation.sequence_metrics import compare_sequences, regions, sequence_ratios, summarise_sequences
from ldpol.planning.sequencing import SegmentScore, SequenceScore

GRID = Grid((32, 32), (0.0, 0.0), (1.0, 1.0))
NAN = float("nan")
SETTINGS = {"steps": 10, "within": 0.2, "areas": regions(GRID, 2)}


def means(values):
    values = np.asarray(values, float)
    return Ratio(values, np.ones_like(values))


def test_mean_and_interval_of_a_large_sample_are_the_normal_ones():
    values = np.random.default_rng(1).exponential(size=400)
    found = estimate(means(values))
    half = norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean()) and found.count == 400
    np.testing.assert_allclose([found.low, found.high], [values.mean() - half, values.mean() + half], rtol=0.02)
    narrow = estimate(means(values), level=0.5)
    assert (narrow.high - narrow.low) / (found.high - found.low) == pytest.approx(
        norm.ppf(0.75) / norm.ppf(0.975), rel=0.1
    )


def test_interval_covers_as_often_as_it_says():
    """Ratios of sums with random weights, 400 experiments of 40 sequences: the true ratio is 0.3."""
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        tried = random.integers(0, 20, 40)
        found = estimate(Ratio(random.binomial(tried, 0.3), tried), resamples=400)
        hits += found.low <= 0.3 <= found.high
    assert 0.90 < hits / 400 < 0.98


def test_ratio_weighs_sequences_by_what_was_observed():
    found = estimate(Ratio(np.array([[1.0, 0.0], [6.0, 0.0]]), np.array([[1, 0], [9, 0]])))
    np.testing.assert_allclose(found.value, [0.7, NAN])
    assert found.count.tolist() == [10, 0]
    assert np.isnan([found.low[1], found.high[1]]).all() and found.low[0] < 0.7 < found.high[0]


def test_one_sequence_has_no_interval():
    found = estimate(means([3.0]))
    assert found.value == 3.0 and np.isnan(found.low) and np.isnan(found.high)


def test_paired_difference_cancels_what_both_share():
    random = np.random.default_rng(3)
    hard, noise = 10 * random.normal(size=100), random.normal(size=100)
    one, other = means(hard + 1.0 + noise), means(hard)
    found = difference(one, other)
    half = norm.ppf(0.975) * noise.std() / 10
    np.testing.assert_allclose([found.low, found.high], 1 + noise.mean() + half * np.array([-1, 1]), atol=0.06)
    assert estimate(one).low < estimate(other).high  # unpaired, the two could not be told apart
    shift = difference(means(hard + 2.0), other)
    np.testing.assert_allclose([shift.value, shift.low, shift.high], 2.0)
    turned = difference(other, one)
    np.testing.assert_allclose([turned.value, turned.low, turned.high], [-found.value, -found.high, -found.low])


def test_wrong_use_of_intervals():
    with pytest.raises(ValueError, match="same sequences"):
        difference(means(np.ones(3)), means(np.ones(4)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        estimate(means(np.ones(3)), level=95)


def test_estimates_as_json():
    found = estimate(Ratio(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[2, 0], [2, 0]])))
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["value"] == [0.75, None]
    assert Estimate(np.array(NAN), 0.0, 1.0, 2).as_json() == {"value": None, "low": 0.0, "high": 1.0, "count": 2.0}  # type: ignore[arg-type]


def episodes():
    """Two sequences of three segments of 10 steps, two episodes each."""
    targets = np.array([[[0.1, 0.1], [0.9, 0.1], [0.1, 0.1]], [[0.1, 0.1], [0.9, 0.1], [0.9, NAN]]], np.float32)
    lived = np.array([[[10, 10, 10], [10, 4, 0]], [[10, 10, 5], [2, 0, 0]]])
    survived = np.array([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], bool)
    measures = np.full((2, 2, 3, 2), NAN, np.float32)
    measures[0, 0] = [[0.1, 0.1], [0.9, 0.5], [0.1, 0.2]]  # misses 0, 0.4, 0.1
    measures[0, 1, :2] = [[0.4, 0.5], [0.9, 0.1]]  # 0.5, 0 (fell after settling)
    measures[1, 0] = [[0.1, 0.1], [0.9, 0.1], [0.8, 0.7]]  # 0, 0, 0.1 (the second is free)
    length = lived.sum(-1)
    fitness = np.array([[30.0, 10.0], [20.0, 0.0]])
    segments = SegmentScore(jnp.zeros((2, 2, 3)), *(jnp.array(x) for x in (measures, lived, survived)))
    return SequenceScore(jnp.array(fitness), jnp.array(length), segments, jnp.array([[60, 40], [60, 20]])), targets


def test_metrics_by_hand():
    score, targets = episodes()
    found = {name: estimate.value for name, estimate in summarise_sequences(score, targets, **SETTINGS).items()}
    assert found["survival"] == 2 / 4  # 30 and 25 of 30 steps; 24 would not do
    assert found["length"] == (30 + 14 + 25 + 2) / 4
    assert found["fitness"] == 15.0 and found["look_ahead"] == 45.0
    assert found["mem"] == pytest.approx((0 + 0.4 + 0.1 + 0.5 + 0 + 0 + 0 + 0.1) / 8)
    np.testing.assert_allclose(found["segment_mem"], [0.5 / 3, 0.4 / 3, 0.2 / 2], atol=1e-6)
    assert found["hits"] == 4 / 12  # within 0.2 and survived: 0, 0.1 | none | 0, 0 and a fall | none
    np.testing.assert_allclose(found["reached"], [1.0, 3 / 4, 2 / 4])
    np.testing.assert_allclose(found["segment_survival"], [3 / 4, 2 / 3, 1 / 2])
    # Regions 0 = (low, low), 2 = (high, low). 0 -> 2: three met it, two survived; 2 -> 0: one and one; a free
    # measure has no region.
    expected = np.full((4, 4), NAN)
    expected[0, 2], expected[2, 0] = 2 / 3, 1.0
    np.testing.assert_allclose(found["transitions"], expected)


def test_survival_needs_more_than_the_published_part():
    score, targets = episodes()
    at = lambda length: score.replace(length=jnp.full((2, 2), length))  # noqa: E731
    for length, survival in ((24, 0.0), (25, 1.0)):
        assert summarise_sequences(at(length), targets, **SETTINGS)["survival"].value == survival


def test_a_request_for_nothing_is_not_judged():
    score, targets = episodes()
    targets[:, 1] = NAN
    found = sequence_ratios(score, targets, **SETTINGS)
    assert found["segment_mem"].denominator[:, 1].tolist() == [0, 0] and found["hits"].denominator.tolist() == [4, 4]
    assert found["transitions"].denominator.sum() == 0


def test_comparison_with_itself_and_with_a_better_one():
    score, targets = episodes()
    for name, found in compare_sequences(score, score, targets, **SETTINGS).items():
        assert np.isin(np.nan_to_num(found.value), 0.0).all(), name
        assert np.isin(np.nan_to_num([found.low, found.high]), 0.0).all(), name
    better = score.replace(fitness=score.fitness + jnp.array([[1.0], [3.0]]))
    gain = compare_sequences(better, score, targets, **SETTINGS)["fitness"]
    assert gain.value == 2.0 and (gain.low, gain.high) == (1.0, 3.0)


def test_scores_of_other_sequences():
    score, targets = episodes()
    with pytest.raises(ValueError, match="do not fit targets"):
        summarise_sequences(score, targets[:, :2], **SETTINGS)


def test_regions_cover_the_same_space():
    assert regions(GRID) == Grid((3, 3), (0.0, 0.0), (1.0, 1.0))
