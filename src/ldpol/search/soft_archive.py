"""The soft archive of CMA-MAE: a threshold a cell, which rises slowly to what has been reached there.

Fontaine and Nikolaidis, "Covariance Matrix Adaptation MAP-Annealing", GECCO 2023. What counts as progress is measured
against the threshold, not against the best: a search stays in a region as long as it improves on what it usually finds.
"""

import jax
import jax.numpy as jnp

from ldpol.types import Array


def improvement(thresholds: Array, cells: Array, fitness: Array) -> Array:
    """Return by how much each of `[N]` policies exceeds the threshold of its cell; negative if it does not.

    Args:
      thresholds: `[C]`.
      cells: `[N]` where the policies landed.
      fitness: `[N]`.
    """
    return fitness - thresholds[cells]


def raise_thresholds(thresholds: Array, cells: Array, fitness: Array, rate: float) -> Array:
    """Return the thresholds `[C]` after a batch, in whatever order its rows stand.

    One policy above its threshold moves it by t <- (1 - rate) t + rate f. The k of a batch in one cell move it as k
    policies of their mean fitness one after another would: t <- (1 - rate)^k t + (1 - (1 - rate)^k) mean. All of them
    are compared with the threshold before the batch.

    Args:
      thresholds: `[C]`, finite.
      cells: `[N]`.
      fitness: `[N]`; what is not finite moves nothing.
      rate: the archive learning rate, 0 (thresholds never move) to 1 (each becomes the batch's mean).
    """
    above = jnp.isfinite(fitness) & (improvement(thresholds, cells, fitness) > 0)
    count = jax.ops.segment_sum(above.astype(fitness.dtype), cells, thresholds.shape[0])
    total = jax.ops.segment_sum(jnp.where(above, fitness, 0.0), cells, thresholds.shape[0])
    kept = jnp.power(1.0 - rate, count)
    return jnp.where(count > 0, kept * thresholds + (1.0 - kept) * total / jnp.maximum(count, 1.0), thresholds)
