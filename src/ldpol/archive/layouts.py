"""Parameters as others lay them out, rewritten exactly: trees of flax modules, flat vectors, torch's state dicts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, unfreeze

from ldpol.errors import UserError
from ldpol.networks import MLP, CustomNetwork, Network
from ldpol.types import Array, Params

Head = Literal["all", "mean"]
Order = Literal["flax", "torch", "kernel_bias"]
ORDERS = ("flax", "torch", "kernel_bias")
STATE_ORDER = (
    "say order='torch' (weights [out, in], then bias), 'flax' (bias, then kernel [in, out], as ravel_pytree lays "
)
STATE_ORDER += "them out) or 'kernel_bias' (kernel [in, out], then bias)"


def adopt(tree: Any, network: Network, *, measures: int, head: Head = "all", what: str = "the policies") -> Params:
    """Rewrite the parameters of N policies as those of a network.

    Layers are renamed (`hidden_i`, `MLP_0/Dense_i`), missing biases become zeros, deviations are cut off the last layer
    with head `mean`, FrozenDicts and float64 become dicts and float32.

    Args:
      tree: parameters with a leading axis N on every leaf.
      network: what they belong to.
      measures: M, to tell networks that read measures beside the observation.
      head: `mean` keeps the first half of the last layer, of means and deviations.
      what: what to call them in messages.

    Raises:
      UserError: if they do not fit the network; the message says where.
    """
    if hasattr(tree, "policy_params"):
        raise UserError(
            f"{what}: genotypes are training states; pass genotypes.policy_params: "
            "repertoire.replace(genotypes=repertoire.genotypes.policy_params)"
        )
    if isinstance(tree, FrozenDict):
        tree = unfreeze(tree)
    if not isinstance(tree, Mapping):
        shape = f" of shape {list(np.shape(tree))}" if hasattr(tree, "shape") else ""
        raise UserError(
            f"{what} are a {type(tree).__name__}{shape}, expected the parameters of {network}; flat vectors [N, P] "
            "come in with from_ribs({'solution': ..., 'objective': ..., 'measures': ...}, network, task, order=...)"
        )
    if isinstance(network, CustomNetwork):
        return jax.tree.map(lambda leaf: single(leaf, what), dict(tree))
    layers = [
        {name: single(value, what) for name, value in layer.items() if name in ("kernel", "bias")}
        for layer in _dense_layers(tree, network, what)
    ]
    if head == "mean" and layers[-1]["kernel"].shape[-1] == 2 * network.action_size:
        layers[-1] = {name: value[..., : network.action_size] for name, value in layers[-1].items()}
    _check_widths(layers, network, measures, what)
    return {"params": {f"Dense_{i}": _with_bias(layer) for i, layer in enumerate(layers)}}


def single(values: Any, what: str) -> Array:
    """Return numbers as float32.

    Raises:
      UserError: if one is finite, but too large for float32, or they are no numbers.
    """
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.number):
        raise UserError(f"{what}: expected numbers, found {values.dtype} (categorical measures have no distances)")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if (np.isinf(narrow) & np.isfinite(values)).any():
        raise UserError(f"{what}: {values.dtype} numbers of up to {np.abs(values).max():.3g} do not fit into float32")
    return jnp.asarray(narrow)


def _dense_layers(tree: Mapping[str, Any], network: MLP, what: str) -> list[Mapping[str, Any]]:
    """Return the dense layers in order, whatever QDax, Brax and sbx call them."""
    layers = tree.get("params", tree)
    if isinstance(layers, FrozenDict):
        layers = unfreeze(layers)
    last: list[Mapping[str, Any]] = []
    if "MLP_0" in layers:  # QDax's SAC has nothing else; Brax's normal head has the means in Dense_0
        last = [layers["Dense_0"]] if "Dense_0" in layers else []
        layers = layers["MLP_0"]
    numbered = {name: re.fullmatch(r"(Dense|hidden)_(\d+)", name) for name in layers}
    strange = [name for name, match in numbered.items() if match is None and name not in ("log_std", "std_param")]
    found = sorted((int(match[2]), name) for name, match in numbered.items() if match)
    if strange or not found or any("kernel" not in layers[name] for _, name in found):
        place = strange[0] if strange else ", ".join(layers) or "nothing"
        raise UserError(
            f"{what} are not the parameters of an MLP: found {place}, expected Dense_0, Dense_1, ... (QDax, flax) or "
            "hidden_0, hidden_1, ... (Brax), each with a kernel; any other network: ldpol.network(module, ...)"
        )
    return [layers[name] for _, name in found] + last


def _check_widths(layers: list[dict[str, Array]], network: MLP, measures: int, what: str) -> None:
    kernels = [layer["kernel"] for layer in layers]
    if any(kernel.ndim != 3 for kernel in kernels):
        raise UserError(
            f"{what}: a kernel has shape {list(kernels[0].shape)}, expected [N, in, out]: one leading axis for "
            "the policies"
        )
    found = [kernels[0].shape[1], *(kernel.shape[2] for kernel in kernels)]
    expected = [network.observation_size, *network.hidden, network.action_size]
    if found == expected:
        return
    if found[0] == expected[0] + measures and found[1:] == expected[1:]:
        raise UserError(
            f"{what}: {found[0]} inputs, the environment has {expected[0]} observations and {measures} descriptors: an "
            "MLPDC actor? fold the descriptor into the first bias"
        )
    if found[-1] == 2 * expected[-1] and found[:-1] == expected[:-1]:
        raise UserError(
            f"{what}: {found[-1]} outputs for {expected[-1]} actions: a mean-and-std head; pass head='mean' to keep "
            f"the first {expected[-1]} (Brax PPO/SAC, QDax SAC)"
        )
    arrows = [" -> ".join(map(str, sizes)) for sizes in (found, expected)]
    raise UserError(f"{what} map {arrows[0]}, the network {arrows[1]}")


def _with_bias(layer: Mapping[str, Array]) -> dict[str, Array]:
    kernel = layer["kernel"]
    return {"bias": layer.get("bias", jnp.zeros((*kernel.shape[:-2], kernel.shape[-1]))), "kernel": kernel}


def from_vectors(vectors: Any, network: Network, order: Order | None, *, skip: int = 0) -> Params:
    """Return the parameters of N policies of flat vectors.

    Args:
      vectors: `[N, P]`, or `[N, ...]` that is flattened.
      network: what they belong to; without biases they get zeros.
      order: how the vectors are laid out, see `STATE_ORDER`. All orders have the same length: only acting tells them
        apart.
      skip: numbers in front that are not the network's, such as a log-std.

    Raises:
      TypeError: without an order.
      UserError: for an unknown order or another length.
    """
    if order is None:
        raise TypeError(f"{STATE_ORDER}; all have {network.size} numbers, so only the replay can tell")
    if order not in ORDERS or (isinstance(network, CustomNetwork) and order != "flax"):
        known = "flax" if isinstance(network, CustomNetwork) else ", ".join(ORDERS)
        raise UserError(f"the order of {network} is one of {known}, found {order!r}")
    vectors = single(vectors, "solutions")
    vectors = vectors.reshape(vectors.shape[0], -1)
    length = vectors.shape[1] - skip
    bare = isinstance(network, MLP) and length == _kernel_size(network)
    if length != network.size and not bare:
        more = length - network.size
        hint = f": {more} more, a log-std in front? skip={skip + more}" if 0 < more <= 2 * network.action_size else ""
        raise UserError(
            f"solutions have {vectors.shape[1]} numbers{f', {skip} of them skipped' if skip else ''}, {network} has "
            f"{network.size}{hint}"
        )
    vectors = vectors[:, skip:]
    if order == "flax" and not bare:
        return jax.vmap(network.unflatten)(vectors)
    return _cut(vectors, network, order, bare)  # type: ignore[arg-type]


def to_vectors(policies: Params, network: Network, order: Order) -> Array:
    """Return N policies as flat vectors `[N, P]` in an order; inverse of `from_vectors`."""
    if order == "flax":
        return jax.vmap(network.flatten)(policies)
    parts = []
    for i in range(len(policies["params"])):
        layer = policies["params"][f"Dense_{i}"]
        kernel = layer["kernel"].swapaxes(1, 2) if order == "torch" else layer["kernel"]
        parts += [kernel.reshape(kernel.shape[0], -1), layer["bias"]]
    return jnp.concatenate(parts, axis=1)


def _kernel_size(network: MLP) -> int:
    return network.size - sum(network.hidden) - network.action_size


def _cut(vectors: Array, network: MLP, order: Order, bare: bool) -> Params:
    sizes = [network.observation_size, *network.hidden, network.action_size]
    layers, start = {}, 0

    def take(*shape: int) -> Array:
        nonlocal start
        begun, start = start, start + int(np.prod(shape))
        return vectors[:, begun:start].reshape(-1, *shape)

    for i, (wide, high) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layer = {}
        if order == "flax" and not bare:
            layer["bias"] = take(high)
        layer["kernel"] = take(high, wide).swapaxes(1, 2) if order == "torch" else take(wide, high)
        if order != "flax" and not bare:
            layer["bias"] = take(high)
        layers[f"Dense_{i}"] = _with_bias(layer)
    return {"params": layers}


def from_torch(state: Mapping[str, Any], layers: Sequence[str], network: MLP) -> Params:
    """Return one policy of a torch state dict, exactly: weights `[out, in]` are transposed.

    Args:
      state: names to tensors or arrays, as `torch.load(path, weights_only=True)` gives them.
      layers: names of the linear layers in order, as `("actor_mean.0", "actor_mean.2", "actor_mean.4")` of CleanRL or
        `("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net")` of Stable-Baselines3.
      network: what they make up.

    Raises:
      UserError: if a layer is missing or the widths are others.
    """
    missing = [name for name in layers if f"{name}.weight" not in state]
    if missing:
        raise UserError(f"the state dict has no {missing[0]}.weight; it has {', '.join(state)}")
    tree = {}
    for i, name in enumerate(layers):
        tree[f"Dense_{i}"] = {"kernel": _numpy(state[f"{name}.weight"]).T[None]}
        if f"{name}.bias" in state:
            tree[f"Dense_{i}"]["bias"] = _numpy(state[f"{name}.bias"])[None]
    stacked = adopt({"params": tree}, network, measures=0, what="the state dict's layers")
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def to_torch(params: Params) -> dict[str, np.ndarray]:
    """Return one MLP as the state dict of a `torch.nn.Sequential` of linear layers with activations in between."""
    state = {}
    for i in range(len(params["params"])):
        layer = params["params"][f"Dense_{i}"]
        state[f"{2 * i}.weight"] = np.asarray(layer["kernel"]).T.copy()
        state[f"{2 * i}.bias"] = np.asarray(layer["bias"])
    return state


def _numpy(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
