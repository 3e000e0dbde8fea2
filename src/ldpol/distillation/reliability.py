"""How far an elite can be relied on: does a policy decoded near it reach the measures given to the decoder?

Decoded policies deviate reproducibly from their elites. Several elites can serve one condition, so those that decode
badly are drawn less often and their neighbours answer for them. What was evaluated is kept: a verified draw answers
requests for what it did (`model/verified.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Archive, Tessellation
from ldpol.distillation.config import VerifyConfig
from ldpol.distillation.encoder import Posterior, draw_around
from ldpol.errors import UserError
from ldpol.hooks import Hooks
from ldpol.model.verified import RoundedDraws, VerifiedBank, choose_rows, latent_step, make_bank, round_draws
from ldpol.player import Player
from ldpol.reference import BLANK
from ldpol.tasks import Task
from ldpol.traits import columns
from ldpol.types import Array, Behaviour, Key, Params


class VerifiedDraws(NamedTuple):
    """Policies decoded near the elites, and what they did; rounds one after the other, R = rounds x N rows.

    Attributes:
      draws: rounded as they are kept.
      behaviour: `[R]` means over the player's episodes, NumPy arrays.
      errors: `[N]` mean distance from the measures given to the decoder to those its policies achieve.
    """

    draws: RoundedDraws
    behaviour: Behaviour
    errors: np.ndarray


def verify_draws(
    posterior: Posterior,
    measures: Array,
    *,
    decode: Callable[[Array, Array], Params],
    player: Player | None,
    grid: Tessellation,
    config: VerifyConfig,
    noise: float,
    key: Key,
    depends_on: Mapping[str, Any],
    hooks: Hooks,
) -> VerifiedDraws | None:
    """Decode policies near every elite and evaluate them.

    Args:
      posterior: of the elites' latents.
      measures: `[N, M]` what the elites do, scaled to [0, 1].
      decode: `(latents [B, h, w, c], measures [B, M]) -> policies`, compiled; the decoder as it is going to be stored.
      player: evaluates policies; None without rounds.
      grid: of the archive.
      config: how often.
      noise: standard deviation of the noise on the measures that the decoder is given.
      key: decides draws and episodes.
      depends_on: what the scores of a round depend on beside its number.
      hooks: of the caller; its log takes the mean error of every round.

    Returns:
      None without rounds.
    """
    if player is None or not config.rounds:
        return None
    rounds: list[tuple[RoundedDraws, Behaviour, np.ndarray]] = []
    step = latent_step(posterior.mean, posterior.deviation)
    for number in range(config.rounds):
        latent_key, label_key, episode_key = jax.random.split(jax.random.fold_in(key, number), 3)
        drawn = round_draws(*draw_around(posterior, measures, noise, latent_key, label_key), step)
        title = f"rollouts of decoded policies, to verify ({number + 1}/{config.rounds})"

        def evaluate(rows: Any, keys: Key) -> Behaviour:
            return player.play(decode(*rows), keys)

        behaviour = hooks.remember(
            f"verify-{number}",
            {**depends_on, "round": number},
            lambda: player.over(  # noqa: B023
                evaluate,  # noqa: B023
                (drawn.latents, drawn.measures),  # noqa: B023
                episode_key,  # noqa: B023
                title=title,  # noqa: B023
                progress=hooks.progress,
            ),
            BLANK,
        )
        errors = np.linalg.norm(np.asarray(grid.scaled(behaviour.score.measures)) - np.asarray(drawn.measures), axis=-1)
        hooks.log("verify", number + 1, {"error": float(errors.mean())})
        rounds.append((drawn, behaviour, errors))
    draws, behaviours, errors = zip(*rounds, strict=True)
    join = lambda *leaves: np.concatenate(leaves)  # noqa: E731
    together = RoundedDraws(
        jnp.concatenate([one.levels for one in draws]), step, jnp.concatenate([one.measures for one in draws])
    )
    return VerifiedDraws(together, jax.tree.map(join, *behaviours), np.mean(errors, 0))


def keep_draws(verified: VerifiedDraws, archive: Archive, task: Task, weights: Array, *, rows: int) -> VerifiedBank:
    """Keep the draws that answer the most requests.

    Args:
      verified: R draws around the N elites.
      archive: the elites, re-evaluated.
      task: says what the columns of its traits are.
      weights: `[N]` how often training draws each elite: so often its rows answer, relative to others.
      rows: how many to keep.
    """
    grid, score, traits = archive.grid, verified.behaviour.score, np.asarray(verified.behaviour.traits)
    achieved = np.clip(np.asarray(grid.scaled(score.measures)), 0.0, 1.0)
    kept = choose_rows(achieved, np.asarray(grid.scaled(archive.measures)), rows)
    elites, fitness = np.sort(np.asarray(archive.fitness)), np.asarray(score.fitness)
    quality = (np.searchsorted(elites, fitness) / len(elites)).astype(np.float32)
    log_weight = np.tile(np.log(np.asarray(weights) + 1e-6), len(achieved) // len(archive))
    names = [column.name for column in columns(task)] if traits.shape[-1] else []
    draws = RoundedDraws(verified.draws.levels[kept], verified.draws.step, verified.draws.measures[kept])
    of_rows = {"quality": quality[kept], "log_weight": log_weight[kept], "fitness": fitness[kept]}
    return make_bank(draws, achieved[kept], traits[kept], **of_rows, trait_names=names)


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
