"""The policy: a plain tanh MLP, and the ways its parameters are laid out."""

import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ldpol.errors import UserError
from ldpol.types import Array, Key, Params, PyTree


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


class MLP(NamedTuple):
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


def shape_of(params: Params, batched: bool = False) -> MLP:
    """Read the `MLP` off a parameter pytree.

    Args:
      params: parameters of one policy, or of N with a leading axis when `batched`.
      batched: whether every leaf carries a leading axis.

    Raises:
      ValueError: if the pytree is not that of an MLP policy.
    """
    layers = params.get("params", {}) if isinstance(params, dict) else {}
    names = [f"Dense_{i}" for i in range(len(layers))]
    sound = bool(names) and all(set(layers.get(name, ())) == {"kernel", "bias"} for name in names)
    kernels = [layers[name]["kernel"] for name in names] if sound else []
    shapes = [jnp.shape(kernel)[batched:] for kernel in kernels]
    fit = all(len(shape) == 2 for shape in shapes) and all(
        jnp.shape(layers[name]["bias"])[batched:] == shape[1:] for name, shape in zip(names, shapes, strict=False)
    )
    if not sound or not fit or any(one[1] != two[0] for one, two in itertools.pairwise(shapes)):
        found = jax.tree.map(jnp.shape, params)
        raise UserError(
            "these are not the parameters of an MLP policy: expected {'params': {'Dense_0': {'kernel', 'bias'}, "
            f"...}}}} {'with a leading policy axis' if batched else ''}, found shapes {found}"
        )
    widths = [k.shape[-1] for k in kernels]
    return MLP(kernels[0].shape[-2], widths[-1], tuple(widths[:-1]))


def check_finite(params: PyTree) -> None:
    """Raise `ValueError` unless all numbers of a pytree are finite and float32."""
    for place, leaf in jax.tree.leaves_with_path(params):
        if leaf.dtype != jnp.float32 or not np.isfinite(leaf).all():
            found = "NaN or infinite numbers" if leaf.dtype == jnp.float32 else str(leaf.dtype)
            raise UserError(f"expected finite numbers in float32, found {found} in {jax.tree_util.keystr(place)}")


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
