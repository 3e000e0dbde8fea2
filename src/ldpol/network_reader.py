"""What network a module or a function is: QDax's and Brax's MLPs by their fields, all others by acting once."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze

from ldpol.errors import UserError
from ldpol.networks import ACTIVATIONS, FINALS, MLP, CustomNetwork, Network, unknown_activation
from ldpol.types import Array, Params


def network(
    of: Any,
    *,
    observation_size: int,
    params: Params | None = None,
    head: Literal["all", "mean"] = "all",
    final: str | None = None,
    first: str | None = None,
) -> Network:
    """Read the network that policies belong to off a module or a function.

    The MLPs of QDax and Brax become an `MLP`; any other flax module or function becomes a `CustomNetwork`.

    Args:
      of: a flax module, `apply(params, observation [O]) -> action [A]`, or a network.
      observation_size: O.
      params: parameters of one policy, arrays or shapes; a function needs them.
      head: `mean` where the last layer holds means and deviations, of which the first half acts.
      final: the final activation; None takes the module's own. Brax's MLP has none of its own: PPO and SAC use `tanh`.
      first: see `CustomNetwork.first`.

    Raises:
      UserError: if it cannot act on one observation, or an activation is not one of `ACTIVATIONS`.
    """
    if isinstance(of, MLP | CustomNetwork):
        if of.observation_size != observation_size:
            raise UserError(f"{of} has {of.observation_size} observations, the environment {observation_size}")
        return of
    kind, home = type(of).__name__, type(of).__module__
    if isinstance(of, nn.Module) and home.startswith("qdax.") and kind == "MLPDC":
        raise UserError(
            "an MLPDC reads a descriptor beside the observation and is no policy; QDax stores MLPs: state that MLP"
        )
    if kind == "MLP" and home.startswith(("qdax.", "brax.")) and not getattr(of, "layer_norm", False):
        return _of_layer_sizes(of, observation_size, head, final, brax=home.startswith("brax."))
    return _custom(of, observation_size, params, first)


def _of_layer_sizes(of: Any, observation_size: int, head: str, final: str | None, brax: bool) -> MLP:
    """Read QDax's or Brax's MLP: both keep widths and functions as fields."""
    *hidden, outputs = of.layer_sizes
    activation = activation_name(of.activation)
    if final is None:
        if brax and not of.activate_final:
            raise UserError(
                "Brax's MLP does not say what becomes of its last layer; pass head='mean', final='tanh' for the "
                "policies of PPO and SAC, or the final activation that you apply"
            )
        own = of.activation if brax else of.final_activation
        final = "identity" if own is None else activation_name(own)
        if final not in FINALS:
            raise UserError(
                f"final activation {final} is not one of {', '.join(FINALS)}; wrap the module in a function: it "
                "becomes a CustomNetwork, and `load` will need it again"
            )
    if head == "mean" and outputs % 2:
        raise UserError(f"head='mean' halves the last layer, which has {outputs} outputs")
    actions = outputs // 2 if head == "mean" else outputs
    return MLP(observation_size, int(actions), tuple(map(int, hidden)), activation, final)


def activation_name(function: Callable[[Array], Array]) -> str:
    """Return the name in `ACTIVATIONS` of a function that does the same, compared at 401 points from -100 to 100.

    Raises:
      UserError: if there is none.
    """
    x = np.concatenate([np.linspace(-100.0, -5.0, 100), np.linspace(-5.0, 5.0, 201), np.linspace(5.0, 100.0, 100)])
    x = jnp.asarray(x, jnp.float32)
    found = function(x)
    for name, known in ACTIVATIONS.items():
        if found.shape == x.shape and np.allclose(found, known(x), rtol=1e-5, atol=1e-6):
            return name
    raise UserError(unknown_activation(getattr(function, "__name__", str(function))))


def _custom(of: Any, observation_size: int, params: Params | None, first: str | None) -> CustomNetwork:
    apply = of.apply if isinstance(of, nn.Module) else of
    name = f"{type(of).__module__}:{type(of).__qualname__}" if isinstance(of, nn.Module) else _name(of)
    observation = jax.ShapeDtypeStruct((observation_size,), jnp.float32)
    if params is None:
        if not isinstance(of, nn.Module):
            raise UserError(f"pass params=, those of one policy: {name} is a function and does not say what it needs")
        params = jax.eval_shape(of.init, jax.random.key(0), observation)
    shapes: Any = unfreeze(params)  # type: ignore[arg-type]
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.float32), shapes)
    try:
        action = jax.eval_shape(apply, params, observation)
        found = f"returned {list(action.shape)}" if hasattr(action, "shape") else f"returned a {type(action).__name__}"
    except Exception as error:
        action, found = None, f"raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if getattr(action, "ndim", None) != 1:
        raise UserError(
            f"apply(params, [{observation_size}]) {found}; expected [A], the action for one observation: recurrent "
            "networks, random ones and those that need a batch axis have to be wrapped"
        )
    tree = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not all(isinstance(key, jax.tree_util.DictKey) for key in path):
            raise UserError(
                f"the parameters of {name} must be nested dicts of arrays, found {jax.tree_util.keystr(path)}; "
                "wrap the function so that it takes a dict"
            )
        tree.append(("/".join(str(key.key) for key in path), leaf.shape, "float32"))  # type: ignore[attr-defined]
    return CustomNetwork(apply, tuple(tree), observation_size, action.shape[0], first, name)  # type: ignore[union-attr]


def _name(function: Any) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}:{name}" if name else type(function).__name__
