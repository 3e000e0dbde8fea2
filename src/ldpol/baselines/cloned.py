"""One policy pi(a | s, m) for all measures, cloned from the archive: what one would try first.

The measures scale and shift every layer (FiLM, Perez et al. 2018), so that for given measures it is a plain MLP. It
learns from the same states, actions and draws of elites as the autoencoder does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.archive import Archive, Tessellation
from ldpol.distillation.dagger import fit_with_dagger
from ldpol.distillation.dataset import Dataset, Visit, act, normaliser
from ldpol.hooks import Hooks
from ldpol.model.condition import fourier_features, joint_features
from ldpol.networks import one_sided_error
from ldpol.precision import expand
from ldpol.settings import check
from ldpol.train_loop import OptimiserConfig, TrainState, advance, start_state, training_mesh
from ldpol.types import Array, Key, PyTree

Style = list[Array]
"""What measures make of a policy: `[2, width]` a layer, what its sums are multiplied with and what is added."""


@dataclass(frozen=True)
class ClonedConfig:
    """Sizes of the policy and of what is drawn for a step.

    Attributes:
      hidden: widths of the hidden layers.
      embedding: width of the embedding of the measures.
      octaves: frequencies of the measures.
      joint: directions in which all measures are seen together.
      policies: elites a step.
      states: states an elite and step.
      noise: standard deviation of noise on the measures, scaled to [0, 1].
    """

    hidden: tuple[int, ...] = (192, 192)
    embedding: int = 64
    octaves: int = 5
    joint: int = 32
    policies: int = 96
    states: int = 16
    noise: float = 0.0075

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"hidden": 1, "embedding": 1, "policies": 1, "states": 1, "noise": 0})


class ConditionedPolicy(nn.Module):
    """Measures and observation to action."""

    action_size: int
    config: ClonedConfig

    def setup(self) -> None:
        """Name the layers."""
        widths = (*self.config.hidden, self.action_size)
        small = nn.initializers.normal(0.02)
        self.embed = [nn.Dense(self.config.embedding) for _ in range(2)]
        self.styles = [nn.Dense(2 * width, kernel_init=small) for width in widths]
        self.layers = [nn.Dense(width, use_bias=False) for width in widths]

    def style(self, place: Array) -> Style:
        """Return what measures `[M]` in [0, 1] make of the policy."""
        waves = fourier_features(place, self.config.octaves).reshape(-1)
        x = jnp.concatenate([waves, joint_features(place, self.config.octaves, self.config.joint)])
        for layer in self.embed:
            x = nn.silu(layer(x))
        return [layer(x).reshape(2, -1) + jnp.array([[1.0], [0.0]]) for layer in self.styles]

    def mean(self, style: Style, observation: Array) -> Array:
        """Return the action before clipping `[A]` at a normalised observation `[O]`."""
        x = observation
        for number, (layer, (scale, shift)) in enumerate(zip(self.layers, style, strict=True)):
            x = layer(x) * scale + shift
            x = nn.tanh(x) if number < len(style) - 1 else x
        return x

    def __call__(self, place: Array, observations: Array) -> Array:
        """Return the actions before clipping `[B, A]` for measures in [0, 1] at normalised observations `[B, O]`."""
        return self.mean([layer[:, None] for layer in self.style(place)], observations)


@struct.dataclass
class Cloned:
    """A trained conditioned policy.

    Attributes:
      params: of the network.
      centre, spread: `[O]` that normalise observations.
      config: its sizes.
      action_size: A.
      grid: bounds of the measures.
    """

    params: PyTree
    centre: Array
    spread: Array
    config: ClonedConfig = struct.field(pytree_node=False)
    action_size: int = struct.field(pytree_node=False)
    grid: Tessellation = struct.field(pytree_node=False)

    @property
    def module(self) -> ConditionedPolicy:
        """The linen module."""
        return ConditionedPolicy(self.action_size, self.config)


def step(
    config: ClonedConfig, optimiser: OptimiserConfig, state: TrainState, key: Key, data: PyTree
) -> tuple[TrainState, dict[str, Array]]:
    """Take one gradient step on a random batch of elites and states, drawn as the autoencoder draws them.

    Args:
      config: sizes.
      optimiser: its settings.
      state: the state.
      key: decides the batch.
      data: what the elites did where (their parameters are not used), and what normalises observations.
    """
    data, (centre, spread) = data
    row_key, state_key, noise_key = jax.random.split(key, 3)
    module = ConditionedPolicy(data.actions.shape[-1], config)
    rows = jax.random.choice(row_key, data.measures.shape[0], (config.policies,), p=data.weights / data.weights.sum())
    columns = jax.random.randint(state_key, (config.policies, config.states), 0, data.filled)
    noise = config.noise * jax.random.normal(noise_key, (config.policies, data.measures.shape[1]))
    places = data.measures[rows] + noise
    states = (data.states[rows[:, None], columns] - centre[None, None]) / spread[None, None]
    actions = data.actions[rows[:, None], columns]

    def loss(params: PyTree) -> Array:
        def one(place: Array, states: Array, actions: Array) -> Array:
            means = module.apply({"params": params}, place, states)
            return jnp.mean(one_sided_error(means, actions) ** 2)  # type: ignore[arg-type]

        return jax.vmap(one)(places, states, actions).mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    return advance(optimiser, state, gradient), {"loss": value}


def fit(
    archive: Archive,
    data: Dataset,
    config: ClonedConfig,
    optimiser: OptimiserConfig,
    *,
    visit: Visit,
    rounds: int,
    depends_on: Mapping[str, Any],
    hooks: Hooks = Hooks(),
    key: Key,
) -> Cloned:
    """Clone N elites; between rounds, roll the policy out and label the visited states with the elites' actions.

    Args:
      archive: the elites.
      data: what they did where, with room for the states of the rounds.
      config: sizes.
      optimiser: its settings.
      visit: rolls out with `apply`, the model shared, for the states that are visited.
      rounds: of DAgger.
      depends_on: what the states of a round depend on beside its number.
      hooks: of the caller.
      key: decides initialisation, batches and episodes.
    """
    init_key, train_key, dagger_key = jax.random.split(key, 3)
    # Observations must mean the same throughout, so the states of later rounds do not count.
    normal, size = normaliser(data), data.actions.shape[-1]
    module = ConditionedPolicy(size, config)
    params = jax.jit(module.init)(init_key, data.measures[0], data.states[0, :1])["params"]

    def finish(state: TrainState) -> Cloned:
        return Cloned(state.ema, *normal, config=config, action_size=size, grid=archive.grid)

    def visited(state: TrainState, number: int) -> dict[str, np.ndarray]:
        label_key, episode_key = jax.random.split(jax.random.fold_in(dagger_key, number))
        places = data.measures + config.noise * jax.random.normal(label_key, data.measures.shape)
        model = finish(state)
        styles = _styles(model, archive.grid.unscaled(places))
        states = visit(styles, episode_key, f"rollouts of the clone (DAgger {number + 1})", shared=model)
        return {"states": states, "actions": act(archive.network.apply, archive.policies, states)}

    state, _ = fit_with_dagger(
        "clone",
        partial(step, config, optimiser),
        start_state(optimiser, params),
        data,
        normal,
        steps=optimiser.steps,
        rounds=rounds,
        visited=visited,
        depends_on=depends_on,
        hooks=hooks,
        mesh=training_mesh(),
        key=train_key,
    )
    return finish(state)


@jax.jit
def _styles(model: Cloned, measures: Array) -> PyTree:
    return jax.vmap(lambda one: generate(model, None, one))(measures)


def generate(model: Cloned, key: Key | None, measures: Array) -> Style:
    """Return what measures `[M]` in task units make of the policy; play it with `apply`. The key decides nothing."""
    del key
    model = expand(model)
    return model.module.apply({"params": model.params}, model.grid.scaled(measures), method=ConditionedPolicy.style)  # type: ignore[return-value]


def apply(model: Cloned, style: Style, observation: Array) -> Array:
    """Return the action `[A]` of the policy in a style at an observation `[O]`.

    Many styles share one set of weights, which is much faster to play than as many plain policies.
    """
    seen = (observation - model.centre) / model.spread
    mean = model.module.apply({"params": model.params}, style, seen, method=ConditionedPolicy.mean)
    return jnp.clip(mean, -1.0, 1.0)  # type: ignore[arg-type]
