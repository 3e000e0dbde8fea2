"""How far an elite can be relied on: does a policy decoded near it behave as the decoder was told?

Decoded policies deviate reproducibly from their elites. Several elites can serve one condition, so those that decode
badly are drawn less often and their neighbours answer for them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ldpol.archive import Grid
from ldpol.distillation.config import VerifyConfig
from ldpol.distillation.encoder import Posterior, draw_around
from ldpol.errors import UserError
from ldpol.hooks import Hooks
from ldpol.player import Player
from ldpol.types import Array, Key, Params, Score


def decoding_errors(
    posterior: Posterior,
    measures: Array,
    *,
    decode: Callable[[Array, Array], Params],
    player: Player,
    grid: Grid,
    config: VerifyConfig,
    noise: float,
    key: Key,
    depends_on: Mapping[str, Any],
    hooks: Hooks,
) -> np.ndarray:
    """Decode policies near every elite and evaluate them.

    Args:
      posterior: of the elites' latents.
      measures: `[N, M]` what the elites do, scaled to [0, 1].
      decode: `(latents [B, h, w, c], measures [B, M]) -> policies`, compiled; the decoder as it is going to be stored.
      player: evaluates policies.
      grid: of the archive.
      config: how often.
      noise: standard deviation of the noise on the measures that the decoder is given.
      key: decides draws and episodes.
      depends_on: what the scores of a round depend on beside its number.
      hooks: of the caller; its log takes the mean error of every round.

    Returns:
      `[N]` mean distance from the measures given to the decoder to those its policies achieve; zeros without rounds.
    """
    errors = np.zeros((max(config.rounds, 1), len(measures)), np.float32)
    blank = Score(0, 0, 0)  # type: ignore[arg-type]
    for number in range(config.rounds):
        latent_key, label_key, episode_key = jax.random.split(jax.random.fold_in(key, number), 3)
        drawn = draw_around(posterior, measures, noise, latent_key, label_key)
        title = f"rollouts of decoded policies, to verify ({number + 1}/{config.rounds})"

        def evaluate(rows: Any, keys: Key) -> Score:
            return player.play(decode(*rows), keys).score

        score = hooks.remember(
            f"verify-{number}",
            {**depends_on, "round": number},
            lambda: player.over(evaluate, drawn, episode_key, title=title, progress=hooks.progress),  # noqa: B023
            blank,
        )
        errors[number] = np.linalg.norm(np.asarray(grid.scaled(score.measures)) - np.asarray(drawn[1]), axis=-1)
        hooks.log("verify", number + 1, {"error": float(errors[number].mean())})
    return errors.mean(0)


def reliability_weights(errors: np.ndarray, tolerance: float) -> np.ndarray:
    """Return a sampling weight per elite, `[N]` with mean 1: a Gaussian of its error in multiples of the median error.

    Multiples of the median mean the same on every grid.

    Args:
      errors: `[N]` distances.
      tolerance: standard deviation of the Gaussian, in median errors.

    Raises:
      UserError: if the tolerance is not positive.
    """
    if tolerance <= 0:
        raise UserError(f"the tolerance of verified elites must be positive, found {tolerance:g}")
    share = np.exp(-0.5 * (errors / max(tolerance * float(np.median(errors)), 1e-6)) ** 2)
    return (share / share.mean()).astype(np.float32)
