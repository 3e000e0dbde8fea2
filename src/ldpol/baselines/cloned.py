"""One policy pi(a | s, m) for all measures, cloned from the archive: what one would try first.

The measures scale and shift every layer (FiLM, Perez et al. 2018), so that for given measures it is a plain MLP
(`fold`). It learns from the same states, actions and draws of elites as the autoencoder does.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from ldpol.archive import Grid
from ldpol.distillation.autoencoder import action_error
from ldpol.distillation.dataset import Dataset, normaliser
from ldpol.model.condition import fourier_features, joint_features
from ldpol.precision import expand
from ldpol.train_loop import OptimiserConfig, TrainState, advance, scan_steps, start_state
from ldpol.types import Array, Key, Params, PyTree

Style = list[Array]
"""What measures make of a policy: `[2, width]` a layer, what its sums are multiplied with and what is added."""


class ClonedConfig(NamedTuple):
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

    def __call__(self, place: Array, observation: Array) -> Array:
        """Return the action before clipping `[A]` for measures in [0, 1] and a normalised observation."""
        return self.mean(self.style(place), observation)


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
    grid: Grid = struct.field(pytree_node=False)

    @property
    def module(self) -> ConditionedPolicy:
        """The linen module."""
        return ConditionedPolicy(self.action_size, self.config)


def start(config: ClonedConfig, optimiser: OptimiserConfig, data: Dataset, key: Key) -> TrainState:
    """Return the state before the first step; `data` gives the sizes only."""
    module = ConditionedPolicy(data.actions.shape[-1], config)
    params = module.init(key, data.measures[0], data.states[0, 0])["params"]
    return start_state(optimiser, params)


def step(
    config: ClonedConfig,
    optimiser: OptimiserConfig,
    data: Dataset,
    normal: tuple[Array, Array],
    state: TrainState,
    key: Key,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one gradient step on a random batch of elites and states, drawn as the autoencoder draws them.

    Args:
      config: sizes.
      optimiser: its settings.
      data: what the elites did where; their parameters are not used.
      normal: what `normaliser` said when training began: observations must mean the same throughout.
      state: the state.
      key: decides the batch.
    """
    row_key, state_key, noise_key = jax.random.split(key, 3)
    module = ConditionedPolicy(data.actions.shape[-1], config)
    rows = jax.random.choice(row_key, data.measures.shape[0], (config.policies,), p=data.weights / data.weights.sum())
    columns = jax.random.randint(state_key, (config.policies, config.states), 0, data.filled)
    noise = config.noise * jax.random.normal(noise_key, (config.policies, data.measures.shape[1]))
    places = data.measures[rows] + noise
    states = (data.states[rows[:, None], columns] - normal[0]) / normal[1]
    actions = data.actions[rows[:, None], columns]

    def loss(params: PyTree) -> Array:
        def one(place: Array, states: Array, actions: Array) -> Array:
            means = module.apply({"params": params}, place, states)
            return jnp.mean(action_error(means, actions) ** 2)  # type: ignore[arg-type]

        return jax.vmap(one)(places, states, actions).mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    return advance(optimiser, state, gradient), {"loss": value}


def fit(grid: Grid, data: Dataset, config: ClonedConfig, optimiser: OptimiserConfig, key: Key) -> Cloned:
    """Clone N elites for all of the optimiser's steps, on the states that `data` holds.

    Args:
      grid: of the archive.
      data: what the elites did where.
      config: sizes.
      optimiser: its settings.
      key: initialisation and batches.
    """
    init_key, train_key = jax.random.split(key)
    normal = normaliser(data)
    state = start(config, optimiser, data, init_key)
    state, _ = scan_steps(
        lambda state, key: step(config, optimiser, data, normal, state, key), state, train_key, optimiser.steps
    )
    return finish(grid, data, normal, config, state)


def finish(grid: Grid, data: Dataset, normal: tuple[Array, Array], config: ClonedConfig, state: TrainState) -> Cloned:
    """Return the policy of a training, its averaged parameters."""
    return Cloned(state.ema, *normal, config=config, action_size=data.actions.shape[-1], grid=grid)


def generate(model: Cloned, key: Key, measures: Array) -> Style:
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


def fold(model: Cloned, style: Style) -> Params:
    """Return the plain policy, of hidden layers `config.hidden`, that the model is in a style."""
    layers = {}
    for number, (scale, shift) in enumerate(style):
        kernel = model.params[f"layers_{number}"]["kernel"] * scale
        if number == 0:
            kernel = kernel / model.spread[:, None]
            shift = shift - model.centre @ kernel
        layers[f"Dense_{number}"] = {"kernel": kernel, "bias": shift}
    return {"params": layers}
