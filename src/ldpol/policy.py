"""The policy: a plain tanh MLP, and the ways its parameters are laid out."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ldpol.errors import UserError
from ldpol.types import Array, Key, Params


class Policy(nn.Module):
    """Observation `[O]` to action `[A]` in [-1, 1]: tanh hidden layers, clipped linear mean.

    Attributes:
      action_size: A.
      hidden: widths of the hidden layers.
    """

    action_size: int
    hidden: tuple[int, ...] = (64, 64)

    def setup(self) -> None:
        """Name the layers `Dense_0`, `Dense_1`, ... as a compact module would."""
        widths = (*self.hidden, self.action_size)
        start = nn.initializers.lecun_uniform()
        self.layers = [nn.Dense(width, kernel_init=start, name=f"Dense_{i}") for i, width in enumerate(widths)]

    def mean(self, observation: Array) -> Array:
        """Return the action before clipping `[A]`."""
        x = observation
        for layer in self.layers[:-1]:
            x = nn.tanh(layer(x))
        return self.layers[-1](x)

    def __call__(self, observation: Array) -> Array:
        """Return the action `[A]` for one observation `[O]` (leading axes broadcast)."""
        return jnp.clip(self.mean(observation), -1.0, 1.0)


class PolicyShape(NamedTuple):
    """Sizes that fix a policy's architecture; static and hashable."""

    observation_size: int
    action_size: int
    hidden: tuple[int, ...]

    def module(self) -> Policy:
        """Return the linen module."""
        return Policy(self.action_size, tuple(self.hidden))

    def init(self, key: Key) -> Params:
        """Return random parameters of one policy."""
        return self.module().init(key, jnp.zeros(self.observation_size))

    def apply(self, params: Params, observation: Array) -> Array:
        """Return the action `[A]` of the policy `params` at `observation` `[O]`."""
        return self.module().apply(params, observation)  # type: ignore[return-value]

    def abstract(self) -> Params:
        """Return the parameter pytree as shapes, without computing anything."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @property
    def tensors(self) -> tuple[tuple[int, ...], ...]:
        """Shape of every parameter tensor in pytree order: bias, kernel, bias, kernel, ..."""
        return tuple(leaf.shape for leaf in jax.tree.leaves(self.abstract()))

    @property
    def size(self) -> int:
        """Number of scalar parameters, P."""
        return sum(math.prod(shape) for shape in self.tensors)

    def flatten(self, params: Params) -> Array:
        """Return one policy's parameters as a vector `[P]`, tensors in pytree order."""
        return ravel_pytree(params)[0]

    def unflatten(self, vector: Array) -> Params:
        """Return the parameter pytree of a vector `[P]`; inverse of `flatten`."""
        leaves, structure = jax.tree.flatten(self.abstract())
        parts, start = [], 0
        for leaf in leaves:
            parts.append(vector[start : start + leaf.size].reshape(leaf.shape))
            start += leaf.size
        return jax.tree.unflatten(structure, parts)


def shape_of(params: Params, batched: bool = False) -> PolicyShape:
    """Read the `PolicyShape` off a parameter pytree.

    Args:
      params: parameters of one policy, or of N with a leading axis when `batched`.
      batched: whether every leaf carries a leading axis.

    Raises:
      ValueError: if the pytree is not that of an MLP policy.
    """
    layers = params.get("params", {}) if isinstance(params, dict) else {}
    kernels = [layers[f"Dense_{i}"]["kernel"] for i in range(len(layers)) if f"Dense_{i}" in layers]
    if not kernels or len(kernels) != len(layers) or any(k.ndim != 2 + batched for k in kernels):
        found = jax.tree.map(jnp.shape, params)
        raise UserError(
            "these are not the parameters of an MLP policy: expected {'params': {'Dense_0': {'kernel', 'bias'}, "
            f"...}}}} {'with a leading policy axis' if batched else ''}, found shapes {found}"
        )
    widths = [k.shape[-1] for k in kernels]
    return PolicyShape(kernels[0].shape[-2], widths[-1], tuple(widths[:-1]))


def fold_normaliser(params: Params, mean: Array, std: Array) -> Params:
    """Fold an observation normaliser (x - mean) / std into the first layer, exactly.

    Args:
      params: one policy that expects normalised observations.
      mean: `[O]`.
      std: `[O]`, positive.

    Returns:
      One policy that acts on raw observations as the given one acts on normalised ones.
    """
    first = params["params"]["Dense_0"]
    kernel = first["kernel"] / std[:, None]
    folded = {"kernel": kernel, "bias": first["bias"] - mean @ kernel}
    return {**params, "params": {**params["params"], "Dense_0": folded}}


def unfold_normaliser(params: Params, mean: Array, std: Array) -> Params:
    """Return the policy that acts on observations normalised by `mean` `[O]` and `std` `[O]` as `params` on raw ones.

    The inverse of `fold_normaliser`, whatever normaliser `params` was trained with.
    """
    first = params["params"]["Dense_0"]
    unfolded = {"kernel": first["kernel"] * std[:, None], "bias": first["bias"] + mean @ first["kernel"]}
    return {**params, "params": {**params["params"], "Dense_0": unfolded}}
