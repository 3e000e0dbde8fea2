"""Which verified draws a generator keeps."""

import jax.numpy as jnp
import numpy as np

from ldpol.archive import Archive, Tessellation
from ldpol.distillation.config import VerifyConfig, WeightsConfig
from ldpol.distillation.dataset import elite_weights
from ldpol.distillation.reliability import VerifiedDraws
from ldpol.measures import parts
from ldpol.model.answering import Kernel
from ldpol.model.verified import RoundedDraws, VerifiedBank, make_bank
from ldpol.tasks import Task
from ldpol.traits import columns

RANKS = 64
"""Draws that may be kept for the sake of one target."""


def choose_draws(verified: VerifiedDraws, archive: Archive, config: VerifyConfig, weights: WeightsConfig) -> np.ndarray:
    """Choose the draws that answer the most requests, see `choose_rows`; ascending indices.

    Args:
      verified: R draws around the N elites.
      archive: the elites, re-evaluated.
      config: how many to keep, and the kernel that they answer by.
      weights: of training.
    """
    grid, targets = archive.grid, np.asarray(archive.grid.scaled(archive.measures))
    often = _log_weights(verified, grid, config, weights)
    return choose_rows(_achieved(verified, grid), targets, config.rows, config.answers(grid), grid, log_weight=often)


def keep_draws(
    verified: VerifiedDraws,
    kept: np.ndarray,
    archive: Archive,
    task: Task,
    config: VerifyConfig,
    weights: WeightsConfig,
) -> VerifiedBank:
    """Put the table of some draws together.

    A draw is weighed as training weighs elites, but by what its policy did: the better of those that behave alike, and
    rare behaviours, answer more often.

    Args:
      verified: R draws around the N elites.
      kept: which of them.
      archive: the elites, re-evaluated.
      task: says what the columns of its traits are.
      config: how much fitness counts.
      weights: of training.
    """
    traits, fitness = np.asarray(verified.behaviour.traits), np.asarray(verified.behaviour.score.fitness)
    achieved = _achieved(verified, archive.grid)
    log_weight = _log_weights(verified, archive.grid, config, weights)
    elites = np.sort(np.asarray(archive.fitness))
    quality = (np.searchsorted(elites, fitness) / len(elites)).astype(np.float32)
    names = [column.name for column in columns(task)] if traits.shape[-1] else []
    draws = RoundedDraws(verified.draws.levels[kept], verified.draws.step, verified.draws.measures[kept])
    of_rows = {"quality": quality[kept], "log_weight": log_weight[kept], "fitness": fitness[kept]}
    return make_bank(draws, achieved[kept], traits[kept], **of_rows, trait_names=names)


def _achieved(verified: VerifiedDraws, grid: Tessellation) -> np.ndarray:
    return np.clip(np.asarray(grid.scaled(verified.behaviour.score.measures)), 0.0, 1.0)


def _log_weights(
    verified: VerifiedDraws, grid: Tessellation, config: VerifyConfig, weights: WeightsConfig
) -> np.ndarray:
    found = np.asarray(verified.behaviour.score.fitness), _achieved(verified, grid)
    often = elite_weights(*found, quality=config.quality, balance=weights.balance, radius=weights.radius)
    return np.log(often + 1e-6)


def choose_rows(
    achieved: np.ndarray,
    targets: np.ndarray,
    rows: int,
    kernel: Kernel,
    grid: Tessellation,
    *,
    log_weight: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Choose the draws that answer the most requests: the likeliest of every target first, then the second, ...

    How likely a draw answers is what `answering.row_logits` makes of a request for all measures.

    Args:
      achieved: `[R, M]` scaled to [0, 1].
      targets: `[N, M]` what is going to be asked for, scaled to [0, 1].
      rows: how many to keep.
      kernel: which draws answer.
      grid: says which draws are in the cell of a target.
      log_weight: `[R]` how often each is drawn at equal distance.

    Returns:
      Indices of at most `rows` draws, ascending.
    """
    if len(achieved) <= rows:
        return np.arange(len(achieved))
    log_weight = np.broadcast_to(np.asarray(log_weight, np.float32), len(achieved))
    cells, asked = (np.asarray(grid.index(grid.unscaled(jnp.asarray(places)))) for places in (achieved, targets))
    ranks = min(RANKS, len(achieved))
    order, cost = np.empty((len(targets), ranks), int), np.empty((len(targets), ranks), np.float32)
    for part in parts(len(targets)):
        squared = ((targets[part, None] - achieved[None]) ** 2).sum(-1)
        own = asked[part, None] == cells[None]
        costs = 0.5 * squared / kernel.measures**2 - log_weight[None] - kernel.cell * own
        order[part] = np.argsort(costs, 1, kind="stable")[:, :ranks]
        cost[part] = np.take_along_axis(costs, order[part], 1)
    kept: dict[int, None] = {}
    for rank in range(ranks):
        # Those that answer best first: where a rank does not fit whole, the best of it stays.
        for row in order[np.argsort(cost[:, rank], kind="stable"), rank]:
            kept.setdefault(int(row))
            if len(kept) == rows:
                return np.sort(np.fromiter(kept, int))
    return np.sort(np.fromiter(kept, int))
