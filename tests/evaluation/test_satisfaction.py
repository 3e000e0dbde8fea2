"""Captions checked against behaviours, by hand."""

import math

import numpy as np
import pytest

from ldpol.evaluation.satisfaction import by_chance, by_trait, checked, rate, understood
from ldpol.language.captions import Caption
from ldpol.language.claims import Claim

NAMES = ("speed", "height")
FAST, SLOW, LOW = Claim("speed", 1.0, math.inf), Claim("speed", -math.inf, 0.5), Claim("height", -math.inf, 0.9)
CAPTIONS = [Caption("fast and low", (FAST, LOW), (FAST, LOW)), Caption("slowly", (SLOW,), (SLOW,))]
BEHAVIOURS = np.array([[2.0, 1.2], [0.2, 0.3]])  # fast but not low; slow


def test_claims_are_counted_over_all_captions():
    ratio = checked(CAPTIONS, NAMES, BEHAVIOURS)
    np.testing.assert_array_equal(ratio.numerator, [1, 1])
    np.testing.assert_array_equal(ratio.denominator, [2, 1])
    found = rate(ratio)
    assert found["value"] == pytest.approx(2 / 3) and found["whole"] == 0.5
    assert found["low"] <= found["value"] <= found["high"]


def test_chance_is_the_mean_over_all_behaviours():
    """Each of the three claims holds of one of the two behaviours."""
    ratio = by_chance(CAPTIONS, NAMES, BEHAVIOURS)
    np.testing.assert_allclose(ratio.numerator, [1.0, 0.5])
    assert rate(ratio)["value"] == pytest.approx(0.5)


def test_traits_apart():
    found = by_trait(CAPTIONS, NAMES, BEHAVIOURS)
    assert found == {"height": {"claims": 1, "rate": 0.0}, "speed": {"claims": 2, "rate": 1.0}}


def test_understanding_by_hand():
    """Of three claims made two are heard, and one more that was not made."""
    read = np.array([[0.9, 0.1, 0.4], [0.6, 0.8, 0.0]])
    found = understood(CAPTIONS, (FAST, SLOW, LOW), read)
    assert found == {"recall": pytest.approx(2 / 3), "precision": pytest.approx(2 / 3), "exact": 0.0}
    sure = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert understood(CAPTIONS, (FAST, SLOW, LOW), sure) == {"recall": 1.0, "precision": 1.0, "exact": 1.0}


def test_a_row_a_caption():
    with pytest.raises(ValueError, match="zip"):
        checked(CAPTIONS, NAMES, BEHAVIOURS[:1])
