"""The decoder: latent and condition to a policy, through the hypernetwork."""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax

from ldpol.errors import UserError
from ldpol.model.condition import Condition
from ldpol.model.hypernet import BasisHead, Context, MatrixHead, NodeNetwork
from ldpol.networks import Network, fold_normaliser
from ldpol.settings import check
from ldpol.types import Array, Params


@dataclass(frozen=True)
class AutoencoderConfig:
    """Architecture of encoder and decoder.

    Attributes:
      latent: `(h, w, c)`.
      head: `basis` (mean + learned basis) or `matrix` (the published one).
      rank: basis vectors a tensor.
      context: width of what the decoder makes of latent and condition before its nodes.
      layers: residual layers of that.
      hidden: width of a node of the hypernetwork.
      rounds: rounds of message passing.
      octaves: frequencies of the measures the decoder sees; 0: it sees none.
      joint: directions in which it sees all measures together.
      encoder: `projection` or `convolution` (the published one).
      coordinates: principal coordinates a tensor the projection encoder sees.
      encoder_hidden: width of its MLP.
      normalise: whether both see policies as they act on normalised observations. Where one observation is a thousand
        times larger than another, a raw weight says little of what it does.
    """

    latent: tuple[int, int, int] = (4, 4, 1)
    head: Literal["basis", "matrix"] = "basis"
    rank: int = 24
    context: int = 128
    layers: int = 1
    hidden: int = 32
    rounds: int = 1
    octaves: int = 5
    joint: int = 32
    encoder: Literal["projection", "convolution"] = "projection"
    coordinates: int = 32
    encoder_hidden: int = 128
    normalise: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        least = {"latent": 1, "rank": 1, "context": 1, "hidden": 1, "coordinates": 1, "encoder_hidden": 1}
        check(self, least=least | {"layers": 0, "rounds": 0, "octaves": 0, "joint": 1})


def first_layer(network: Network) -> str:
    """Return the path of the layer that reads the observation.

    Raises:
      UserError: if the network names none, so that observations cannot be normalised.
    """
    if network.first is None:
        raise UserError(
            f"{network} names no first layer, so that observations cannot be normalised: set normalise=False, or say "
            "which dense layer alone reads the observation, network(..., first='params/Dense_0')"
        )
    return network.first


class Decoder(nn.Module):
    """Latent `[h, w, c]` and condition to the parameters of one policy."""

    shape: Network
    config: AutoencoderConfig

    @nn.compact
    def __call__(self, latent: Array, condition: Condition) -> Params:
        """Return the policy's parameter pytree."""
        tensors = self.shape.tensors
        flat = latent.reshape(-1)
        config = self.config
        context = Context(config.context, config.layers, config.octaves, config.joint)(flat, condition)
        nodes = NodeNetwork(tensors, config.hidden, config.rounds)(context)
        head = BasisHead(tensors, config.rank) if config.head == "basis" else MatrixHead(tensors)
        policy = jax.tree.unflatten(jax.tree.structure(self.shape.abstract()), head(nodes, context))
        if not config.normalise:
            return policy
        size = self.shape.observation_size
        centre, spread = (
            self.param("centre", nn.initializers.zeros, size),
            self.param("spread", nn.initializers.ones, size),
        )
        centre, spread = jax.lax.stop_gradient((centre, spread))  # statistics, not weights
        return fold_normaliser(policy, centre, spread, first_layer(self.shape))


def latent_size(config: AutoencoderConfig) -> int:
    """Return the numbers in one latent."""
    return math.prod(config.latent)
