"""The trained part of a text encoder: token vectors to one condition vector."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldpol.types import Array


class TextTower(nn.Module):
    """Token vectors `[T, d]` of one text to a condition `[width]`.

    Static embeddings say nothing of their neighbours, so convolutions look at a few words together first: "left"
    belongs to the "foot" after it, and "without" to what follows. Then each head attends to some tokens by a learned
    query and averages them. Tokens that the mask leaves out change nothing, whatever they hold, and neither does
    their number.

    Attributes:
      width: size of the result.
      hidden: channels, a multiple of `heads`.
      window: tokens a convolution sees.
      layers: convolutions, one after the other.
      heads: of the pooling.
    """

    width: int
    hidden: int = 128
    window: int = 5
    layers: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, embeddings: Array, mask: Array) -> Array:
        """Pool one text.

        Args:
          embeddings: `[T, d]`.
          mask: `[T]` true where there is a token; with none at all the result is a learned constant.

        Raises:
          ValueError: if the shapes do not fit, or `hidden` does not split over the heads.
        """
        if embeddings.ndim != 2 or mask.shape != embeddings.shape[:1]:
            raise ValueError(
                f"TextTower takes one text: expected embeddings [T, d] and mask [T], found {embeddings.shape} and "
                f"{mask.shape}; for a batch, jax.vmap"
            )
        if self.hidden % self.heads:
            raise ValueError(f"TextTower: hidden = {self.hidden} does not split over {self.heads} heads")
        there = mask.astype(bool)[:, None]
        # `where`, not a product: what is left out may be anything, NaN included.
        keep = lambda x: jnp.where(there, x, 0.0)  # noqa: E731
        x = keep(nn.Dense(self.hidden)(nn.LayerNorm()(keep(embeddings))))
        for _ in range(self.layers):
            # Beyond the end of a text the convolution sees zeros, just as beyond the end of the array.
            y = keep(nn.silu(nn.LayerNorm()(x)))
            x = x + keep(nn.Conv(self.hidden, (self.window,))(y))
        x = keep(nn.LayerNorm()(x))
        logits = jnp.where(there, nn.Dense(self.heads)(x), -jnp.inf)
        best = jax.lax.stop_gradient(jnp.maximum(logits.max(0), jnp.finfo(x.dtype).min))  # finite for an empty text
        weights = jnp.exp(logits - best)
        weights = weights / jnp.maximum(weights.sum(0), 1e-9)
        values = nn.Dense(self.hidden)(x).reshape(-1, self.heads, self.hidden // self.heads)
        pooled = jnp.einsum("th,thc->hc", weights, values).reshape(-1)
        return nn.Dense(self.width)(nn.silu(pooled))
