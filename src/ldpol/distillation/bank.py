"""Which verified draws a generator keeps."""

import jax.numpy as jnp
import numpy as np

from ldpol.archive import Archive
from ldpol.distillation.config import VerifyConfig, WeightsConfig
from ldpol.distillation.dataset import elite_weights
from ldpol.distillation.reliability import VerifiedDraws
from ldpol.model.verified import RoundedDraws, VerifiedBank, choose_rows, make_bank
from ldpol.tasks import Task
from ldpol.traits import columns


def keep_draws(
    verified: VerifiedDraws, archive: Archive, task: Task, config: VerifyConfig, weights: WeightsConfig
) -> VerifiedBank:
    """Keep the draws that answer the most requests.

    A draw is weighed as training weighs elites, but by what its policy did: the better of those that behave alike, and
    rare behaviours, answer more often.

    Args:
      verified: R draws around the N elites.
      archive: the elites, re-evaluated.
      task: says what the columns of its traits are.
      config: how many to keep, and the kernel that they answer by.
      weights: of training.
    """
    grid, score, traits = archive.grid, verified.behaviour.score, np.asarray(verified.behaviour.traits)
    achieved = np.clip(np.asarray(grid.scaled(score.measures)), 0.0, 1.0)
    found = np.asarray(score.fitness), achieved
    often = elite_weights(*found, quality=config.quality, balance=weights.balance, radius=weights.radius)
    log_weight = np.log(often + 1e-6)
    targets = np.asarray(grid.scaled(archive.measures))
    cells = tuple(np.asarray(grid.index(jnp.asarray(one.measures))) for one in (score, archive))
    how = {"width": config.answers(grid).measures, "cells": cells, "own_cell": config.own_cell}
    kept = choose_rows(achieved, targets, config.rows, log_weight=log_weight, **how)
    elites, fitness = np.sort(np.asarray(archive.fitness)), np.asarray(score.fitness)
    quality = (np.searchsorted(elites, fitness) / len(elites)).astype(np.float32)
    names = [column.name for column in columns(task)] if traits.shape[-1] else []
    draws = RoundedDraws(verified.draws.levels[kept], verified.draws.step, verified.draws.measures[kept])
    of_rows = {"quality": quality[kept], "log_weight": log_weight[kept], "fitness": fitness[kept]}
    return make_bank(draws, achieved[kept], traits[kept], **of_rows, trait_names=names)
