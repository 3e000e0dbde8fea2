"""How far an elite can be relied on: does a policy decoded near it reach the measures given to the decoder?

Decoded policies deviate reproducibly from their elites. Several elites can serve one condition, so those that decode
badly are drawn less often and their neighbours answer for them. What was evaluated is kept: a verified draw answers
requests for what it did (`model/verified.py`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Tessellation
from ldpol.distillation.config import VerifyConfig
from ldpol.distillation.encoder import Posterior, draw_around
from ldpol.errors import UserError
from ldpol.hooks import Hooks
from ldpol.measures import parts
from ldpol.model.verified import RoundedDraws, latent_step, round_draws
from ldpol.player import Player
from ldpol.reference import BLANK
from ldpol.types import Array, Behaviour, Key, Params, Score


class VerifiedDraws(NamedTuple):
    """Policies decoded near the elites, and what they did; rounds one after the other, R = rounds x N rows.

    Attributes:
      draws: rounded as they are kept.
      behaviour: `[R]` means over the player's episodes, NumPy arrays.
      around: `[R]` the elite that each was drawn around.
      errors: `[N]` mean distance from the measures given to the decoder to those its policies achieve, per elite.
    """

    draws: RoundedDraws
    behaviour: Behaviour
    around: np.ndarray
    errors: np.ndarray


def verify_draws(
    posterior: Posterior,
    measures: Array,
    weights: Array,
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
    """Decode policies near every elite and evaluate them; then more where requests are answered badly so far.

    Args:
      posterior: of the elites' latents.
      measures: `[N, M]` what the elites do, scaled to [0, 1].
      weights: `[N]` how often training draws each elite.
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
    step = latent_step(posterior.mean, posterior.deviation)
    targets, often = np.asarray(measures), np.asarray(weights)
    play = partial(_play, decode, player, hooks)
    rounds: list[tuple[RoundedDraws, Behaviour]] = []
    around: list[np.ndarray] = []
    achieved: list[np.ndarray] = []
    gap = np.zeros(0)
    for number in range(config.rounds + config.further):
        latent_key, label_key, episode_key, thin_key = jax.random.split(jax.random.fold_in(key, number), 4)
        around.append(np.arange(len(targets)) if number < config.rounds else thin(gap, often, thin_key))
        near = jax.tree.map(lambda leaf: leaf[around[-1]], posterior)  # noqa: B023
        drawn = round_draws(*draw_around(near, measures[around[-1]], noise, latent_key, label_key), step)
        title = f"rollouts of decoded policies, to verify ({number + 1}/{config.rounds + config.further})"
        about = {**depends_on, "round": number}
        behaviour = play(f"verify-{number}", about, title, (drawn.latents, drawn.measures), episode_key)
        rounds.append((drawn, behaviour))
        achieved.append(np.asarray(grid.scaled(behaviour.score.measures)))
        error = np.linalg.norm(achieved[-1] - np.asarray(drawn.measures), axis=-1).mean()
        gap = gaps(np.concatenate(achieved), targets)
        hooks.log("verify", number + 1, {"error": float(error), "nearest": float(gap.mean())})
    draws, behaviours = zip(*rounds, strict=True)
    join = lambda *leaves: np.concatenate(leaves)  # noqa: E731
    given = np.concatenate([np.asarray(one.measures) for one in draws])
    together = RoundedDraws(jnp.concatenate([one.levels for one in draws]), step, jnp.asarray(given))
    rows = np.concatenate(around)
    missed = np.linalg.norm(np.concatenate(achieved) - given, axis=-1)
    errors = np.bincount(rows, missed, len(targets)) / np.bincount(rows, minlength=len(targets))
    return VerifiedDraws(together, jax.tree.map(join, *behaviours), rows, errors)


def verify_again(
    verified: VerifiedDraws,
    rows: np.ndarray,
    *,
    decode: Callable[[Array, Array], Params],
    player: Player,
    config: VerifyConfig,
    key: Key,
    depends_on: Mapping[str, Any],
    hooks: Hooks,
) -> VerifiedDraws:
    """Evaluate some draws once more, and average that in.

    A draw is kept because its episodes came near to a target, in part by luck: what it does on average lies elsewhere,
    and further episodes say where.

    Args:
      verified: R draws.
      rows: `[K]` of them.
      decode, player, key, depends_on, hooks: as in `verify_draws`.
      config: how often.

    Returns:
      The R draws, those rows with means over all of their episodes; single `episodes` remain those of the first time.
    """
    latents, measures = verified.draws.latents[rows], verified.draws.measures[rows]
    further: list[tuple[Score, Array]] = []
    for number in range(config.again):
        title = f"rollouts of the draws that are kept, once more ({number + 1}/{config.again})"
        about = {**depends_on, "again": number}
        once_more = jax.random.fold_in(key, config.rounds + config.further + number)
        found = _play(decode, player, hooks, f"verify-again-{number}", about, title, (latents, measures), once_more)
        further.append((found.score, found.traits))

    def with_means(first: np.ndarray, *of_rows: np.ndarray) -> np.ndarray:
        values = np.array(first)
        values[rows] = np.mean([values[rows], *of_rows], 0)
        return values

    behaviour = verified.behaviour
    score, traits = jax.tree.map(with_means, (behaviour.score, behaviour.traits), *further)
    return verified._replace(behaviour=dataclasses.replace(behaviour, score=score, traits=traits))


def _play(
    decode: Callable[[Array, Array], Params],
    player: Player,
    hooks: Hooks,
    name: str,
    about: Mapping[str, Any],
    title: str,
    draws: tuple[Array, Array],
    key: Key,
) -> Behaviour:
    """Evaluate what latents and measures decode to, or return what is kept under a name."""

    def evaluate(rows: tuple[Array, Array], keys: Key) -> Behaviour:
        return player.play(decode(*rows), keys)

    how = {"title": title, "progress": hooks.progress}
    return hooks.remember(name, about, lambda: player.over(evaluate, draws, key, **how), BLANK)


def gaps(achieved: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return how far each target `[N, M]` is from the nearest of what was achieved `[R, M]`, `[N]`."""
    found = [np.linalg.norm(targets[rows, None] - achieved[None], axis=-1).min(1) for rows in parts(len(targets))]
    return np.concatenate(found)


def thin(gap: np.ndarray, weights: np.ndarray, key: Key) -> np.ndarray:
    """Choose elites to draw around, N of them with repeats: the more often, the worse they are answered so far.

    As often as their weight in training times the gap, by systematic resampling.

    Args:
      gap: `[N]` from the elites' measures to the nearest that was achieved, see `gaps`.
      weights: `[N]` of the elites.
      key: decides where the resampling begins.
    """
    share = np.cumsum(weights * gap + 1e-12)
    places = (np.arange(len(gap)) + float(jax.random.uniform(key))) / len(gap)
    return np.searchsorted(share / share[-1], places).clip(0, len(gap) - 1)


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
