"""Settings of PPO, and which of them make sense."""

import math
from typing import NamedTuple


class PPOConfig(NamedTuple):
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


def check(config: PPOConfig) -> None:
    """Refuse settings that make no sense.

    Raises:
      ValueError: naming the setting and what was found.
    """
    for name in ("environments", "steps", "epochs", "minibatches"):
        if getattr(config, name) < 1:
            raise ValueError(f"ppo.{name} must be at least 1, found {getattr(config, name)}")
    samples = config.steps * config.environments
    if samples % config.minibatches:
        raise ValueError(
            f"ppo.steps * ppo.environments = {config.steps} * {config.environments} = {samples} does not split evenly "
            f"into {config.minibatches} minibatches"
        )
    if not 0 < config.gamma <= 1:
        raise ValueError(f"ppo.gamma must be in (0, 1], found {config.gamma}")
    if not 0 <= config.gae_lambda <= 1:
        raise ValueError(f"ppo.gae_lambda must be in [0, 1], found {config.gae_lambda}")
    for name in ("clip", "max_gradient_norm", "target_kl", "learning_rate"):
        if getattr(config, name) is not None and not getattr(config, name) > 0:
            raise ValueError(f"ppo.{name} must be positive, found {getattr(config, name)}")
    for name in ("value_weight", "entropy_weight", "decay_updates"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"ppo.{name} must not be negative, found {getattr(config, name)}")
    if not math.isfinite(config.initial_log_std):
        raise ValueError(f"ppo.initial_log_std must be finite, found {config.initial_log_std}")
    if config.max_log_std is not None and not config.max_log_std >= config.initial_log_std:
        raise ValueError(
            f"ppo.max_log_std must be at least initial_log_std = {config.initial_log_std}, found {config.max_log_std}"
        )
    if any(width < 1 for width in config.critic):
        raise ValueError(f"ppo.critic: every hidden layer needs at least 1 unit, found {config.critic}")


def split_environments(config: PPOConfig, copies: int) -> PPOConfig:
    """Return the settings of each of `copies` copies that share the environments of `config` evenly.

    Raises:
      ValueError: if they cannot.
    """
    if copies < 1 or config.environments % copies:
        raise ValueError(f"ppo.environments = {config.environments} do not split evenly over {copies} copies")
    config = config._replace(environments=config.environments // copies)
    check(config)
    return config
