"""The decoder: a graph hypernetwork over the policy's tensors (Zhang et al. 2019, arXiv 1810.05749).

One node a tensor, on the chain in which the tensors follow each other. A node starts from its tensor's shape, the
latent and the condition, hears its neighbours through gated messages, and emits its tensor.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ldpol.model.condition import Condition, ConditionEmbedding
from ldpol.types import Array


def shape_features(tensors: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Describe tensors to their nodes: log sizes, bias or kernel, and place on the chain; `[T, 4]`."""
    rows = []
    for place, shape in enumerate(tensors):
        first, last = (shape[0], shape[-1]) if shape else (1, 1)
        rows.append([math.log2(first) / 8, math.log2(last) / 8, float(len(shape) < 2), place / len(tensors)])
    return np.asarray(rows, np.float32)


class Context(nn.Module):
    """Latent and condition to one vector `[width]` that all nodes share: what is asked for, thought through once.

    Attributes:
      width: size of the vector and of the hidden layers.
      layers: residual layers.
      octaves: frequencies of the measure features; 0 makes the decoder blind to the condition.
      joint: directions in which all measures are seen together.
    """

    width: int
    layers: int
    octaves: int
    joint: int

    @nn.compact
    def __call__(self, latent: Array, condition: Condition) -> Array:
        """Return the context of one flat latent `[L]` and one condition."""
        x = nn.Dense(self.width, name="latent")(latent)
        if self.octaves:
            x = x + ConditionEmbedding(self.width, self.octaves, self.joint, name="condition")(condition)
        for _ in range(self.layers):
            x = x + nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(nn.LayerNorm()(x))))
        return x


class NodeNetwork(nn.Module):
    """Context to node states `[T, hidden]` by gated message passing along the chain.

    Attributes:
      tensors: shapes of the policy's tensors.
      hidden: width of a node.
      rounds: rounds of messages, each both ways along the chain.
    """

    tensors: tuple[tuple[int, ...], ...]
    hidden: int
    rounds: int

    @nn.compact
    def __call__(self, context: Array) -> Array:
        """Return node states for one context `[C]`."""
        nodes = nn.Dense(self.hidden, name="shape")(jnp.asarray(shape_features(self.tensors)))
        nodes = nodes + self.param("identity", nn.initializers.normal(0.1), nodes.shape)
        nodes = nodes + nn.Dense(self.hidden, name="context")(context)[None]
        for i in range(self.rounds):
            nothing = jnp.zeros_like(nodes[:1])
            before = jnp.concatenate([nothing, nodes[:-1]])
            after = jnp.concatenate([nodes[1:], nothing])
            message = nn.Dense(self.hidden, name=f"forward_{i}")(before)
            message += nn.Dense(self.hidden, name=f"backward_{i}", use_bias=False)(after)
            nodes, _ = nn.GRUCell(self.hidden, name=f"gate_{i}")(nodes, nn.silu(message))
        return nn.LayerNorm()(nodes)


class BasisHead(nn.Module):
    """Tensor t = mean_t + basis_t @ coefficients_t, the coefficients from its node and straight from the context.

    The mean and the basis are parameters; `autoencoder.warm_start` sets them to the archive's mean and its
    principal directions scaled by their standard deviations.

    Attributes:
      tensors: shapes of the policy's tensors.
      rank: basis vectors a tensor, at most its size.
    """

    tensors: tuple[tuple[int, ...], ...]
    rank: int

    @nn.compact
    def __call__(self, nodes: Array, context: Array) -> list[Array]:
        """Emit the tensors from node states `[T, hidden]` and the context `[C]`."""
        count, hidden = nodes.shape
        nodes = nodes + nn.Dense(hidden)(nn.silu(nn.Dense(hidden)(nodes)))
        mix = self.param("mix", nn.initializers.normal(0.3 / math.sqrt(hidden)), (count, hidden, self.rank))
        skip = self.param("skip", nn.initializers.lecun_normal(), (context.shape[0], count * self.rank))
        coefficients = jnp.einsum("th,thr->tr", nodes, mix) + (context @ skip).reshape(count, self.rank)
        out = []
        for t, shape in enumerate(self.tensors):
            size = math.prod(shape)
            rank = min(self.rank, size)
            mean = self.param(f"mean_{t}", nn.initializers.zeros, (size,))
            basis = self.param(f"basis_{t}", nn.initializers.normal(0.01), (rank, size))
            out.append((mean + coefficients[t, :rank] @ basis).reshape(shape))
        return out


class MatrixHead(nn.Module):
    """The published head: every node emits a matrix of the largest size, cut down to its tensor's shape.

    It emits standardised parameters; `mean` and `std` per scalar (set by `autoencoder.warm_start`) undo that.

    Attributes:
      tensors: shapes of the policy's tensors.
    """

    tensors: tuple[tuple[int, ...], ...]

    @nn.compact
    def __call__(self, nodes: Array, context: Array) -> list[Array]:
        """Emit the tensors from node states `[T, hidden]`; the context enters through the nodes only."""
        del context
        kernels = [shape for shape in self.tensors if len(shape) == 2]
        rows, columns = max(s[0] for s in kernels), max(s[1] for s in kernels)
        hidden = nn.relu(nn.Dense(2 * nodes.shape[-1], name="widen")(nodes))
        matrix, vector = nn.Dense(rows * columns, name="matrix"), nn.Dense(columns, name="vector")
        out = []
        for t, shape in enumerate(self.tensors):
            mean = self.param(f"mean_{t}", nn.initializers.zeros, (math.prod(shape),)).reshape(shape)
            std = self.param(f"std_{t}", nn.initializers.ones, (math.prod(shape),)).reshape(shape)
            if len(shape) == 2:
                value = matrix(hidden[t]).reshape(rows, columns)[: shape[0], : shape[1]]
            else:
                value = vector(hidden[t])[: shape[0]]
            out.append(mean + std * value)
        return out
