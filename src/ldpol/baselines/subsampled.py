"""A few well-chosen elites of the archive, looked up by measures: the nearest answers."""

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Tessellation
from ldpol.baselines import quantised
from ldpol.baselines.quantised import Stored, generate
from ldpol.errors import UserError
from ldpol.precision import Precision
from ldpol.types import Array, Params

__all__ = ["choose", "fit", "generate"]


def choose(grid: Tessellation, fitness: Array, measures: Array, count: int) -> Array:
    """Choose the elites that stand in best for all of them, greedily.

    Elite j stands in for elite i by exp(-d^2 / 2 r^2 - max(f_i - f_j, 0) / s): it is as near as its share of the filled
    cells reaches (r), and not worse (s: the standard deviation of the fitness). What every elite gets from its best
    stand-in, summed, is a facility location problem, of which the greedy choice reaches at least 1 - 1/e of the optimum
    (Nemhauser, Wolsey and Fisher 1978).

    Args:
      grid: of the archive.
      fitness: `[N]`.
      measures: `[N, M]`.
      count: K, at most N.

    Returns:
      `[K]` rows, the most useful first.

    Raises:
      ValueError: if there are fewer than K elites, or K is not positive.
    """
    total = fitness.shape[0]
    if not 1 <= count <= total:
        raise UserError(f"cannot choose {count} elites of an archive of {total}")
    place = grid.scaled(measures)
    filled = len(np.unique(np.asarray(grid.index(measures))))
    radius = 0.5 * (filled / grid.cells / count) ** (1.0 / place.shape[1])
    spread = jnp.maximum(fitness.std(), 1e-6)

    def help_by(row: Array) -> Array:
        """Return how well one elite stands in for each of the others `[N]`."""
        squared = ((place - place[row][None]) ** 2).sum(-1)
        return jnp.exp(-0.5 * squared / radius**2 - jnp.maximum(fitness - fitness[row], 0.0) / spread)

    def add(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        best, taken = carry
        gains = jax.lax.map(
            lambda row: jnp.maximum(help_by(row) - best, 0.0).sum(), jnp.arange(total), batch_size=min(64, total)
        )
        row = jnp.argmax(jnp.where(taken, -1.0, gains))
        return (jnp.maximum(best, help_by(row)), taken.at[row].set(True)), row

    return jax.lax.scan(add, (jnp.zeros(total), jnp.zeros(total, bool)), None, length=count)[1]


def fit(
    grid: Tessellation,
    policies: Params,
    fitness: Array,
    measures: Array,
    *,
    count: int,
    precision: Precision = "float32",
) -> Stored:
    """Store the `count` elites that stand in best for all N.

    Args:
      grid: of the archive.
      policies: N policies, leading axis on every leaf.
      fitness: `[N]` means of several fresh episodes.
      measures: `[N, M]` likewise.
      count: how many to keep.
      precision: of the numbers.

    Raises:
      ValueError: if there are fewer elites than that, or for an unknown precision.
    """
    rows = choose(grid, fitness, measures, count)
    kept, places = jax.tree.map(lambda leaf: leaf[rows], (policies, measures))
    return quantised.fit(kept, places, precision)
