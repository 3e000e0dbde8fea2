"""Rows for the sceptic: is it the diffusion model, or would anything do that was evaluated as often?

All of them get as many evaluations as the training that they stand beside spends on its verified draws, and answer a
request with what came nearest to it in those.
"""

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.baselines import cloned, verified
from ldpol.baselines.verified import Requests
from ldpol.distillation.bank import choose_rows
from ldpol.distillation.config import DistillConfig, VerifyConfig, WeightsConfig
from ldpol.distillation.dataset import elite_weights
from ldpol.distillation.reliability import gaps, thin
from ldpol.errors import UserError
from ldpol.keys import key_for
from ldpol.model.verified import FINE, in_levels
from ldpol.precision import Precision, compress, expand
from ldpol.reference import BLANK
from ldpol.study.context import StudyContext, describe, digest
from ldpol.study.methods import Cloned, LatentDiffusion, Model, Subsampled, as_model
from ldpol.types import Array, Key


def rounds_of(config: VerifyConfig) -> int:
    """Return in how many rounds a training verifies draws, as many draws a round as there are elites.

    Raises:
      UserError: if there are none.
    """
    if not config.rounds:
        raise UserError("a row that verifies its answers stands beside a training that does; set verify.rounds")
    return config.rounds + config.further


def plays(config: VerifyConfig, elites: int) -> int:
    """Return how many evaluations a training spends on verified draws, per elite; part of one counts whole.

    Raises:
      UserError: if it spends none.
    """
    rounds = rounds_of(config)
    return rounds + math.ceil(config.again * min(config.rows / elites, rounds))


@dataclass(frozen=True)
class VerifiedLatents:
    """The decoder of a training with its verified draws, without denoiser: the nearest answers.

    The draws are those of the training itself, so they took as many evaluations.

    Attributes:
      config: of the training; its precision should be the row's, for its decoder is rounded before it is verified.
      precision: of the file.
    """

    kind: ClassVar[str] = "latents"
    config: DistillConfig
    precision: Precision = "float32"

    def fit(self, context: StudyContext) -> Model:
        """Distil the archive, and keep decoder and draws."""
        made = context.trained(self.config)
        table = compress(verified.fit_latents(made.generator), self.precision)
        return as_model(table, verified.generate_from_latents, made.seconds)


@dataclass(frozen=True)
class VerifiedElites(Subsampled):
    """As many well-chosen elites as fit into another model's bytes, by what they do once they are rounded.

    All trained elites are rounded and evaluated as often as the other model's training evaluates draws; the means
    decide which are kept, and which of those answers.
    """

    like: LatentDiffusion
    precision: Precision = "int8"

    def labels(self, context: StudyContext) -> tuple[Array, Array]:
        """Return mean fitness `[N]` and measures `[N, M]` of the rounded elites."""
        trained = context.split.trained
        count = plays(self.like.config.verify, len(trained))
        rounded = jax.vmap(lambda one: expand(compress(one, self.precision)))(trained.policies)
        hooks, about = context.hooks(f"verified-elites-{digest(self)}"), {"settings": describe(self)}
        scores = []
        for number in range(count):
            key = jax.random.fold_in(key_for(context.key, "verified elites"), number)
            title = f"rounded elites, to verify ({number + 1}/{count})"
            found = hooks.remember(
                f"verify-{number}",
                about | {"round": number},
                lambda: context.player(rounded, key, title=title, progress=hooks.progress),  # noqa: B023
                BLANK,
            )
            scores.append(found.score)
        fitness, measures = (np.mean([getattr(one, name) for one in scores], 0) for name in ("fitness", "measures"))
        return jnp.asarray(fitness), jnp.asarray(measures)


@dataclass(frozen=True)
class VerifiedClone:
    """A cloned policy that knows which of its requests achieve what: the best of as many tries per elite.

    Requests are the elites' measures with the noise that the clone was trained with, and then, as in training the
    generator, around elites that nothing has reached so far.

    Attributes:
      clone: the row it is made of.
      verify: rounds, and rows that are kept.
    """

    kind: ClassVar[str] = "cloned"
    clone: Cloned
    verify: VerifyConfig = VerifyConfig()

    def fit(self, context: StudyContext) -> Model:
        """Clone the elites, ask for their measures, and keep what that achieved."""
        made = self.clone.fit(context)
        tree = verified.VerifiedClone(made.tree, self._requests(made.tree, context))
        return as_model(tree, verified.generate_from_clone, made.seconds, verified.apply_clone)

    def _requests(self, tree: cloned.Cloned, context: StudyContext) -> Requests:
        """Ask for what the elites do, choose what answers best, and ask for that once more."""
        trained, verify, rounds = context.split.trained, self.verify, rounds_of(self.verify)
        hooks, about = context.hooks(f"verified-clone-{digest(self)}"), {"settings": describe(self)}
        play = context.play_shared(cloned.apply, expand(tree))
        grid, targets = trained.grid, np.asarray(trained.grid.scaled(trained.measures))

        def key_of(number: int) -> Key:
            return jax.random.fold_in(key_for(context.key, "verified clone"), number)

        def ask(number: int, given: np.ndarray, key: Key) -> np.ndarray:
            """Return what the policies for requests `[R, M]` in 255ths achieve, `[R, M]` in [0, 1]."""
            styles = verified.styles_of(tree, given)
            title = f"requests to the clone, to verify ({number + 1}/{rounds + verify.again})"
            found = hooks.remember(
                f"verify-{number}",
                about | {"round": number},
                lambda: context.player.over(play, styles, key, title=title, progress=hooks.progress),
                BLANK,
            )
            return np.clip(np.asarray(grid.scaled(np.asarray(found.score.measures))), 0.0, 1.0)

        weights = elite_weights(np.asarray(trained.fitness), targets, **asdict(WeightsConfig()))
        asked: list[np.ndarray] = []
        reached: list[np.ndarray] = []
        for number in range(rounds):
            noise_key, episode_key, thin_key = jax.random.split(key_of(number), 3)
            first = number < verify.rounds
            around = targets if first else targets[thin(gaps(np.concatenate(reached), targets), weights, thin_key)]
            noise = self.clone.config.noise * jax.random.normal(noise_key, around.shape)
            asked.append(np.asarray(in_levels(jnp.asarray(around) + noise)))
            reached.append(ask(number, asked[-1], episode_key))
        given, achieved = np.concatenate(asked), np.concatenate(reached)
        kept = choose_rows(achieved, targets, verify.rows, verify.answers(grid), grid)
        again = [ask(number, given[kept], key_of(number)) for number in range(rounds, rounds + verify.again)]
        known = np.mean([achieved[kept], *again], 0)
        return Requests(jnp.asarray(given[kept]), in_levels(jnp.asarray(known), FINE))
