"""How true each claim is of each elite, for the denoiser's target."""

import math

import numpy as np

from ldpol.distillation.reader import LEAST, SOFTNESS, claim_likelihoods
from ldpol.language.claims import Claim, Levels


def test_truth_is_a_logistic_function_at_either_end():
    levels = Levels(("speed", "height"), {}, {"speed": (0.0, 2.0), "height": (1.0, 1.5)})
    claims = (Claim("speed", 1.0, math.inf), Claim("height", 1.1, 1.2))
    traits = np.array([[1.0, 1.15], [1.5, 1.1], [0.99, 1.9], [-5.0, 0.0]])
    found = claim_likelihoods(levels, claims, traits)
    logistic = lambda value: 1 / (1 + math.exp(-value))  # noqa: E731
    width = SOFTNESS * 2.0
    np.testing.assert_allclose(np.exp(found[:3, 0]), [0.5, logistic(0.5 / width), logistic(-0.01 / width)], rtol=1e-5)
    width = SOFTNESS * 0.5
    both = logistic(0.05 / width) ** 2
    np.testing.assert_allclose(np.exp(found[:2, 1]), [both, 0.5 * logistic(0.1 / width)], rtol=1e-5)
    assert (found[3] == -LEAST).all() and np.isfinite(found).all()
