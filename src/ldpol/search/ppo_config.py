"""Settings of PPO, and which of them make sense."""

import math
from dataclasses import dataclass, replace

from ldpol.errors import UserError
from ldpol.settings import check, fail


@dataclass(frozen=True)
class PPOConfig:
    """Settings of one copy; static and hashable.

    Attributes:
      environments: E, played side by side; the default splits over the copies of 1, 2 or 4 measures.
      steps: T, steps an environment plays an update.
      epochs: passes over the T * E transitions.
      minibatches: gradient steps a pass; must divide T * E.
      gamma: discount a step.
      gae_lambda: of the advantages; 0 trusts the critic, 1 the rewards.
      clip: how far the ratio of densities may move before the policy gains nothing more.
      value_weight: of the value loss against the policy loss; networks are apart, so it matters to the clipping alone.
      entropy_weight: of the bonus for entropy.
      max_gradient_norm: of policy and critic together.
      target_kl: nats; the first minibatch whose estimated divergence from the policy that played exceeds it ends the
        update's gradient steps. None never does.
      learning_rate: of Adam, at first.
      decay_updates: updates over which the learning rate falls linearly to 0; 0 keeps it constant.
      initial_log_std: natural logarithm of the exploration noise at first.
      max_log_std: what it may not exceed; None is no limit. Actions are clipped to [-1, 1]: noise much wider than
        that explores no more, but an entropy bonus would widen it for ever.
      critic: widths of the critic's hidden layers.
      normalise_observations: whether to learn the observations' mean and standard deviation.
      normalise_returns: whether the critic predicts returns normalised by theirs.
    """

    environments: int = 120
    steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 2.0
    entropy_weight: float = 0.0
    max_gradient_norm: float = 1.0
    target_kl: float | None = None
    learning_rate: float = 1e-3
    decay_updates: int = 0
    initial_log_std: float = math.log(0.5)
    max_log_std: float | None = None
    critic: tuple[int, ...] = (256, 256)
    normalise_observations: bool = True
    normalise_returns: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        check(
            self,
            least={
                **dict.fromkeys(("environments", "steps", "epochs", "minibatches", "critic"), 1),
                **dict.fromkeys(("gae_lambda", "value_weight", "entropy_weight", "decay_updates"), 0),
            },
            most={"gamma": 1, "gae_lambda": 1},
            above=dict.fromkeys(("gamma", "clip", "max_gradient_norm", "target_kl", "learning_rate"), 0),
        )
        if self.steps * self.environments % self.minibatches:
            fail(
                self,
                "minibatches",
                f"must divide steps * environments = {self.steps} * {self.environments}, found {self.minibatches}",
            )
        if self.max_log_std is not None and self.max_log_std < self.initial_log_std:
            fail(
                self,
                "max_log_std",
                f"must be at least initial_log_std = {self.initial_log_std}, found {self.max_log_std}",
            )


def split_environments(config: PPOConfig, copies: int) -> PPOConfig:
    """Return the settings of each of `copies` copies that share the environments of `config` evenly.

    Raises:
      ValueError: if they cannot.
    """
    if copies < 1 or config.environments % copies:
        raise UserError(f"ppo.environments = {config.environments} do not split evenly over {copies} copies")
    return replace(config, environments=config.environments // copies)
