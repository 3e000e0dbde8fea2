"""Damage recovery: find the policy that works best on a changed robot, in a few trials.

After Cully, Clune, Tarapore and Mouret, "Robots that can adapt like animals" (Nature 2015, algorithm ITE): what a
policy is worth on the healthy robot is the prior mean of a Gaussian process over behaviours, every trial corrects it,
and the next trial is of the policy with the highest upper confidence bound. Their repertoire of policies is the
archive; here it is the bank of verified draws in a generator's file.

The process is an exact one with fixed hyperparameters, which takes a dozen lines. A library's would fit them, for which
a few trials are not enough, and could not be vmapped over many searches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.linalg import cho_factor, cho_solve

from ldpol.errors import UserError
from ldpol.generator import PolicyGenerator
from ldpol.model.answering import row_content
from ldpol.model.verified import VerifiedBank
from ldpol.settings import check
from ldpol.types import Array, Params


@dataclass(frozen=True)
class AdaptConfig:
    """Settings of the search. Fitness counts in spans of the prior, from the worst row to the best one.

    Attributes:
      length: length scale of the kernel (rho of ITE), behaviours scaled to [0, 1] in every trait.
      deviation: standard deviation of what damage may change.
      noise: standard deviation of the outcome of a trial.
      explore: weight of the uncertainty in the choice of the next trial (kappa of ITE).
      stop: end when a trial has reached this share of the best expectation (alpha of ITE, there 0.9); None: never.
    """

    length: float = 0.4
    deviation: float = 1.0
    noise: float = 0.1
    explore: float = 0.05
    stop: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, above={"length": 0, "deviation": 0, "noise": 0}, least={"explore": 0, "stop": 0})


@struct.dataclass
class Repertoire:
    """What is known of R policies before the first trial.

    Attributes:
      features: `[R, C]` how they move, each feature scaled to [0, 1].
      prior: `[R]` what they are expected to be worth.
    """

    features: Array | np.ndarray
    prior: Array | np.ndarray


@struct.dataclass
class Trials:
    """What was tried so far, in T slots.

    Attributes:
      rows: `[T]` which policies, int32; slots from `count` on mean nothing.
      achieved: `[T]` what they were worth.
      count: `[]` trials done.
    """

    rows: Array
    achieved: Array
    count: Array

    @property
    def done(self) -> Array:
        """`[T]` bool, which slots are filled."""
        return jnp.arange(self.rows.shape[0]) < self.count

    def add(self, row: Array | int, achieved: Array | float) -> "Trials":
        """Return the trials with one more."""
        return Trials(self.rows.at[self.count].set(row), self.achieved.at[self.count].set(achieved), self.count + 1)


class Prediction(NamedTuple):
    """What R policies are worth after some trials: `mean` and standard `deviation`, both `[R]` in units of fitness."""

    mean: Array
    deviation: Array


def no_trials(slots: int) -> Trials:
    """Return trials with room for `slots`, none done."""
    return Trials(jnp.zeros(slots, jnp.int32), jnp.zeros(slots), jnp.zeros((), jnp.int32))


def matern(one: Array, other: Array, length: float) -> Array:
    """Return the Matern 5/2 kernel `[n, m]` of points `[n, C]` and `[m, C]`."""
    distance = jnp.sqrt(5.0 * ((one[:, None] - other[None]) ** 2).sum(-1)) / length
    return (1.0 + distance + distance**2 / 3.0) * jnp.exp(-distance)


def predict(repertoire: Repertoire, trials: Trials, config: AdaptConfig) -> Prediction:
    """Return the posterior of a Gaussian process whose mean is the prior. Pure: jit and vmap it.

    Rasmussen and Williams 2006, equations 2.25 and 2.26, of what trials achieved less what the prior says.
    """
    features, prior, done = jnp.asarray(repertoire.features), jnp.asarray(repertoire.prior), trials.done
    low, span = prior.min(), jnp.maximum(prior.max() - prior.min(), 1e-6)
    tried = features[trials.rows]
    variance = config.deviation**2
    # An empty slot is a point that nothing correlates with, so that T trials of any number compile once.
    among = variance * matern(tried, tried, config.length) * done[None] * done[:, None]
    factor = cho_factor(among + jnp.diag(jnp.where(done, config.noise**2, 1.0)))
    surprise = jnp.where(done, (trials.achieved - prior[trials.rows]) / span, 0.0)
    across = variance * matern(features, tried, config.length) * done[None]
    mean = (prior - low) / span + across @ cho_solve(factor, surprise)
    known = (across * cho_solve(factor, across.T).T).sum(-1)
    return Prediction(low + span * mean, span * jnp.sqrt(jnp.maximum(variance - known, 0.0)))


def next_row(prediction: Prediction, config: AdaptConfig) -> Array:
    """Return the policy `[]` with the highest upper confidence bound: what to try next."""
    return jnp.argmax(prediction.mean + config.explore * prediction.deviation)


def best_row(prediction: Prediction, trials: Trials) -> Array:
    """Return the policy `[]`, of those tried, with the highest expectation; a lucky trial alone does not make it."""
    return trials.rows[jnp.argmax(jnp.where(trials.done, prediction.mean[trials.rows], -jnp.inf))]


class Adaptation(NamedTuple):
    """What trials on the robot led to.

    Attributes:
      policy: the best one found: of those tried, the one with the highest expectation after all trials.
      row: which row of the bank it is.
      rows: `[T]` what was tried, in order.
      predicted: `[T]` what was expected of each just before its trial.
      achieved: `[T]` what each was worth.
      stopped: whether the stop rule ended the search before the last trial.
    """

    policy: Params
    row: int
    rows: np.ndarray
    predicted: np.ndarray
    achieved: np.ndarray
    stopped: bool

    @property
    def best_so_far(self) -> np.ndarray:
        """`[T]` the best that was achieved up to each trial."""
        return np.maximum.accumulate(self.achieved)


def adapt(
    generator: PolicyGenerator,
    play: Callable[[Params], Any],
    trials: int = 20,
    *,
    config: AdaptConfig = AdaptConfig(),
    prior: Array | np.ndarray | None = None,
) -> Adaptation:
    """Find a policy that works on a changed robot, among the verified draws of a generator, in a few trials.

    Args:
      generator: a model with verified draws.
      play: one policy to its fitness on the robot as it is now: a number, higher is better. Called once per trial, on
        the host, one after the other; it may do whatever it likes, such as wait for the robot to be put back.
      trials: at most so many.
      config: settings of the search.
      prior: `[R]` what each row of the bank is worth on the healthy robot, in the units of `play`; None: the fitness
        that the bank keeps.

    Raises:
      UserError: if the model has no verified draws, they say nothing of fitness and no prior is given, the prior does
        not fit, there is no trial, or a trial gives no finite number.
    """
    bank = generator.bank
    if bank is None:
        raise UserError(
            f"this model of {generator.task} has no verified draws to adapt with; distil with verify.rows > 0"
        )
    if trials < 1:
        raise UserError(f"adapting takes at least 1 trial, found trials = {trials}")
    repertoire = repertoire_of(bank, prior)
    # This is a loop on the host: what it repeats is compiled once.
    expect = jax.jit(lambda history: predict(repertoire, history, config))
    make = jax.jit(lambda row: generator.decode(*row_content(bank, row)))
    history, predicted, stopped = no_trials(trials), [], False
    for number in range(trials):
        prediction = expect(history)
        if number and config.stop is not None and _is_good_enough(repertoire, prediction, history, config.stop):
            stopped = True
            break
        row = int(next_row(prediction, config))
        fitness = float(play(make(row)))
        if not np.isfinite(fitness):
            raise UserError(f"trial {number + 1} gave a fitness of {fitness}; play must return a finite number")
        predicted.append(float(prediction.mean[row]))
        history = history.add(row, fitness)
    best = int(best_row(expect(history), history))
    rows, achieved = (np.asarray(leaf)[: len(predicted)] for leaf in (history.rows, history.achieved))
    return Adaptation(make(best), best, rows, np.asarray(predicted), achieved, stopped)


def repertoire_of(bank: VerifiedBank, prior: Array | np.ndarray | None = None) -> Repertoire:
    """Return what a bank knows of its rows; `prior` as in `adapt`."""
    if prior is None:
        prior = bank.fitness
    if prior is None:
        raise UserError(
            "the verified draws of this model say nothing of fitness, it was made by an earlier version; distil again, "
            "or pass prior=[R], what each is worth on the healthy robot"
        )
    prior = jnp.asarray(prior, jnp.float32)
    if prior.shape != (len(bank),) or not jnp.isfinite(prior).all():
        raise UserError(f"expected a prior of {len(bank)} finite numbers, one per verified draw, found {prior.shape}")
    return Repertoire(bank.features, prior)


def _is_good_enough(repertoire: Repertoire, prediction: Prediction, trials: Trials, share: float) -> bool:
    """Tell whether the best trial reached `share` of the best expectation, both above the worst healthy row."""
    low = repertoire.prior.min()
    reached = jnp.where(trials.done, trials.achieved, -jnp.inf).max()
    return bool(reached - low >= share * (prediction.mean.max() - low))
