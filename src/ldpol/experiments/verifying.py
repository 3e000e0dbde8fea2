"""The part of the train stage that looks back: which elites does the decoder reproduce?

What an elite does and what a policy decoded around it does differ, mostly in ways that a second evaluation repeats. A
condition is answered by several elites nearby, so those whose decoded policies miss can give way to those that hit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldpol.archive import Grid
from ldpol.experiments import passes, session
from ldpol.experiments.settings import Config
from ldpol.model.autoencoder import draw_around
from ldpol.types import Array, Behaviour, Key, Params, PyTree, Score

Decode = Callable[[Array, Array], Params]
"""`(latents [B, h, w, c], measures [B, M]) -> policies`, compiled."""
Play = Callable[[PyTree, Key], Behaviour]
"""`(policies, keys) -> Behaviour [B]`, compiled."""


def play_draws(
    config: Config,
    posterior: tuple[Array, Array],
    measures: Array,
    decode: Decode,
    play: Play,
    grid: Grid,
    key: Key,
    folder: Path,
    about: Mapping[str, Any],
    timer: session.Timer,
    done: Callable[[int, dict[str, float]], object],
) -> np.ndarray:
    """Decode draws around every elite and play them; every round is kept.

    Args:
      config: the whole config.
      posterior: mean and standard deviation `[N, h, w, c]` of the elites' latents.
      measures: `[N, M]` what the elites do, scaled to [0, 1].
      decode: the decoder, as it is going to be stored.
      play: plays policies as the evaluation does.
      grid: of the archive.
      key: decides the draws and the episodes.
      folder: where rounds are kept.
      about: what they depend on; rounds of anything else are played again.
      timer: of the stage.
      done: called after each round, kept or new, with its number and the mean distance by which its policies missed.

    Returns:
      `[N]` mean distance from what the decoder was told for an elite to what its policies did; zeros without rounds.
    """
    rounds = config.train.verify.rounds
    missed = np.zeros((max(rounds, 1), len(measures)), np.float32)
    for number in range(rounds):
        latent_key, told_key, play_key = jax.random.split(jax.random.fold_in(key, number), 3)
        drawn = draw_around(posterior, measures, config.train.autoencoder.loss.noise, latent_key, told_key)
        score = passes.run(
            config,
            folder / f"verify-{number}",
            f"train: rollouts of decoded policies, to verify ({number + 1}/{rounds})",
            lambda rows, keys: play(decode(*rows), keys).score,
            drawn,
            play_key,
            dict(about),
            timer,
            restore=lambda arrays: Score(**arrays),
        )
        away = np.asarray(grid.scaled(score.measures)) - np.asarray(drawn[1])
        missed[number] = np.linalg.norm(away, axis=-1)
        done(number + 1, {"missed": float(missed[number].mean())})
    return missed.mean(0)


def trust(missed: np.ndarray, tolerance: float) -> np.ndarray:
    """Say how much elites are to be trusted whose draws miss by so much, `[N]` with mean 1.

    A Gaussian of the miss in multiples of the median miss, so that it means the same on every grid.

    Args:
      missed: `[N]` distances.
      tolerance: standard deviation of the Gaussian, in median misses.

    Raises:
      ValueError: if the tolerance is not positive.
    """
    if tolerance <= 0:
        raise ValueError(f"the tolerance of verified elites must be positive, found {tolerance:g}")
    share = np.exp(-0.5 * (missed / max(tolerance * float(np.median(missed)), 1e-6)) ** 2)
    return (share / share.mean()).astype(np.float32)
