"""Policy networks: what maps an observation to an action, stated by whoever brings policies and never guessed."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ldpol.errors import UserError
from ldpol.probes import PLACES, Fingerprint, difference, fingerprint
from ldpol.types import Array, Key, Params, PyTree

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "swish": nn.swish,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "gelu_exact": lambda x: nn.gelu(x, approximate=False),
    "leaky_relu": nn.leaky_relu,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
    "identity": lambda x: x,
}
FINALS = ("clip", "tanh", "identity")
SATURATED = 0.99
"""Part of the range from which a tanh counts as saturated: further out, an action no longer changes what happens."""
FIRST = "params/Dense_0"


def one_sided_error(pre_action: Array, target: Array, low: float = -1.0, high: float = 1.0) -> Array:
    """Return the error of a student before clipping against a teacher's actions in [low, high], `[A]`.

    Where the teacher saturates, going further the same way is the same behaviour and costs nothing; everywhere else
    the error is the plain difference, so that a saturated student still has a gradient.
    """
    error = pre_action - target
    error = jnp.where(target >= high, jnp.minimum(error, 0.0), error)
    return jnp.where(target <= low, jnp.maximum(error, 0.0), error)


class _Layout:
    """What all networks share: how one policy's parameters are laid out."""

    observation_size: int
    action_size: int

    def abstract(self) -> Params:
        """Return the parameter pytree as shapes, without computing anything."""
        raise NotImplementedError

    @property
    def tensors(self) -> tuple[tuple[int, ...], ...]:
        """Shape of every parameter tensor in pytree order; for an MLP bias, kernel, bias, kernel, ..."""
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


class _Layers(nn.Module):
    """The layers of an `MLP` up to its final activation."""

    widths: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        """Return what the last layer gives `[A]`."""
        x, activation = observation, ACTIVATIONS[self.activation]
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=nn.initializers.lecun_uniform(), name=f"Dense_{i}")(x)
            x = x if i + 1 == len(self.widths) else activation(x)
        return x


@dataclasses.dataclass(frozen=True)
class MLP(_Layout):
    """A multilayer perceptron from observations to bounded actions; static and hashable.

    Its parameters are `{"params": {"Dense_0": {"bias" [H], "kernel" [O, H]}, ...}}`.

    Attributes:
      observation_size: O.
      action_size: A.
      hidden: widths of the hidden layers.
      activation: of the hidden layers, one of `ACTIVATIONS`.
      final: what maps the last layer onto [low, high]: `clip`, `tanh` (rescaled), or `identity` (no bounds).
      low, high: bounds of every action.

    Raises:
      UserError: for sizes that are not positive integers, unknown activations, or bounds that enclose nothing.
    """

    observation_size: int
    action_size: int
    hidden: tuple[int, ...]
    activation: str = "tanh"
    final: str = "clip"
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "hidden", tuple(self.hidden))
        sizes = (self.observation_size, *self.hidden, self.action_size)
        if not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
            raise UserError(f"an MLP's sizes must be positive integers, found {_arrows(sizes)}")
        if self.activation not in ACTIVATIONS:
            raise UserError(unknown_activation(self.activation))
        if self.final not in FINALS:
            raise UserError(f"an MLP's final activation must be one of {', '.join(FINALS)}, found {self.final!r}")
        if not self.low < self.high:
            raise UserError(f"an MLP's actions need low < high, found {self.low:g} and {self.high:g}")

    def __str__(self) -> str:
        """Return a short description for messages."""
        sizes = _arrows((self.observation_size, *self.hidden, self.action_size))
        return f"MLP({sizes}, {self.activation}, {self.final})"

    def _layers(self) -> _Layers:
        return _Layers((*self.hidden, self.action_size), self.activation)

    def init(self, key: Key) -> Params:
        """Return random parameters of one policy."""
        return self._layers().init(key, jnp.zeros(self.observation_size))

    def abstract(self) -> Params:
        """Return the parameter pytree as shapes, without computing anything."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def pre_action(self, params: Params, observation: Array) -> Array:
        """Return what the last layer gives `[A]`, before the final activation (leading axes broadcast)."""
        return self._layers().apply(params, observation)  # type: ignore[return-value]

    def apply(self, params: Params, observation: Array) -> Array:
        """Return the action `[A]` of the policy `params` at `observation` `[O]` (leading axes broadcast)."""
        out = self.pre_action(params, observation)
        if self.final == "identity":
            return out
        if self.final == "clip":
            return jnp.clip(out, self.low, self.high)
        return self._centre + self._half * jnp.tanh(out)

    @property
    def _centre(self) -> float:
        return 0.5 * (self.low + self.high)

    @property
    def _half(self) -> float:
        return 0.5 * (self.high - self.low)

    def action_error(self, pre_action: Array, target: Array) -> Array:
        """Return the error of a student before its final activation against a teacher's actions, `[A]`.

        One-sided where the teacher saturates. A tanh is undone first: saturated actions alone have no gradient.

        Args:
          pre_action: `[A]` the student's `pre_action`.
          target: `[A]` the teacher's action, after its final activation.
        """
        if self.final == "identity":
            return pre_action - target
        low, high = self.low, self.high
        if self.final == "tanh":
            high = math.atanh(SATURATED)
            low = -high
            target = jnp.arctanh(jnp.clip((target - self._centre) / self._half, -SATURATED, SATURATED))
            target = jnp.clip(target, low, high)
        return one_sided_error(pre_action, target, low, high)

    @property
    def first(self) -> str | None:
        """Path of the dense layer that reads the observation."""
        return FIRST

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"kind": "mlp"} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class CustomNetwork(_Layout):
    """Any `apply`: layer normalisation, attention, convolutions on flat observations; not recurrent.

    Static; two of them are equal only if they hold the same function, so that a fresh lambda compiles anew. A file
    keeps the shapes of its parameters and how it acts in a few places, never its code: `load(path, network=...)` asks
    for it again, and compares.

    Attributes:
      apply: `(params, observation [O]) -> action [A]` of one policy.
      tree: path, shape and dtype of every parameter; paths join the keys of nested dicts by `/`.
      observation_size: O.
      action_size: A.
      first: path of the folder of a dense layer `{"kernel" [O, H], "bias" [H]}` that alone reads the observation, for
        training on normalised observations; None: there is none, and raw weights are compared.
      name: what to call it in messages.
    """

    apply: Callable[[Params, Array], Array]
    tree: tuple[tuple[str, tuple[int, ...], str], ...]
    observation_size: int
    action_size: int
    first: str | None = None
    name: str = "network"

    def __str__(self) -> str:
        """Return a short description for messages."""
        return f"CustomNetwork({self.name}, {self.observation_size} -> {self.action_size}, {self.size} parameters)"

    def abstract(self) -> Params:
        """Return the parameter pytree as shapes."""
        tree: dict[str, Any] = {}
        for path, shape, dtype in self.tree:
            *folders, name = path.split("/")
            place = tree
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        return tree

    def pre_action(self, params: Params, observation: Array) -> Array:
        """Return the action `[A]` (leading axes broadcast): nothing is known of a final activation."""
        apply = self.apply
        for _ in observation.shape[:-1]:
            apply = jax.vmap(apply, (None, 0))
        return apply(params, observation)

    def action_error(self, pre_action: Array, target: Array) -> Array:
        """Return the plain difference to the teacher's actions `[A]`."""
        return pre_action - target

    @property
    def fingerprint(self) -> Fingerprint:
        """How it acts in a few places, see `probes`; of a network without its code, what its file says."""
        return self.apply.fingerprint if isinstance(self.apply, _Missing) else _fingerprint(self)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the code as JSON values."""
        return {
            "kind": "custom",
            "tree": [[path, list(shape), dtype] for path, shape, dtype in self.tree],
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "first": self.first,
            "name": self.name,
            "fingerprint": self.fingerprint,
        }


@functools.lru_cache(maxsize=16)
def _fingerprint(network: CustomNetwork) -> Fingerprint:
    """Compute it once: a generator says how many bytes it has by packing itself."""
    return fingerprint(network.apply, network.abstract(), network.observation_size)


Network: TypeAlias = MLP | CustomNetwork


@dataclasses.dataclass(frozen=True)
class _Missing:
    """Stands for the code of a custom network that a file could not hold."""

    name: str
    fingerprint: Fingerprint

    def __call__(self, params: Params, observation: Array) -> Array:
        raise UserError(
            f"this file's policies belong to the custom network {self.name!r}, whose code no file holds; "
            "pass it: load(path, network=...)"
        )


def from_json(value: Mapping[str, Any]) -> Network:
    """Return the network that `to_json` described. A custom one samples, but cannot act: its code is not in the JSON.

    Files without a kind are from before networks were stated: tanh inside, clipped.

    Raises:
      UserError: for an unknown kind or fields out of range.
      KeyError, TypeError: if fields are missing or unknown.
    """
    fields: dict[str, Any] = dict(value)
    kind = fields.pop("kind", "mlp")
    if kind == "mlp":
        fields["hidden"] = tuple(fields["hidden"])
        return MLP(**fields)
    if kind != "custom":
        raise UserError(f"the policies' network is of an unknown kind {kind!r}; expected mlp or custom")
    tree = tuple((path, tuple(shape), dtype) for path, shape, dtype in fields.pop("tree"))
    acts = tuple(tuple(map(float, row)) for row in fields.pop("fingerprint"))
    return CustomNetwork(_Missing(fields["name"], acts), tree, **fields)


def with_code(stored: Network, given: Network | None) -> Network:
    """Return the network that a file describes, with the code that its reader brings along.

    Args:
      stored: what the file says.
      given: the same network with its code; None leaves a custom one without, which samples but cannot act.

    Raises:
      UserError: if `given` is another network: of other parameters, or one that acts differently.
    """
    if given is None:
        return stored
    if isinstance(stored, MLP) or not isinstance(given, CustomNetwork):
        if stored == given:
            return stored
        raise UserError(f"the policies belong to {stored}, network= is {given}")
    parts = (*sorted(given.tree), given.observation_size, given.action_size)
    if parts != (*sorted(stored.tree), stored.observation_size, stored.action_size):
        raise UserError(f"the policies belong to {stored}, network= is {given}: its parameters are others")
    apart = difference(stored.fingerprint, given.fingerprint)
    if apart:
        raise UserError(
            f"the policies belong to {stored}; network= has the same parameters, but acts differently, by up to "
            f"{apart:.2g} at {PLACES} observations: pass the network that they were collected with"
        )
    return dataclasses.replace(given, first=stored.first)


def unknown_activation(name: str) -> str:
    """Return the message for an activation that is not in the table."""
    return (
        f"activation {name} is not one of {', '.join(ACTIVATIONS)}; wrap the module in a function: it becomes a "
        "CustomNetwork, and `load` will need it again"
    )


def _arrows(sizes: Any) -> str:
    return " -> ".join(map(str, sizes))


def check_finite(params: PyTree) -> None:
    """Raise `UserError` unless all numbers of a pytree are finite and float32."""
    for place, leaf in jax.tree.leaves_with_path(params):
        if leaf.dtype != jnp.float32 or not np.isfinite(leaf).all():
            found = "NaN or infinite numbers" if leaf.dtype == jnp.float32 else str(leaf.dtype)
            raise UserError(f"expected finite numbers in float32, found {found} in {jax.tree_util.keystr(place)}")


def fold_normaliser(params: Params, mean: Array, std: Array, first: str = FIRST) -> Params:
    """Fold an observation normaliser (x - mean) / std into the first layer, exactly.

    Args:
      params: one policy that expects normalised observations.
      mean: `[O]`.
      std: `[O]`, positive.
      first: path of the dense layer that alone reads the observation, see `CustomNetwork.first`.

    Returns:
      One policy that acts on raw observations as the given one acts on normalised ones.
    """

    def fold(layer: Params) -> Params:
        kernel = layer["kernel"] / std[:, None]
        return {**layer, "kernel": kernel, "bias": layer["bias"] - mean @ kernel}

    return _at(params, first.split("/"), fold)


def unfold_normaliser(params: Params, mean: Array, std: Array, first: str = FIRST) -> Params:
    """Return the policy that acts on observations normalised by `mean` `[O]` and `std` `[O]` as `params` on raw ones.

    The inverse of `fold_normaliser`, whatever normaliser `params` was trained with.
    """

    def unfold(layer: Params) -> Params:
        return {**layer, "kernel": layer["kernel"] * std[:, None], "bias": layer["bias"] + mean @ layer["kernel"]}

    return _at(params, first.split("/"), unfold)


def _at(tree: Params, path: list[str], change: Callable[[Params], Params]) -> Params:
    if not path:
        return change(tree)
    return {**tree, path[0]: _at(tree[path[0]], path[1:], change)}
